"""The importance table: a running mean of every entry's MLM loss."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class TokenImportance(tf_keras.layers.Layer):
  """Running mean of the MLM loss of every vocabulary entry.

  State: `table`, float32 [V], not trainable, starts at `init_value` nats. After
  a train step, over all replicas, sequences and label slots with label v:

      s[v] = sum of weight * loss
      c[v] = sum of weight
      m[v] <- beta * m[v] + (1 - beta) * s[v] / c[v]   if c[v] > 0, v not pinned
      m[v] <- m[v]                                     otherwise

  Input: token ids, integer [B, S].

  Output: scores, float32 [B, S], in nats: the table's entries; `+inf` for ids
  that are always kept, `-inf` for ids that are always dropped.

  The rule departs from the moving average of Hou, Pang et al. (2022), in whose
  public implementation one arbitrary occurrence of a repeated label counts,
  empty slots are written too, and every replica keeps a table of its own.

  Example:

      importance = TokenImportance(vocab_size=8, always_drop_ids=(0,))
      importance.update(token_ids=[[3, 3]], losses=[[1., 2.]],
                        weights=[[1., 1.]])
      scores = importance(tf.constant([[0, 3, 4]]))

  Args:
    vocab_size: V.
    init_value: first value of the table, in nats.
    beta: decay of the moving average, in [0, 1).
    always_keep_ids: ids that sort before all others and are never updated.
    always_drop_ids: ids that sort after all others and are never updated.

  Raises:
    ValueError: for a `beta` outside [0, 1), an id outside the vocabulary, or an
      id that is both kept and dropped.
  """

  def __init__(
    self,
    vocab_size: int,
    init_value: float = 10.0,
    beta: float = 0.995,
    always_keep_ids: Sequence[int] = (),
    always_drop_ids: Sequence[int] = (),
    **kwargs,
  ):
    # Losses are averaged in float32 whatever the model computes in.
    super().__init__(**{**kwargs, 'dtype': tf.float32})
    self._vocab_size = vocab_size
    self._init_value = init_value
    self._beta = beta
    self._always_keep_ids = tuple(always_keep_ids)
    self._always_drop_ids = tuple(always_drop_ids)
    self._check_arguments()

  def _check_arguments(self):
    if not 0.0 <= self._beta < 1.0:
      raise ValueError(f'beta must be in [0, 1). Received: beta={self._beta}.')
    both = set(self._always_keep_ids) & set(self._always_drop_ids)
    if both:
      raise ValueError(
        'An id can be always kept or always dropped, not both. '
        f'Received both ways: {sorted(both)}.'
      )
    outside = [
      i
      for i in self._always_keep_ids + self._always_drop_ids
      if not 0 <= i < self._vocab_size
    ]
    if outside:
      raise ValueError(
        'Pinned ids must be in the vocabulary. '
        f'Received: {outside} with vocab_size={self._vocab_size}.'
      )

  def build(self, input_shape):
    self.table = self.add_weight(
      name='table',
      shape=(self._vocab_size,),
      dtype=tf.float32,
      initializer=tf_keras.initializers.Constant(self._init_value),
      trainable=False,
      # Every replica computes the same new table from all-reduced sums.
      aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
    super().build(input_shape)

  def _pins(self) -> np.ndarray:
    pins = np.zeros([self._vocab_size], np.float32)
    pins[list(self._always_keep_ids)] = np.inf
    pins[list(self._always_drop_ids)] = -np.inf
    return pins

  @property
  def importances(self) -> tf.Tensor:
    """The importance of every entry, before pins, float32 [V], in nats."""
    return self.table

  def call(self, token_ids):
    return tf.gather(self.importances + self._pins(), token_ids)

  def update(self, token_ids, losses, weights):
    """Moves the table towards the mean losses of the global batch.

    Call it on every replica, with what the replica holds.

    Args:
      token_ids: integer [B, P], label ids.
      losses: float [B, P], MLM losses of the labels, in nats.
      weights: float [B, P], 0 for an empty slot.
    """
    if not self.built:
      self.build(None)
    loss_sum, weight_sum = tf.unstack(
      self._global_sums(token_ids, losses, weights), axis=-1
    )
    mean_loss = tf.math.divide_no_nan(loss_sum, weight_sum)
    moved = self._beta * self.table + (1.0 - self._beta) * mean_loss
    movable = (weight_sum > 0.0) & (self._pins() == 0.0)
    self.table.assign(tf.where(movable, moved, self.table))

  def label_weights(self, token_ids, weights) -> tf.Tensor:
    """Returns the weight of each label in the global batch, float32 [V].

    Args:
      token_ids: integer [B, P], label ids.
      weights: float [B, P], 0 for an empty slot.
    """
    return self._global_sums(token_ids, tf.zeros_like(weights), weights)[:, 1]

  def _global_sums(self, token_ids, losses, weights):
    """Returns float32 [V, 2]: sums of weight * loss and of weight per id."""
    losses = tf.reshape(tf.cast(losses, tf.float32), [-1])
    weights = tf.reshape(tf.cast(weights, tf.float32), [-1])
    # An empty slot may carry any loss, even one that is not finite.
    weighted = tf.math.multiply_no_nan(losses, weights)
    sums = tf.math.unsorted_segment_sum(
      tf.stack([weighted, weights], axis=-1),
      tf.reshape(token_ids, [-1]),
      self._vocab_size,
    )
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
      sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
    return sums

  def get_config(self):
    return {
      **super().get_config(),
      'vocab_size': self._vocab_size,
      'init_value': self._init_value,
      'beta': self._beta,
      'always_keep_ids': self._always_keep_ids,
      'always_drop_ids': self._always_drop_ids,
    }
