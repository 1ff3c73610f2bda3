"""Folders of Hugging Face: their tokenisation is read as transformers does."""

import json

import pytest
import tokenizers

from tokendrop_tf import errors
from tokendrop_tf.text import tokenization, tokenizer_files
from tokendrop_tf.text import vocabulary as vocabulary_lib

TOKENS = (*vocabulary_lib.SPECIAL_TOKENS, 'schon', 'schön', 'Schön')
TEXT = 'Schön schön'
# What tokenizer.json says in the folders below, but where it is changed.
NORMALIZER = {
  'type': 'BertNormalizer',
  'clean_text': True,
  'handle_chinese_chars': True,
  'strip_accents': None,
  'lowercase': False,
}


def write_folder(tmp_path, config=None, normalizer=None, vocabulary=True):
  """Writes what transformers do; returns the vocabulary's path."""
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  if vocabulary:
    (tmp_path / 'vocab.txt').write_text(''.join(f'{t}\n' for t in TOKENS))
  if config is not None:
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  if normalizer is not None:
    content = json.loads(
      tokenizer_files.as_tokenizer_json(TOKENS, tokenization.CASED)
    )
    content['normalizer'] = {**NORMALIZER, **normalizer}
    (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
  return tokenizer_files.find_vocabulary(str(tmp_path))


def tokens_of(path):
  vocabulary = vocabulary_lib.Vocabulary.from_file(path)
  [ids] = vocabulary.tokenizer().tokenize([TEXT]).to_list()
  return [vocabulary.tokens[index] for index in ids]


# As transformers 5.24 tokenise the same folders.
@pytest.mark.parametrize(
  ('config', 'normalizer', 'expected'),
  [
    (
      {'do_lower_case': True, 'strip_accents': False},
      None,
      ['schön', 'schön'],
    ),
    ({'do_lower_case': True}, None, ['schon', 'schon']),
    ({'do_lower_case': False}, None, ['Schön', 'schön']),
    ({'do_lower_case': False}, {'lowercase': True}, ['Schön', 'schön']),
    (
      {'do_lower_case': True, 'strip_accents': None},
      {'strip_accents': False},
      ['schon', 'schon'],
    ),
    (
      {'tokenizer_class': 'PreTrainedTokenizerFast'},
      {},
      ['Schön', 'schön'],
    ),
    (
      {'tokenizer_class': 'PreTrainedTokenizerFast', 'do_lower_case': False},
      {'lowercase': True, 'strip_accents': False},
      ['schön', 'schön'],
    ),
  ],
)
def test_text_is_tokenised_as_the_folder_says(
  tmp_path, config, normalizer, expected
):
  assert tokens_of(write_folder(tmp_path, config, normalizer)) == expected


def test_a_folder_without_vocab_txt_has_its_tokens_in_tokenizer_json(tmp_path):
  path = write_folder(tmp_path, {'do_lower_case': False}, {}, vocabulary=False)
  assert path == str(tmp_path / 'tokenizer.json')
  assert vocabulary_lib.Vocabulary.from_file(path).tokens == TOKENS
  assert tokens_of(path) == ['Schön', 'schön']


@pytest.mark.parametrize(
  ('config', 'kind'),
  [
    (
      {
        'tokenizer_class': 'BertJapaneseTokenizer',
        'word_tokenizer_type': 'mecab',
      },
      'BertJapaneseTokenizer (mecab)',
    ),
    ({'tokenizer_class': 'AlbertTokenizerFast'}, 'AlbertTokenizerFast'),
    ({'tokenizer_class': 'RobertaTokenizer'}, 'RobertaTokenizer'),
  ],
)
def test_another_class_of_tokenisers_is_refused_by_name(tmp_path, config, kind):
  with pytest.raises(errors.ConfigurationError) as caught:
    write_folder(tmp_path, config)
  assert f'Received: {kind} in {tmp_path}' in str(caught.value)


@pytest.mark.parametrize(
  ('name', 'kind'),
  [('spiece.model', 'SentencePiece'), ('merges.txt', 'byte-level BPE')],
)
def test_files_of_another_tokeniser_are_refused_by_name(tmp_path, name, kind):
  (tmp_path / name).write_text('')
  with pytest.raises(errors.ConfigurationError, match=kind):
    write_folder(tmp_path, vocabulary=False)


def test_another_model_in_tokenizer_json_is_refused_by_name(tmp_path):
  tokenizer = tokenizers.ByteLevelBPETokenizer()
  (tmp_path / 'tokenizer.json').write_text(tokenizer.to_str())
  with pytest.raises(errors.ConfigurationError, match='BPE'):
    write_folder(tmp_path, vocabulary=False)


def test_a_value_of_another_type_is_refused(tmp_path):
  path = write_folder(tmp_path, {'do_lower_case': 'false'})
  with pytest.raises(errors.ConfigurationError) as caught:
    vocabulary_lib.Vocabulary.from_file(path)
  assert "Received: lower_case = 'false' in" in str(caught.value)


def test_ids_that_leave_out_one_are_refused(tmp_path):
  path = write_folder(tmp_path, {}, {}, vocabulary=False)
  content = json.loads((tmp_path / 'tokenizer.json').read_text())
  content['model']['vocab']['Schön'] = 9
  (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
  with pytest.raises(errors.DataError, match='must be 0, 1, 2 and so on'):
    vocabulary_lib.Vocabulary.from_file(path)


@pytest.mark.parametrize(
  'settings',
  [
    tokenization.UNCASED,
    tokenization.TokenizationSettings(
      True, False, clean_text=False, split_chinese=False, max_word_length=5
    ),
  ],
)
def test_tokenizer_json_gives_the_same_ids_in_the_tokenizers_library(settings):
  vocabulary = vocabulary_lib.Vocabulary((*TOKENS, '##x', 'x', '中'), settings)
  theirs = tokenizers.Tokenizer.from_str(
    tokenizer_files.as_tokenizer_json(vocabulary.tokens, settings)
  )
  texts = [TEXT, 'xxxxx xxxxxx', 'x中x', 'x\x07x']
  expected = [theirs.encode(text, add_special_tokens=False) for text in texts]
  assert vocabulary.tokenizer().tokenize(texts).to_list() == [
    encoding.ids for encoding in expected
  ]
