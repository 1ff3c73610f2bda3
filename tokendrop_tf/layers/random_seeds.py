"""Seeds and stateless random numbers of a train step.

Every random number of a step follows from one int32 [2] seed, so that a run can
be repeated, and resumed, exactly. The generator is named, because TensorFlow
would otherwise choose another one under XLA.
"""

import contextlib
import contextvars

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

_ALGORITHM = 'philox'
# Keeps the logarithm of a uniform number finite.
_SMALLEST_UNIFORM = 1e-9
# Importances are losses and can be 0; their logarithm must stay finite.
_SMALLEST_IMPORTANCE = 1e-20
# (number of parts, index of this part) of the replica's batch.
_PART = contextvars.ContextVar('part_of_batch', default=(1, 0))


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


def seed_table(seed: tf.Tensor, shape: list[int]) -> tf.Tensor:
  """Returns independent seeds, int32 [*shape, 2], drawn in one operation."""
  return tf.random.stateless_uniform(
    [*shape, 2], seed, None, None, tf.int32, alg=_ALGORITHM
  )


def uniform_words(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
  """Returns uint32 words of uniform bits."""
  return tf.random.stateless_uniform(
    shape, seed, None, None, tf.uint32, alg=_ALGORITHM
  )


def draw_below(bound: int, seed: tf.Tensor) -> tf.Tensor:
  """Returns an integer from 0 to `bound` - 1, an int32 scalar."""
  return tf.random.stateless_uniform(
    [], seed, 0, bound, tf.int32, alg=_ALGORITHM
  )


def replica_count_and_id() -> tuple[int, int | tf.Tensor]:
  """Returns (replicas in sync, own replica id); (1, 0) outside a replica."""
  context = tf.distribute.get_replica_context()
  if context is None:
    return 1, 0
  return context.num_replicas_in_sync, context.replica_id_in_sync_group


@contextlib.contextmanager
def part_of_batch(num_parts: int, index: int | tf.Tensor):
  """Within it, a replica computes on one of N equal parts of its batch."""
  token = _PART.set((num_parts, index))
  try:
    yield
  finally:
    _PART.reset(token)


def share_count_and_id() -> tuple[int, int | tf.Tensor]:
  """Returns into how many shares the global batch is cut, and the own one."""
  num_replicas, replica_id = replica_count_and_id()
  num_parts, index = _PART.get()
  return num_replicas * num_parts, replica_id * num_parts + index


def per_replica_seed(seed: tf.Tensor) -> tf.Tensor:
  """Returns a seed, int32 [2], that differs from replica to replica."""
  num_shares, share_id = share_count_and_id()
  return seed if num_shares == 1 else fold_in(seed, share_id)


def global_batch_uniform(batch_shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Draws uniform numbers that do not depend on the number of replicas.

  The numbers of the whole global batch are drawn and each replica, or part of
  its batch, takes its rows, so that N replicas use what one device would use on
  the same batch.

  Args:
    batch_shape: int32 [2], rows and columns of this replica's batch.
    seed: int32 [2], the same on every replica.

  Returns:
    float32 [rows, columns] in (0, 1).
  """
  num_shares, share_id = share_count_and_id()
  rows, columns = batch_shape[0], batch_shape[1]
  noise = tf.random.stateless_uniform(
    [rows * num_shares, columns],
    seed=seed,
    minval=_SMALLEST_UNIFORM,
    alg=_ALGORITHM,
  )
  if num_shares == 1:
    return noise
  return tf.slice(noise, [share_id * rows, 0], [rows, columns])


def sampling_keys(
  importance: tf.Tensor,
  temperature: float,
  seed: tf.Tensor,
  is_exponential: bool = False,
) -> tf.Tensor:
  """Returns keys whose K highest are a sample without replacement.

      log(importance) / temperature + Gumbel noise

  samples with weights importance ** (1 / temperature) (Gumbel top-K; Kool, van
  Hoof and Welling, 2019, arXiv 1903.06059), and without the logarithm with
  weights exp(importance / temperature). Replicas draw as one device would.

  Args:
    importance: float32 [B, S], at least 0.
    temperature: above 0.
    seed: int32 [2], the same on every replica.
    is_exponential: whether the logarithm is omitted.
  """
  uniform = global_batch_uniform(tf.shape(importance), seed)
  gumbel = -tf.math.log(-tf.math.log(uniform))
  if not is_exponential:
    importance = tf.math.log(tf.maximum(importance, _SMALLEST_IMPORTANCE))
  return importance / temperature + gumbel


def is_compiled_by_xla() -> bool:
  """Returns whether what is being traced will be compiled by XLA."""
  if tf.executing_eagerly():
    return False
  return control_flow_util.GraphOrParentsInXlaContext(
    tf.compat.v1.get_default_graph()
  )
