"""Remembers in which step the loss ceased to be finite, on any replica."""

import tensorflow as tf


def create() -> tf.Variable:
  """Returns a variable that is -1 until `watch` sees a loss that is not finite.

  It says where a run went wrong, and is no part of a model or checkpoint.
  """
  return tf.Variable(
    -1,
    dtype=tf.int64,
    trainable=False,
    name='first_nonfinite_step',
    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
  )


def watch(first: tf.Variable, loss: tf.Tensor, step: tf.Tensor) -> None:
  """Remembers the number, from 1, of the first step with a broken loss.

  Call it in the train step, on every replica.

  Args:
    first: what `create` gave.
    loss: this replica's, a scalar.
    step: how many steps were taken before this one, int64.
  """
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync > 1:
    # The variable is that of the first replica, which sees only its own loss.
    loss = context.all_reduce(tf.distribute.ReduceOp.SUM, loss)
  failed = (first < 0) & ~tf.math.is_finite(loss)
  first.assign(tf.where(failed, tf.cast(step, tf.int64) + 1, first))
