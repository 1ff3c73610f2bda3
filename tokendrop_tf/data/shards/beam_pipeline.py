"""The data tools as Apache Beam pipelines: vocabulary and shards.

Beam carries only tasks: numbers and names of files. Text and rows pass from
task to task in files of a work folder that all workers reach, and a task whose
file is there is done. The work itself is that of the one-machine tools, so the
files are the same, byte for byte:

    count     documents of each file                         one task a file
    split     documents into windows                         one task a file
    deal      a window of documents into rows for shards     one task a window
    finish    the rows of a shard, sorted                    one task a shard

So a worker holds one window of documents or one shard, on any runner.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options import pipeline_options

from tokendrop_tf import errors
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.read import sampling
from tokendrop_tf.data.shards import shard_job, shard_writer
from tokendrop_tf.data.shards.work_folder import WorkFolder
from tokendrop_tf.text import tokenization, vocabulary_training
from tokendrop_tf.text import vocabulary as vocabulary_lib


def run(
  beam_options: str, function: Callable[..., None], tasks: Iterable[tuple]
) -> None:
  """Calls a function with the arguments of each task, on Beam's workers.

  Args:
    beam_options: flags of the runner in one string, e.g.
      '--runner=DataflowRunner'.
    function: does one task and leaves a file; workers receive it by value.
    tasks: arguments for each call.

  Raises:
    DataError: as the function raised it.
  """
  options = pipeline_options.PipelineOptions(shlex.split(beam_options))
  with _named_failures(), beam.Pipeline(options=options) as pipeline:
    _ = (
      pipeline
      | beam.Create(list(tasks))
      | beam.Reshuffle()
      | beam.ParDo(_Task(function))
    )


class _Task(beam.DoFn):
  """Does tasks of one kind."""

  def __init__(self, function):
    self._function = function

  def process(self, arguments):
    try:
      self._function(*arguments)
    except (tf.errors.OpError, OSError) as error:
      raise (errors.kept(error) or error) from error
    finally:
      # The C library keeps what was freed for each thread, which adds up.
      with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _named_failures() -> Iterator[None]:
  """Raises what a worker raised for the user, without Beam's account of it."""
  try:
    yield
  except Exception as error:
    # Workers in other processes send their errors as text.
    pattern = r'(?:errors\.DataError: |^)(.+?)(?: \[while |\n|$)'
    found = re.findall(pattern, str(error))
    is_ours = isinstance(error, errors.UserError) or 'DataError' in str(error)
    if not is_ours:
      raise
    raise errors.DataError(found[-1]) from error


def write_shards(
  job: shard_job.ShardJob,
  work: WorkFolder,
  beam_options: str = '',
  tell: Callable[[str], None] = lambda line: None,
) -> shard_writer.Written:
  """Writes the shards that `shard_writer.write_shards` writes, byte for byte.

  Args:
    job: what to write.
    work: a folder that all workers reach; removed at the end.
    beam_options: options of the runner, in one string.
    tell: called with a line for every step.

  Raises:
    DataError: if the text cannot be read, or something cannot be written.
  """
  work.adopt(job.fingerprint())
  if folder := os.path.dirname(job.output):
    tf.io.gfile.makedirs(folder)
  writer = shard_writer.RowWriter(job, work)
  num_files = writer.maker.corpus.num_files

  def run_all(function, tasks):
    run(beam_options, functools.partial(function, job, work), tasks)

  if not work.is_dealt:
    tell('Counting documents.')
    run_all(_count, ((file,) for file in range(num_files)))
    counts = [work.read_json(_count_name(file)) for file in range(num_files)]
    ends = np.cumsum(counts).tolist()
    tell(f'Splitting {ends[-1]:,} documents into windows.')
    starts = (end - count for end, count in zip(ends, counts, strict=True))
    run_all(_split, enumerate(starts))
    windows = list(_windows(ends, writer.window_documents))
    tell(f'Packing {len(windows)} windows.')
    epochs = range(max(job.config.num_epochs, 1))
    run_all(
      _deal,
      (
        (epoch, window, files)
        for epoch in epochs
        for window, files in enumerate(windows)
      ),
    )
    work.note_dealt()
  shard_writer.remove_old_shards(job, work)
  tell(f'Writing {job.num_shards} shards.')
  run_all(_finish, ((shard,) for shard in range(job.num_shards)))
  shard_writer.remove_unfinished(job)
  return writer.complete()


def _count_name(file) -> str:
  return f'count-{file:05d}.json'


def _documents(corpus, file: int) -> Iterator[bytes]:
  """Yields the documents of a file."""
  batches = corpus.documents(tf.constant([file], tf.int64))
  return itertools.chain.from_iterable(batches.as_numpy_iterator())


def _count(job, work, file):
  """Counts the documents of a file."""
  if not work.has(_count_name(file)):
    corpus = corpus_lib.open_corpus(job.config)
    count = sum(1 for _ in _documents(corpus, file))
    work.write_json(_count_name(file), count)


def _split(job, work, file, first):
  """Writes the documents of a file, of which the first is number `first`."""
  done = f'split-{file:05d}.json'
  if work.has(done):
    return
  writer = shard_writer.RowWriter(job, work)
  documents = enumerate(_documents(writer.maker.corpus, file), start=first)
  for window, group in itertools.groupby(
    documents, lambda item: item[0] // writer.window_documents
  ):
    _write_texts(_piece(work, window, file), (text for _, text in group))
  work.write_json(done, True)


def _windows(ends, size) -> Iterator[tuple[int, ...]]:
  """Yields the files of every window of `size` documents.

  Args:
    ends: documents of all files up to and with each, in order.
    size: documents of a window.
  """
  for first in range(0, ends[-1], size):
    last = min(first + size, ends[-1])
    files = range(
      np.searchsorted(ends, first, side='right'),
      np.searchsorted(ends, last) + 1,
    )
    # A file without documents has no piece.
    yield tuple(n for n in files if ends[n] > (ends[n - 1] if n else 0))


def _piece(work, window, file) -> str:
  """Returns the file of the documents that a file adds to a window."""
  return work.file('documents', f'{window:06d}', f'{file:05d}')


def _deal(job, work, epoch, window, files):
  """Packs and deals a window, to which some files add documents."""
  if tf.io.gfile.exists(work.dealt_file(epoch, window)):
    return
  writer = shard_writer.RowWriter(job, work)
  pieces = [_piece(work, window, file) for file in files]
  texts = list(tf.data.TFRecordDataset(pieces).as_numpy_iterator())
  number = tf.constant(window, tf.int64)
  windows = tf.data.Dataset.from_tensors((number, tf.constant(texts)))
  parts = writer.maker.rows_of_windows(windows, epoch).as_numpy_iterator()
  writer.deal(epoch, window, [rows for _, rows in parts])


def _finish(job, work, shard):
  """Writes a shard."""
  shard_writer.RowWriter(job, work).finish(shard)


def _write_texts(path: str, texts: Iterable[bytes]) -> None:
  """Writes texts as a file that appears under its name when it is whole."""
  temporary = f'{path}.writing-{os.getpid()}'
  with tf.io.TFRecordWriter(temporary) as file:
    for text in texts:
      file.write(text)
  tf.io.gfile.rename(temporary, path, overwrite=True)


def build_vocabulary(
  config,
  folder: str,
  size: int,
  share: float,
  settings: tokenization.TokenizationSettings = tokenization.UNCASED,
  min_frequency: int = 2,
  beam_options: str = '',
) -> tuple[vocabulary_lib.Vocabulary, np.ndarray]:
  """Trains the vocabulary that the one-machine tool trains, and counts.

  Args:
    config: the data section.
    folder: an empty folder, which all workers reach.
    size: V.
    share: about which share of the documents it is trained on.
    settings: the tokenisation that it is made for.
    min_frequency: least number of occurrences of a merged pair.
    beam_options: options of the runner, in one string.

  Returns:
    The vocabulary, and how often each token occurs in all documents.
  """
  work = WorkFolder(folder)
  files = range(corpus_lib.open_corpus(config).num_files)
  tasks = [(file,) for file in files]
  sample = functools.partial(_sample, config, work, share)
  run(beam_options, sample, tasks)
  samples = tf.data.TFRecordDataset([work.file('sample', n) for n in files])
  vocabulary = vocabulary_training.train_vocabulary(
    samples.batch(256), size, settings, min_frequency
  )
  run(
    beam_options,
    functools.partial(_count_tokens, config, work, vocabulary),
    tasks,
  )
  counts = [work.read_json(_count_name(file)) for file in files]
  return vocabulary, np.sum(np.array(counts, np.int64), axis=0)


def _sample(config, work, share, file):
  """Writes the sampled documents of a file."""
  corpus = corpus_lib.open_corpus(config)
  batches = sampling.file_documents(corpus, file, share)
  _write_texts(
    work.file('sample', file), itertools.chain.from_iterable(batches)
  )


def _count_tokens(config, work, vocabulary, file):
  """Counts the tokens of a file."""
  corpus = corpus_lib.open_corpus(config)
  documents = corpus.documents(tf.constant([file], tf.int64))
  counts = vocabulary_training.count_tokens(documents, vocabulary)
  work.write_json(_count_name(file), counts.tolist())
