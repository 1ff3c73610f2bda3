"""Writes the examples of a corpus into sharded TFRecord files.

Block b of an epoch goes to shard b modulo the number of shards, and every shard
is written by one process from beginning to end, so the files are the same byte
for byte whatever the number of processes.
"""

import contextlib
import dataclasses
import glob
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator

import tensorflow as tf

from tokendrop_tf import configs, errors
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import examples, records
from tokendrop_tf.data import vocabulary as vocabulary_lib

# Batches of documents from which the number of examples is estimated.
_SAMPLE_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class ShardJob:
  """What is written where.

  Attributes:
    config: the data section; its `num_epochs` says how often the corpus is
      written, each time with other masks.
    vocabulary: the vocabulary section.
    output: files are `OUTPUT-00000-of-000NN.tfrecord`, with `.gz` if gzip.
    num_shards: number of files.
    gzip: whether they are compressed.
  """

  config: configs.PretrainingDataConfig
  vocabulary: configs.VocabularyConfig
  output: str
  num_shards: int = 1
  gzip: bool = False

  def path(self, shard: int) -> str:
    """Returns the name of a finished shard."""
    suffix = '.tfrecord.gz' if self.gzip else '.tfrecord'
    return f'{self.output}-{shard:05d}-of-{self.num_shards:05d}{suffix}'

  def paths(self) -> list[str]:
    return [self.path(shard) for shard in range(self.num_shards)]


def existing_shards(output: str) -> list[str]:
  """Returns the finished shards of this name, of any number and form."""
  pattern = '-[0-9]*-of-[0-9]*.tfrecord*'
  if '://' in output:
    found = tf.io.gfile.glob(output + pattern)
  else:
    found = glob.glob(glob.escape(output) + pattern)
  return sorted(path for path in found if '.writing-' not in path)


def write_shards(
  job: ShardJob,
  num_processes: int = 1,
  on_progress: Callable[[int], None] = lambda count: None,
) -> int:
  """Writes all shards.

  Files appear under their names when all are complete.

  Args:
    job: what to write.
    num_processes: processes to share the shards, at most one a shard.
    on_progress: called with the number of examples written since the last
      call.

  Returns:
    The number of examples.

  Raises:
    DataError: if a shard cannot be written.
  """
  num_processes = min(num_processes, job.num_shards)
  folder = os.path.dirname(job.output)
  try:
    if folder:
      tf.io.gfile.makedirs(folder)
    total = sum(_counts(job, num_processes, on_progress))
    for path in job.paths():
      tf.io.gfile.rename(_unfinished(path), path, overwrite=True)
    return total
  except (OSError, tf.errors.OpError) as error:
    raise errors.DataError(
      'Shards must be writable. Received: '
      f'{job.output}-*: {error}. Make room, or choose another output.'
    ) from error
  finally:
    _remove_unfinished(job)


def _counts(job, num_processes, on_progress) -> Iterator[int]:
  if num_processes == 1:
    counts = write_share(job, 0, 1)
  else:
    counts = _counts_of_processes(job, num_processes)
  for count in counts:
    on_progress(count)
    yield count


def write_share(job: ShardJob, index: int, num_shares: int) -> Iterator[int]:
  """Writes every `num_shares`-th shard; yields the examples of each block."""
  words = vocabulary_lib.Vocabulary.from_file(
    job.vocabulary.path, job.vocabulary.lower_case
  )
  maker = examples.ExampleMaker(
    corpus_lib.open_corpus(job.config), words, job.config
  )
  blocks = maker.blocks(0, max(job.config.num_epochs, 1))
  shards = range(index, job.num_shards, num_shares)
  serialized = blocks.filter(
    lambda epoch, block, *rows: (block % job.num_shards) % num_shares == index
  ).map(
    lambda epoch, block, *rows: (
      block % job.num_shards,
      records.serialize(maker.mask(epoch, block, *rows)),
    ),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  with contextlib.ExitStack() as stack:
    writers = {
      shard: stack.enter_context(
        tf.io.TFRecordWriter(
          _unfinished(job.path(shard)), 'GZIP' if job.gzip else ''
        )
      )
      for shard in shards
    }
    for shard, batch in serialized.prefetch(4).as_numpy_iterator():
      for record in batch:
        writers[int(shard)].write(record)
      yield len(batch)


def _unfinished(path: str) -> str:
  # The same name in every process of the job, and no glob of shards finds it.
  folder, name = os.path.split(path)
  return os.path.join(folder, f'.writing.{name}')


def _remove_unfinished(job):
  for path in job.paths():
    with contextlib.suppress(OSError, tf.errors.OpError):
      tf.io.gfile.remove(_unfinished(path))


def _counts_of_processes(job, num_processes) -> Iterator[int]:
  # TensorFlow's threads do not survive a fork.
  context = multiprocessing.get_context('spawn')
  messages = context.Queue()
  processes = [
    context.Process(
      target=_run_share, args=(job, index, num_processes, messages), daemon=True
    )
    for index in range(num_processes)
  ]
  try:
    for process in processes:
      process.start()
    yield from _gather(messages, processes)
  finally:
    for process in processes:
      process.terminate()
      process.join()


def _run_share(job, index, num_shares, messages):
  """Runs in a process of its own: sends counts, then `None` or an error."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends its children.
  try:
    for count in write_share(job, index, num_shares):
      messages.put(count)
    messages.put(None)
  except Exception as error:  # pylint: disable=broad-except
    # Exceptions of TensorFlow cannot be sent as they are.
    is_ours = isinstance(error, errors.UserError)
    messages.put(error if is_ours else OSError(str(error)))


def _gather(messages, processes) -> Iterator[int]:
  running = len(processes)
  while running:
    try:
      message = messages.get(timeout=1)
    except queue.Empty:
      if any(process.exitcode for process in processes):
        raise OSError('a writing process was killed') from None
      continue
    if isinstance(message, Exception):
      raise message
    if message is None:
      running -= 1
    else:
      yield message


def estimate_examples(job: ShardJob) -> int:
  """Estimates the number of examples from the beginning of the corpus."""
  config = job.config
  words = vocabulary_lib.Vocabulary.from_file(
    job.vocabulary.path, job.vocabulary.lower_case
  )
  corpus = corpus_lib.open_corpus(config)
  maker = examples.ExampleMaker(corpus, words, config)
  sample = corpus.documents().take(_SAMPLE_BATCHES)
  sampled_bytes = _sum(sample.map(tf.strings.length))
  rows = _sum(
    sample.flat_map(maker.rows).map(lambda tokens, lengths: tf.size(lengths))
  )
  share = rows / max(sampled_bytes, 1)
  if config.held_out_documents:
    one = 1 / config.held_out_documents
    share *= (1 - one) if config.is_training else one
  return int(share * corpus.num_bytes()) * max(config.num_epochs, 1)


def _sum(dataset: tf.data.Dataset) -> int:
  return sum(int(value.sum()) for value in dataset.as_numpy_iterator())
