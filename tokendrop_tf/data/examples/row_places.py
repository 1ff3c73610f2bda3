"""Places of rows in a corpus: the counts from which any step is found.

Batch n of a run is a function of the seed and n. To begin with it, one needs
to know how many documents every file has and how many rows every window of
documents makes; both are the same in every epoch. They are counted once, when
a run is first resumed, and kept next to its checkpoints.
"""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf

from tokendrop_tf import files

COUNTS_FILE = 'data_counts.json'


@dataclasses.dataclass(frozen=True)
class RowCounts:
  """The number of rows of an epoch, and their sources.

  Attributes:
    documents: documents that are read, or records, of every file.
    rows: rows of every window of documents; of TFRecords and token shards, one
      entry, the sum.
  """

  documents: tuple[int, ...]
  rows: tuple[int, ...]

  @property
  def num_rows(self) -> int:
    """Rows of an epoch."""
    return sum(self.rows)


@dataclasses.dataclass(frozen=True)
class Start:
  """The place in an epoch to begin at.

  Attributes:
    files: per queue of files, the index of its first file and the documents to
      skip in that file; `None` is the beginning.
    window: number of the first window of documents.
    skip_packed: packed rows to skip in it.
    row_window: number of the first window of shuffled rows.
    skip_shuffled: rows to skip in that, after shuffling.
    block: number of the first block.
  """

  files: tuple[tuple[int, int], ...] | None = None
  window: int = 0
  skip_packed: int = 0
  row_window: int = 0
  skip_shuffled: int = 0
  block: int = 0


BEGINNING = Start()


def queue_start(start: Start, queue, is_here):
  """Returns (first file, items to skip) of a queue, int64 scalars.

  Args:
    start: where the first epoch begins.
    queue: number of the queue, int64 scalar.
    is_here: whether this is the epoch that `start` belongs to, bool scalar.
  """
  if start.files is None:
    return tf.constant(0, tf.int64), tf.constant(0, tf.int64)
  place = tf.gather(tf.constant(start.files, tf.int64), queue)
  return tf.unstack(tf.where(is_here, place, 0), num=2)


def if_here(number: int, is_here):
  """Returns a number of a `Start` in its own epoch, and 0 in others, int64."""
  if not number:
    return 0  # A tensor's value is unknown while the graph is built.
  return tf.where(is_here, tf.constant(number, tf.int64), 0)


def seek(sizes: Sequence[int], skip: int) -> tuple[int, int]:
  """Returns the file in which item `skip` of a queue lies, and its place there.

  Args:
    sizes: number of items of every file of the queue.
    skip: items before the wanted one.

  Returns:
    (index of the file, items before the wanted one in it); (number of files,
    0) where the queue has no more.

  Example:
    seek([3, 5], 4)  # (1, 1)
  """
  for index, size in enumerate(sizes):
    if skip < size:
      return index, skip
    skip -= size
  return len(sizes), 0


def lengths(queue, counts) -> list[int]:
  """Returns the number of items of every file of a queue; -1 pads."""
  return [counts[file] if file >= 0 else 0 for file in queue]


def load_counts(folder: str) -> RowCounts | None:
  """Returns the counts that `save_counts` wrote; `None` where there are none.

  Counts that cannot be read are no loss: they are made again.
  """
  tree = files.read_json_if_valid(os.path.join(folder, COUNTS_FILE))
  try:
    return RowCounts(tuple(tree['documents']), tuple(tree['rows']))
  except (KeyError, TypeError):
    return None


def save_counts(counts: RowCounts, folder: str) -> None:
  """Writes `counts` for the next start."""
  files.write_json(
    os.path.join(folder, COUNTS_FILE), dataclasses.asdict(counts), indent=None
  )


def remove_counts(folder: str) -> None:
  """Removes the counts of an earlier run."""
  path = os.path.join(folder, COUNTS_FILE)
  if tf.io.gfile.exists(path):
    tf.io.gfile.remove(path)
