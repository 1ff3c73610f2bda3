"""Learned position embeddings, looked up by position."""

import math

import tensorflow as tf
import tf_keras
from official.nlp.modeling import layers


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class IndexedPositionEmbedding(layers.PositionEmbedding):
  """The Model Garden's position embedding for tokens in any order.

  Inputs: `inputs`, [B, S, H], of which only the shape is read; `positions`,
  int32 [B, S] or `None`, the reading-order position of every token.

  Output: the embeddings of `positions`, [B, S, H]; without `positions` those of
  0 .. S-1, as [1, S, H].
  """

  def call(self, inputs, positions=None):
    # [B, S, H] -> [B, S, H]
    if positions is not None:
      return tf.gather(self._position_embeddings, positions)
    seq_length = tf.shape(inputs)[1]
    return self._position_embeddings[tf.newaxis, :seq_length, :]


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class SinusoidalInitializer(tf_keras.initializers.Initializer):
  """Sines and cosines of the position, as a start for a learnt table.

  Vaswani et al. (2017, arXiv 1706.03762, section 3.5), scaled to a standard
  deviation of about `stddev`. A shift by n positions is one rotation for all
  positions, so attention to a neighbour needs to be learnt only once.

  Args:
    stddev: of the values; their amplitude is sqrt(2) times as much.
  """

  def __init__(self, stddev: float):
    self._stddev = stddev

  def __call__(self, shape, dtype=None, **kwargs):
    """Returns [positions, width], the sines in the first half of the width."""
    num_positions, width = shape
    half = (width + 1) // 2
    positions = tf.range(num_positions, dtype=tf.float32)[:, tf.newaxis]
    exponents = tf.range(half, dtype=tf.float32) / half
    angles = positions * tf.pow(10_000.0, -exponents)
    table = tf.concat([tf.sin(angles), tf.cos(angles)], axis=-1)[:, :width]
    return tf.cast(math.sqrt(2.0) * self._stddev * table, dtype or tf.float32)

  def get_config(self):
    return {'stddev': self._stddev}
