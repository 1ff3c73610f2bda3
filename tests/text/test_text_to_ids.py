"""Text to inputs: the row's layout, trimming, and what may be empty."""

import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.text import text_to_ids
from tokendrop_tf.text import vocabulary as vocabulary_lib


@pytest.fixture(scope='module')
def vocabulary(tiny_corpus) -> vocabulary_lib.Vocabulary:
  return vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary)


def rows_of(features, vocabulary):
  """Returns the token texts, the mask and the types of every row."""
  return [
    (
      ' '.join(vocabulary.tokens[index] for index in ids),
      ''.join(map(str, mask)),
      ''.join(map(str, types)),
    )
    for ids, mask, types in zip(
      features['input_word_ids'].numpy(),
      features['input_mask'].numpy(),
      features['input_type_ids'].numpy(),
    )
  ]


def test_a_row_is_cls_text_sep_and_padding(vocabulary):
  packer = text_to_ids.TextPacker(vocabulary, seq_length=6)
  assert rows_of(packer(tf.constant(['W01 w02', ''])), vocabulary) == [
    ('[CLS] w01 w02 [SEP] [PAD] [PAD]', '111100', '000000'),
    ('[CLS] [SEP] [PAD] [PAD] [PAD] [PAD]', '110000', '000000'),
  ]


def test_the_second_segment_has_type_one(vocabulary):
  packer = text_to_ids.TextPacker(vocabulary, seq_length=7)
  features = packer(tf.constant(['w01', '']), tf.constant(['w02 w03', 'w04']))
  assert rows_of(features, vocabulary) == [
    ('[CLS] w01 [SEP] w02 w03 [SEP] [PAD]', '1111110', '0001110'),
    ('[CLS] [SEP] w04 [SEP] [PAD] [PAD] [PAD]', '1111000', '0011000'),
  ]


def test_segments_share_the_room_token_by_token(vocabulary):
  packer = text_to_ids.TextPacker(vocabulary, seq_length=8)
  long, short = 'w01 w02 w03 w04 w05 w06', 'w07'
  features = packer(
    tf.constant([long, long, short]), tf.constant([long, short, long])
  )
  assert [row for row, _, _ in rows_of(features, vocabulary)] == [
    '[CLS] w01 w02 w03 [SEP] w01 w02 [SEP]',
    '[CLS] w01 w02 w03 w04 [SEP] w07 [SEP]',
    '[CLS] w07 [SEP] w01 w02 w03 w04 [SEP]',
  ]


def test_shapes_are_known_in_a_data_set(vocabulary):
  packer = text_to_ids.TextPacker(vocabulary, seq_length=5)
  dataset = tf.data.Dataset.from_tensor_slices(['w01', 'w02 w03', 'w04'])
  features = dataset.batch(2).map(packer)
  for spec in features.element_spec.values():
    assert (spec.shape.as_list(), spec.dtype) == ([None, 5], tf.int32)
  first, second = features
  assert first['input_word_ids'].shape == [2, 5]
  assert second['input_mask'].numpy().tolist() == [[1, 1, 1, 0, 0]]


def test_ids_are_those_of_the_pretraining_tokenizer(vocabulary):
  packer = text_to_ids.TextPacker(vocabulary, seq_length=16)
  texts = ['w01 w99, w02!', 'W58\tw57']
  expected = vocabulary.tokenizer().tokenize(texts)
  assert packer.tokenize(tf.constant(texts)).to_list() == expected.to_list()
  packed = packer(tf.constant(texts))['input_word_ids'].numpy()
  for row, ids in zip(packed, expected.to_list()):
    assert row[1 : 1 + len(ids)].tolist() == ids


def test_a_row_too_short_for_a_pair_is_refused(vocabulary):
  with pytest.raises(errors.ConfigurationError) as caught:
    text_to_ids.TextPacker(vocabulary, seq_length=3)
  assert 'must be at least 4' in str(caught.value)
  assert 'Received: 3' in str(caught.value)
