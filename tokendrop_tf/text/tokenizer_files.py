"""Files that say how text is tokenised: ours, and those of Hugging Face.

| vocabulary | file next to it | writer |
|---|---|---|
| `words.txt` | `words.tokenizer_config.json` | build_vocab, runs, exports |
| `vocab.txt` | `tokenizer_config.json`, `tokenizer.json` | transformers |

The names inside are those of transformers' `tokenizer_config.json`. In a folder
of transformers this file counts, as it does there, unless it names no class of
tokenisers: then `tokenizer.json` does.
"""

import json
import os
from collections.abc import Sequence

import tensorflow as tf

from tokendrop_tf import errors, files
from tokendrop_tf.text import character_map, tokenization

CONFIG_FILE = 'tokenizer_config.json'
TOKENIZER_FILE = 'tokenizer.json'
VOCABULARY_FILE = 'vocab.txt'

# Of transformers: those that are BERT's, and those that tokenizer.json defines.
_BERT_CLASSES = ('Bert', 'DistilBert', 'Electra', 'MobileBert', 'ConvBert')
_GENERIC_CLASSES = ('PreTrainedTokenizer', 'TokenizersBackend')
# Models of other tokenisers, as their folders call them.
_OTHER_FILES = {
  'spiece.model': 'SentencePiece',
  'sentencepiece.bpe.model': 'SentencePiece',
  'tokenizer.model': 'SentencePiece',
  'merges.txt': 'byte-level BPE',
}
# What transformers' classes read, and what only tokenizer.json says there.
_CLASS_NAMES = {
  'do_lower_case': 'lower_case',
  'strip_accents': 'strip_accents',
  'tokenize_chinese_chars': 'split_chinese',
}
_NAMES = _CLASS_NAMES | {
  'clean_text': 'clean_text',
  'max_input_chars_per_word': 'max_word_length',
}


def path_for(vocabulary_path: str) -> str:
  """Returns where the tokenisation of a vocabulary is written.

  Example:
    path_for('runs/words.txt')  # 'runs/words.tokenizer_config.json'
  """
  return f'{os.path.splitext(vocabulary_path)[0]}.{CONFIG_FILE}'


def as_config(settings: tokenization.TokenizationSettings) -> dict:
  """Returns the settings by transformers' names."""
  values = {theirs: getattr(settings, ours) for theirs, ours in _NAMES.items()}
  return {'tokenizer_class': 'BertTokenizer', **values}


def as_tokenizer_json(
  tokens: Sequence[str], settings: tokenization.TokenizationSettings
) -> str:
  """Returns the content of a `tokenizer.json` of the `tokenizers` library."""
  # Imported here because it is needed only to write such a file.
  import tokenizers  # pylint: disable=import-outside-toplevel

  tokenizer = tokenizers.BertWordPieceTokenizer(
    {token: index for index, token in enumerate(tokens)}
  )
  tokenizer.normalizer = character_map.normalizer(settings)
  content = json.loads(tokenizer.to_str())
  content['model']['max_input_chars_per_word'] = settings.max_word_length
  return json.dumps(content, ensure_ascii=False)


def write(
  vocabulary_path: str, settings: tokenization.TokenizationSettings
) -> None:
  """Writes the tokenisation of a vocabulary next to it."""
  files.write_json(path_for(vocabulary_path), as_config(settings))


def read(
  vocabulary_path: str,
) -> tuple[tokenization.TokenizationSettings, str] | None:
  """Returns the tokenisation of a vocabulary, and the file that says it.

  Returns:
    `None` if no file does.

  Raises:
    ConfigurationError: if the tokeniser is of another kind.
  """
  path = path_for(vocabulary_path)
  if tf.io.gfile.exists(path):
    return _of_config(files.read_json_object(path), path, _NAMES), path
  folder, name = os.path.split(vocabulary_path)
  if name not in (VOCABULARY_FILE, TOKENIZER_FILE):
    return None
  config_path = os.path.join(folder, CONFIG_FILE)
  tokenizer_path = os.path.join(folder, TOKENIZER_FILE)
  config = _if_present(config_path)
  tokenizer = _if_present(tokenizer_path)
  kind = _check_class(config, folder)
  if tokenizer is not None:
    settings = _of_tokenizer(tokenizer, tokenizer_path)
    if kind == '' or config is None:
      return settings, tokenizer_path
  if config is None:
    return None
  return _of_config(config, config_path, _CLASS_NAMES), config_path


def read_tokens(path: str) -> tuple[str, ...]:
  """Returns the tokens of a `tokenizer.json` in the order of their ids.

  Raises:
    ConfigurationError: if the tokeniser is of another kind.
    DataError: if an id has no token.
  """
  tokenizer = files.read_json_object(path)
  _of_tokenizer(tokenizer, path)
  ids = dict(tokenizer['model'].get('vocab') or {})
  for token in tokenizer.get('added_tokens') or ():
    ids[token['content']] = token['id']
  tokens = sorted(ids, key=ids.get)
  if [ids[token] for token in tokens] != list(range(len(tokens))):
    raise errors.DataError(
      'The ids of a vocabulary must be 0, 1, 2 and so on, one token each. '
      f'Received: {path}, where they are not. Restore the file.'
    )
  return tuple(tokens)


def find_vocabulary(folder: str) -> str | None:
  """Returns the vocabulary file in a folder of transformers.

  Returns:
    The path of `vocab.txt` or `tokenizer.json`; `None` if there is neither.

  Raises:
    ConfigurationError: if the tokeniser is of another kind.
  """
  _check_class(_if_present(os.path.join(folder, CONFIG_FILE)), folder)
  for name in (VOCABULARY_FILE, TOKENIZER_FILE):
    path = os.path.join(folder, name)
    if tf.io.gfile.exists(path):
      if name == TOKENIZER_FILE:
        _of_tokenizer(files.read_json_object(path), path)
      return path
  for name, kind in _OTHER_FILES.items():
    if tf.io.gfile.exists(os.path.join(folder, name)):
      raise _another_kind(f'{kind} ({name})', folder)
  return None


def _if_present(path):
  return files.read_json_object(path) if tf.io.gfile.exists(path) else None


def _check_class(config, folder) -> str:
  """Returns the class of BERT's tokenisers; '' for one of no class.

  Raises:
    ConfigurationError: if it is another.
  """
  name = (config or {}).get('tokenizer_class')
  if name is None:
    model = _if_present(os.path.join(folder, 'config.json')) or {}
    name = model.get('tokenizer_class') or 'BertTokenizer'
  kind = name.removesuffix('Fast').removesuffix('Tokenizer')
  if name.startswith(_GENERIC_CLASSES):
    return ''
  if kind not in _BERT_CLASSES:
    by = (config or {}).get('word_tokenizer_type')
    raise _another_kind(f'{name} ({by})' if by else name, folder)
  return kind


def _of_config(config, path, names):
  values = {
    ours: config[theirs]
    for theirs, ours in names.items()
    if config.get(theirs) is not None
  }
  # As there, accents are stripped where nothing is said of them and text is
  # lower-cased.
  values.setdefault('lower_case', True)
  values.setdefault('strip_accents', values['lower_case'])
  return _checked(values, path)


def _of_tokenizer(tokenizer, path):
  """Returns the settings of a `tokenizer.json`."""
  model = tokenizer.get('model') or {}
  normalizer = tokenizer.get('normalizer') or {}
  splitter = tokenizer.get('pre_tokenizer') or {}
  kinds = [part.get('type') for part in (model, normalizer, splitter)]
  if kinds != ['WordPiece', 'BertNormalizer', 'BertPreTokenizer']:
    raise _another_kind(', '.join(map(str, kinds)), path)
  if model.get('continuing_subword_prefix', '##') != '##':
    raise _another_kind(
      f'WordPiece with {model["continuing_subword_prefix"]!r} for ##', path
    )
  lower_case = normalizer.get('lowercase', True)
  strips = normalizer.get('strip_accents')
  return _checked(
    {
      'lower_case': lower_case,
      'strip_accents': lower_case if strips is None else strips,
      'clean_text': normalizer.get('clean_text', True),
      'split_chinese': normalizer.get('handle_chinese_chars', True),
      'max_word_length': model.get('max_input_chars_per_word', 100),
    },
    path,
  )


def _checked(values, path):
  for name, value in values.items():
    is_length = name == 'max_word_length'
    if type(value) is not (int if is_length else bool) or value < 0:
      raise errors.ConfigurationError(
        'Settings of a tokeniser must be true or false, and lengths whole '
        f'numbers. Received: {name} = {value!r} in {path}. Correct the file.'
      )
  return tokenization.TokenizationSettings(**values)


def _another_kind(kind, path):
  return errors.ConfigurationError(
    "A vocabulary must be of BERT's WordPiece tokeniser. Received: "
    f'{kind} in {path}. Use a model with a WordPiece vocabulary.'
  )
