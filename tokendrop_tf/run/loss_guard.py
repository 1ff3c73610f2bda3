"""Figures of single steps: the first broken loss, the last gradient norm."""

import tensorflow as tf


class LossGuard:
  """Remembers in which step the loss ceased to be finite, on any replica.

  It is not part of a model's weights or of a checkpoint.

  Attributes:
    first_nonfinite_step: int64 variable, the number, from 1, of the first step
      whose loss was not finite; -1 until then.
    gradient_norm: float32 variable, the global norm of the last gradients,
      before they were clipped.
  """

  def __init__(self):
    self.first_nonfinite_step = _variable(-1, tf.int64, 'first_nonfinite_step')
    self.gradient_norm = _variable(0.0, tf.float32, 'gradient_norm')

  def watch(
    self, loss: tf.Tensor, gradient_norm: tf.Tensor, step: tf.Tensor
  ) -> None:
    """Looks at a step; call it in the train step, on every replica.

    Args:
      loss: the loss of this replica, a scalar.
      gradient_norm: the norm of the global gradients, a scalar.
      step: number of steps taken before this one, int64.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
      # The variable is that of the first replica, which sees only its own loss.
      loss = context.all_reduce(tf.distribute.ReduceOp.SUM, loss)
    first = self.first_nonfinite_step
    failed = (first < 0) & ~tf.math.is_finite(loss)
    first.assign(tf.where(failed, tf.cast(step, tf.int64) + 1, first))
    self.gradient_norm.assign(gradient_norm)


def _variable(value, dtype, name):
  return tf.Variable(
    value,
    dtype=dtype,
    trainable=False,
    name=name,
    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
  )
