"""The pretraining model: encoder, masked-LM head, optional sentence heads."""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import layers
from tokendrop_tf.layers import random_seeds
from tokendrop_tf.layers.dropout import dropout
from tokendrop_tf.run import loss_guard


def trained_variables(
  model: tf_keras.Model, encoder: encoder_lib.TokenDropBertEncoder
) -> list[tf.Variable]:
  """Returns the trainable variables that a pretraining loss reaches.

  The encoder's pooler is for fine-tuning; heads have their own. Without a
  gradient it must not decay either.

  Args:
    model: what is trained.
    encoder: the encoder in it.
  """
  pooler = {id(v) for v in encoder.pooler_layer.trainable_variables}
  return [v for v in model.trainable_variables if id(v) not in pooler]


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class TokenDropPretrainer(tf_keras.Model):
  """BERT pretraining model over a `TokenDropBertEncoder`.

  Attribute names, and so checkpoints, are those of the Model Garden's
  `BertPretrainerV2`.

  Inputs: the encoder's dict, with or without its optional inputs, and
  `masked_lm_positions`, int32 [B, P]; in `call` the encoder's `training`,
  `drop_tokens`, `token_keep_k`, `seed`, `summary` and `causal`.

  Outputs: the encoder's dict (without `pooled_output` where no head reads it),
  and
    mlm_logits: [B, P, V].
    one [B, classes] per classification head, under the head's name.
  Without `masked_lm_positions`: what the encoder gives for full sequences, and
  the heads.

  Args:
    encoder_network: the encoder.
    mlm_activation: activation of the masked-LM transform.
    mlm_initializer: initializer of the masked-LM transform.
    classification_heads: Model Garden heads on position 0.
    name: name of the model.
  """

  def __init__(
    self,
    encoder_network: encoder_lib.TokenDropBertEncoder,
    mlm_activation=None,
    mlm_initializer='glorot_uniform',
    classification_heads: Sequence[tf_keras.layers.Layer] = (),
    name: str = 'bert',
    **kwargs,
  ):
    super().__init__(name=name, **kwargs)
    self.encoder_network = encoder_network
    encoder_network(encoder_network.inputs)  # creates the embedding table
    self.classification_heads = list(classification_heads)
    self.masked_lm = layers.MaskedLMHead(
      embedding_table=encoder_network.get_embedding_table(),
      activation=mlm_activation,
      initializer=mlm_initializer,
      name='cls/predictions',
    )
    self._build_heads()
    self._create_guard()

  def _build_heads(self):
    inputs = dict(
      self.encoder_network.inputs,
      masked_lm_positions=tf_keras.Input(shape=(None,), dtype=tf.int32),
    )
    self(inputs)

  @tf.__internal__.tracking.no_automatic_dependency_tracking
  def _create_guard(self):
    self.loss_guard = loss_guard.LossGuard()

  def call(
    self,
    inputs,
    training=False,
    drop_tokens=None,
    token_keep_k=None,
    seed=None,
    summary=None,
    causal=None,
  ):
    positions = inputs.get('masked_lm_positions')
    if positions is not None and self.classification_heads:
      positions = tf.pad(positions, [[0, 0], [1, 0]])  # heads read position 0
    outputs = self.encoder_network(
      self._encoder_inputs(inputs),
      output_positions=positions,
      training=training,
      drop_tokens=drop_tokens,
      token_keep_k=token_keep_k,
      seed=seed,
      return_pooled_output=positions is None,
      summary=summary,
      causal=causal,
    )
    rows = outputs['sequence_output']
    for head in self.classification_heads:
      outputs[head.name] = self._classify(head, rows, training, seed)
    if positions is not None:
      rows = rows[:, 1:] if self.classification_heads else rows
      outputs['mlm_logits'] = self.masked_lm(rows)
    return outputs

  def _encoder_inputs(self, inputs):
    encoder = self.encoder_network
    optional = [name for name in encoder.optional_inputs if name in inputs]
    return {name: inputs[name] for name in (*encoder.inputs, *optional)}

  def _classify(self, head, rows, training, seed):
    """[B, S, H] -> [B, classes], with dropout that follows from the seed."""
    features = head(rows, only_project=True)
    if training:
      seed = random_seeds.draw_seed() if seed is None else seed
      features = dropout(
        features, head.dropout_rate, random_seeds.per_replica_seed(seed)
      )
    return head.out_proj(features)

  @property
  def trained_variables(self) -> list[tf.Variable]:
    """Trainable variables that a pretraining loss reaches."""
    return trained_variables(self, self.encoder_network)

  @property
  def checkpoint_items(self):
    """Items that the Model Garden's checkpoints hold next to the model."""
    items = {'encoder': self.encoder_network, 'masked_lm': self.masked_lm}
    for head in self.classification_heads:
      for key, item in head.checkpoint_items.items():
        items[f'{head.name}.{key}'] = item
    return items
