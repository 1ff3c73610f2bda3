import hashlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.text import tokenization, vocabulary_training
from tokendrop_tf.text import vocabulary as vocabulary_lib

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
  settings = tokenization.TokenizationSettings(True, False, max_word_length=9)
  written = vocabulary_lib.Vocabulary(SPECIAL + WORDS, settings)
  vocabulary_lib.write_vocabulary(path, written, counts)
  vocabulary = vocabulary_lib.Vocabulary.from_file(path)
  assert vocabulary.tokens == SPECIAL + WORDS
  assert vocabulary.settings == settings
  np.testing.assert_array_equal(
    vocabulary_lib.read_token_counts(
      vocabulary_lib.counts_path_for(path), vocabulary
    ),
    counts,
  )
  names = sorted(file.name for file in (tmp_path / 'new').iterdir())
  assert names == [
    'vocab.counts.tsv',
    'vocab.tokenizer_config.json',
    'vocab.txt',
  ]


def test_a_trained_vocabulary_begins_with_the_special_tokens():
  vocabulary = vocabulary_training.train_vocabulary(documents(), size=120)
  assert vocabulary.tokens[:5] == SPECIAL
  assert 60 < vocabulary.size <= 120


@pytest.mark.parametrize('size', [16, 40, 200])
def test_a_trained_vocabulary_is_no_larger_than_asked_for(size):
  assert vocabulary_training.train_vocabulary(documents(), size).size <= size


def test_text_that_supports_fewer_tokens_gives_fewer():
  vocabulary = vocabulary_training.train_vocabulary(documents(('aa ab',)), 500)
  assert vocabulary.size < 20


@pytest.mark.parametrize('settings', [tokenization.UNCASED, tokenization.CASED])
def test_training_knows_every_word_of_its_text(settings):
  vocabulary = vocabulary_training.train_vocabulary(documents(), 200, settings)
  counts = vocabulary_training.count_tokens(documents(), vocabulary)
  assert counts[vocabulary.unk_id] == 0
  assert counts.sum() > 100


def test_cased_vocabularies_keep_capitals_and_accents():
  cased = vocabulary_training.train_vocabulary(
    documents(), 200, tokenization.CASED
  )
  lower = vocabulary_training.train_vocabulary(documents(), 200)
  assert {'T', 'Ü', '##é'} <= set(cased.tokens)
  assert not {'T', 'Ü', '##é'} & set(lower.tokens)


def test_training_repeats_exactly_in_another_process():
  """Its hash tables are randomised in every process."""
  program = (
    'import hashlib, sys, tensorflow as tf\n'
    'from tokendrop_tf.text import vocabulary_training\n'
    'texts = tf.data.Dataset.from_tensors(eval(sys.argv[1]))\n'
    'tokens = vocabulary_training.train_vocabulary(texts, 120).tokens\n'
    'print(hashlib.md5(repr(tokens).encode()).hexdigest())'
  )
  printed = subprocess.run(
    [sys.executable, '-c', program, repr(TEXT)],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  tokens = vocabulary_training.train_vocabulary(documents(), 120).tokens
  assert printed == hashlib.md5(repr(tokens).encode()).hexdigest()


def test_counts_are_of_what_the_tokenizer_gives():
  vocabulary = vocabulary_lib.Vocabulary(SPECIAL + WORDS)
  counts = vocabulary_training.count_tokens(
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


def test_blank_lines_are_tokens_that_never_occur(tmp_path):
  tokens = [*SPECIAL, 'a', '', 'b', '', 'c']
  vocabulary = vocabulary_lib.Vocabulary.from_file(
    vocabulary_file(tmp_path, tokens)
  )
  assert vocabulary.size == 10
  ids = vocabulary.tokenizer().tokenize(['a b  c']).to_list()
  assert ids == [[5, 7, 9]]
  path = str(tmp_path / 'copy' / 'vocab.txt')
  vocabulary_lib.write_vocabulary(path, vocabulary, np.arange(10))
  copy = vocabulary_lib.Vocabulary.from_file(path)
  assert copy.tokens == tuple(tokens)
  counts = vocabulary_lib.read_token_counts(
    vocabulary_lib.counts_path_for(path), copy
  )
  assert counts.tolist() == [0, 1, 2, 3, 4, 5, 0, 7, 0, 9]


def test_a_token_that_is_too_long_is_refused_by_its_line(tmp_path):
  path = vocabulary_file(tmp_path, [*SPECIAL, 'a', '##' + 'ก' * 86])
  with pytest.raises(errors.DataError) as caught:
    vocabulary_lib.Vocabulary.from_file(path)
  assert f'Received: 258 bytes on line 7 of {path}' in str(caught.value)


def test_a_token_longer_than_any_word_only_takes_its_id(tmp_path):
  tokens = [*SPECIAL, 'a' * 300, 'b']
  vocabulary = vocabulary_lib.Vocabulary.from_file(
    vocabulary_file(tmp_path, tokens)
  )
  assert vocabulary.tokenizer().tokenize(['b']).to_list() == [[6]]


@pytest.mark.parametrize('letters', ['ACGTTGCA', 'ความรักทำให้คนตาบอด'])
def test_training_makes_no_token_of_more_than_256_bytes(letters):
  lines = [letters * repeats for repeats in range(3, 60)] * 3
  vocabulary = vocabulary_training.train_vocabulary(documents(lines), 300)
  assert max(len(token.encode()) for token in vocabulary.tokens) <= 256


def test_a_vocabulary_of_cased_text_is_refused_where_nothing_says_so(tmp_path):
  path = vocabulary_file(tmp_path, [*SPECIAL, 'Haus', 'haus', '##Öl'])
  with pytest.raises(errors.ConfigurationError) as caught:
    vocabulary_lib.Vocabulary.from_file(path)
  message = str(caught.value)
  assert '2 of 8 tokens, such as Haus, ##Öl, would never occur' in message
  assert 'Set vocabulary.lower_case = False' in message
  cased = vocabulary_lib.Vocabulary.from_file(path, lower_case=False)
  assert cased.tokenizer().tokenize(['Haus']).to_list() == [[5]]


@pytest.mark.parametrize('lower_case', [True, False])
def test_the_file_next_to_a_vocabulary_says_its_letter_case(
  tmp_path, lower_case
):
  path = str(tmp_path / 'words.txt')
  settings = tokenization.TokenizationSettings(lower_case, False)
  vocabulary_lib.write_vocabulary(
    path, vocabulary_lib.Vocabulary((*SPECIAL, 'schön', 'Öl'), settings)
  )
  assert vocabulary_lib.Vocabulary.from_file(path).settings == settings
  assert vocabulary_lib.Vocabulary.from_file(path, lower_case).path == path
  with pytest.raises(errors.ConfigurationError) as caught:
    vocabulary_lib.Vocabulary.from_file(path, not lower_case)
  assert f'Received: {not lower_case}, where {tmp_path}' in str(caught.value)
  assert f'says {lower_case}. Leave vocabulary.lower_case unset' in str(
    caught.value
  )


def test_no_text_is_refused():
  with pytest.raises(errors.DataError, match='A vocabulary needs text'):
    vocabulary_training.train_vocabulary(documents(('', ' \n')), 100)


def test_a_size_without_room_is_refused():
  with pytest.raises(errors.ConfigurationError, match='at least 16 tokens'):
    vocabulary_training.train_vocabulary(documents(), 15)
