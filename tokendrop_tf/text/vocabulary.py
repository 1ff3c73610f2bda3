"""The WordPiece vocabulary: its file, its tokenisation, and token counts."""

import dataclasses
import functools
import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors, files
from tokendrop_tf.text import (
  character_map,
  tokenization,
  tokenizer_files,
)

PAD, UNK, CLS, SEP, MASK = '[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)

# tensorflow-text knows no longer pieces; '##' does not count.
MAX_TOKEN_BYTES = 256
# Share of the tokens that may never occur in text as it is tokenised.
_MAX_DEAD_SHARE = 0.02


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """An immutable WordPiece vocabulary; the id of a token is its line number.

  Example:
    vocabulary = Vocabulary.from_file('vocab.txt')
    ids = vocabulary.tokenizer().tokenize(['a text'])  # ragged int32 [1, n]
    vocabulary.detokenize(ids[0].numpy())  # 'a text'

  Attributes:
    tokens: the token texts in the order of their ids; '' for a blank line.
    settings: the tokenisation that it was made for.
    path: the file that the vocabulary came from, for messages.
  """

  tokens: tuple[str, ...]
  settings: tokenization.TokenizationSettings = tokenization.UNCASED
  path: str = ''

  def __post_init__(self):
    name = self.path or 'the vocabulary'
    if not self.tokens:
      raise errors.DataError(
        f'A vocabulary must have at least one token. Received: {name} is '
        'empty. Set vocabulary.path to a WordPiece vocabulary, or write one '
        'with tools/build_vocab.py.'
      )
    missing = [token for token in SPECIAL_TOKENS if token not in self._ids]
    if missing:
      raise errors.DataError(
        f'A vocabulary must contain {", ".join(SPECIAL_TOKENS)}. Received: '
        f'{name} lacks {", ".join(missing)}. Set vocabulary.path to a BERT '
        'vocabulary, or write one with tools/build_vocab.py.'
      )
    seen = {}
    for line, token in enumerate(self.tokens, start=1):
      self._check_line(line, token, seen.setdefault(token, line))

  def _check_line(self, line, token, first_line):
    name = self.path or 'the vocabulary'
    if token and first_line != line:
      raise errors.DataError(
        'Every token of a vocabulary must occur once. Received: '
        f'{token!r} on lines {first_line} and {line} of {name}. Remove one of '
        'the lines.'
      )
    size = len(token.removeprefix('##').encode())
    if size > MAX_TOKEN_BYTES and self._can_occur(token):
      raise errors.DataError(
        f'A token must have at most {MAX_TOKEN_BYTES} bytes. Received: {size} '
        f'bytes on line {line} of {name}: {token[:20]!r} and so on. Remove the '
        'line, or put another token there.'
      )

  def _can_occur(self, token) -> bool:
    """Whether some word has it: it is neither blank nor longer than a word."""
    length = len(token.removeprefix('##'))
    is_word = length <= self.settings.max_word_length and '\0' not in token
    return bool(token) and is_word

  @classmethod
  def from_file(cls, path: str, lower_case: bool | None = None) -> 'Vocabulary':
    """Reads one token a line, or the tokens of a `tokenizer.json`.

    The tokenisation is that of the files next to it; see `tokenizer_files`.
    Blank lines are tokens that never occur.

    Args:
      path: text file in UTF-8, local or anything that `tf.io.gfile` opens.
      lower_case: whether text is lower-cased; `None` is as the files next to
        it say. Where none says it, text is, and accents are stripped with it.

    Raises:
      ConfigurationError: if `lower_case` is not what the files say, the
        tokeniser is of another kind, or the tokens are of cased text and no
        file says that text is lower-cased.
      DataError: if the file is absent, not UTF-8, empty, repeats a token,
        lacks a special token, or has one that is too long.
    """
    if os.path.basename(path) == tokenizer_files.TOKENIZER_FILE:
      tokens = tokenizer_files.read_tokens(path)
    else:
      tokens = _read_tokens(path)
    said = tokenizer_files.read(path)
    if said is None:
      lower_case = True if lower_case is None else lower_case
      vocabulary = cls(
        tokens, tokenization.TokenizationSettings(lower_case, lower_case), path
      )
      vocabulary._check_case()
      return vocabulary
    settings, file = said
    if lower_case not in (None, settings.lower_case):
      raise errors.ConfigurationError(
        'vocabulary.lower_case must be that of the vocabulary. Received: '
        f'{lower_case}, where {file} says {settings.lower_case}. Leave '
        'vocabulary.lower_case unset, or set vocabulary.path.'
      )
    return cls(tokens, settings, path)

  @classmethod
  def of(cls, section) -> 'Vocabulary':
    """Reads the file of a section with `path` and `lower_case`; `from_file`."""
    return cls.from_file(section.path, section.lower_case)

  def _check_case(self):
    """Refuses tokens of text that was normalised otherwise."""
    normalizer = character_map.normalizer(
      dataclasses.replace(self.settings, clean_text=False, split_chinese=False)
    )
    text = '\n'.join(self.tokens)
    pairs = zip(self.tokens, normalizer.normalize_str(text).split('\n'))
    dead = [
      old for old, new in pairs if old != new and old not in SPECIAL_TOKENS
    ]
    if len(dead) > _MAX_DEAD_SHARE * self.size:
      raise errors.ConfigurationError(
        'A vocabulary of cased text needs text as it is. Received: '
        'vocabulary.lower_case=True (the default) for '
        f'{self.path or "the vocabulary"}, where {len(dead):,} of '
        f'{self.size:,} tokens, such as {", ".join(dead[:3])}, would never '
        'occur. Set vocabulary.lower_case = False; or, where only accents are '
        'kept, write {"do_lower_case": true, "strip_accents": false} to '
        f'{tokenizer_files.path_for(self.path)}.'
      )

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {token: index for index, token in enumerate(self.tokens)}

  @property
  def lower_case(self) -> bool:
    """Whether text is lower-cased."""
    return self.settings.lower_case

  @property
  def size(self) -> int:
    """V, the number of tokens."""
    return len(self.tokens)

  @property
  def pad_id(self) -> int:
    return self._ids[PAD]

  @property
  def unk_id(self) -> int:
    return self._ids[UNK]

  @property
  def cls_id(self) -> int:
    return self._ids[CLS]

  @property
  def sep_id(self) -> int:
    return self._ids[SEP]

  @property
  def mask_id(self) -> int:
    return self._ids[MASK]

  @property
  def special_ids(self) -> tuple[int, ...]:
    """Ids that are never masked and never drawn as a random replacement."""
    return self.ids_of(SPECIAL_TOKENS)

  @property
  def ordinary_ids(self) -> np.ndarray:
    """Ids of all tokens that are not special, int32 [V - 5]."""
    return np.setdiff1d(
      np.arange(self.size, dtype=np.int32), np.array(self.special_ids, np.int32)
    )

  def id_of(self, token: str) -> int:
    """Returns the id of `token`.

    Raises:
      DataError: if the vocabulary has no such token.
    """
    if token not in self._ids:
      name = self.path or 'the vocabulary'
      raise errors.DataError(
        'A token that is named must be in the vocabulary. Received: '
        f'{token!r}, absent from {name}. Correct the token, or set '
        'vocabulary.path.'
      )
    return self._ids[token]

  def ids_of(self, tokens: Iterable[str]) -> tuple[int, ...]:
    """Returns the ids of `tokens`, in order; see `id_of`."""
    return tuple(self.id_of(token) for token in tokens)

  def tokenizer(self) -> tokenization.BertTokenizer:
    """Returns a tokenizer from UTF-8 strings to int32 ids, for any graph."""
    # A line break, which no word has, stands in for what cannot occur.
    pieces = tuple(
      token if self._can_occur(token) else f'\n{index}'
      for index, token in enumerate(self.tokens)
    )
    return _tokenizer(pieces, self.settings)

  def detokenize(self, ids: Iterable[int]) -> str:
    """Joins the pieces of `ids` into words; special tokens appear as text."""
    pieces = (self.tokens[int(index)] for index in ids)
    return ' '.join(pieces).replace(' ##', '')


_tokenizer = functools.lru_cache(maxsize=4)(tokenization.BertTokenizer)


def _read_tokens(path: str) -> tuple[str, ...]:
  if not path:
    raise errors.DataError(
      "A vocabulary file is required. Received: vocabulary.path=''. Set "
      'vocabulary.path, e.g. to the file written by tools/build_vocab.py.'
    )
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise errors.DataError(
      'The vocabulary must be an existing file. Received: '
      f'vocabulary.path={path!r}.{files.did_you_mean(path)} Set '
      'vocabulary.path, or write the file with tools/build_vocab.py.'
    )
  text = files.decoded(
    files.read_bytes(path), path, 'Save it as UTF-8, or set vocabulary.path.'
  )
  lines = text.split('\n')
  if lines[-1] == '':
    lines.pop()
  return tuple(line.rstrip('\r') for line in lines)


def counts_path_for(vocab_path: str) -> str:
  """Returns where the token counts of a vocabulary lie.

  Example:
    counts_path_for('runs/vocab.txt')  # 'runs/vocab.counts.tsv'
  """
  return os.path.splitext(vocab_path)[0] + '.counts.tsv'


def read_token_counts(path: str, vocabulary: Vocabulary) -> np.ndarray:
  """Reads how often every token occurs in the corpus.

  Args:
    path: lines of `token<TAB>count`, in any order.
    vocabulary: tokens absent from the file count zero.

  Returns:
    int64 [V].

  Raises:
    DataError: if the file is absent, a line has another form, or a token is
      not in the vocabulary.
  """
  if not tf.io.gfile.exists(path):
    raise errors.DataError(
      f'Token counts must be an existing file. Received: {path!r}. Set '
      'vocabulary.counts_path, or write the file with tools/build_vocab.py.'
    )
  counts = np.zeros(vocabulary.size, np.int64)
  text = files.read_bytes(path).decode('utf-8', errors='replace')
  lines = text.split('\n')
  for number, line in enumerate(lines, start=1):
    if not line:
      continue
    token, tab, count = line.rstrip('\r').rpartition('\t')
    if not tab or not count.isdecimal():
      raise errors.DataError(
        'A line of token counts must read token<TAB>count. Received: '
        f'{line!r} on line {number} of {path}. Write the file anew with '
        'tools/build_vocab.py, or set vocabulary.counts_path.'
      )
    if token not in vocabulary._ids:  # pylint: disable=protected-access
      raise errors.DataError(
        'Token counts must belong to the vocabulary. Received: '
        f'{token!r} on line {number} of {path}, absent from '
        f'{vocabulary.path}. Set vocabulary.counts_path to the counts of '
        'this vocabulary.'
      )
    counts[vocabulary.id_of(token)] = int(count)
  return counts


def write_vocabulary(
  path: str, vocabulary: Vocabulary, counts: np.ndarray | None = None
) -> None:
  """Writes `path` and, next to it, the tokenisation and the token counts."""
  folder = os.path.dirname(path)
  if folder:
    tf.io.gfile.makedirs(folder)
  tokens = vocabulary.tokens
  files.write_whole_file(path, ''.join(f'{token}\n' for token in tokens))
  tokenizer_files.write(path, vocabulary.settings)
  if counts is not None:
    lines = zip(tokens, counts, strict=True)
    files.write_whole_file(
      counts_path_for(path),
      ''.join(f'{token}\t{count}\n' for token, count in lines if token),
    )
