"""Ids are those of the `tokenizers` library; tokens are whole characters."""

import dataclasses
import gzip
import itertools

import pytest
import tensorflow as tf
import tokenizers
from hard_strings import HARD_STRINGS

from tokendrop_tf.text import character_map, tokenization, vocabulary_training
from tokendrop_tf.text import vocabulary as vocabulary_lib

SETTINGS = [
  tokenization.TokenizationSettings(lower_case, strip_accents)
  for lower_case, strip_accents in itertools.product([True, False], repeat=2)
]
OTHER_SETTINGS = [
  dataclasses.replace(SETTINGS[0], clean_text=False),
  dataclasses.replace(SETTINGS[3], split_chinese=False),
  dataclasses.replace(SETTINGS[0], max_word_length=7),
]


def reference(settings, tokens):
  """Returns the tokenizer of Hugging Face with these settings."""
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(
      {token: index for index, token in enumerate(tokens)},
      unk_token='[UNK]',
      max_input_chars_per_word=settings.max_word_length,
    )
  )
  tokenizer.normalizer = character_map.normalizer(settings)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return tokenizer


def characters_of(texts, settings):
  """Returns a vocabulary of every character of the texts."""
  normalizer = character_map.normalizer(settings)
  found = set(''.join(map(normalizer.normalize_str, texts))) - set('\0 \n')
  pieces = [piece for c in sorted(found) for piece in (c, f'##{c}')]
  return [*vocabulary_lib.SPECIAL_TOKENS, *pieces]


@pytest.mark.parametrize('settings', SETTINGS + OTHER_SETTINGS, ids=str)
def test_every_character_is_normalised_and_split_as_by_tokenizers(settings):
  # Beyond the third plane there are tags and private characters at most.
  codes = (*range(0xD800), *range(0xE000, 0x33000))
  codes = (*codes, *range(0x33000, 0x110000, 97))
  text = ' '.join(f'x{chr(code)}Y' for code in codes)
  normal = character_map.normalizer(settings).normalize_str(text)
  words = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normal)
  tokenizer = tokenization.BertTokenizer(['[UNK]', 'x'], settings)
  ours = tokenizer._normalizer.normalize([text]).numpy()[0].decode()
  ours = filter(None, ours.split(' '))
  differing = [
    (word, expected)
    for word, (expected, _) in zip(ours, words, strict=True)
    if word != expected
  ]
  assert not differing


@pytest.mark.parametrize('settings', SETTINGS + OTHER_SETTINGS, ids=str)
def test_ids_of_hard_strings_are_those_of_tokenizers(settings):
  tokens = characters_of(HARD_STRINGS, settings)
  ours = tokenization.BertTokenizer(tokens, settings)
  theirs = reference(settings, tokens)
  ids = ours.tokenize(tf.constant(HARD_STRINGS)).to_list()
  expected = [
    theirs.encode(text, add_special_tokens=False).ids for text in HARD_STRINGS
  ]
  assert ids == expected
  assert ours.tokenize_with_offsets(HARD_STRINGS)[0].to_list() == expected


@pytest.mark.parametrize('character', ['x', 'é', 'ก', '𝕏'])
def test_words_are_limited_by_characters(character):
  tokenizer = tokenization.BertTokenizer(
    ['[UNK]', character, f'##{character}', 'a'],
    tokenization.TokenizationSettings(False, False),
  )
  texts = [f'a {character * length} a' for length in (99, 100, 101)]
  assert tokenizer.tokenize(texts).to_list() == [
    [3, 1, *[2] * 98, 3],
    [3, 1, *[2] * 99, 3],
    [3, 0, 3],
  ]


def pieces_of_text(text, tokens, settings=SETTINGS[0]):
  """Returns the part of the text that each token stands for."""
  tokenizer = tokenization.BertTokenizer(['[UNK]', *tokens], settings)
  _, starts, ends = tokenizer.tokenize_with_offsets([text])
  data = text.encode()
  return [
    data[start:end].decode()
    for start, end in zip(starts.to_list()[0], ends.to_list()[0], strict=True)
  ]


@pytest.mark.parametrize(
  ('text', 'tokens', 'expected'),
  [
    # Three letters of a syllable, in three tokens.
    ('각 a', ['ᄀ', '##ᅡ', '##ᆨ', 'a'], ['각', '각', '각', 'a']),
    ('각하', ['ᄀ', '##ᅡᆨᄒ', '##ᅡ'], ['각', '각하', '하']),
    ('Caf\u00e9!', ['cafe', '!'], ['Caf\u00e9', '!']),
    ('Cafe\u0301!', ['cafe', '!'], ['Cafe\u0301', '!']),
    ('हिन्दी', ['हिन', '##दी'], ['हिन्', 'दी']),
    ('a\u00adb\u200b', ['ab'], ['a\u00adb']),
    ('straße.', ['stra', '##ße', '.'], ['stra', 'ße', '.']),
    ('İ𝕏', ['i', '##𝕏'], ['İ', '𝕏']),
    (f'a {"ก" * 101}.', ['a', '.'], ['a', 'ก' * 101, '.']),
    ('東京，', ['東', '京', '，'], ['東', '京', '，']),
  ],
)
def test_a_token_stands_for_whole_characters(text, tokens, expected):
  assert pieces_of_text(text, tokens) == expected


def test_offsets_are_those_of_tokenizers_where_no_accents_are_stripped():
  settings = SETTINGS[1]
  tokens = characters_of(HARD_STRINGS, settings)
  ours = tokenization.BertTokenizer(tokens, settings)
  theirs = reference(settings, tokens)
  _, starts, ends = ours.tokenize_with_offsets(HARD_STRINGS)
  for text, begins, stops in zip(
    HARD_STRINGS, starts.to_list(), ends.to_list(), strict=True
  ):
    places = [0]
    for character in text:
      places.append(places[-1] + len(character.encode()))
    expected = theirs.encode(text, add_special_tokens=False).offsets
    assert list(zip(begins, stops)) == [
      (places[begin], places[end]) for begin, end in expected
    ]


@pytest.mark.parametrize('lower_case', [True, False])
def test_ids_of_real_text_are_those_of_bert_word_piece_tokenizer(
  real_text, lower_case
):
  with gzip.open(real_text / 'valid.txt.gz', 'rt', encoding='utf-8') as file:
    lines = [line.rstrip('\n') for line in file]
  vocabulary = vocabulary_training.train_vocabulary(
    tf.data.Dataset.from_tensors(lines),
    8192,
    tokenization.TokenizationSettings(lower_case, lower_case),
  )
  theirs = tokenizers.BertWordPieceTokenizer(
    {token: index for index, token in enumerate(vocabulary.tokens)},
    lowercase=lower_case,
  )
  ids = vocabulary.tokenizer().tokenize(lines).to_list()
  assert ids == [
    theirs.encode(line, add_special_tokens=False).ids for line in lines
  ]


def test_texts_do_not_depend_on_their_batch():
  tokenizer = tokenization.BertTokenizer(
    characters_of(HARD_STRINGS, SETTINGS[0]), SETTINGS[0]
  )
  texts = tf.constant(HARD_STRINGS)
  parts = tf.data.Dataset.from_tensor_slices(texts).batch(5)
  for method in (
    tokenizer.tokenize,
    lambda some: tokenizer.tokenize_with_offsets(some)[1],
    lambda some: tokenizer.tokenize_with_offsets(some)[2],
  ):
    found = [row for rows in parts.map(method) for row in rows.to_list()]
    assert found == method(texts).to_list()


def test_no_texts_give_no_tokens():
  tokenizer = tokenization.BertTokenizer(['[UNK]'], SETTINGS[0])
  none = tf.constant([], tf.string)
  assert tokenizer.tokenize(none).to_list() == []
  for rows in tokenizer.tokenize_with_offsets(none):
    assert rows.to_list() == []
