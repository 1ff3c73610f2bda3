"""The order of the tokens in the encoder: most important first."""

import tensorflow as tf
import tf_keras

from tokendrop_tf.layers import random_seeds


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class TokenOrder(tf_keras.layers.Layer):
  """Sorts the positions of every sequence by importance, highest first.

  Dropping all but K tokens is then the slice of the first K. Ranked
  (`temperature` 0), positions are sorted by score. Sampled (`temperature` t),
  by

      log(score) / t + Gumbel noise,

  whose first K are a sample without replacement with weights score ** (1 / t)
  (Gumbel top-K; Kool, van Hoof and Welling, 2019, arXiv 1903.06059). Infinite
  scores are pins and sort first or last in either form. Equal scores are
  ordered at random: at the start of training all ordinary tokens tie.

  Inputs: `scores`, float32 [B, S], in nats; `seed`, int32 [2], the same on
  every replica, from which all that is random follows; without one, positions
  are ranked and equal scores keep their reading order, whatever the
  temperature.

  Output: int32 [B, S], a permutation of the positions of each sequence.

  Example:

      order = TokenOrder()(tf.constant([[1., 3., 2.]]))  # [[1, 2, 0]]

  Args:
    temperature: t, at least 0.

  Raises:
    ValueError: for a negative temperature.
  """

  def __init__(self, temperature: float = 0.0, **kwargs):
    # Lower precision would make different scores tie.
    super().__init__(**{**kwargs, 'dtype': tf.float32})
    if temperature < 0.0:
      raise ValueError(
        'temperature must be at least 0. '
        f'Received: temperature={temperature}. Set token_drop.temperature.'
      )
    self._temperature = temperature

  def call(self, scores, seed=None):
    if seed is None:
      return tf.argsort(scores, direction='DESCENDING', stable=True)
    tie_seed, sample_seed = random_seeds.split_seed(seed, 2)
    keys = scores
    if self._temperature > 0.0:
      keys = random_seeds.sampling_keys(scores, self._temperature, sample_seed)
      keys = tf.where(tf.math.is_inf(scores), scores, keys)  # pins
    return self._argsort_with_random_ties(keys, tie_seed)

  def _argsort_with_random_ties(self, keys, seed):
    # A stable sort keeps equal keys in the order it finds them: a random one.
    uniform = random_seeds.global_batch_uniform(tf.shape(keys), seed)
    shuffled = tf.argsort(uniform)
    order = tf.argsort(
      tf.gather(keys, shuffled, batch_dims=1),
      direction='DESCENDING',
      stable=True,
    )
    return tf.gather(shuffled, order, batch_dims=1)

  def get_config(self):
    return {**super().get_config(), 'temperature': self._temperature}
