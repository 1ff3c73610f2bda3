"""Initial values with which the first layers attend to neighbouring tokens.

A BERT that starts from random kernels spends its first millions of tokens on a
plateau: it predicts how frequent tokens are and reads nothing around them,
because attention has to be learnt before anything that follows from it
(Gopalani and Hu, 2025, arXiv 2506.13688). Here the position table starts as
sines and cosines, and some heads of the first layers start by looking a fixed
number of places back or ahead. These are initial values only: the model is an
ordinary BERT, and every weight is trained.

The rows of the position table start as

    table[p] = sqrt(2) * scale * stddev * [sin(w_1 p) .., cos(w_1 p) .., 0 ..]

with n = D / 2 frequencies, as many as a head can read. The query kernel of a
head rotates each sine-cosine pair by `offset` places and its key kernel copies
it, both times a gain g. The logit of key j for query i is then, but for words,

    g^2 * c * sum over the pairs of cos(w_f (i + offset - j)) / sqrt(D),

which is largest at j = i + offset; c is the share of a pair in a normalized
row. The frequencies are spread irregularly over (0, pi), so that the sum does
not repeat within the table. The waves take D of the H numbers of an embedding.
The others belong to the words alone, so the waves can be loud enough to be told
apart and yet do not drown the words: with four times the energy of the words,
spread over all H numbers, a 12 x 128 model read no sooner than without this
start.

Letters: H hidden size, N heads, D = H / N width of a head.
"""

import functools
import math

import numpy as np
import tensorflow as tf
import tf_keras

# Places that the heads of the first layers look away, layer by layer.
OFFSETS = ((-1, 1), (-2, 2))
# With one head a layer.
_OFFSETS_OF_ONE_HEAD = ((-1,), (1,))
# Share of a head's attention that its neighbour gets at the start.
_INITIAL_SHARE = 0.5
# The squared norm of a row of the table, over the variance of word embeddings,
# is this times the logarithm of the number of positions, as the largest of so
# many random sums grows.
_ENERGY = 32.0
_NUM_TRIALS = 100


def offsets(layer: int, num_heads: int) -> tuple[int, ...]:
  """Returns the offsets of the first heads of a layer, () without any.

  Args:
    layer: number of the layer, from 0.
    num_heads: N.

  Example:
    offsets(0, 2)  # (-1, 1)
  """
  by_layer = _OFFSETS_OF_ONE_HEAD if num_heads == 1 else OFFSETS
  return by_layer[layer] if layer < len(by_layer) else ()


def table_scale(head_width: int, num_positions: int) -> float:
  """Returns the deviation of the table's waves over that of word embeddings.

  Args:
    head_width: D.
    num_positions: rows of the table.
  """
  return math.sqrt(_ENERGY * math.log(max(num_positions, 2)) / head_width)


@functools.lru_cache(maxsize=16)
def frequencies(count: int, num_positions: int) -> np.ndarray:
  """Returns irregular frequencies in (0, pi), rising, float64 [count].

  One lies in each of `count` equal parts. Of some random choices it is the one
  whose sum of cosines is smallest where it is largest, the place itself aside.

  Args:
    count: number of sine-cosine pairs.
    num_positions: rows of the table.
  """
  random = np.random.RandomState(0)
  distances = np.arange(1, max(num_positions, 2), dtype=np.float32)

  def largest_echo(choice):
    return np.cos(np.outer(distances, choice.astype(np.float32))).sum(1).max()

  choices = [
    np.pi * (np.arange(count) + random.uniform(size=count)) / count
    for _ in range(_NUM_TRIALS)
  ]
  return min(choices, key=largest_echo)


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class FourierInitializer(tf_keras.initializers.Initializer):
  """A position table of sines and cosines that tell neighbours apart.

  Unlike `SinusoidalInitializer`, whose wavelengths grow to 60,000 places, it
  spreads the frequencies over all that a table of integers can show.

  Args:
    stddev: standard deviation of the word embeddings.
    head_width: D; so many of the table's columns are filled.
  """

  def __init__(self, stddev: float, head_width: int):
    self._stddev = stddev
    self._head_width = head_width

  def __call__(self, shape, dtype=None, **kwargs):
    """Returns [positions, width]: sines, then cosines, then zeros."""
    num_positions, width = shape
    waves = frequencies(self._head_width // 2, num_positions)
    angles = np.arange(num_positions)[:, np.newaxis] * waves
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table = np.pad(table, [[0, 0], [0, width - table.shape[1]]])
    scale = self._stddev * table_scale(self._head_width, num_positions)
    return tf.cast(math.sqrt(2.0) * scale * table, dtype or tf.float32)

  def get_config(self):
    return {'stddev': self._stddev, 'head_width': self._head_width}


class NeighbourKernel(tf_keras.initializers.Initializer):
  """A query or key kernel whose first heads look at neighbours.

  Args:
    head_offsets: one entry for each head that does; the others start as
      `initializer` says. All 0 gives the kernel of the keys.
    reach: number of positions in the table.
    initializer: of the other heads.
  """

  def __init__(self, head_offsets: tuple[int, ...], reach: int, initializer):
    self._offsets = tuple(head_offsets)
    self._reach = reach
    self._initializer = initializer

  def __call__(self, shape, dtype=None, **kwargs):
    """Returns a kernel [H, N, D]."""
    kernel = self._initializer(shape, dtype=dtype, **kwargs)
    heads = [_rotation(shape, offset, self._reach) for offset in self._offsets]
    # [H, heads, D]
    placed = tf.cast(tf.stack(heads, axis=1), kernel.dtype)
    return tf.concat([placed, kernel[:, len(heads) :]], axis=1)


def _rotation(shape, offset, reach):
  """Returns the kernel of one head, [H, D]."""
  width, _, head_width = shape
  sines = columns = np.arange(head_width // 2)
  cosines = sines + len(sines)
  angles = frequencies(len(sines), reach) * offset
  kernel = np.zeros([width, head_width])
  # sin(w (p + offset)) and cos(w (p + offset)) from those of w p.
  kernel[sines, columns] = np.cos(angles)
  kernel[cosines, columns] = np.sin(angles)
  kernel[sines, columns + len(sines)] = -np.sin(angles)
  kernel[cosines, columns + len(sines)] = np.cos(angles)
  return _gain(width, head_width, reach) * kernel


def _gain(width, head_width, reach):
  """Returns g, with which the neighbour gets the initial share of attention."""
  energy = table_scale(head_width, reach) ** 2
  # Rows are normalized sums of a word, a type and a position.
  energy /= 2.0 + energy * head_width / width
  odds = _INITIAL_SHARE / (1.0 - _INITIAL_SHARE) * max(reach - 1, 2)
  return math.sqrt(math.log(odds) / (math.sqrt(head_width) * energy))
