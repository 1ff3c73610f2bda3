"""Stateless random numbers of a train step, and dropout.

Every random number of a step follows from one int32 [2] seed, so that a run can
be repeated, and resumed, exactly. The generator is named, because TensorFlow
would otherwise choose another one under XLA; dropout has a cheaper one there.
"""

import contextlib
import contextvars
import math

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

_ALGORITHM = 'philox'
_BYTE_VALUES = 256
_WORD_VALUES = 2**32
# Keeps the logarithm of a uniform number finite.
_SMALLEST_UNIFORM = 1e-9
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


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
  """Zeroes entries with probability `rate` and scales the others up.

  The bits follow from the seed. They are made where they are cheapest: under
  XLA by hashing every entry's index, which is compiled into the operation that
  reads it and takes no memory; otherwise by TensorFlow's generator, one byte an
  entry. A byte cannot hold every rate, so the share of a call is the multiple
  of 1/256 below or above `rate`, drawn so that its mean is `rate`; what is left
  is scaled by that share. An entry is dropped with probability `rate` in either
  case.

  Args:
    x: float, any shape.
    rate: probability of zero, in [0, 1); without XLA 255/256 at most.
    seed: int32 [2]; `None` (not training) returns `x`.

  Returns:
    Shape and dtype of `x`.
  """
  if seed is None or rate == 0.0:
    return x
  if is_compiled_by_xla() and x.shape.is_fully_defined():
    keep = _hashed_words(x, seed) >= tf.constant(
      min(round(rate * _WORD_VALUES), _WORD_VALUES - 1), tf.uint32
    )
    scale = tf.constant(1.0 / (1.0 - rate), x.dtype)
    return tf.where(keep, x * scale, tf.zeros([], x.dtype))
  keep, scale = _keep_by_bytes(x, rate, seed)
  return _multiply_kept(x, keep, tf.cast(scale, x.dtype))


def is_compiled_by_xla() -> bool:
  """Returns whether what is being traced will be compiled by XLA."""
  if tf.executing_eagerly():
    return False
  return control_flow_util.GraphOrParentsInXlaContext(
    tf.compat.v1.get_default_graph()
  )


def _hashed_words(x, seed):
  """Returns uint32 words like `x`, a function of seed and index.

  A bijective hash of 32 bits, two rounds of xor-shift and multiplication with
  the constants of C. Wellons' `lowbias32`; the seed enters before each round.
  """
  key = tf.bitcast(seed, tf.uint32)
  # Seeds that differ in a bit must not give keys that do.
  first = _mixed(key[0])
  second = _mixed(tf.bitwise.bitwise_xor(first, key[1]))
  return _mixed(_with_indices(first, x.shape), second)


def _mixed(word, key=None):
  word = _shift_xor(word, 16) * tf.constant(0x7FEB352D, tf.uint32)
  if key is not None:
    word = tf.bitwise.bitwise_xor(word, key)
  word = _shift_xor(word, 15) * tf.constant(0x846CA68B, tf.uint32)
  return _shift_xor(word, 16)


def _shift_xor(word, places):
  return tf.bitwise.bitwise_xor(
    word, tf.bitwise.right_shift(word, tf.constant(places, tf.uint32))
  )


def _with_indices(word, shape):
  """Returns `word` xor the index of every entry, uint32 of shape `shape`.

  Every axis has bits of its own in the index. They enter one by one, beginning
  with a number that is not known in advance: constants among themselves would
  be folded into a tensor of the full size.
  """
  bits_below = 0
  word = tf.reshape(word, [1] * shape.rank)
  for axis in reversed(range(shape.rank)):
    places = np.arange(shape[axis], dtype=np.uint32) << np.uint32(bits_below)
    sides = [1] * shape.rank
    sides[axis] = shape[axis]
    word = tf.bitwise.bitwise_xor(word, tf.constant(places.reshape(sides)))
    bits_below += max(1, math.ceil(math.log2(shape[axis])))
  return word


def _keep_by_bytes(x, rate, seed):
  """Returns which entries stay, bool like `x`, and their scale, float32."""
  size = x.shape.num_elements()
  num_words = (tf.size(x) + 3) // 4 if size is None else math.ceil(size / 4)
  words = uniform_words([num_words], seed)
  rounding = uniform_words([1], seed + [0, 1])[0]
  # floor(256 rate + u), u uniform in [0, 1).
  exact = rate * _BYTE_VALUES
  rounds_up = tf.cast(rounding, tf.float64) < (exact % 1.0) * _WORD_VALUES
  threshold = tf.minimum(
    math.floor(exact) + tf.cast(rounds_up, tf.int32), _BYTE_VALUES - 1
  )
  octets = tf.reshape(tf.bitcast(words, tf.uint8), [-1])
  if size is None or size % 4:
    octets = octets[: tf.size(x)]
  keep = tf.reshape(octets, tf.shape(x)) >= tf.cast(threshold, tf.uint8)
  return keep, _BYTE_VALUES / tf.cast(_BYTE_VALUES - threshold, tf.float32)


@tf.custom_gradient
def _multiply_kept(x, keep, scale):
  """Returns `x * keep * scale`, remembering one byte an entry.

  A product is several times faster on CPUs than a selection.
  """

  def gradient(upstream):
    return upstream * (tf.cast(keep, upstream.dtype) * scale), None, None

  return x * (tf.cast(keep, x.dtype) * scale), gradient
