"""The masked-LM head on rows that are already gathered."""

import tensorflow as tf
import tf_keras
from official.nlp.modeling import layers

from tokendrop_tf.layers import fused


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class MaskedLMHead(layers.MaskedLM):
  """The Model Garden's masked-LM head for outputs at the masked positions.

  Weights and checkpoint names are the Model Garden's. The encoder returns only
  the rows of the masked positions, so there is nothing to gather here.

  Input: `rows`, [B, P, H], encoder outputs at the masked positions.

  Output: logits [B, P, V] in the compute dtype.
  """

  def call(self, rows):
    num_rows, hidden_size = tf.shape(rows)[:2], rows.shape[-1]
    rows = tf.reshape(rows, [-1, hidden_size])  # [B * P, H]
    rows = self.layer_norm(self.dense(rows))
    logits = tf.matmul(rows, self.embedding_table, transpose_b=True)
    logits = fused.add_bias(logits, self.bias)  # [B * P, V]
    return tf.reshape(logits, tf.concat([num_rows, [self._vocab_size]], 0))
