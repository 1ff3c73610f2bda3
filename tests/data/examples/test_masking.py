import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data.examples import masking as masking_lib
from tokendrop_tf.data.examples import packing
from tokendrop_tf.text import vocabulary as vocabulary_lib

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


def framed(tokens, lengths=None, vocabulary=VOCABULARY):
  """Returns rows with their special tokens, int32 [R, S]."""
  tokens = tf.constant(tokens, tf.int32)
  if lengths is None:
    lengths = tf.fill(tokens.shape[:1], tokens.shape[1])
  return packing.framed(
    tokens, lengths, vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id
  )


def ordinary_rows(rows=ROWS, columns=SEQ_LENGTH - 2, seed=0):
  draw = np.random.default_rng(seed)
  ids = draw.choice(VOCABULARY.ordinary_ids, [rows, columns])
  return ids.astype(np.int32)


def masked(seed=(5, 7), **settings):
  """Returns (numpy features, original ids [R, S])."""
  rows = framed(ordinary_rows())
  features = make(**settings)(rows, seed)
  return {name: value.numpy() for name, value in features.items()}, rows.numpy()


def within_three_standard_errors(count, total, share):
  error = math.sqrt(share * (1 - share) / total)
  return abs(count / total - share) <= 3 * error


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
  tokens = ordinary_rows(rows=256)
  draw = np.random.default_rng(1)
  mixed = np.where(
    draw.random(tokens.shape) < 0.5,
    draw.choice(SPECIAL, tokens.shape),
    tokens,
  )
  features = make(mask_rate=1.0, slots=64)(framed(mixed), (1, 1))
  filled = features['masked_lm_weights'].numpy() == 1
  ids = features['masked_lm_ids'].numpy()[filled]
  assert not set(ids) & set(SPECIAL)
  # At rate 1 every ordinary token is a label.
  assert filled.sum() == (~np.isin(mixed, SPECIAL)).sum()


def test_a_row_has_at_least_one_label_and_at_most_all_slots():
  rows = framed(ordinary_rows(rows=4), tf.constant([1, 2, 60, 64]))
  few = make(mask_rate=0.01)(rows, (0, 0))
  many = make(mask_rate=0.9, slots=20)(rows, (0, 0))
  np.testing.assert_array_equal(
    few['masked_lm_weights'].numpy().sum(axis=1), [1, 1, 1, 1]
  )
  assert many['masked_lm_weights'].numpy().sum(axis=1).max() == 20


def test_a_row_of_special_tokens_has_no_label():
  tokens = np.full([2, SEQ_LENGTH - 2], VOCABULARY.unk_id)
  features = make()(framed(tokens, tf.constant([64, 3])), (0, 0))
  assert not features['masked_lm_weights'].numpy().any()


def test_a_short_row_ends_with_sep_and_padding():
  rows = framed([[VOCABULARY.id_of('a')] * 6], tf.constant([3]))
  features = make(seq_length=8, slots=2)(rows, (0, 0))
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
    tf.data.Dataset.from_tensors(framed(ordinary_rows()))
    .map(lambda rows: make()(rows, (0, 0)))
    .element_spec
  )
  slots = ('masked_lm_positions', 'masked_lm_ids', 'masked_lm_weights')
  for name, spec in features.items():
    assert spec.shape[1] == (20 if name in slots else SEQ_LENGTH), name
    wanted = tf.float32 if name == 'masked_lm_weights' else tf.int32
    assert spec.dtype == wanted, name


# Words of one to four pieces: 'a', 'b ##b', 'c ##c ##c', and so on.
PIECES = tuple(f'##{letter}' for letter in 'bcdefgh')
WORD_VOCABULARY = vocabulary_lib.Vocabulary(
  (*vocabulary_lib.SPECIAL_TOKENS, *'abcdefgh', *PIECES)
)


def word_rows(rows=512, columns=126, seed=0, sep_share=0.02):
  """Words of random pieces, with a [SEP] between some."""
  draw = np.random.default_rng(seed)
  vocabulary = WORD_VOCABULARY
  heads = [vocabulary.id_of(letter) for letter in 'abcdefgh']
  pieces = [vocabulary.id_of(piece) for piece in PIECES]
  tokens = np.where(
    draw.random([rows, columns]) < 0.3,
    draw.choice(pieces, [rows, columns]),
    draw.choice(heads, [rows, columns]),
  )
  # What follows a [SEP] begins a word.
  is_sep = draw.random([rows, columns]) < sep_share
  return np.where(is_sep, vocabulary.sep_id, tokens).astype(np.int32)


def mask_words(tokens, kind, slots=40, mask_rate=0.15, seed=(1, 2), **settings):
  columns = tokens.shape[1]
  masking = masking_lib.Masking(
    WORD_VOCABULARY, columns + 2, slots, mask_rate, kind=kind, **settings
  )
  features = masking(framed(tokens, vocabulary=WORD_VOCABULARY), seed)
  features = {name: value.numpy() for name, value in features.items()}
  is_label = np.zeros([len(tokens), columns + 2], bool)
  filled = features['masked_lm_weights'] > 0
  np.put_along_axis(
    is_label, np.where(filled, features['masked_lm_positions'], 0), True, 1
  )
  return features, is_label[:, 1:-1]


def word_numbers(tokens):
  """Returns the word of each token, numbered over all rows; -1 is special."""
  special = np.isin(tokens, WORD_VOCABULARY.special_ids)
  pieces = np.isin(tokens, [WORD_VOCABULARY.id_of(p) for p in PIECES])
  before = np.pad(special, [[0, 0], [1, 0]], constant_values=True)[:, :-1]
  starts = ~special & (~pieces | before)
  return np.where(special, -1, np.cumsum(starts).reshape(tokens.shape) - 1)


KINDS = ('whole_word', 'span')


@pytest.mark.parametrize('kind', KINDS)
def test_words_are_never_cut(kind):
  tokens = word_rows()
  _, is_label = mask_words(tokens, kind)
  words = word_numbers(tokens)
  labels = np.bincount(words[is_label], minlength=words.max() + 1)
  sizes = np.bincount(words[words >= 0])
  assert set(np.unique(labels / sizes)) == {0.0, 1.0}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('mask_rate', [0.08, 0.15])
def test_the_mean_rate_of_words_is_exact(kind, mask_rate):
  tokens = word_rows(rows=4096)
  features, is_label = mask_words(tokens, kind, mask_rate=mask_rate)
  ordinary = (word_numbers(tokens) >= 0).sum(axis=1)
  counts = features['masked_lm_weights'].sum(axis=1)
  assert (counts == is_label.sum(axis=1)).all()
  assert not is_label[word_numbers(tokens) < 0].any()
  difference = counts - mask_rate * ordinary
  error = difference.std() / math.sqrt(len(tokens))
  assert abs(difference.mean()) <= 4 * error
  assert error < 0.03 * mask_rate * ordinary.mean()


@pytest.mark.parametrize('kind', KINDS)
def test_words_of_every_place_are_masked_equally_often(kind):
  tokens = word_rows(rows=4096, sep_share=0.0)
  _, is_label = mask_words(tokens, kind, mask_rate=0.2)
  # Rows begin and end in mid-word, and a span may end with the row.
  assert abs(is_label.mean(axis=0) - 0.2).max() < 0.04


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('slots', [1, 2, 3, 5])
def test_where_slots_are_few_words_stay_whole_and_longer_ones_unmasked(
  kind, slots
):
  tokens = word_rows(rows=256)
  _, is_label = mask_words(tokens, kind, slots=slots, mask_rate=0.5)
  assert is_label.any(axis=1).all()
  words = word_numbers(tokens)
  sizes = np.bincount(words[words >= 0])
  labels = np.bincount(words[is_label], minlength=len(sizes))
  assert set(np.unique(labels / sizes)) == {0.0, 1.0}
  assert sizes[labels > 0].max() <= slots


def test_a_row_of_one_word_has_it_as_label():
  tokens = np.full([3, 4], WORD_VOCABULARY.id_of('##b'), np.int32)
  features, _ = mask_words(tokens, 'whole_word', slots=6)
  np.testing.assert_array_equal(features['masked_lm_weights'].sum(axis=1), 4)


def runs_of(is_label, words):
  """Returns the number of words of every run of labels."""
  found = []
  for flags, numbers in zip(is_label, words, strict=True):
    run = set()
    for flag, number in zip(flags, numbers, strict=True):
      if flag:
        run.add(number)
      elif run:
        found.append(len(run))
        run = set()
    if run:
      found.append(len(run))
  return np.array(found)


def test_span_lengths_are_geometric_up_to_the_longest():
  """Long rows and a low rate: hardly a span is cut, or touches another."""
  tokens = word_rows(rows=256, columns=1022, sep_share=0.0)
  _, is_label = mask_words(tokens, 'span', slots=200, mask_rate=0.02)
  lengths = runs_of(is_label, word_numbers(tokens))
  shares = 0.8 ** np.arange(10.0)
  shares /= shares.sum()
  found = np.bincount(lengths, minlength=30)[1:11] / len(lengths)
  # The last span of a row, one in five, is cut to what is left.
  assert abs(found - shares).max() < 0.05
  assert (lengths > 10).mean() < 0.02  # Two that touch.
  [mean] = [(np.arange(1, 11) * shares).sum()]
  assert mean == pytest.approx(3.797, abs=1e-3)
  assert abs(lengths.mean() - mean) < 0.5


def test_the_law_of_span_lengths_is_exact():
  masking = masking_lib.Masking(
    WORD_VOCABULARY, 8, 2, 0.15, kind='span', max_span_words=6
  )
  drawn = masking._span_lengths(tf.zeros([1000, 200]), tf.constant([1, 2]))
  counts = np.bincount(drawn.numpy().ravel(), minlength=8)
  assert counts[0] == counts[7] == 0
  shares = 0.8 ** np.arange(6.0)
  expected = shares / shares.sum() * 200_000
  statistic = ((counts[1:7] - expected) ** 2 / expected).sum()
  assert statistic <= 5 + 4 * math.sqrt(2 * 5)


def test_labels_of_a_span_are_replaced_alike():
  tokens = word_rows(rows=1024)
  features, is_label = mask_words(tokens, 'span', mask_rate=0.05)
  shown = features['input_word_ids'][:, 1:-1]
  is_mask = shown == WORD_VOCABULARY.mask_id
  both = is_label[:, 1:] & is_label[:, :-1]
  alike = (is_mask[:, 1:] == is_mask[:, :-1])[both].mean()
  assert alike > 0.97  # Two spans may touch.
  share = is_mask[is_label].mean()
  assert abs(share - 0.8) < 4 * math.sqrt(0.16 / (is_label.sum() / 8))


def test_spans_end_at_special_tokens():
  tokens = word_rows(rows=512, sep_share=0.3)
  _, is_label = mask_words(tokens, 'span', mask_rate=0.1)
  assert not is_label[tokens == WORD_VOCABULARY.sep_id].any()
  words = word_numbers(tokens)
  # What stands between two [SEP] is on average little, so spans are short.
  longest = max(
    len(run)
    for row in tokens
    for run in np.split(row, np.nonzero(row == WORD_VOCABULARY.sep_id)[0])
  )
  assert runs_of(is_label, words).max() <= longest


def test_shares_of_replacements_are_settings():
  rows = framed(ordinary_rows(rows=512))
  masking = masking_lib.Masking(
    VOCABULARY,
    SEQ_LENGTH,
    20,
    0.15,
    mask_token_share=0.5,
    random_token_share=0.0,
  )
  features = masking(rows, (1, 1))
  shown = tf.gather(
    features['input_word_ids'], features['masked_lm_positions'], batch_dims=1
  ).numpy()
  filled = features['masked_lm_weights'].numpy() > 0
  is_mask = (shown == VOCABULARY.mask_id)[filled]
  assert within_three_standard_errors(is_mask.sum(), filled.sum(), 0.5)
  is_same = (shown == features['masked_lm_ids'].numpy())[filled]
  assert (is_mask | is_same).all()


def test_every_row_has_its_own_rate():
  rows = framed(ordinary_rows(rows=1024))
  rates = np.float32([0.05, 0.25] * 512)
  counts = (
    make(slots=40)(rows, (1, 1), rates)['masked_lm_weights'].numpy().sum(axis=1)
  )
  assert set(counts[0::2]) == {3, 4}
  assert set(counts[1::2]) == {16}


def test_packed_rows_keep_segments_and_restart_positions():
  ids = [VOCABULARY.id_of(token) for token in ('[CLS]', 'a', '[SEP]', '[PAD]')]
  cls, word, sep, pad = ids
  tokens = tf.constant([[cls, word, word, sep, cls, word, sep, pad]])
  segments = tf.constant([[1, 1, 1, 1, 2, 2, 2, 0]])
  rows = tf.concat([tokens, segments], axis=1)
  features = make(seq_length=8, slots=3, mask_rate=0.99)(rows, (0, 1))
  np.testing.assert_array_equal(features['segment_ids'], segments)
  np.testing.assert_array_equal(
    features['position_ids'], [[0, 1, 2, 3, 0, 1, 2, 0]]
  )
  np.testing.assert_array_equal(
    features['input_mask'], [[1, 1, 1, 1, 1, 1, 1, 0]]
  )
  np.testing.assert_array_equal(features['masked_lm_positions'], [[1, 2, 5]])
