"""Plans in reading order: gather, the Model Garden's layers, scatter.

A plain second way to compute what plans compute by slices of sorted rows.
"""

import numpy as np
import tensorflow as tf

from tests import test_encoder
from tokendrop_tf.dropping import Dropping, TokenDropConfig, registry

SEQ_LENGTH = test_encoder.SEQ_LENGTH


class Pair:
  """Our encoder under some settings, and the Model Garden's with its weights.

  Args:
    folder: where weights pass from one to the other.
    num_layers: L.
    seed: of all that is random; `None` ranks, equal scores in reading order.
    **token_drop: settings.
  """

  def __init__(self, folder, num_layers=5, seed=None, **token_drop):
    self._seed = seed
    section = TokenDropConfig(**{'token_keep_k': 5, **token_drop})
    self.dropping = Dropping(section, num_layers, SEQ_LENGTH)
    self.dropping.check()
    self.encoder = test_encoder.make_encoder(
      num_layers=num_layers,
      token_keep_k=section.token_keep_k,
      temperature=section.temperature,
      plan=registry.plan_of(section),
      importance=registry.importance_of(section),
      token_allow_list=() if not section.always_keep_tokens else (1,),
      token_deny_list=() if not section.always_drop_tokens else (0,),
    )
    self.stock = test_encoder.make_stock_twin(self.encoder, folder)

  def run(self, features, **arguments):
    """Returns our outputs with dropping."""
    return self.encoder(
      features,
      drop_tokens=True,
      seed=None if self._seed is None else tf.constant(self._seed),
      return_pooled_output=False,
      **arguments,
    )

  def computed(self, features):
    """Returns which positions each layer computes, bool [L, B, S]."""
    scores = self.encoder.token_importance(features['input_word_ids'])
    return self.dropping.computed(scores, self._seed)

  def order(self, features):
    """Returns the positions of ranked tokens, most important first, [B, S]."""
    scores = self.encoder.token_importance(features['input_word_ids'])
    return tf.argsort(scores, direction='DESCENDING', stable=True)

  def embed(self, features):
    """Returns the Model Garden's embeddings, [B, S, H]."""
    ids, stock = features['input_word_ids'], self.stock
    rows = stock._embedding_layer(ids)
    positions = features.get('position_ids')
    if positions is None:
      rows += stock._position_embedding_layer(rows)
    else:
      rows += tf.gather(stock._position_embedding_layer.weights[0], positions)
    rows += stock._type_embedding_layer(features['input_type_ids'])
    return stock._embedding_norm_layer(rows)

  def assert_equal(self, features, reference, where=None):
    """Compares outputs and the gradients of all weights, to 1e-5.

    Args:
      features: of a batch.
      reference: function of the features to the output, [B, S, H].
      where: bool [B, S], positions that are compared; `None` is all.
    """
    with tf.GradientTape(persistent=True) as tape:
      ours = self.run(features)['sequence_output']
      theirs = reference(features)
      weights = tf.random.stateless_normal(ours.shape, [1, 2])
      if where is not None:
        weights *= tf.cast(where, tf.float32)[..., tf.newaxis]
      losses = [tf.reduce_mean(weights * tf.sin(x)) for x in (ours, theirs)]
    chosen = slice(None) if where is None else np.asarray(where)
    test_encoder.assert_close(ours.numpy()[chosen], theirs.numpy()[chosen])
    assert_gradients_equal(tape, losses, (self.encoder, self.stock))


def assert_gradients_equal(tape, losses, models):
  """Compares the gradients of two losses, each in its own model, to 1e-5."""
  gradients = [
    {
      variable.name.split('/', 1)[1]: tf.convert_to_tensor(gradient)
      for variable, gradient in zip(
        model.trainable_variables,
        tape.gradient(loss, model.trainable_variables),
      )
      if gradient is not None
    }
    for loss, model in zip(losses, models, strict=True)
  ]
  assert gradients[0].keys() == gradients[1].keys()
  assert len(gradients[0]) > 50
  for name, gradient in gradients[0].items():
    np.testing.assert_allclose(
      gradient, gradients[1][name], rtol=1e-5, atol=1e-5, err_msg=name
    )


def may_see(features):
  """Returns which position may see which, float32 [B, S, S]."""
  mask = tf.cast(features['input_mask'], tf.float32)[:, tf.newaxis, :]
  segments = features.get('segment_ids')
  if segments is None:
    return tf.tile(mask, [1, mask.shape[2], 1])
  same = segments[:, :, tf.newaxis] == segments[:, tf.newaxis, :]
  return mask * tf.cast(same, tf.float32)


def scatter(rows, places, values):
  """Returns rows [B, S, H] with others, [B, n, H], at places [B, n]."""
  batch = tf.range(places.shape[0])[:, tf.newaxis]
  indices = tf.stack([tf.broadcast_to(batch, places.shape), places], axis=-1)
  return tf.tensor_scatter_nd_update(rows, indices, values)


def packed(features):
  """Returns the features as two documents a row, apart from each other."""
  places = np.arange(SEQ_LENGTH)
  return dict(
    features,
    segment_ids=(1 + tf.constant(places > 4, tf.int32))
    * features['input_mask'],
    position_ids=tf.broadcast_to(
      tf.constant(np.where(places > 4, places - 5, places), tf.int32),
      features['input_mask'].shape,
    ),
  )
