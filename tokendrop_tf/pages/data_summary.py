"""What a data source holds, in numbers: documents, tokens, masks."""

import dataclasses

import numpy as np
import tabulate
import tensorflow as tf

from tokendrop_tf.text import vocabulary as vocabulary_lib

MOST_FREQUENT = 30


@dataclasses.dataclass
class DataSummary:
  """Counts of what was read of a source.

  Attributes:
    unit: 'documents' of text, or 'examples' of TFRecords.
    lengths: tokens of each of them, special tokens not counted.
    counts: how often each token occurs, int64 [V]; labels as they were.
    labels: labels of the examples that were looked at.
    ordinary: ordinary tokens of these, labels included.
    fates: of the labels, how many are masked, random, and kept.
  """

  unit: str
  lengths: list[int]
  counts: np.ndarray
  labels: int = 0
  ordinary: int = 0
  fates: tuple[int, int, int] = (0, 0, 0)

  @property
  def tokens(self) -> int:
    return sum(self.lengths)

  def unknown_share(self, words: vocabulary_lib.Vocabulary) -> float:
    """Returns which share of the tokens the vocabulary does not know."""
    return float(self.counts[words.unk_id] / max(self.counts.sum(), 1))

  def facts(self, words: vocabulary_lib.Vocabulary) -> list[tuple[str, str]]:
    """Returns (name, value) of what fits on a line."""
    lengths = sorted(self.lengths) or [0]
    masked, random, kept = (n / max(self.labels, 1) for n in self.fates)
    return [
      (self.unit, f'{len(self.lengths):,}'),
      ('tokens', f'{self.tokens:,}'),
      ('unknown tokens', f'{self.unknown_share(words):.3%}'),
      (
        f'tokens of {self.unit}',
        f'median {lengths[len(lengths) // 2]:,}, {lengths[0]:,} to '
        f'{lengths[-1]:,}',
      ),
      ('labels', f'{self.labels / max(self.ordinary, 1):.2%} of the tokens'),
      (
        'of the labels',
        f'{masked:.1%} [MASK], {random:.1%} another token, {kept:.1%} kept',
      ),
    ]

  def histogram(self) -> list[tuple[str, int]]:
    """Returns (range of lengths, how many), in powers of two."""
    powers = np.floor(np.log2(np.maximum(self.lengths, 1))).astype(int)
    found = np.bincount(powers) if self.lengths else np.zeros([1], int)
    first = int(np.flatnonzero(found)[0]) if found.any() else 0
    return [
      (f'{2**power:,} to {2 ** (power + 1) - 1:,}', int(found[power]))
      for power in range(first, len(found))
    ]

  def most_frequent(
    self, words: vocabulary_lib.Vocabulary
  ) -> list[tuple[str, float]]:
    """Returns (token, share of all tokens), the most frequent first."""
    order = np.argsort(-self.counts, kind='stable')[:MOST_FREQUENT]
    total = max(self.counts.sum(), 1)
    return [
      (words.tokens[index], float(self.counts[index] / total))
      for index in order
      if self.counts[index]
    ]

  def as_text(self, words: vocabulary_lib.Vocabulary) -> str:
    """Returns the summary for the terminal."""
    histogram = self.histogram()
    most = max(count for _, count in histogram) or 1
    lengths = [
      (name, f'{count:,}', '#' * round(40 * count / most))
      for name, count in histogram
    ]
    frequent = ', '.join(
      f'{token} {share:.2%}' for token, share in self.most_frequent(words)
    )
    return (
      f'{_table(self.facts(words))}\n\nLengths of {self.unit} in tokens:\n'
      f'{_table(lengths)}\n\nMost frequent: {frequent}'
    )


def _table(rows) -> str:
  return tabulate.tabulate(
    rows,
    tablefmt='plain',
    disable_numparse=True,
    colalign=('left', 'left' if len(rows[0]) == 2 else 'right'),
  )


def of_text(
  corpus, words: vocabulary_lib.Vocabulary, most_bytes: int
) -> DataSummary:
  """Summarises the documents at the beginning of a corpus.

  Args:
    corpus: e.g. a `corpus.TextCorpus`.
    words: the vocabulary.
    most_bytes: how much text is read, about.
  """
  tokenizer = words.tokenizer()
  summary = DataSummary('documents', [], np.zeros([words.size], np.int64))
  done = 0
  for texts in corpus.documents():
    ids = tokenizer.tokenize(texts)
    summary.lengths += ids.row_lengths().numpy().tolist()
    summary.counts += np.bincount(ids.flat_values, minlength=words.size)
    done += int(tf.reduce_sum(tf.strings.length(texts)))
    if done >= most_bytes:
      break
  return summary


def of_examples(
  words: vocabulary_lib.Vocabulary,
) -> DataSummary:
  """Returns an empty summary of examples, for `add_examples`."""
  return DataSummary('examples', [], np.zeros([words.size], np.int64))


def add_examples(
  summary: DataSummary, features: dict, words: vocabulary_lib.Vocabulary
) -> None:
  """Adds a batch of examples.

  Args:
    summary: its masks are counted; of a summary of examples, all is.
    features: arrays [B, n] as training reads them; rows of padding are none.
    words: the vocabulary.
  """
  shown = np.array(features['input_word_ids'])
  is_real = features['input_mask'].any(axis=1)
  filled = (features['masked_lm_weights'] > 0) & is_real[:, np.newaxis]
  rows, slots = np.nonzero(filled)
  positions = features['masked_lm_positions'][rows, slots]
  labels = features['masked_lm_ids'][rows, slots]
  inputs = shown[rows, positions]
  original = np.array(shown)
  original[rows, positions] = labels
  special = np.isin(original, words.special_ids)
  ordinary = (features['input_mask'] > 0) & ~special
  masked = int((inputs == words.mask_id).sum())
  kept = int((inputs == labels).sum())
  summary.labels += len(labels)
  summary.ordinary += int(ordinary.sum())
  fates = (masked, len(labels) - masked - kept, kept)
  summary.fates = tuple(map(sum, zip(summary.fates, fates, strict=True)))
  if summary.unit == 'examples':
    is_counted = ordinary | (original == words.unk_id)
    summary.lengths += is_counted[is_real].sum(axis=1).tolist()
    summary.counts += np.bincount(
      original[is_counted], minlength=words.size
    ).astype(np.int64)
