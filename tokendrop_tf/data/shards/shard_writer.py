"""Writes the packed rows of a corpus into shards, in a uniform order.

    documents -> windows -> rows, packed as in training
    deal:    each row of a window gets a random key, which decides on its shard
             and its place there; the window becomes one file, sorted by both
    finish:  a shard takes its rows from all these files, sorted by key

So the order is uniform over the corpus, no more than one window or one shard is
in memory, and the files are the same byte for byte, whoever does the work: one
process, several, or Apache Beam.

Validation data keep their order: of every window, block b of 128 rows goes to
shard b modulo the number of shards.
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors, files
from tokendrop_tf.data.examples import example_pipeline, shuffling
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.read import documents
from tokendrop_tf.data.shards import record_writer, shard_job, token_index
from tokendrop_tf.data.shards.work_folder import WorkFolder

# Text of a window, which decides only on the documents that share rows.
WINDOW_BYTES = 16 << 20
_COUNT = np.dtype('<i8')


class Written(NamedTuple):
  """Shards that are complete: their rows, tokens and bytes."""

  rows: int
  tokens: int
  num_bytes: int


class RowWriter:
  """Deals and finishes the rows of one job, in any process.

  Args:
    job: what is written.
    work: the folder of what is unfinished.
  """

  def __init__(self, job: shard_job.ShardJob, work: WorkFolder):
    self.job = job
    self.work = work

  @functools.cached_property
  def words(self):
    return self.job.words()

  @functools.cached_property
  def maker(self) -> example_pipeline.ExampleMaker:
    """Packs the documents."""
    corpus = corpus_lib.open_corpus(self.job.config)
    return example_pipeline.ExampleMaker(corpus, self.words, self.job.config)

  @functools.cached_property
  def window_documents(self) -> int:
    """Documents of a window."""
    return self.maker.documents_in(WINDOW_BYTES)

  @functools.cached_property
  def record(self) -> np.dtype:
    """A row and its key, as they lie in the file of a window."""
    dtype = token_index.row_dtype(self.words.size)
    return np.dtype([('key', '<u8'), ('row', dtype, (self.job.width,))])

  def deal_share(self, share: int, num_shares: int) -> Iterator[int]:
    """Deals every `num_shares`-th window that is not dealt; yields rows.

    Args:
      share: number of the share.
      num_shares: how many processes share the windows.
    """
    for epoch in range(max(self.job.config.num_epochs, 1)):
      done = tf.constant(self.work.dealt_windows(epoch), tf.int64)
      windows = (
        self.maker.corpus.documents()
        .rebatch(self.window_documents)
        .enumerate()
        .filter(
          lambda window, _, done=done: (
            (window % num_shares == share) & ~tf.reduce_any(window == done)
          )
        )
      )
      parts = self.maker.rows_of_windows(windows, epoch).as_numpy_iterator()
      for window, group in itertools.groupby(parts, lambda part: part[0]):
        yield self.deal(epoch, int(window), [rows for _, rows in group])

  def deal(self, epoch: int, window: int, parts: Sequence[np.ndarray]) -> int:
    """Writes the rows of a window into one file; returns how many.

    Args:
      epoch: number of the epoch.
      window: number of the window.
      parts: the rows, integers [r, W] each.
    """
    num_rows = sum(map(len, parts))
    dealt = np.empty(num_rows, self.record)
    if num_rows:
      np.concatenate(parts, out=dealt['row'], casting='unsafe')
    if self.job.config.is_training:
      dealt['key'] = shuffling.keys(
        num_rows, self.job.config.seed, shuffling.SHARD_SALT, epoch, window
      )
      shards = dealt['key'] % np.uint64(self.job.num_shards)
    else:
      numbers = np.arange(num_rows, dtype=np.uint64)
      dealt['key'] = np.uint64(window << 32) + numbers
      blocks = numbers // np.uint64(example_pipeline.BLOCK_ROWS)
      shards = blocks % np.uint64(self.job.num_shards)
    counts = np.bincount(shards.astype(int), minlength=self.job.num_shards)
    order = np.lexsort((dealt['key'], shards))
    files.write_whole_file(
      self.work.dealt_file(epoch, window),
      counts.astype(_COUNT).tobytes() + dealt[order].tobytes(),
    )
    return num_rows

  def num_dealt(self) -> int:
    """Returns how many rows lie in the files of windows."""
    head = _COUNT.itemsize * self.job.num_shards
    sizes = (tf.io.gfile.stat(path).length for path in self.work.dealt())
    return sum((size - head) // self.record.itemsize for size in sizes)

  def finish(self, shard: int) -> None:
    """Writes a shard, unless an interrupted call has, and notes its entry."""
    path, name = self.job.path(shard), f'shard-{shard:05d}.json'
    if entry := self.work.read_json(name):
      _check_still_there(path, entry, self.work)
      return
    dealt = np.concatenate(
      [self._dealt_to(shard, p) for p in self.work.dealt()]
    )
    rows = dealt['row'][np.argsort(dealt['key'], kind='stable')]
    unfinished = _unfinished_name(path)
    if self.job.format == 'tokens':
      checksums = write_rows(unfinished, rows)
    else:
      checksums = []
      record_writer.write(unfinished, rows, shard, self.job, self.words)
    size = tf.io.gfile.stat(unfinished).length
    tf.io.gfile.rename(unfinished, path, overwrite=True)
    tokens = rows[:, : self.job.config.seq_length] != self.words.pad_id
    entry = token_index.Shard(
      os.path.basename(path), len(rows), int(tokens.sum()), tuple(checksums)
    )
    self.work.write_json(name, {'num_bytes': size, 'shard': vars(entry)})

  def _dealt_to(self, shard, path) -> np.ndarray:
    """Returns the rows of a window that belong to a shard."""
    with tf.io.gfile.GFile(path, 'rb') as file:
      head = file.read(_COUNT.itemsize * self.job.num_shards)
      counts = np.frombuffer(head, _COUNT)
      file.seek(len(head) + int(counts[:shard].sum()) * self.record.itemsize)
      data = file.read(int(counts[shard]) * self.record.itemsize)
    return np.frombuffer(data, self.record)

  def complete(self) -> Written:
    """Writes the index of token shards and removes the work folder."""
    entries = [
      self.work.read_json(f'shard-{shard:05d}.json')
      for shard in range(self.job.num_shards)
    ]
    shards = tuple(token_index.shard_of(entry['shard']) for entry in entries)
    if self.job.format == 'tokens':
      dtype = token_index.row_dtype(self.words.size)
      token_index.TokenIndex(
        self.job.index,
        self.job.settings(),
        token_index.vocabulary_facts(self.words),
        token_index.chunk_rows(self.job.width, dtype),
        shards,
      ).save()
    self.work.remove()
    return Written(
      sum(shard.rows for shard in shards),
      sum(shard.tokens for shard in shards),
      sum(entry['num_bytes'] for entry in entries),
    )


def write_shards(
  job: shard_job.ShardJob,
  num_processes: int = 1,
  on_progress: Callable[[int], None] = lambda count: None,
) -> Written:
  """Writes all shards, or those that an interrupted call left to write.

  Each appears under its name when it is whole; the index comes last.

  Args:
    job: what to write.
    num_processes: processes that share the work.
    on_progress: called with the number of rows dealt since the last call.

  Raises:
    DataError: if the text cannot be read, or a shard cannot be written.
  """
  work = WorkFolder.next_to(job.output)
  folder = os.path.dirname(job.output)
  writer = RowWriter(job, work)
  try:
    if folder:
      tf.io.gfile.makedirs(folder)
    work.adopt(job.fingerprint())
    if num_processes > 1:
      _write_in_processes(writer, num_processes, on_progress)
    else:
      _write_alone(writer, on_progress)
    return writer.complete()
  except (OSError, tf.errors.OpError) as error:
    raise errors.kept(error) or errors.DataError(
      'Shards must be writable. Received: '
      f'{job.output}-*: {_reason(error)}. Make room, or the folder writable, '
      'and start the same command again: it resumes with what is unfinished. '
      f'Removing {work.path} gives up what was begun.'
    ) from error
  finally:
    remove_unfinished(job)


def _reason(error) -> str:
  return str(error).split('\n')[0].strip().rstrip('.')


def _write_alone(writer, on_progress):
  if not writer.work.is_dealt:
    on_progress(writer.num_dealt())
    for count in writer.deal_share(0, 1):
      on_progress(count)
    writer.work.note_dealt()
  remove_old_shards(writer.job, writer.work)
  for shard in range(writer.job.num_shards):
    writer.finish(shard)


def _write_in_processes(writer, num_processes, on_progress):
  # TensorFlow's threads do not survive a fork.
  context = multiprocessing.get_context('spawn')
  job, work = writer.job, writer.work
  with futures.ProcessPoolExecutor(
    num_processes, context, _ignore_interrupts
  ) as pool:

    def run(function):
      return [
        pool.submit(_in_process, function, job, work, share, num_processes)
        for share in range(num_processes)
      ]

    try:
      if not work.is_dealt:
        _follow(run(_deal_share), writer.num_dealt, on_progress)
        work.note_dealt()
      remove_old_shards(job, work)
      _follow(run(_finish_share), lambda: 0, on_progress)
    except BaseException:
      for process in multiprocessing.active_children():
        process.terminate()
      raise


def _ignore_interrupts():
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends its children.


def _follow(tasks, num_dealt, on_progress):
  """Waits for tasks, and tells of progress once a second."""
  told, running = 0, tasks
  while running:
    done, running = futures.wait(running, timeout=1)
    for task in done:
      try:
        documents.note_skipped(task.result())
      except futures.process.BrokenProcessPool as error:
        raise OSError('a writing process was killed') from error
    count = num_dealt()
    on_progress(count - told)
    told = count


def _in_process(function, job, work, share, num_shares) -> dict[str, int]:
  """Runs in a process of its own; returns the lines that were skipped."""
  try:
    function(RowWriter(job, work), share, num_shares)
    return documents.skipped()
  except errors.UserError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    # Exceptions of TensorFlow cannot be sent as they are.
    raise (errors.kept(error) or OSError(str(error))) from None


def _deal_share(writer, share, num_shares):
  for _ in writer.deal_share(share, num_shares):
    pass


def _finish_share(writer, share, num_shares):
  for shard in range(share, writer.job.num_shards, num_shares):
    writer.finish(shard)


def remove_old_shards(job: shard_job.ShardJob, work: WorkFolder) -> None:
  """Removes what --overwrite replaces, before the first new shard is there."""
  if not any(work.has(f'shard-{n:05d}.json') for n in range(job.num_shards)):
    for path in (job.index, *job.paths()):
      if tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)


def remove_unfinished(job: shard_job.ShardJob) -> None:
  """Removes what has not got its name."""
  for path in job.paths():
    with contextlib.suppress(OSError, tf.errors.OpError):
      tf.io.gfile.remove(_unfinished_name(path))


def _unfinished_name(path: str) -> str:
  """Returns the name of a shard that is being written; no glob finds it."""
  folder, name = os.path.split(path)
  return os.path.join(folder, f'.writing.{name}')


def _check_still_there(path, entry, work):
  size = tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else None
  if size != entry['num_bytes']:
    raise errors.DataError(
      'Shards that an interrupted call finished must stay as they are. '
      f'Received: {path}, which has changed. Remove {work.path} to write all '
      'shards again.'
    )


def write_rows(path: str, rows: np.ndarray) -> list[int]:
  """Writes rows, integers [n, W]; returns the checksum of every chunk."""
  size = token_index.chunk_rows(rows.shape[1], rows.dtype)
  checksums = []
  with tf.io.gfile.GFile(path, 'wb') as file:
    file.write(b'')  # A shard without rows is a file, too.
    for first in range(0, len(rows), size):
      data = rows[first : first + size].tobytes()
      file.write(data)
      checksums.append(zlib.crc32(data))
  return checksums
