"""Stateless random numbers of a train step.

Every random number of a step follows from one int32 [2] seed, so that a run can
be repeated, and resumed, exactly. The generator is named, because TensorFlow
would otherwise choose another one under XLA.
"""

import tensorflow as tf

_ALGORITHM = 'philox'
# Keeps the logarithm of a uniform number finite.
_SMALLEST_UNIFORM = 1e-9


def draw_seed() -> tf.Tensor:
  """Returns a fresh seed, int32 [2], from TensorFlow's global generator."""
  return tf.random.uniform(
    [2], minval=tf.int32.min, maxval=tf.int32.max, dtype=tf.int32
  )


def fold_in(seed: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
  """Returns the seed, int32 [2], that belongs to `seed` and an integer."""
  return tf.random.experimental.stateless_fold_in(
    seed, tf.cast(data, tf.int32), alg=_ALGORITHM
  )


def split_seed(seed: tf.Tensor, num: int) -> list[tf.Tensor]:
  """Returns `num` independent seeds, each int32 [2]."""
  return tf.unstack(
    tf.random.experimental.stateless_split(seed, num, alg=_ALGORITHM), num=num
  )


def replica_count_and_id() -> tuple[int, int | tf.Tensor]:
  """Returns (replicas in sync, own replica id); (1, 0) outside a replica."""
  context = tf.distribute.get_replica_context()
  if context is None:
    return 1, 0
  return context.num_replicas_in_sync, context.replica_id_in_sync_group


def per_replica_seed(seed: tf.Tensor) -> tf.Tensor:
  """Returns a seed, int32 [2], that differs from replica to replica."""
  num_replicas, replica_id = replica_count_and_id()
  return seed if num_replicas == 1 else fold_in(seed, replica_id)


def global_batch_uniform(batch_shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Draws uniform numbers that do not depend on the number of replicas.

  The numbers of the whole global batch are drawn and each replica takes its
  rows, so that N replicas use what one device would use on the same batch.

  Args:
    batch_shape: int32 [2], rows and columns of this replica's batch.
    seed: int32 [2], the same on every replica.

  Returns:
    float32 [rows, columns] in (0, 1).
  """
  num_replicas, replica_id = replica_count_and_id()
  rows, columns = batch_shape[0], batch_shape[1]
  noise = tf.random.stateless_uniform(
    [rows * num_replicas, columns],
    seed=seed,
    minval=_SMALLEST_UNIFORM,
    alg=_ALGORITHM,
  )
  if num_replicas == 1:
    return noise
  return tf.slice(noise, [replica_id * rows, 0], [rows, columns])


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
  """Zeroes `rate` of the entries and scales the others by 1 / (1 - rate).

  Args:
    x: float, any shape.
    rate: share of entries to zero, in [0, 1).
    seed: int32 [2]; `None` (not training) returns `x`.

  Returns:
    Shape and dtype of `x`.
  """
  if seed is None or rate == 0.0:
    return x
  return tf.nn.experimental.stateless_dropout(
    x, rate=rate, seed=seed, rng_alg=_ALGORITHM
  )
