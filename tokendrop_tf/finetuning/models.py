"""The Model Garden's classifier and span labeler, run from one seed.

Letters: B batch, S sequence length, C classes.
"""

import tensorflow as tf
import tf_keras
from official.nlp.modeling import models as garden_models

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.layers import random_seeds
from tokendrop_tf.layers.dropout import dropout
from tokendrop_tf.run import loss_guard

ENCODER_INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')


class _Guarded:
  """The attributes that the train step expects of a model."""

  @tf.__internal__.tracking.no_automatic_dependency_tracking
  def _create_guard(self):
    self.loss_guard = loss_guard.LossGuard()

  @property
  def encoder_network(self) -> encoder_lib.TokenDropBertEncoder:
    """The encoder."""
    return self._network

  @property
  def trained_variables(self) -> list[tf.Variable]:
    """Trainable variables that the loss reaches; others must not decay."""
    return self.trainable_variables


class SentenceClassifier(_Guarded, garden_models.BertClassifier):
  """`BertClassifier` on the encoder's pooler, without what it does not read.

  Args:
    encoder: the encoder, which drops no tokens.
    num_classes: C; 1 for regression.
    initializer_range: standard deviation of the new kernel.
    dropout_rate: share of the pooled output that is dropped in training.
  """

  def __init__(
    self,
    encoder: encoder_lib.TokenDropBertEncoder,
    num_classes: int,
    initializer_range: float = 0.02,
    dropout_rate: float = 0.1,
  ):
    super().__init__(
      network=encoder,
      num_classes=num_classes,
      initializer=tf_keras.initializers.TruncatedNormal(
        stddev=initializer_range
      ),
      dropout_rate=dropout_rate,
      use_encoder_pooler=True,
    )
    self._create_guard()

  def logits(
    self, inputs, training: bool = False, seed: tf.Tensor | None = None
  ) -> tf.Tensor:
    """Returns what calling the model returns, float32 [B, C], for less.

    The last layer queries at position 0 only: nothing else is read.

    Args:
      inputs: dict of `input_word_ids`, `input_mask`, `input_type_ids`, int32
        [B, S].
      training: whether to drop out.
      seed: int32 [2], all random numbers follow from it.
    """
    seeds = _split(seed, training)
    outputs = self.encoder_network(
      {name: inputs[name] for name in ENCODER_INPUTS},
      output_positions=tf.zeros(
        [tf.shape(inputs['input_mask'])[0], 0], tf.int32
      ),
      training=training,
      seed=seeds[0],
    )
    pooled = dropout(
      outputs['pooled_output'], self.classifier.dropout_rate, seeds[1]
    )
    return tf.cast(self.classifier.out_proj(pooled), tf.float32)


class SpanLabeler(_Guarded, garden_models.BertSpanLabeler):
  """`BertSpanLabeler` over the encoder.

  Args:
    encoder: the encoder, which drops no tokens.
    initializer_range: standard deviation of the new kernel.
  """

  def __init__(
    self,
    encoder: encoder_lib.TokenDropBertEncoder,
    initializer_range: float = 0.02,
  ):
    super().__init__(
      network=encoder,
      initializer=tf_keras.initializers.TruncatedNormal(
        stddev=initializer_range
      ),
    )
    self._create_guard()

  @property
  def trained_variables(self) -> list[tf.Variable]:
    """All but the encoder's pooler, which spans do not read."""
    pooler = self.encoder_network.pooler_layer.trainable_variables
    unread = {id(variable) for variable in pooler}
    return [v for v in self.trainable_variables if id(v) not in unread]

  def logits(
    self, inputs, training: bool = False, seed: tf.Tensor | None = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns start and end logits, float32 [B, S] each.

    Args:
      inputs: dict of `input_word_ids`, `input_mask`, `input_type_ids`, int32
        [B, S].
      training: whether to drop out.
      seed: int32 [2], all random numbers follow from it.
    """
    outputs = self.encoder_network(
      {name: inputs[name] for name in ENCODER_INPUTS},
      training=training,
      seed=seed if training else None,
      return_pooled_output=False,
    )
    start, end = self.span_labeling(outputs['sequence_output'])
    return tf.cast(start, tf.float32), tf.cast(end, tf.float32)


def _split(seed, training):
  """Returns seeds for the encoder and for the head."""
  if not training:
    return None, None
  seed = random_seeds.draw_seed() if seed is None else seed
  encoder_seed, head_seed = random_seeds.split_seed(seed, 2)
  return encoder_seed, random_seeds.per_replica_seed(head_seed)
