"""Samples of documents: of all of them, and the first ones.

The sample of all of them follows from their numbers alone.

Document d of file f is in the sample if a hash of (f, d) is below a share of
its range, so the sample is the same whoever reads a file.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

_FREQUENT = 100
# Of JSON, HTML and WikiExtractor's `<doc id= url= title=>`; prose has few.
_MARKUP = frozenset(
  ('https', 'http', 'www', 'url', 'curid', 'doc', 'div', 'href', 'nbsp')
)


def is_sampled(file: int, first: int, count: int, share: float) -> np.ndarray:
  """Says which of consecutive documents of a file are in the sample.

  Args:
    file: number of the file.
    first: number of the first document in the file.
    count: how many documents.
    share: about which share of all documents is in the sample, 0 to 1.

  Returns:
    bool [count].
  """
  number = np.arange(first, first + count, dtype=np.uint64)
  return _hash(_hash(number) + np.uint64(file)) < share * 2.0**64


def _hash(numbers: np.ndarray) -> np.ndarray:
  """Steele, Lea and Flood 2014, SplitMix64."""
  with np.errstate(over='ignore'):
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def file_documents(corpus, file: int, share: float) -> Iterator[np.ndarray]:
  """Yields the sampled documents of one file in batches, bytes [n]."""
  first = 0
  documents = corpus.documents(tf.constant([file], tf.int64))
  for texts in documents.as_numpy_iterator():
    yield texts[is_sampled(file, first, len(texts), share)]
    first += len(texts)


def documents(corpus, share: float) -> tf.data.Dataset:
  """Returns the sampled documents of a corpus, strings [n], any n.

  Args:
    corpus: e.g. a `corpus.TextCorpus`.
    share: about which share of the documents; 1 is all.
  """
  if share >= 1:
    return corpus.documents()

  def batches():
    for file in range(corpus.num_files):
      yield from file_documents(corpus, file, share)

  return tf.data.Dataset.from_generator(
    batches, output_signature=tf.TensorSpec([None], tf.string)
  )


@dataclasses.dataclass(frozen=True)
class Head:
  """The first documents of a corpus, tokenised.

  Attributes:
    lengths: tokens of each document, int64 [d].
    counts: how often each token of the vocabulary occurs, int64 [V].
    num_bytes: size of the text.
  """

  lengths: np.ndarray
  counts: np.ndarray
  num_bytes: int


def head(corpus, words, most_tokens: int) -> Head:
  """Tokenises the first documents, of some `most_tokens` tokens.

  Args:
    corpus: e.g. a `corpus.TextCorpus`.
    words: the vocabulary.
    most_tokens: when to end.
  """
  tokenizer = words.tokenizer()
  lengths, size, tokens = [np.zeros([0], np.int64)], 0, 0
  counts = np.zeros(words.size, np.int64)
  for texts in corpus.read():
    ids = tokenizer.tokenize(texts)
    lengths.append(ids.row_lengths().numpy())
    counts += np.bincount(ids.flat_values.numpy(), minlength=words.size)
    size += int(tf.reduce_sum(tf.strings.length(texts)))
    tokens += int(lengths[-1].sum())
    if tokens >= most_tokens:
      break
  return Head(np.concatenate(lengths), counts, size)


def markup_warning(tokens: Sequence[str], counts: np.ndarray) -> str:
  """Returns a warning if markup is among the most frequent tokens, else ''.

  Args:
    tokens: the vocabulary.
    counts: how often each token occurs, int64 [V].
  """
  frequent = np.argsort(-counts, kind='stable')[:_FREQUENT]
  names = (tokens[index] for index in frequent if counts[index])
  found = [name for name in names if name in _MARKUP]
  if not found:
    return ''
  return (
    f'Warning: {", ".join(map(repr, found))} is among the {_FREQUENT} most '
    'frequent tokens, which looks like markup or JSON, not text. Remove it, or '
    'name JSON lines .jsonl.'
  )


def rows_of(lengths: np.ndarray, config) -> int:
  """Returns how many rows documents make, at least, about.

  Args:
    lengths: tokens of each document, int64 [d].
    config: the data section.
  """
  row_tokens = config.seq_length - 2
  if config.packing == 'one_document':
    return int((lengths > 0).sum())
  if config.packing == 'within_documents':
    return int((-(-lengths // row_tokens)).sum())
  # A [SEP] follows each document, of which a row has one anyway.
  return int((lengths.sum() + (lengths > 0).sum()) // row_tokens)
