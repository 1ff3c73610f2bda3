import hashlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import vocabulary as vocabulary_lib

SPECIAL = vocabulary_lib.SPECIAL_TOKENS
WORDS = ('the', 'token', '##s', 'drop', ',', 'e', '##e')
TEXT = [
  'The quick brown fox, and the lazy dogs; they jumped.',
  'Tokens dropped from the middle layers are quicker tokens.',
  'Über naïve façades: 3.5 % of cafés, and 北京.',
] * 3


def vocabulary_file(tmp_path, tokens):
  path = tmp_path / 'vocab.txt'
  path.write_text(''.join(f'{token}\n' for token in tokens))
  return str(path)


def documents(texts=tuple(TEXT)):
  return tf.data.Dataset.from_tensors(list(texts))


def test_ids_are_line_numbers(tmp_path):
  vocabulary = vocabulary_lib.Vocabulary.from_file(
    vocabulary_file(tmp_path, SPECIAL + WORDS)
  )
  assert vocabulary.size == 12
  assert vocabulary.ids_of(('[PAD]', 'the', '##e')) == (0, 5, 11)
  assert (
    vocabulary.pad_id,
    vocabulary.unk_id,
    vocabulary.cls_id,
    vocabulary.sep_id,
    vocabulary.mask_id,
  ) == (0, 1, 2, 3, 4)


def test_special_ids_come_from_the_file_not_from_a_fixed_place(tmp_path):
  vocabulary = vocabulary_lib.Vocabulary.from_file(
    vocabulary_file(tmp_path, WORDS + SPECIAL[::-1])
  )
  assert vocabulary.pad_id == 11
  assert vocabulary.mask_id == 7
  np.testing.assert_array_equal(vocabulary.ordinary_ids, range(7))


def test_crlf_and_a_byte_order_mark_are_no_part_of_tokens(tmp_path):
  path = tmp_path / 'vocab.txt'
  path.write_bytes(b'\xef\xbb\xbf' + '\r\n'.join(SPECIAL + WORDS).encode())
  vocabulary = vocabulary_lib.Vocabulary.from_file(str(path))
  assert vocabulary.tokens == SPECIAL + WORDS


def test_detokenize_joins_the_pieces_of_words():
  vocabulary = vocabulary_lib.Vocabulary(SPECIAL + WORDS)
  ids = vocabulary.ids_of(('[CLS]', 'the', 'token', '##s', '[MASK]'))
  assert vocabulary.detokenize(ids) == '[CLS] the tokens [MASK]'


@pytest.mark.parametrize('token', SPECIAL)
def test_a_missing_special_token_is_named(tmp_path, token):
  tokens = [other for other in SPECIAL + WORDS if other != token]
  path = vocabulary_file(tmp_path, tokens)
  with pytest.raises(errors.DataError) as caught:
    vocabulary_lib.Vocabulary.from_file(path)
  assert f'{path} lacks {token}.' in str(caught.value)


def test_a_repeated_token_is_named_with_both_lines(tmp_path):
  path = vocabulary_file(tmp_path, SPECIAL + WORDS + ('drop',))
  with pytest.raises(errors.DataError, match="'drop' on lines 9 and 13"):
    vocabulary_lib.Vocabulary.from_file(path)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'is empty'),
    (b'[PAD]\n[UNK]\n\xff\n', 'line 3, which is not'),
  ],
)
def test_an_unusable_file_is_refused(tmp_path, content, message):
  path = tmp_path / 'vocab.txt'
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match=message):
    vocabulary_lib.Vocabulary.from_file(str(path))


@pytest.mark.parametrize('path', ['', 'absent.txt', '.'])
def test_an_absent_file_is_refused(path):
  with pytest.raises(errors.DataError, match='Set vocabulary.path'):
    vocabulary_lib.Vocabulary.from_file(path)


def test_an_unknown_token_is_named():
  vocabulary = vocabulary_lib.Vocabulary(SPECIAL, path='a/vocab.txt')
  with pytest.raises(errors.DataError, match="'word', absent from a/vocab"):
    vocabulary.ids_of(('[CLS]', 'word'))


def test_counts_are_read_by_token(tmp_path):
  vocabulary = vocabulary_lib.Vocabulary(SPECIAL + WORDS)
  path = tmp_path / 'counts.tsv'
  path.write_text('drop\t7\n[UNK]\t2\n,\t12345678901\n')
  counts = vocabulary_lib.read_token_counts(str(path), vocabulary)
  expected = np.zeros(12, np.int64)
  expected[[8, 1, 9]] = 7, 2, 12345678901
  np.testing.assert_array_equal(counts, expected)
  assert counts.dtype == np.int64


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('drop 7', "'drop 7' on line 2"),
    ('drop\t-1', 'on line 2'),
    ('fall\t7', "'fall' on line 2 of .*, absent from"),
  ],
)
def test_a_bad_line_of_counts_is_named(tmp_path, line, message):
  path = tmp_path / 'counts.tsv'
  path.write_text(f'the\t1\n{line}\n')
  with pytest.raises(errors.DataError, match=message):
    vocabulary_lib.read_token_counts(
      str(path), vocabulary_lib.Vocabulary(SPECIAL + WORDS)
    )


def test_absent_counts_are_refused(tmp_path):
  with pytest.raises(errors.DataError, match='Set vocabulary.counts_path'):
    vocabulary_lib.read_token_counts(
      str(tmp_path / 'absent.tsv'), vocabulary_lib.Vocabulary(SPECIAL)
    )


def test_what_is_written_is_read_again(tmp_path):
  path = str(tmp_path / 'new' / 'vocab.txt')
  counts = np.arange(12)
  vocabulary_lib.write_vocabulary(path, SPECIAL + WORDS, counts)
  vocabulary = vocabulary_lib.Vocabulary.from_file(path)
  assert vocabulary.tokens == SPECIAL + WORDS
  np.testing.assert_array_equal(
    vocabulary_lib.read_token_counts(
      vocabulary_lib.counts_path_for(path), vocabulary
    ),
    counts,
  )
  names = sorted(file.name for file in (tmp_path / 'new').iterdir())
  assert names == ['vocab.counts.tsv', 'vocab.txt']


def test_a_trained_vocabulary_begins_with_the_special_tokens():
  vocabulary = vocabulary_lib.train_vocabulary(documents(), size=120)
  assert vocabulary.tokens[:5] == SPECIAL
  assert 60 < vocabulary.size <= 120


@pytest.mark.parametrize('size', [16, 40, 200])
def test_a_trained_vocabulary_is_no_larger_than_asked_for(size):
  assert vocabulary_lib.train_vocabulary(documents(), size).size <= size


def test_text_that_supports_fewer_tokens_gives_fewer():
  vocabulary = vocabulary_lib.train_vocabulary(documents(('aa ab',)), 500, True)
  assert vocabulary.size < 20


@pytest.mark.parametrize('lower_case', [True, False])
def test_training_knows_every_word_of_its_text(lower_case):
  vocabulary = vocabulary_lib.train_vocabulary(
    documents(), size=200, lower_case=lower_case
  )
  counts = vocabulary_lib.count_tokens(documents(), vocabulary)
  assert counts[vocabulary.unk_id] == 0
  assert counts.sum() > 100


def test_cased_vocabularies_keep_capitals_and_accents():
  cased = vocabulary_lib.train_vocabulary(documents(), 200, lower_case=False)
  lower = vocabulary_lib.train_vocabulary(documents(), 200, lower_case=True)
  assert {'T', 'Ü', '##é'} <= set(cased.tokens)
  assert not {'T', 'Ü', '##é'} & set(lower.tokens)


@pytest.mark.parametrize('lower_case', [True, False])
def test_words_are_split_as_in_the_trainer(lower_case):
  """The tokenizer of the pipeline agrees with the one that was trained."""
  vocabulary = vocabulary_lib.train_vocabulary(documents(), 150, lower_case)
  trained = vocabulary_lib._new_wordpiece_tokenizer(lower_case)
  trained.model = type(trained.model)(
    {token: index for index, token in enumerate(vocabulary.tokens)},
    unk_token='[UNK]',
    max_input_chars_per_word=100,
  )
  text = ' '.join(TEXT) + " don't re-use x_y: ÉCOLE 東京 [MASK] zzz\tend\u00a0."
  ours = vocabulary.tokenizer().tokenize([text])[0].numpy().tolist()
  assert ours == trained.encode(text, add_special_tokens=False).ids


def test_training_repeats_exactly_in_another_process():
  """Its hash tables are randomised in every process."""
  program = (
    'import hashlib, sys, tensorflow as tf\n'
    'from tokendrop_tf.data import vocabulary\n'
    'texts = tf.data.Dataset.from_tensors(eval(sys.argv[1]))\n'
    'tokens = vocabulary.train_vocabulary(texts, 120).tokens\n'
    'print(hashlib.md5(repr(tokens).encode()).hexdigest())'
  )
  printed = subprocess.run(
    [sys.executable, '-c', program, repr(TEXT)],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  tokens = vocabulary_lib.train_vocabulary(documents(), 120).tokens
  assert printed == hashlib.md5(repr(tokens).encode()).hexdigest()


def test_counts_are_of_what_the_tokenizer_gives():
  vocabulary = vocabulary_lib.Vocabulary(SPECIAL + WORDS)
  counts = vocabulary_lib.count_tokens(
    documents(('The tokens, the tokens.', 'drop', '')), vocabulary
  )
  found = {
    token: count
    for token, count in zip(vocabulary.tokens, counts, strict=True)
    if count
  }
  assert found == {
    'the': 2,
    'token': 2,
    '##s': 2,
    ',': 1,
    'drop': 1,
    '[UNK]': 1,
  }


def test_special_tokens_in_text_are_words_like_others():
  vocabulary = vocabulary_lib.Vocabulary(SPECIAL + WORDS + ('[', ']', 'mask'))
  ids = vocabulary.tokenizer().tokenize(['[MASK]'])[0].numpy().tolist()
  assert ids == list(vocabulary.ids_of(('[', 'mask', ']')))


def test_no_text_is_refused():
  with pytest.raises(errors.DataError, match='A vocabulary needs text'):
    vocabulary_lib.train_vocabulary(documents(('', ' \n')), 100)


def test_a_size_without_room_is_refused():
  with pytest.raises(errors.ConfigurationError, match='at least 16 tokens'):
    vocabulary_lib.train_vocabulary(documents(), 15)
