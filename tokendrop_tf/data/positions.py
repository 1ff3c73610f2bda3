"""Where in the training data a step is, and what must be known to go there.

Batch n of a run is a function of the seed and n. To begin with it, one needs
to know how many documents every file has and how many rows every window of
documents makes; both are the same in every epoch. They are counted once, when
a run is first resumed, and kept beside its checkpoints.
"""

import dataclasses
import json
import os
import zlib

import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import vocabulary as vocabulary_lib

COUNTS_FILE = 'data_counts.json'
SOURCES_FILE = 'data_files.json'
_PROBE_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class RowCounts:
  """How many rows an epoch has, and where they come from.

  Attributes:
    documents: documents that are read, or records, of every file.
    rows: rows of every window of documents; of TFRecords, one entry, the sum.
  """

  documents: tuple[int, ...]
  rows: tuple[int, ...]

  @property
  def num_rows(self) -> int:
    """Rows of an epoch."""
    return sum(self.rows)


@dataclasses.dataclass(frozen=True)
class Start:
  """Where in an epoch to begin.

  Attributes:
    files: per lane, the index of its first file and the documents, or records,
      to skip in that file; `None` is the beginning.
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


def lane_start(start: Start, lane, is_here):
  """Returns (first file, items to skip) of a lane, int64 scalars.

  Args:
    start: where the first epoch begins.
    lane: number of the lane, int64 scalar.
    is_here: whether this is the epoch that `start` speaks of, bool scalar.
  """
  if start.files is None:
    return tf.constant(0, tf.int64), tf.constant(0, tf.int64)
  files = tf.gather(tf.constant(start.files, tf.int64), lane)
  return tf.unstack(tf.where(is_here, files, 0), num=2)


def if_here(number: int, is_here):
  """Returns a number of a `Start` in its own epoch, and 0 in others, int64."""
  if not number:
    return 0  # Of no tensor it is known when the graph is built.
  return tf.where(is_here, tf.constant(number, tf.int64), 0)


def seek(sizes, skip: int) -> tuple[int, int]:
  """Returns the file in which item `skip` of a lane lies, and its place there.

  Args:
    sizes: number of items of every file of the lane.
    skip: items before the wanted one.

  Returns:
    (index of the file, items before the wanted one in it); (number of files,
    0) where the lane has no more.

  Example:
    seek([3, 5], 4)  # (1, 1)
  """
  for index, size in enumerate(sizes):
    if skip < size:
      return index, skip
    skip -= size
  return len(sizes), 0


def lengths(lane, counts) -> list[int]:
  """Returns the number of items of every file of a lane; -1 is no file."""
  return [counts[file] if file >= 0 else 0 for file in lane]


def load_counts(folder: str) -> RowCounts | None:
  """Returns the counts that `save_counts` wrote; `None` where there are none.

  Counts that cannot be read are no loss: they are made again.
  """
  path = os.path.join(folder, COUNTS_FILE)
  if not folder or not tf.io.gfile.exists(path):
    return None
  try:
    tree = json.loads(_read(path))
    return RowCounts(tuple(tree['documents']), tuple(tree['rows']))
  except (ValueError, KeyError, TypeError):
    return None


def save_counts(counts: RowCounts, folder: str) -> None:
  """Writes `counts` for the next start."""
  vocabulary_lib.write_whole_file(
    os.path.join(folder, COUNTS_FILE), json.dumps(dataclasses.asdict(counts))
  )


def save_sources(paths, folder: str) -> None:
  """Notes down the files that a run begins with, and drops old counts.

  Args:
    paths: the files.
    folder: folder of the run.
  """
  counts = os.path.join(folder, COUNTS_FILE)
  if tf.io.gfile.exists(counts):
    tf.io.gfile.remove(counts)
  vocabulary_lib.write_whole_file(
    os.path.join(folder, SOURCES_FILE),
    json.dumps({path: _fingerprint(path) for path in paths}, indent=1) + '\n',
  )


def check_sources(paths, folder: str, setting: str) -> None:
  """Refuses to go on with files other than those that a run began with.

  Names, sizes and a checksum of both ends are compared.

  Args:
    paths: the files.
    folder: folder of the run.
    setting: the setting that names them, for the message.

  Raises:
    DataError: naming the first file that differs.
  """
  path = os.path.join(folder, SOURCES_FILE)
  if not tf.io.gfile.exists(path):
    return
  now = {name: _fingerprint(name) for name in paths}
  try:
    then = dict(json.loads(_read(path)))
  except (ValueError, TypeError):
    return
  for name in sorted(then.keys() | now.keys()):
    if then.get(name) != now.get(name):
      raise errors.DataError(
        'A run goes on only with the data it began with. Received: '
        f'{name}, which {_change(name, then, now)} since. Restore the files '
        f'of {setting}, or start in another --model_dir.'
      )


def _change(name, then, now) -> str:
  if name not in now:
    return 'has been removed'
  return 'has changed' if name in then else 'has been added'


def _fingerprint(path: str) -> list[int]:
  """Returns the size and a checksum of the first and last bytes."""
  size = tf.io.gfile.stat(path).length
  with tf.io.gfile.GFile(path, 'rb') as file:
    checksum = zlib.crc32(file.read(_PROBE_BYTES))
    if size > _PROBE_BYTES:
      file.seek(max(size - _PROBE_BYTES, _PROBE_BYTES))
      checksum = zlib.crc32(file.read(_PROBE_BYTES), checksum)
  return [size, checksum]


def _read(path: str) -> str:
  with tf.io.gfile.GFile(path, 'r') as file:
    return file.read()
