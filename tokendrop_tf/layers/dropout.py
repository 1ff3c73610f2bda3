"""Dropout whose bits follow from a seed, made where they are cheapest."""

import math

import numpy as np
import tensorflow as tf

from tokendrop_tf.layers import random_seeds

_BYTE_VALUES = 256
_WORD_VALUES = 2**32


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
  if random_seeds.is_compiled_by_xla() and x.shape.is_fully_defined():
    keep = _hashed_words(x, seed) >= tf.constant(
      min(round(rate * _WORD_VALUES), _WORD_VALUES - 1), tf.uint32
    )
    scale = tf.constant(1.0 / (1.0 - rate), x.dtype)
    return tf.where(keep, x * scale, tf.zeros([], x.dtype))
  keep, scale = _keep_by_bytes(x, rate, seed)
  return _multiply_kept(x, keep, tf.cast(scale, x.dtype))


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
  words = random_seeds.uniform_words([num_words], seed)
  rounding = random_seeds.uniform_words([1], seed + [0, 1])[0]
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
