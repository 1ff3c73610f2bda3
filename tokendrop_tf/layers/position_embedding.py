"""Learned position embeddings, looked up by position."""

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
