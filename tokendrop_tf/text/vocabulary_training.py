"""Training of a WordPiece vocabulary, and counts of its tokens in a corpus."""

import numpy as np
import tensorflow as tf
import tokenizers

from tokendrop_tf import errors
from tokendrop_tf.text import character_map, tokenization
from tokendrop_tf.text.vocabulary import (
  MAX_TOKEN_BYTES,
  SPECIAL_TOKENS,
  UNK,
  Vocabulary,
)

# Rare characters are left to [UNK]: at most this many, and at most one for so
# many tokens of the vocabulary, have tokens of their own.
_MAX_ALPHABET = 1000
_TOKENS_PER_CHARACTER = 16
_MIN_ALPHABET = 100
_CODE_POINTS = 0x110000
# Characters, ## included; at four bytes each no more than a token may have.
_MAX_TOKEN_LENGTH = MAX_TOKEN_BYTES // 4

MIN_SIZE = 16


def train_vocabulary(
  documents: tf.data.Dataset,
  size: int,
  settings: tokenization.TokenizationSettings = tokenization.UNCASED,
  min_frequency: int = 2,
) -> Vocabulary:
  """Trains a WordPiece vocabulary; the same text gives the same vocabulary.

  Args:
    documents: data set of UTF-8 strings [n], any n.
    size: V, number of tokens asked for, special tokens included.
    settings: the tokenisation that it is made for.
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
  tokenizer = _new_tokenizer(settings)
  alphabet = _alphabet(
    documents, tokenizer.normalizer, min_frequency, limit=_alphabet_limit(size)
  )
  if not alphabet:
    raise errors.DataError(
      'A vocabulary needs text. Received: none. Give files with text.'
    )
  # All others are words of their own, so no part of one.
  spaced = character_map.replacements(settings, map(ord, alphabet))
  inner = [old for old, new in zip(alphabet, spaced) if ' ' not in new]
  _train_wordpieces(tokenizer, documents, alphabet, inner, size, min_frequency)
  tokens = tokenizer.get_vocab()
  return Vocabulary(tuple(sorted(tokens, key=tokens.get)), settings)


def _alphabet_limit(size: int) -> int:
  """Returns how many characters a vocabulary of this size begins with."""
  share = min(_MAX_ALPHABET, size // _TOKENS_PER_CHARACTER)
  # A character costs two tokens: at the beginning of a word, and inside.
  room = (size - len(SPECIAL_TOKENS)) // 2
  return min(max(share, _MIN_ALPHABET), room)


def _new_tokenizer(settings) -> tokenizers.Tokenizer:
  # WordPiece's own trainer is this one without a limit of the length.
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.BPE(unk_token=UNK, continuing_subword_prefix='##')
  )
  tokenizer.normalizer = character_map.normalizer(settings)
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


def _train_wordpieces(
  tokenizer,
  documents: tf.data.Dataset,
  alphabet: list[str],
  inner: list[str],
  size: int,
  min_frequency: int,
) -> None:
  # The trainer numbers single characters in the order of a randomised hash
  # table and breaks ties between merges by these numbers. Announced as special
  # tokens they have fixed numbers, and two trainings give one vocabulary.
  suffixes = [f'##{character}' for character in inner]
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=size,
    min_frequency=min_frequency,
    show_progress=False,
    special_tokens=[*SPECIAL_TOKENS, *alphabet, *suffixes],
    limit_alphabet=len(alphabet),
    initial_alphabet=alphabet,
    continuing_subword_prefix='##',
    max_token_length=_MAX_TOKEN_LENGTH,
  )

  def texts():
    for batch in documents.prefetch(4).as_numpy_iterator():
      yield [text.decode('utf-8', errors='replace') for text in batch]

  tokenizer.train_from_iterator(texts(), trainer=trainer)


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
