"""The importance table of a run, less that of a finished one."""

import tensorflow as tf
import tf_keras

from tokendrop_tf.layers import token_importance


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class ExcessImportance(token_importance.TokenImportance):
  """Running mean of every entry's MLM loss, in excess of a reference.

  State: `table`, as that of `TokenImportance`, and `reference`, float32 [V],
  not trainable, in nats, which is never updated. An entry's importance is

      max(table[v] - reference[v], 0)

  so tokens that a finished run has not learnt either do not stay important for
  ever. After Lin et al. (2024, arXiv 2404.07965), who take the losses of single
  tokens in place of their means over the vocabulary.

  Example:

      importance = ExcessImportance(vocab_size=8)
      importance.build(None)
      importance.reference.assign(tf.fill([8], 3.0))
      importance(tf.constant([[5]]))  # [[7.0]]: 10 at the start, less 3
  """

  def build(self, input_shape):
    self.reference = self.add_weight(
      name='reference',
      shape=(self._vocab_size,),
      dtype=tf.float32,
      initializer='zeros',
      trainable=False,
      aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
    super().build(input_shape)

  @property
  def importances(self) -> tf.Tensor:
    return tf.maximum(self.table - self.reference, 0.0)
