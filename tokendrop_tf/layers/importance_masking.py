"""Chooses labels by the importance table, inside the train step.

Letters: B batch of a replica, S sequence length, P prediction slots, V
vocabulary.
"""

import numpy as np
import tensorflow as tf

from tokendrop_tf.layers import random_seeds


class ImportanceMasking:
  """Masks rows again: tokens of high importance become labels more often.

  Masks that the rows come with are removed first; each row keeps its number of
  labels. They are a sample without replacement with weights

      importance ** (1 / temperature)    'power'
      exp(importance / temperature)      'exponential'

  by Gumbel top-k (Kool, van Hoof and Welling, 2019, arXiv 1903.06059). All
  random numbers follow from the seed and are those of the global batch, so N
  replicas choose what one device would choose.

  Args:
    special_ids: ids that are never labels.
    ordinary_ids: ids that random replacements are drawn from, int32 [n].
    mask_id: id of [MASK].
    mask_token_share: share of the labels that are replaced by [MASK].
    random_token_share: share of the labels replaced by a random token.
    temperature: above 0.
    weights: 'power' or 'exponential'.

  Example:

      masking = ImportanceMasking((0, 1, 2, 3, 4), range(5, 100), 4)
      features = masking(features, table, seed=tf.constant([0, 1]))
  """

  def __init__(
    self,
    special_ids,
    ordinary_ids,
    mask_id: int,
    mask_token_share: float = 0.8,
    random_token_share: float = 0.1,
    temperature: float = 1.0,
    weights: str = 'power',
  ):
    self._special_ids = tuple(special_ids)
    self._ordinary_ids = np.array(ordinary_ids, np.int32)
    self._mask_id = mask_id
    self._mask_token_share = mask_token_share
    self._random_token_share = random_token_share
    self._temperature = temperature
    self._is_exponential = weights == 'exponential'

  def __call__(self, features, table, seed) -> dict[str, tf.Tensor]:
    """Returns the features with other labels.

    Args:
      features: with `input_word_ids`, `input_mask` int32 [B, S],
        `masked_lm_positions`, `masked_lm_ids` int32 [B, P] and
        `masked_lm_weights` float32 [B, P].
      table: importances, float32 [V].
      seed: int32 [2], the same on every replica.
    """
    choice_seed, fate_seed, token_seed = random_seeds.split_seed(seed, 3)
    word_ids = unmasked(features)
    num_labels = tf.reduce_sum(
      tf.cast(features['masked_lm_weights'] > 0, tf.int32), axis=1
    )
    positions, filled = self._choose(
      word_ids, features, table, num_labels, choice_seed
    )
    labels = tf.gather(word_ids, positions, batch_dims=1)
    shown = self._replace(labels, fate_seed, token_seed)
    shown = tf.where(filled, shown, labels)
    return {
      **features,
      'input_word_ids': _write(word_ids, positions, shown),
      'masked_lm_positions': positions,
      'masked_lm_ids': tf.where(filled, labels, 0),
      'masked_lm_weights': tf.cast(filled, features['masked_lm_weights'].dtype),
    }

  def _choose(self, word_ids, features, table, num_labels, seed):
    """Returns ascending positions int32 [B, P] and which slots are filled."""
    num_slots = features['masked_lm_positions'].shape[1]
    keys = random_seeds.sampling_keys(
      tf.gather(table, word_ids),
      self._temperature,
      seed,
      self._is_exponential,
    )
    keys = tf.where(
      self._can_be_label(word_ids, features['input_mask']), keys, -float('inf')
    )
    keys, positions = tf.math.top_k(keys, num_slots)
    filled = tf.range(num_slots) < num_labels[:, tf.newaxis]
    filled &= keys > -float('inf')
    after_all = word_ids.shape[1]
    positions = tf.sort(tf.where(filled, positions, after_all), axis=1)
    # Filled slots are the first ones, in either order.
    return tf.where(filled, positions, 0), filled

  def _can_be_label(self, word_ids, input_mask):
    can = input_mask > 0
    for special_id in self._special_ids:
      can &= word_ids != special_id
    return can

  def _replace(self, labels, fate_seed, token_seed):
    shape = tf.shape(labels)
    fate = random_seeds.global_batch_uniform(shape, fate_seed)
    count = self._ordinary_ids.size
    choice = random_seeds.global_batch_uniform(shape, token_seed)
    choice = tf.cast(choice * count, tf.int32)
    random_ids = tf.gather(self._ordinary_ids, tf.minimum(choice, count - 1))
    others = self._mask_token_share + self._random_token_share
    return tf.where(
      fate < self._mask_token_share,
      self._mask_id,
      tf.where(fate < others, random_ids, labels),
    )


def unmasked(features):
  """Returns the tokens that stood there before masking, int32 [B, S]."""
  word_ids = features['input_word_ids']
  positions = features['masked_lm_positions']
  # Empty slots write what already stands at their position.
  labels = tf.where(
    features['masked_lm_weights'] > 0,
    features['masked_lm_ids'],
    tf.gather(word_ids, positions, batch_dims=1),
  )
  return _write(word_ids, positions, labels)


def _write(word_ids, positions, values):
  """Returns `word_ids` [B, S] with `values` at `positions`, both [B, P]."""
  rows = tf.range(tf.shape(word_ids)[0])[:, tf.newaxis]
  rows = tf.broadcast_to(rows, tf.shape(positions))
  indices = tf.stack([rows, positions], axis=-1)
  return tf.tensor_scatter_nd_update(word_ids, indices, values)
