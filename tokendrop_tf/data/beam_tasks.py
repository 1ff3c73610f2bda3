"""The work of the Beam pipeline, as tasks that any worker can do alone.

    count     documents of each file                      one task a file
    split     documents into windows                      one task a file
    pack      a window of documents into rows             one task a window
    deal      rows, shuffled and masked, to shards        one task a row window
    finish    the examples of a shard, sorted             one task a shard

What passes from task to task lies in files under a work folder that all
workers reach; a task whose file is there is done. The functions are those of
the live pipeline (`examples`) and of the one-machine tool (`shards`), so the
examples are the same, and so are the shards.
"""

import contextlib
import ctypes
import dataclasses
import functools
import io
import json
import math
import os

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import (
  example_bytes,
  examples,
  shard_writer,
  shards,
  shuffling,
)


@dataclasses.dataclass(frozen=True)
class Tasks:
  """The tasks of one job.

  Attributes:
    job: what to write.
    folder: the work folder, local or anything that `tf.io.gfile` writes.
  """

  job: shards.ShardJob
  folder: str

  @functools.cached_property
  def _maker(self) -> examples.ExampleMaker:
    return shards.example_maker(self.job)

  @functools.cached_property
  def plan(self) -> examples.Plan:
    """How documents make windows, and rows blocks."""
    return self._maker.plan()

  @property
  def num_files(self) -> int:
    return self._maker.corpus.num_files

  @property
  def blocks_rows(self) -> int:
    """Rows that are dealt at a time: whole row windows and whole blocks."""
    return math.lcm(self.plan.row_window, examples.BLOCK_ROWS)

  def path(self, *parts) -> str:
    return os.path.join(self.folder, '-'.join(map(str, parts)))

  def count(self, file: int) -> tuple[int, int]:
    """Returns (file, number of its documents)."""
    path = self.path('count', file)
    if not tf.io.gfile.exists(path):
      documents = self._maker.corpus.documents(tf.constant([file], tf.int64))
      total = sum(len(texts) for texts in documents.as_numpy_iterator())
      write(path, json.dumps(total).encode())
    return file, json.loads(read(path))

  def split(self, file: int, position: int, lane: int) -> int:
    """Writes the documents of a file into one piece a window.

    Args:
      file: number of the file.
      position: documents before it in its lane.
      lane: number of the lane.

    Returns:
      The number of documents.
    """
    done = self.path('split', file)
    if tf.io.gfile.exists(done):
      return json.loads(read(done))
    first = position
    pieces = _Pieces(self, lane, file)
    documents = self._maker.corpus.documents(tf.constant([file], tf.int64))
    for texts in documents.as_numpy_iterator():
      pieces.add(position, texts)
      position += len(texts)
    pieces.close()
    write(done, json.dumps(position - first).encode())
    return position - first

  def pack(self, epoch: int, window: int) -> tuple[tuple[int, int], int]:
    """Writes the rows of a window; returns ((epoch, window), rows)."""
    path = self.path('rows', epoch, window)
    if not tf.io.gfile.exists(path + '-count'):
      rows = self._packed(epoch, window)
      for number, array in enumerate(rows):
        write(f'{path}-{number}.npy', _npy(array))
      write(path + '-count', json.dumps(len(rows[1])).encode())
    return (epoch, window), json.loads(read(path + '-count'))

  def _packed(self, epoch, window) -> list[np.ndarray]:
    texts = tf.constant(self._window_documents(window), tf.string)
    if self.job.config.is_training:
      texts = shuffling.shuffled(
        texts, self._seed(shuffling.DOCUMENT_SALT, epoch, window)
      )
    parts = list(
      self._maker.rows(texts, self.plan.group_documents).as_numpy_iterator()
    )
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

  def _window_documents(self, window) -> list[bytes]:
    """Returns the documents of a window: lane after lane, in order."""
    texts = []
    for lane, files in enumerate(self.plan.lanes):
      for file in files:
        path = self.path('documents', window, lane, file)
        if file >= 0 and tf.io.gfile.exists(path):
          texts += _split(read(path))
    return texts

  def _seed(self, salt, epoch, number):
    return shuffling.seed(self.job.config.seed, salt, epoch, number)

  def deal(self, epoch: int, number: int, pieces) -> int:
    """Shuffles, masks and serializes rows, and sorts them by shard.

    Args:
      epoch: number of the epoch.
      number: which `blocks_rows` rows of the epoch.
      pieces: (window, first row in it, number of rows), in order.

    Returns:
      The number of examples.
    """
    path = self.path('dealt', epoch, number)
    if not tf.io.gfile.exists(path + '.json'):
      dealt = [[] for _ in range(self.job.num_shards)]
      for made in self._serialized(epoch, number, self._rows(epoch, pieces)):
        self._deal_block(dealt, made)
      self._write_dealt(path, dealt)
    return sum(json.loads(read(path + '.json'))['examples'])

  def _rows(self, epoch, pieces) -> list[np.ndarray]:
    parts = []
    for window, first, count in pieces:
      path = self.path('rows', epoch, window)
      parts.append(
        [_read_rows(f'{path}-{part}.npy', first, count) for part in range(2)]
      )
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

  def _serialized(self, epoch, number, rows):
    """Yields (block, keys, tokens, examples), blocks as live."""
    first_row = number * self.blocks_rows
    if self.job.config.is_training:
      rows = self._shuffled(epoch, first_row, rows)
    for first in range(0, len(rows[1]), examples.BLOCK_ROWS):
      block = (first_row + first) // examples.BLOCK_ROWS
      cut = [array[first : first + examples.BLOCK_ROWS] for array in rows]
      _, _, keys, tokens, features = self._masked_block(
        tf.constant(epoch, tf.int64), tf.constant(block, tf.int64), *cut
      )
      serialized = example_bytes.serialize(features)
      yield block, keys.numpy(), tokens.numpy(), serialized

  @functools.cached_property
  def _masked_block(self):
    @tf.function(reduce_retracing=True, autograph=False)
    def masked_block(epoch, block, tokens, layout):
      return shards.masked_block(
        self.job, self._maker, epoch, block, (tokens, layout)
      )

    return masked_block

  def _shuffled(self, epoch, first_row, rows):
    window_rows = self.plan.row_window
    parts = []
    for first in range(0, len(rows[1]), window_rows):
      window = (first_row + first) // window_rows
      cut = [tf.constant(array[first : first + window_rows]) for array in rows]
      seed = self._seed(shuffling.ROW_SALT, epoch, window)
      parts.append([tensor.numpy() for tensor in shuffling.shuffled(cut, seed)])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

  def _deal_block(self, dealt, made):
    block, keys, tokens, serialized = made
    numbers = shards.shards_of(self.job, keys, block)
    for shard, key, count, example in zip(
      numbers, keys.tolist(), tokens.tolist(), serialized, strict=True
    ):
      dealt[shard].append((key, example, count))

  def _write_dealt(self, path, dealt):
    parts = [_joined_dealt(found) for found in dealt]
    write(path, b''.join(parts))
    index = {
      'sizes': [len(part) for part in parts],
      'examples': [len(found) for found in dealt],
    }
    write(path + '.json', json.dumps(index).encode())

  def finish(self, shard: int, dealt) -> tuple[int, dict]:
    """Writes a shard; returns its number and its entry of the index.

    Args:
      shard: number of the shard.
      dealt: (epoch, number) of all that was dealt.
    """
    done = self.path('shard', f'{shard:05d}')
    if tf.io.gfile.exists(done):
      entry = json.loads(read(done))
      if tf.io.gfile.exists(self.job.path(shard)):
        return shard, entry
    found = []
    for epoch, number in dealt:
      found += self._dealt(epoch, number, shard)
    found.sort()
    entry = shard_writer.write_shard(
      self.job.path(shard),
      [example for _, example, _ in found],
      sum(tokens for *_, tokens in found),
      self.job.gzip,
    )
    write(done, json.dumps(dataclasses.asdict(entry)).encode())
    return shard, dataclasses.asdict(entry)

  def _dealt(self, epoch, number, shard):
    path = self.path('dealt', epoch, number)
    sizes = json.loads(read(path + '.json'))['sizes']
    with tf.io.gfile.GFile(path, 'rb') as file:
      file.seek(sum(sizes[:shard]))
      return _split_dealt(file.read(sizes[shard]))


class _Pieces:
  """Writes consecutive documents of a lane into one file a window."""

  def __init__(self, tasks: Tasks, lane: int, file: int):
    self._tasks = tasks
    self._lane = lane
    self._file = file
    self._window = None
    self._texts = []

  def add(self, position: int, texts) -> None:
    """Adds documents, the first of which is number `position` of the lane."""
    rows = self._tasks.plan.lane_documents
    for offset, text in enumerate(texts):
      window = (position + offset) // rows
      if window != self._window:
        self.close()
        self._window = window
      self._texts.append(text)

  def close(self) -> None:
    """Writes the window that is not written yet."""
    if self._texts:
      path = self._tasks.path('documents', self._window, self._lane, self._file)
      write(path, _joined(self._texts))
    self._texts = []


def _npy(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


def _read_rows(path: str, first: int, count: int) -> np.ndarray:
  """Reads some rows of a .npy file."""
  with tf.io.gfile.GFile(path, 'rb') as file:
    head = io.BytesIO(file.read(4096))
    version = np.lib.format.read_magic(head)
    assert version == (1, 0), version
    shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    file.seek(head.tell() + first * row_bytes)
    data = file.read(count * row_bytes)
  return np.frombuffer(data, dtype).reshape([count, *shape[1:]])


def write(path: str, data: bytes) -> None:
  """Writes a file whole: it appears under its name when it is complete."""
  temporary = f'{path}.writing-{os.getpid()}'
  with tf.io.gfile.GFile(temporary, 'wb') as file:
    file.write(data)
  tf.io.gfile.rename(temporary, path, overwrite=True)


def read(path: str) -> bytes:
  with tf.io.gfile.GFile(path, 'rb') as file:
    return file.read()


def call(tasks: Tasks, name: str, arguments: tuple):
  """Does one task; the messages of what fails cross the worker's border."""
  try:
    return getattr(tasks, name)(*arguments)
  except (tf.errors.OpError, OSError) as error:
    raise (errors.kept() or error) from error
  finally:
    give_memory_back()


def give_memory_back() -> None:
  """Returns freed memory to the system, where the C library can.

  It keeps what was freed for each thread, which adds up over many tasks.
  """
  with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(None).malloc_trim(0)


def _joined(items: list[bytes]) -> bytes:
  """Returns the items behind their number and their lengths, int64 all."""
  lengths = np.array([len(items), *map(len, items)], np.int64)
  return b''.join([lengths.tobytes(), *items])


def _split(data: bytes) -> list[bytes]:
  """Returns the items that `_joined` took."""
  [count] = np.frombuffer(data, np.int64, 1)
  lengths = np.frombuffer(data, np.int64, count, offset=8)
  ends = 8 * (1 + count) + np.cumsum(lengths)
  return [data[end - length : end] for end, length in zip(ends, lengths)]


def _joined_dealt(dealt: list[tuple[int, bytes, int]]) -> bytes:
  """Returns keys, examples and numbers of tokens as bytes."""
  keys = np.array([key for key, _, _ in dealt], np.int64)
  tokens = np.array([count for *_, count in dealt], np.int64)
  examples_of = [example for _, example, _ in dealt]
  return _joined([keys.tobytes(), tokens.tobytes(), *examples_of])


def _split_dealt(data: bytes) -> list[tuple[int, bytes, int]]:
  """Returns what `_joined_dealt` took."""
  keys, tokens, *examples_of = _split(data)
  return list(
    zip(
      np.frombuffer(keys, np.int64).tolist(),
      examples_of,
      np.frombuffer(tokens, np.int64).tolist(),
      strict=True,
    )
  )
