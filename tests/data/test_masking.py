import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data import masking as masking_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib

# [PAD] is not 0 here: nothing may rely on that.
TOKENS = (
  'a',
  'b',
  '[MASK]',
  '[PAD]',
  *'cdefgh',
  '[SEP]',
  '[UNK]',
  '[CLS]',
  *(f'w{number}' for number in range(187)),
)
VOCABULARY = vocabulary_lib.Vocabulary(TOKENS)
SPECIAL = VOCABULARY.special_ids
SEQ_LENGTH = 66
ROWS = 2048  # Times 64 ordinary tokens: above 100,000.


def make(mask_rate=0.15, slots=20, seq_length=SEQ_LENGTH):
  return masking_lib.Masking(VOCABULARY, seq_length, slots, mask_rate)


def ordinary_rows(rows=ROWS, columns=SEQ_LENGTH - 2, seed=0):
  draw = np.random.default_rng(seed)
  ids = draw.choice(VOCABULARY.ordinary_ids, [rows, columns])
  return tf.constant(ids, tf.int32), tf.fill([rows], columns)


def masked(seed=(5, 7), **settings):
  """Returns (numpy features, original ids [R, S])."""
  tokens, lengths = ordinary_rows()
  features = make(**settings)(tokens, lengths, seed)
  original = np.pad(
    tokens.numpy(), [[0, 0], [1, 1]], constant_values=VOCABULARY.sep_id
  )
  original[:, 0] = VOCABULARY.cls_id
  return {name: value.numpy() for name, value in features.items()}, original


def within_three_standard_errors(count, total, share):
  error = math.sqrt(share * (1 - share) / total)
  return abs(count / total - share) <= 3 * error


def test_the_share_of_labels_is_the_mask_rate():
  features, _ = masked()
  total = ROWS * (SEQ_LENGTH - 2)
  assert total > 100_000
  assert within_three_standard_errors(
    features['masked_lm_weights'].sum(), total, 0.15
  )


def test_the_mean_number_of_labels_is_exact_not_rounded():
  """64 * 0.15 = 9.6: rows have 9 or 10 labels, 10 in 60 % of them."""
  features, _ = masked()
  counts = features['masked_lm_weights'].sum(axis=1)
  assert set(counts) == {9, 10}
  assert within_three_standard_errors((counts == 10).sum(), ROWS, 0.6)


def test_labels_become_mask_random_or_stay_as_80_10_10():
  features, original = masked(mask_rate=0.8, slots=64)
  filled = features['masked_lm_weights'] == 1
  positions = features['masked_lm_positions']
  inputs = np.take_along_axis(features['input_word_ids'], positions, 1)[filled]
  labels = np.take_along_axis(original, positions, 1)[filled]
  total = filled.sum()
  assert total > 100_000
  is_mask = inputs == VOCABULARY.mask_id
  assert within_three_standard_errors(is_mask.sum(), total, 0.8)
  # A random token is the label itself once in so many.
  same = 0.1 + 0.1 / len(VOCABULARY.ordinary_ids)
  assert within_three_standard_errors((inputs == labels).sum(), total, same)
  other = ~is_mask & (inputs != labels)
  assert within_three_standard_errors(other.sum(), total, 0.2 - same)


def test_random_replacements_are_uniform_over_ordinary_tokens():
  features, original = masked(mask_rate=0.8, slots=64)
  inputs = features['input_word_ids']
  replaced = inputs[(inputs != original) & (inputs != VOCABULARY.mask_id)]
  counts = np.bincount(replaced, minlength=VOCABULARY.size)
  assert not counts[list(SPECIAL)].any()
  counts = counts[VOCABULARY.ordinary_ids]
  expected = counts.sum() / counts.size
  statistic = ((counts - expected) ** 2 / expected).sum()
  freedom = counts.size - 1
  assert abs(statistic - freedom) <= 3 * math.sqrt(2 * freedom)


def test_every_position_is_masked_equally_often():
  features, _ = masked()
  positions = features['masked_lm_positions'][features['masked_lm_weights'] > 0]
  counts = np.bincount(positions, minlength=SEQ_LENGTH)
  assert counts[0] == counts[-1] == 0
  expected = counts.sum() / (SEQ_LENGTH - 2)
  assert (abs(counts[1:-1] - expected) <= 5 * math.sqrt(expected)).all()


def test_labels_are_the_original_tokens():
  features, original = masked()
  filled = features['masked_lm_weights'] == 1
  labels = np.take_along_axis(original, features['masked_lm_positions'], 1)
  np.testing.assert_array_equal(
    features['masked_lm_ids'][filled], labels[filled]
  )


def test_tokens_that_are_no_labels_stay():
  features, original = masked()
  is_label = np.zeros_like(original, bool)
  np.put_along_axis(
    is_label,
    features['masked_lm_positions'],
    features['masked_lm_weights'] > 0,
    axis=1,
  )
  # Empty slots name position 0, which is never a label.
  np.testing.assert_array_equal(
    features['input_word_ids'][~is_label], original[~is_label]
  )


def test_positions_ascend_and_empty_slots_are_zero():
  features, _ = masked()
  for positions, ids, weights in zip(
    features['masked_lm_positions'],
    features['masked_lm_ids'],
    features['masked_lm_weights'],
    strict=True,
  ):
    count = int(weights.sum())
    assert (weights[:count] == 1).all()
    assert (np.diff(positions[:count]) > 0).all()
    assert not positions[count:].any()
    assert not ids[count:].any()


def test_special_tokens_are_never_labels():
  tokens, lengths = ordinary_rows(rows=256)
  draw = np.random.default_rng(1)
  mixed = np.where(
    draw.random(tokens.shape) < 0.5,
    draw.choice(SPECIAL, tokens.shape),
    tokens.numpy(),
  )
  features = make(mask_rate=1.0, slots=64)(
    tf.constant(mixed, tf.int32), lengths, (1, 1)
  )
  filled = features['masked_lm_weights'].numpy() == 1
  ids = features['masked_lm_ids'].numpy()[filled]
  assert not set(ids) & set(SPECIAL)
  # At rate 1 every ordinary token is a label.
  assert filled.sum() == (~np.isin(mixed, SPECIAL)).sum()


def test_a_row_has_at_least_one_label_and_at_most_all_slots():
  tokens, _ = ordinary_rows(rows=4)
  lengths = tf.constant([1, 2, 60, 64])
  few = make(mask_rate=0.01)(tokens, lengths, (0, 0))
  many = make(mask_rate=0.9, slots=20)(tokens, lengths, (0, 0))
  np.testing.assert_array_equal(
    few['masked_lm_weights'].numpy().sum(axis=1), [1, 1, 1, 1]
  )
  assert many['masked_lm_weights'].numpy().sum(axis=1).max() == 20


def test_a_row_of_special_tokens_has_no_label():
  tokens = tf.fill([2, SEQ_LENGTH - 2], VOCABULARY.unk_id)
  features = make()(tokens, tf.constant([64, 3]), (0, 0))
  assert not features['masked_lm_weights'].numpy().any()


def test_a_short_row_ends_with_sep_and_padding():
  tokens = tf.constant([[VOCABULARY.id_of('a')] * 6])
  features = make(seq_length=8, slots=2)(tokens, tf.constant([3]), (0, 0))
  ids = features['input_word_ids'].numpy()[0]
  assert ids[0] == VOCABULARY.cls_id
  assert ids[4] == VOCABULARY.sep_id
  assert (ids[5:] == VOCABULARY.pad_id).all()
  np.testing.assert_array_equal(
    features['input_mask'][0], [1, 1, 1, 1, 1, 0, 0, 0]
  )
  assert not features['input_type_ids'].numpy().any()


def test_equal_seeds_give_equal_masks_and_others_do_not():
  first, _ = masked(seed=(1, 2))
  again, _ = masked(seed=(1, 2))
  other, _ = masked(seed=(1, 3))
  for name in first:
    np.testing.assert_array_equal(first[name], again[name])
  assert (first['masked_lm_positions'] != other['masked_lm_positions']).any()


def test_shapes_and_types_are_the_model_gardens():
  features = (
    tf.data.Dataset.from_tensors(ordinary_rows())
    .map(lambda tokens, lengths: make()(tokens, lengths, (0, 0)))
    .element_spec
  )
  slots = ('masked_lm_positions', 'masked_lm_ids', 'masked_lm_weights')
  for name, spec in features.items():
    assert spec.shape[1] == (20 if name in slots else SEQ_LENGTH), name
    wanted = tf.float32 if name == 'masked_lm_weights' else tf.int32
    assert spec.dtype == wanted, name


@pytest.mark.parametrize('rate', [0.05, 0.5])
def test_other_rates_are_kept_too(rate):
  features, _ = masked(mask_rate=rate, slots=40)
  assert within_three_standard_errors(
    features['masked_lm_weights'].sum(), ROWS * 64, rate
  )
