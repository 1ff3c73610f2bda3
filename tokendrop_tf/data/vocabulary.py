"""The WordPiece vocabulary: reading, tokenising, training, token counts."""

import dataclasses
import functools
import os
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tokendrop_tf import errors

PAD, UNK, CLS, SEP, MASK = '[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)

# Rare characters are left to [UNK]: at most this many, and at most one for so
# many tokens of the vocabulary, have tokens of their own.
_MAX_ALPHABET = 1000
_TOKENS_PER_CHARACTER = 16
_MIN_ALPHABET = 100
_CODE_POINTS = 0x110000

MIN_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """An immutable WordPiece vocabulary; the id of a token is its line number.

  Example:
    vocabulary = Vocabulary.from_file('vocab.txt', lower_case=True)
    ids = vocabulary.tokenizer().tokenize(['a text'])  # ragged int32 [1, n]
    vocabulary.detokenize(ids[0].numpy())  # 'a text'

  Attributes:
    tokens: the token texts in the order of their ids.
    lower_case: whether text is lower-cased and stripped of accents.
    path: the file that the vocabulary came from, for messages.
  """

  tokens: tuple[str, ...]
  lower_case: bool = True
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
    if len(self._ids) != len(self.tokens):
      first, second = self._first_repetition()
      raise errors.DataError(
        'Every token of a vocabulary must occur once. Received: '
        f'{self.tokens[first]!r} on lines {first + 1} and {second + 1} of '
        f'{name}. Remove one of the lines.'
      )

  @classmethod
  def from_file(cls, path: str, lower_case: bool = True) -> 'Vocabulary':
    """Reads one token a line.

    Args:
      path: text file in UTF-8, local or anything that `tf.io.gfile` opens.
      lower_case: whether text is lower-cased and stripped of accents.

    Raises:
      DataError: if the file is absent, not UTF-8, empty, repeats a token, or
        lacks a special token.
    """
    return cls(_read_tokens(path), lower_case, path)

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {token: index for index, token in enumerate(self.tokens)}

  def _first_repetition(self) -> tuple[int, int]:
    seen = {}
    for index, token in enumerate(self.tokens):
      if token in seen:
        return seen[token], index
      seen[token] = index
    raise AssertionError('No token is repeated.')

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

  def tokenizer(self) -> tf_text.FastBertTokenizer:
    """Returns a tokenizer from UTF-8 strings to int32 ids, for any graph."""
    return _tokenizer(self.tokens, self.lower_case)

  def detokenize(self, ids: Iterable[int]) -> str:
    """Joins the pieces of `ids` into words; special tokens appear as text."""
    pieces = (self.tokens[int(index)] for index in ids)
    return ' '.join(pieces).replace(' ##', '')


@functools.lru_cache(maxsize=4)
def _tokenizer(
  tokens: tuple[str, ...], lower_case: bool
) -> tf_text.FastBertTokenizer:
  # Built outside of graphs, its tables are shared by all and copied into none:
  # as graph constants they cost seconds with every data set.
  with tf.init_scope():
    return tf_text.FastBertTokenizer(
      vocab=list(tokens),
      token_out_type=tf.int32,
      lower_case_nfd_strip_accents=lower_case,
    )


def _read_tokens(path: str) -> tuple[str, ...]:
  if not path:
    raise errors.DataError(
      "A vocabulary file is required. Received: vocabulary.path=''. Set "
      'vocabulary.path, e.g. to the file written by tools/build_vocab.py.'
    )
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise errors.DataError(
      'The vocabulary must be an existing file. Received: '
      f'vocabulary.path={path!r}. Set vocabulary.path, or write the file '
      'with tools/build_vocab.py.'
    )
  with tf.io.gfile.GFile(path, 'rb') as file:
    data = file.read()
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise errors.DataError(
      f'The vocabulary must be UTF-8 text. Received: {path}, line {line}, '
      'which is not. Save it as UTF-8, or set vocabulary.path.'
    ) from error
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
  with tf.io.gfile.GFile(path, 'rb') as file:
    lines = file.read().decode('utf-8', errors='replace').split('\n')
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
  path: str, tokens: Sequence[str], counts: np.ndarray
) -> None:
  """Writes `path` and, beside it, the token counts; whole files only."""
  folder = os.path.dirname(path)
  if folder:
    tf.io.gfile.makedirs(folder)
  write_whole_file(path, ''.join(f'{token}\n' for token in tokens))
  write_whole_file(
    counts_path_for(path),
    ''.join(
      f'{token}\t{count}\n' for token, count in zip(tokens, counts, strict=True)
    ),
  )


def write_whole_file(path: str, text: str) -> None:
  """Writes under a temporary name and renames, so no half file is seen."""
  temporary = f'{path}.writing-{os.getpid()}'
  with tf.io.gfile.GFile(temporary, 'wb') as file:
    file.write(text.encode('utf-8'))
  tf.io.gfile.rename(temporary, path, overwrite=True)


def count_tokens(
  documents: tf.data.Dataset, vocabulary: Vocabulary
) -> np.ndarray:
  """Counts the tokens of a corpus as training will see them.

  Args:
    documents: data set of UTF-8 strings [n], any n.
    vocabulary: the vocabulary.

  Returns:
    int64 [V].
  """
  tokenizer = vocabulary.tokenizer()

  def count(texts):
    tokens = tokenizer.tokenize(texts).flat_values
    return tf.math.bincount(
      tokens,
      minlength=vocabulary.size,
      maxlength=vocabulary.size,
      dtype=tf.int64,
    )

  batches = documents.map(
    count, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
  )
  total = batches.reduce(
    tf.zeros([vocabulary.size], tf.int64), lambda total, new: total + new
  )
  return total.numpy()


def train_vocabulary(
  documents: tf.data.Dataset,
  size: int,
  lower_case: bool = True,
  min_frequency: int = 2,
) -> Vocabulary:
  """Trains a WordPiece vocabulary; the same text gives the same vocabulary.

  The words are split as `FastBertTokenizer` splits them.

  Args:
    documents: data set of UTF-8 strings [n], any n.
    size: V, number of tokens asked for, special tokens included.
    lower_case: whether text is lower-cased and stripped of accents.
    min_frequency: least number of occurrences of a merged pair.

  Returns:
    The vocabulary, special tokens first. It has fewer than `size` tokens if
    the text does not support as many.

  Raises:
    ConfigurationError: if `size` is too small.
    DataError: if there is no text.
  """
  if size < MIN_SIZE:
    raise errors.ConfigurationError(
      f'A vocabulary must have at least {MIN_SIZE} tokens, of which '
      f'{len(SPECIAL_TOKENS)} are special. Received: {size}. Set a larger '
      'vocabulary size.'
    )
  tokenizer = _new_wordpiece_tokenizer(lower_case)
  alphabet = _alphabet(
    documents, tokenizer.normalizer, min_frequency, limit=_alphabet_limit(size)
  )
  if not alphabet:
    raise errors.DataError(
      'A vocabulary needs text. Received: none. Give files with text.'
    )
  _train_wordpieces(tokenizer, documents, alphabet, size, min_frequency)
  tokens = tokenizer.get_vocab()
  return Vocabulary(tuple(sorted(tokens, key=tokens.get)), lower_case)


def _alphabet_limit(size: int) -> int:
  """Returns how many characters a vocabulary of this size begins with."""
  share = min(_MAX_ALPHABET, size // _TOKENS_PER_CHARACTER)
  # A character costs two tokens: at the beginning of a word, and inside.
  room = (size - len(SPECIAL_TOKENS)) // 2
  return min(max(share, _MIN_ALPHABET), room)


def _new_wordpiece_tokenizer(lower_case: bool):
  # Imported here because training and serving read vocabularies without it.
  import tokenizers  # pylint: disable=import-outside-toplevel

  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=UNK))
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=True,
    strip_accents=lower_case,
    lowercase=lower_case,
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return tokenizer


def _alphabet(
  documents: tf.data.Dataset, normalizer, min_frequency: int, limit: int
) -> list[str]:
  """Returns the `limit` most frequent characters, by code point."""
  written = np.zeros(_CODE_POINTS, np.int64)
  for batch in documents.prefetch(4).as_numpy_iterator():
    text = b'\n'.join(batch).decode('utf-8', errors='replace')
    codes = np.frombuffer(text.encode('utf-32-le'), np.uint32)
    written += np.bincount(codes, minlength=_CODE_POINTS)
  # BERT's normalization takes each character for itself.
  counts = np.zeros(_CODE_POINTS, np.int64)
  for code in np.flatnonzero(written):
    for character in normalizer.normalize_str(chr(code)):
      counts[ord(character)] += written[code]
  present = [
    code
    for code in np.flatnonzero(counts >= min_frequency)
    if not chr(code).isspace() and code != 0xFFFD
  ]
  frequent = sorted(present, key=lambda code: (-counts[code], code))[:limit]
  return [chr(code) for code in sorted(frequent)]


def _stands_alone(character: str) -> bool:
  """Whether BERT's pre-tokenizer makes a word of this character alone."""
  code = ord(character)
  is_ascii_symbol = code < 128 and not character.isalnum()
  is_chinese = (
    0x4E00 <= code <= 0x9FFF
    or 0x3400 <= code <= 0x4DBF
    or 0xF900 <= code <= 0xFAFF
    or 0x20000 <= code <= 0x2FA1F
  )
  is_punctuation = unicodedata.category(character).startswith('P')
  return is_ascii_symbol or is_punctuation or is_chinese


def _train_wordpieces(
  tokenizer,
  documents: tf.data.Dataset,
  alphabet: list[str],
  size: int,
  min_frequency: int,
) -> None:
  import tokenizers  # pylint: disable=import-outside-toplevel

  # The trainer numbers single characters in the order of a randomised hash
  # table and breaks ties between merges by these numbers. Announced as special
  # tokens they have fixed numbers, and two trainings give one vocabulary.
  suffixes = [
    f'##{character}' for character in alphabet if not _stands_alone(character)
  ]
  trainer = tokenizers.trainers.WordPieceTrainer(
    vocab_size=size,
    min_frequency=min_frequency,
    show_progress=False,
    special_tokens=[*SPECIAL_TOKENS, *alphabet, *suffixes],
    limit_alphabet=len(alphabet),
    initial_alphabet=alphabet,
    continuing_subword_prefix='##',
  )

  def texts():
    for batch in documents.prefetch(4).as_numpy_iterator():
      yield [text.decode('utf-8', errors='replace') for text in batch]

  tokenizer.train_from_iterator(texts(), trainer=trainer)
