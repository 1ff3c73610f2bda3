"""Masks packed rows: which tokens are labels, and what stands in their place.

Letters: R rows, S positions, C = S - 2, P prediction slots, V vocabulary.
"""

import dataclasses

import tensorflow as tf

from tokendrop_tf.data import vocabulary as vocabulary_lib

# Shares of the labels that become [MASK], or another token; the rest stay.
MASK_SHARE = 0.8
RANDOM_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Masking:
  """Turns blocks of packed rows into masked-LM examples.

  In a row with m ordinary tokens, `mask_rate * m` of them are labels, rounded
  up or down at random so that the mean is exact; at most P, and at least one
  where there is an ordinary token. Of the labels 80 % are replaced by [MASK],
  10 % by a random ordinary token, and 10 % stay (Devlin et al. 2019, 3.1).
  Special tokens are neither labels nor replacements.

  Attributes:
    vocabulary: the vocabulary.
    seq_length: S.
    max_predictions_per_seq: P.
    mask_rate: share of the ordinary tokens that become labels.

  Example:
    masking = Masking(vocabulary, 128, 19, 0.15)
    features = masking(tokens, lengths, seed=(0, 1))
  """

  vocabulary: vocabulary_lib.Vocabulary
  seq_length: int
  max_predictions_per_seq: int
  mask_rate: float

  def __call__(self, tokens, lengths, seed) -> dict[str, tf.Tensor]:
    """Masks one block.

    Args:
      tokens: int32 [R, C].
      lengths: int32 [R], tokens of each row that are text.
      seed: int [2]; equal seeds give equal masks.

    Returns:
      `input_word_ids`, `input_mask`, `input_type_ids` int32 [R, S];
      `masked_lm_positions` (ascending), `masked_lm_ids` int32 [R, P];
      `masked_lm_weights` float32 [R, P]. Empty slots hold position 0, id 0,
      weight 0.
    """
    count_seed, choice_seed, fate_seed, token_seed = _split(seed, 4)
    word_ids, input_mask = self._with_special_tokens(tokens, lengths)
    ordinary = self._is_ordinary(word_ids)
    num_labels = self._num_labels(ordinary, count_seed)
    positions, filled = self._choose(ordinary, num_labels, choice_seed)
    labels = tf.gather(word_ids, positions, batch_dims=1)
    inputs = self._replace(labels, fate_seed, token_seed)
    word_ids = _write(word_ids, positions, tf.where(filled, inputs, labels))
    return {
      'input_word_ids': self._shaped(word_ids, self.seq_length),
      'input_mask': self._shaped(input_mask, self.seq_length),
      'input_type_ids': tf.zeros_like(input_mask),
      'masked_lm_positions': positions,
      'masked_lm_ids': tf.where(filled, labels, 0),
      'masked_lm_weights': tf.cast(filled, tf.float32),
    }

  def _shaped(self, tensor, columns):
    return tf.ensure_shape(tensor, [None, columns])

  def _with_special_tokens(self, tokens, lengths):
    """Returns [CLS] tokens [SEP] [PAD]..., int32 [R, S], and its mask."""
    vocabulary = self.vocabulary
    column = tf.range(self.seq_length)[tf.newaxis]
    length = lengths[:, tf.newaxis]
    word_ids = tf.pad(tokens, [[0, 0], [1, 1]])
    word_ids = tf.where(column <= length, word_ids, vocabulary.pad_id)
    word_ids = tf.where(column == 0, vocabulary.cls_id, word_ids)
    word_ids = tf.where(column == length + 1, vocabulary.sep_id, word_ids)
    return word_ids, tf.cast(column < length + 2, tf.int32)

  def _is_ordinary(self, word_ids):
    ordinary = tf.ones_like(word_ids, tf.bool)
    for special_id in self.vocabulary.special_ids:
      ordinary &= word_ids != special_id
    return ordinary

  def _num_labels(self, ordinary, seed):
    num_ordinary = tf.reduce_sum(tf.cast(ordinary, tf.int32), axis=1)  # [R]
    expected = self.mask_rate * tf.cast(num_ordinary, tf.float32)
    rounded = tf.floor(expected + _uniform(tf.shape(expected), seed))
    # No more than the ordinary tokens, where the rate is near 1.
    most = tf.minimum(num_ordinary, self.max_predictions_per_seq)
    return tf.minimum(tf.maximum(tf.cast(rounded, tf.int32), 1), most)

  def _choose(self, ordinary, num_labels, seed):
    """Returns ascending positions int32 [R, P] and which slots are filled."""
    num_slots = self.max_predictions_per_seq
    draws = tf.where(ordinary, _uniform(tf.shape(ordinary), seed), -1.0)
    positions = tf.math.top_k(draws, k=num_slots, sorted=True).indices
    slot = tf.range(num_slots)[tf.newaxis]
    filled = slot < num_labels[:, tf.newaxis]
    positions = tf.sort(tf.where(filled, positions, self.seq_length), axis=1)
    return self._shaped(tf.where(filled, positions, 0), num_slots), filled

  def _replace(self, labels, fate_seed, token_seed):
    ordinary_ids = tf.constant(self.vocabulary.ordinary_ids)
    fate = _uniform(tf.shape(labels), fate_seed)
    choice = tf.random.stateless_uniform(
      tf.shape(labels),
      token_seed,
      0,
      tf.size(ordinary_ids),
      tf.int32,
      alg='philox',
    )
    random_ids = tf.gather(ordinary_ids, choice)
    kept_or_random = tf.where(
      fate < MASK_SHARE + RANDOM_SHARE, random_ids, labels
    )
    return tf.where(fate < MASK_SHARE, self.vocabulary.mask_id, kept_or_random)


def _write(word_ids, positions, values):
  """Returns `word_ids` with `values` at `positions`."""
  # Empty slots write [CLS] over itself at position 0.
  rows = tf.range(tf.shape(word_ids)[0])[:, tf.newaxis]
  rows = tf.broadcast_to(rows, tf.shape(positions))
  indices = tf.stack([rows, positions], axis=-1)
  return tf.tensor_scatter_nd_update(word_ids, indices, values)


def _split(seed, num):
  return tf.unstack(
    tf.random.split(tf.cast(seed, tf.int32), num, alg='philox'), num=num
  )


def _uniform(shape, seed):
  return tf.random.stateless_uniform(shape, seed, alg='philox')
