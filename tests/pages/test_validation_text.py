"""Validation text of the report: unmasked rows, and sentences to fill in."""

import numpy as np

from tokendrop_tf.data import loader, unmasking
from tokendrop_tf.pages import validation_text
from tokendrop_tf.text import vocabulary as vocabulary_lib


def test_unmasking_restores_every_label_and_no_more(numbered_text):
  vocabulary = numbered_text.words
  batch = next(
    iter(loader.load_dataset(numbered_text.config(), numbered_text.vocabulary))
  )
  batch = {name: tensor.numpy() for name, tensor in batch.items()}
  ids = unmasking.unmask(batch)
  assert (batch['input_word_ids'] == vocabulary.mask_id).any()
  assert not (ids == vocabulary.mask_id).any()
  changed = np.argwhere(ids != batch['input_word_ids'])
  labels = {
    (row, position)
    for row, (positions, weights) in enumerate(
      zip(batch['masked_lm_positions'], batch['masked_lm_weights'])
    )
    for position in positions[weights > 0]
  }
  assert {tuple(place) for place in changed} <= labels


def test_masked_word_is_a_whole_frequent_one_of_its_sentence():
  tokens = (
    '[PAD]',
    '[UNK]',
    '[CLS]',
    '[SEP]',
    '[MASK]',
    '.',
    'the',
    'small',
    'house',
    'stands',
    'on',
    'hill',
    '##s',
    'far',
    'away',
    'end',
  )
  vocabulary = vocabulary_lib.Vocabulary(tokens)
  text = (
    '[CLS] end . the small house stands on hill ##s far away . the [SEP]'
  ).split()
  row = np.array(vocabulary.ids_of(text))
  counts = np.zeros(len(tokens))
  counts[list(vocabulary.ids_of(['small', 'house', 'hill', 'the']))] = (
    5,
    7,
    9,
    11,
  )
  found = validation_text.masked_sentences(vocabulary, row[None], counts)
  # 'the' is too short, and 'hill' is only the beginning of a word.
  assert found == [('the small [MASK] stands on hills far away .', 'house')]


def test_text_without_long_words_is_masked_all_the_same():
  tokens = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', '##b', 'c')
  vocabulary = vocabulary_lib.Vocabulary(tokens)
  row = np.array(vocabulary.ids_of('[CLS] a ##b c a ##b [SEP]'.split()))
  found = validation_text.masked_sentences(
    vocabulary, np.stack([row, row, row]), np.arange(8)
  )
  assert found == [('ab [MASK] ab', 'c')] * 2
