"""Writes the examples of a corpus into sharded TFRecord files.

First every example is dealt to the shard and the place that its random number
says, into one bucket a shard; then every bucket is sorted and becomes a shard.
So the order is uniform over the corpus, no more than one shard is in memory,
and the files are the same byte for byte whatever the number of processes.

Validation data keep their order: block b of 128 rows goes to shard b modulo the
number of shards.
"""

import contextlib
import dataclasses
import functools
import glob
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator

import tensorflow as tf

from tokendrop_tf import configs, errors
from tokendrop_tf.data import (
  buckets,
  documents,
  example_bytes,
  examples,
  sampling,
  shard_index,
  shard_writer,
  shuffling,
)
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib

# Masked blocks that wait to be written.
_BLOCKS_AHEAD = 4


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
    estimate: about how many examples there are; 0 if that is not known.
  """

  config: configs.PretrainingDataConfig
  vocabulary: configs.VocabularyConfig
  output: str
  num_shards: int = 1
  gzip: bool = False
  estimate: int = 0

  def path(self, shard: int) -> str:
    """Returns the name of a finished shard."""
    suffix = '.tfrecord.gz' if self.gzip else '.tfrecord'
    return f'{self.output}-{shard:05d}-of-{self.num_shards:05d}{suffix}'

  def paths(self) -> list[str]:
    return [self.path(shard) for shard in range(self.num_shards)]

  def with_num_shards(self, num_shards: int) -> 'ShardJob':
    return dataclasses.replace(self, num_shards=num_shards)

  @property
  def index(self) -> str:
    """The index file."""
    return shard_index.index_path(self.output)

  def settings(self) -> dict:
    """Returns what decides on the examples, for the index."""
    names = (
      'seq_length',
      'max_predictions_per_seq',
      'packing',
      'masking',
      'mask_rate',
      'mask_token_share',
      'random_token_share',
      'span_stop_probability',
      'max_span_words',
      'seed',
      'num_epochs',
      'shuffle_buffer_size',
      'held_out_documents',
      'is_training',
      'text_field',
      'skip_bad_text',
      'tfds_name',
      'tfds_split',
      'tfds_text_feature',
    )
    return {name: getattr(self.config, name) for name in names} | {
      'lower_case': self.vocabulary.lower_case,
      'vocabulary_crc32': shard_index.file_crc32(self.vocabulary.path),
      'gzip': self.gzip,
    }


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
) -> shard_index.ShardIndex:
  """Writes all shards, or those that an interrupted call left to write.

  Each appears under its name when it is whole; the index comes last.

  Args:
    job: what to write.
    num_processes: processes to share the work, at most one a shard.
    on_progress: called with the number of examples made since the last call.

  Returns:
    The index.

  Raises:
    DataError: if a shard cannot be written.
  """
  num_processes = min(num_processes, job.num_shards)
  folder = os.path.dirname(job.output)
  try:
    if folder:
      tf.io.gfile.makedirs(folder)
    work = work_folder(job)
    work.adopt(fingerprint(job, num_processes))
    counts = (
      _write_alone(job)
      if num_processes == 1
      else _counts_of_processes(job, num_processes)
    )
    for count in counts:
      on_progress(count)
    index = shard_index.ShardIndex(job.index, job.settings(), work.entries())
    index.save()
    work.remove()
    return index
  except (OSError, tf.errors.OpError) as error:
    raise errors.kept() or errors.DataError(
      'Shards must be writable. Received: '
      f'{job.output}-*: {_reason(error)}. Make room, or the folder writable, '
      'and start the same command again: it goes on with the first shard that '
      f'is not finished. Removing {work_path(job)} gives up what was begun.'
    ) from error
  finally:
    _remove_unfinished(job)


def _reason(error) -> str:
  return str(error).split('\n')[0].strip().rstrip('.')


def work_path(job: ShardJob) -> str:
  """Returns the local folder of what is not finished."""
  return buckets.work_path(job.output)


def work_folder(job: ShardJob) -> buckets.WorkFolder:
  """Returns what an interrupted call has left, or will leave."""
  return buckets.WorkFolder(work_path(job), job.num_shards)


def fingerprint(job: ShardJob, num_processes: int) -> dict:
  """Returns what must be the same for an interrupted call to go on."""
  paths = () if job.config.tfds_name else _source_paths(job.config)
  stats = {path: tf.io.gfile.stat(path) for path in paths}
  return {
    'output': job.output,
    'num_shards': job.num_shards,
    'num_processes': min(num_processes, job.num_shards),
    'settings': job.settings(),
    'sources': {
      path: [stat.length, stat.mtime_nsec] for path, stat in stats.items()
    },
  }


def _source_paths(config):
  return corpus_lib.open_corpus(config).paths


def _remove_old_shards(job):
  """Removes what --overwrite replaces, before the first new shard is there."""
  if not work_folder(job).entries():
    for path in (job.index, *job.paths()):
      if tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)


def _write_alone(job) -> Iterator[int]:
  yield from scatter_share(job, 0, 1)
  _remove_old_shards(job)
  finish_share(job, 0, 1)


def scatter_share(job: ShardJob, index: int, num_shares: int) -> Iterator[int]:
  """Deals every `num_shares`-th block to buckets; yields examples made."""
  scatter = buckets.Scatter(work_folder(job), index)
  if scatter.is_finished:
    yield scatter.examples
    return
  maker = example_maker(job)
  epoch, block = scatter.next_block
  if scatter.examples:
    yield scatter.examples
  else:
    maker.read_ahead()  # While the graph is built.
  with scatter:
    masked = _masked_blocks(job, maker, epoch, block, index, num_shares)
    for epoch, block, keys, tokens, features in masked.as_numpy_iterator():
      shards = shards_of(job, keys, block)
      scatter.add(shards, keys, tokens, example_bytes.serialize(features))
      yield len(keys)
      scatter.note(int(epoch), int(block) + 1)
    scatter.finish()


def example_maker(job: ShardJob) -> examples.ExampleMaker:
  """Returns what makes the examples of a job."""
  words = vocabulary_lib.Vocabulary.from_file(
    job.vocabulary.path, job.vocabulary.lower_case
  )
  return examples.ExampleMaker(
    corpus_lib.open_corpus(job.config), words, job.config
  )


# All of it is TensorFlow's already; to look for Python's `if` and `while` takes
# longer than to build the graph.
@tf.autograph.experimental.do_not_convert
def _masked_blocks(
  job, maker, epoch, block, index, num_shares
) -> tf.data.Dataset:
  """Returns what `masked_block` makes of each block of a share, from one on."""
  num_epochs = max(job.config.num_epochs, 1)
  start = ()
  if block:
    counts = maker.count()
    row = block * examples.BLOCK_ROWS
    if row < counts.num_rows:
      start = (maker.start(row, counts),)
    else:
      epoch += 1
  blocks = maker.blocks(epoch, num_epochs - epoch, *start)
  if num_shares > 1:
    blocks = blocks.filter(
      lambda epoch, block, *rows: block % num_shares == index
    )
  masked = blocks.map(
    lambda epoch, block, *rows: masked_block(job, maker, epoch, block, rows),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  options = tf.data.Options()
  # They take longer than what they save of an hour.
  options.experimental_optimization.apply_default_optimizations = False
  return masked.prefetch(_BLOCKS_AHEAD).with_options(options)


def masked_block(
  job: ShardJob, maker: examples.ExampleMaker, epoch, block, rows
):
  """Masks one block, in a graph.

  Args:
    job: what is written.
    maker: makes its examples.
    epoch: number of the epoch.
    block: number of the block.
    rows: tokens and layout, as in `ExampleMaker.blocks`.

  Returns:
    (epoch, block, keys int64 [R], tokens int32 [R], features), the latter as
    `example_bytes.serialize` takes them.
  """
  features = maker.mask(epoch, block, *rows)
  num_rows = tf.shape(features['input_mask'])[0]
  if job.config.is_training:
    keys = shuffling.row_keys(job.config.seed, epoch, block, num_rows)
  else:
    keys = block * examples.BLOCK_ROWS + tf.range(num_rows, dtype=tf.int64)
  tokens = tf.reduce_sum(features['input_mask'], axis=1)
  return epoch, block, keys, tokens, features


def shards_of(job: ShardJob, keys, block) -> list[int]:
  """Returns the shard of each example of a block.

  Args:
    job: what is written.
    keys: the examples' random numbers, int64 [R].
    block: number of the block.
  """
  if not job.config.is_training:
    return [int(block) % job.num_shards] * len(keys)
  return (keys % job.num_shards).tolist()


def finish_share(job: ShardJob, index: int, num_shares: int) -> None:
  """Writes every `num_shares`-th shard from its bucket."""
  work = work_folder(job)
  for shard in range(index, job.num_shards, num_shares):
    path = job.path(shard)
    if entry := work.entry(shard):
      _check_still_there(path, entry, work)
      continue
    serialized, tokens = work.sorted_examples(shard)
    entry = shard_writer.write_shard(path, serialized, tokens, job.gzip)
    work.finish_shard(shard, entry)


def _check_still_there(path, entry, work):
  size = tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else None
  if size != entry.num_bytes:
    raise errors.DataError(
      'Shards that an interrupted call finished must stay as they are. '
      f'Received: {path}, which has changed. Remove {work.path} to write all '
      'shards anew.'
    )


def _remove_unfinished(job):
  for path in job.paths():
    with contextlib.suppress(OSError, tf.errors.OpError):
      tf.io.gfile.remove(shard_writer.unfinished_name(path))


def _counts_of_processes(job, num_processes) -> Iterator[int]:
  # TensorFlow's threads do not survive a fork.
  context = multiprocessing.get_context('spawn')
  messages = context.Queue()
  # All examples are dealt before the first shard is written.
  dealt = context.Barrier(
    num_processes, functools.partial(_remove_old_shards, job)
  )
  processes = [
    context.Process(
      target=_run_share,
      args=(job, index, num_processes, dealt, messages),
      daemon=True,
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


def _run_share(job, index, num_shares, dealt, messages):
  """Runs in a process of its own: sends counts, then `None` or an error."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends its children.
  try:
    for count in scatter_share(job, index, num_shares):
      messages.put(count)
    dealt.wait()
    finish_share(job, index, num_shares)
    messages.put(documents.skipped())
    messages.put(None)
  except Exception as error:  # pylint: disable=broad-except
    # Exceptions of TensorFlow cannot be sent as they are.
    is_ours = isinstance(error, errors.UserError)
    messages.put(errors.kept() or (error if is_ours else OSError(str(error))))


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
    elif isinstance(message, dict):
      documents.note_skipped(message)
    else:
      yield message


def estimate_examples(job: ShardJob, head: sampling.Head) -> int:
  """Estimates the number of examples from the beginning of the corpus.

  Args:
    job: what is written.
    head: the first documents, e.g. of `checks.check_heads`.
  """
  config = job.config
  rows = max(sampling.rows_of(head.lengths, config), 1)
  share = rows / max(head.num_bytes, 1)
  if config.held_out_documents:
    one = 1 / config.held_out_documents
    share *= (1 - one) if config.is_training else one
  num_bytes = corpus_lib.open_corpus(config).num_bytes()
  return int(share * num_bytes) * max(config.num_epochs, 1)
