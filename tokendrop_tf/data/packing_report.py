"""What each packing makes of a corpus: how full sequences are, what is lost.

Only the lengths of documents matter, so all packings are reckoned from one
tokenisation.

Letters: S positions of a sequence, C = S - 2; d documents.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tokendrop_tf.config import configs
from tokendrop_tf.data.examples import (
  example_pipeline,
  packing,
)
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.text import vocabulary as vocabulary_lib

# Text that is read where no other limit is given.
_SAMPLE_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class PackingReport:
  """One packing of some documents.

  Attributes:
    packing: its name in `train_data.packing`.
    documents: documents that have a token.
    tokens: tokens of these.
    sequences: sequences that they make.
    filled: positions of these that are not padding.
    seq_length: S.
    truncated_tokens: tokens of documents that no sequence holds.
    pieces: documents and parts of documents in all sequences.
  """

  packing: str
  documents: int
  tokens: int
  sequences: int
  filled: int
  seq_length: int
  truncated_tokens: int
  pieces: int

  @property
  def fill_rate(self) -> float:
    """Share of the positions that are not padding."""
    return self.filled / max(self.sequences * self.seq_length, 1)

  @property
  def documents_per_sequence(self) -> float:
    """Documents, whole or in part, that a sequence holds, in the mean."""
    return self.pieces / max(self.sequences, 1)


def report_packings(
  config: configs.PretrainingDataConfig,
  vocabulary: configs.VocabularyConfig,
  packings: Sequence[str] = configs.PACKINGS,
  max_bytes: int = _SAMPLE_BYTES,
) -> list[PackingReport]:
  """Reports on the beginning of a corpus.

  Args:
    config: the data section, which names text.
    vocabulary: the vocabulary section.
    packings: which of `configs.PACKINGS`.
    max_bytes: how much text is read, about.

  Example:
    print(format_reports(report_packings(
        params.task.train_data, params.task.vocabulary)))
  """
  words = vocabulary_lib.Vocabulary.of(vocabulary)
  corpus = corpus_lib.open_corpus(config)
  lengths = _document_lengths(corpus, words, max_bytes)
  maker = example_pipeline.ExampleMaker(
    corpus, words, config.replace(packing='best_fit')
  )
  return [
    report_lengths(name, lengths, config.seq_length, maker.window_documents)
    for name in packings
  ]


def _document_lengths(corpus, words, max_bytes) -> np.ndarray:
  """Returns the tokens of the first documents, int64 [d]."""
  group = max((1 << 20) // corpus.mean_document_bytes(), 1)
  tokenizer = words.tokenizer()
  measured = (
    corpus.documents()
    .rebatch(group)
    .map(
      lambda texts: (
        tokenizer.tokenize(texts).row_lengths(),
        tf.reduce_sum(tf.strings.length(texts)),
      ),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )
  )
  found, read = [np.zeros(0, np.int64)], 0
  for lengths, num_bytes in measured.as_numpy_iterator():
    found.append(lengths)
    read += num_bytes
    if read >= max_bytes:
      break
  return np.concatenate(found)


def report_lengths(
  name: str, lengths: np.ndarray, seq_length: int, window_documents: int = 1024
) -> PackingReport:
  """Reports on one packing of documents of given lengths.

  Args:
    name: one of `configs.PACKINGS`.
    lengths: int [d], tokens of every document.
    seq_length: S.
    window_documents: documents that best fit packs together.
  """
  lengths = lengths[lengths > 0].astype(np.int64)
  counts = {
    'across_documents': _across,
    'within_documents': _within,
    'one_document': _one,
    'best_fit': _best_fit,
  }[name](lengths, seq_length, window_documents)
  sequences, filled, used, pieces = map(int, counts)
  tokens = int(lengths.sum())
  return PackingReport(
    packing=name,
    documents=lengths.size,
    tokens=tokens,
    sequences=sequences,
    filled=filled,
    seq_length=seq_length,
    truncated_tokens=tokens - used,
    pieces=pieces,
  )


# Each returns sequences, positions that are filled, tokens used, and pieces.


def _across(lengths, seq_length, _):
  row_tokens = seq_length - 2
  ends = np.cumsum(lengths + 1) - 1  # Where the [SEP] after each stands.
  stream = ends[-1] if lengths.size else 0
  sequences = -(-stream // row_tokens)
  pieces = (ends - 1) // row_tokens - (ends - lengths) // row_tokens + 1
  return sequences, stream + 2 * sequences, lengths.sum(), pieces.sum()


def _within(lengths, seq_length, _):
  pieces = (-(-lengths // (seq_length - 2))).sum()
  return pieces, lengths.sum() + 2 * pieces, lengths.sum(), pieces


def _one(lengths, seq_length, _):
  used = np.minimum(lengths, seq_length - 2).sum()
  return lengths.size, used + 2 * lengths.size, used, lengths.size


def _best_fit(lengths, seq_length, window_documents):
  row_tokens = seq_length - 2
  sequences, pieces = 0, 0
  for start in range(0, lengths.size, window_documents):
    window = lengths[start : start + window_documents]
    sizes = np.concatenate(
      [np.full((window // row_tokens).sum(), row_tokens), window % row_tokens]
    )
    sizes = sizes[sizes > 0] + 2
    row, _ = packing.best_fit(tf.constant(sizes, tf.int32), seq_length)
    sequences += int(tf.reduce_max(row)) + 1
    pieces += sizes.size
  return sequences, lengths.sum() + 2 * pieces, lengths.sum(), pieces


def format_reports(reports: Sequence[PackingReport], chosen: str = '') -> str:
  """Returns a table for the terminal.

  Args:
    reports: of the same documents.
    chosen: the packing that is marked.
  """
  first = reports[0]
  lines = [
    f'Packing of the first {first.documents:,} documents, {first.tokens:,} '
    'tokens, into sequences of '
    f'{first.seq_length}:',
    f'  {"":<18}{"sequences":>11}{"filled":>10}{"truncated":>12}'
    f'{"documents a sequence":>23}',
  ]
  for report in reports:
    mark = '*' if report.packing == chosen else ''
    lost = report.truncated_tokens / max(report.tokens, 1)
    lines.append(
      f'  {report.packing + mark:<18}{report.sequences:>11,}'
      f'{report.fill_rate:>10.2%}{lost:>12.2%}'
      f'{report.documents_per_sequence:>23.2f}'
    )
  return '\n'.join(lines)
