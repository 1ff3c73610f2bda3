"""The data tools as Apache Beam pipelines: counts, vocabulary, examples.

Beam carries only the tasks of `beam_tasks`, numbers and names of files; text
and examples pass through files of the work folder. So a worker holds one window
of documents or one shard, on any runner, and what is done stays done.
"""

import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options import pipeline_options

from tokendrop_tf import errors
from tokendrop_tf.data import beam_tasks, sampling, shard_index, shards
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib


def options(text: str) -> pipeline_options.PipelineOptions:
  """Returns what flags in one string say, e.g. '--runner=DataflowRunner'."""
  return pipeline_options.PipelineOptions(shlex.split(text))


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


class _Do(beam.DoFn):
  """Does one kind of task with a worker's own `Tasks`."""

  def __init__(self, job, folder, name):
    self._job = job
    self._folder = folder
    self._name = name
    self._tasks = None

  def setup(self):
    self._tasks = beam_tasks.Tasks(self._job, self._folder)

  def process(self, arguments):
    yield beam_tasks.call(self._tasks, self._name, arguments)


class _Write(beam.DoFn):
  """Writes results as JSON, so that whoever started the pipeline reads them."""

  def __init__(self, path):
    self._path = path

  def process(self, results):
    beam_tasks.write(self._path, json.dumps(sorted(results[1])).encode())


class Runs:
  """Runs tasks by Beam, and returns what they return.

  Args:
    job: what is written.
    folder: the work folder.
    beam_options: options of the runner, in one string.
  """

  def __init__(self, job: shards.ShardJob, folder: str, beam_options: str):
    self._job = job
    self._folder = folder
    self._options = beam_options

  def run(self, name: str, tasks: Iterable[tuple]) -> list:
    """Does all tasks of a kind; returns their results, sorted."""
    results = os.path.join(self._folder, f'results-{name}')
    with (
      _named_failures(),
      beam.Pipeline(options=options(self._options)) as pipeline,
    ):
      _ = (
        pipeline
        | f'tasks to {name}' >> beam.Create(list(tasks))
        | beam.Reshuffle()
        | name >> beam.ParDo(_Do(self._job, self._folder, name))
        | beam.Map(lambda result: (0, result))
        | beam.GroupByKey()
        | beam.ParDo(_Write(results))
      )
    return json.loads(beam_tasks.read(results))


def write_shards(
  job: shards.ShardJob,
  folder: str,
  beam_options: str = '',
  tell=lambda text: None,
) -> shard_index.ShardIndex:
  """Writes the shards that `shards.write_shards` writes, byte for byte.

  Args:
    job: what to write.
    folder: the work folder, which all workers reach; removed at the end.
    beam_options: options of the runner, in one string.
    tell: called with a line for every step.

  Returns:
    The index.

  Raises:
    DataError: if the text cannot be read, or something cannot be written.
  """
  adopt(folder, shards.fingerprint(job, 1))
  output = os.path.dirname(job.output)
  if output:
    tf.io.gfile.makedirs(output)
  tasks = beam_tasks.Tasks(job, folder)
  runs = Runs(job, folder, beam_options)
  tell('Counting documents.')
  documents = dict(runs.run('count', _each(range(tasks.num_files))))
  tell(f'Splitting {sum(documents.values()):,} documents into windows.')
  runs.run('split', _split_tasks(tasks.plan, documents))
  num_windows = _num_windows(tasks.plan, documents)
  num_epochs = max(job.config.num_epochs, 1)
  tell(f'Packing {num_windows} windows.')
  packed = runs.run(
    'pack',
    [
      (epoch, window)
      for epoch in range(num_epochs)
      for window in range(num_windows)
    ],
  )
  dealing = list(_deal_tasks(tasks.blocks_rows, packed))
  tell(f'Masking {sum(rows for _, rows in packed):,} rows.')
  runs.run('deal', dealing)
  dealt = [(epoch, number) for epoch, number, _ in dealing]
  tell(f'Writing {job.num_shards} shards.')
  entries = runs.run(
    'finish', [(shard, dealt) for shard in range(job.num_shards)]
  )
  index = shard_index.ShardIndex(
    job.index,
    job.settings(),
    tuple(shard_index.shard_entry(entry) for _, entry in entries),
  )
  index.save()
  tf.io.gfile.rmtree(folder)
  return index


def _each(numbers):
  return [(number,) for number in numbers]


def _split_tasks(plan, documents):
  for lane, files in enumerate(plan.lanes):
    position = 0
    for file in files:
      if file >= 0:
        yield file, position, lane
        position += documents[file]


def _num_windows(plan, documents) -> int:
  lengths = [
    sum(documents[file] for file in files if file >= 0) for files in plan.lanes
  ]
  return -(-max(lengths) // plan.lane_documents)


def _deal_tasks(size: int, packed):
  """Yields (epoch, number, [(window, first row, rows)]) of `size` rows each."""
  rows = {}
  for (epoch, window), count in packed:
    rows.setdefault(epoch, []).append((window, count))
  for epoch, windows in rows.items():
    pieces, room, number = [], size, 0
    for window, count in windows:
      first = 0
      while first < count:
        taken = min(room, count - first)
        pieces.append((window, first, taken))
        first += taken
        room -= taken
        if not room:
          yield epoch, number, pieces
          pieces, room, number = [], size, number + 1
    if pieces:
      yield epoch, number, pieces


def goes_on(job: shards.ShardJob, folder: str) -> bool:
  """Whether an interrupted pipeline for this very job left its folder."""
  return _belongs_to(folder, shards.fingerprint(job, 1))


def _belongs_to(folder, job) -> bool:
  path = os.path.join(folder, 'job')
  return tf.io.gfile.exists(path) and json.loads(
    beam_tasks.read(path)
  ) == json.loads(json.dumps(job))


def adopt(folder: str, job: dict) -> None:
  """Keeps a work folder if it belongs to the job, else makes an empty one."""
  if _belongs_to(folder, job):
    return
  if tf.io.gfile.exists(folder):
    tf.io.gfile.rmtree(folder)
  tf.io.gfile.makedirs(folder)
  beam_tasks.write(os.path.join(folder, 'job'), json.dumps(job).encode())


class _Sample(beam.DoFn):
  """Writes the sampled documents of a file."""

  def __init__(self, config, folder, share):
    self._config = config
    self._folder = folder
    self._share = share

  def process(self, file):
    corpus = corpus_lib.open_corpus(self._config)
    try:
      texts = [
        text.decode('utf-8', errors='replace')
        for batch in sampling.file_documents(corpus, file, self._share)
        for text in batch
      ]
    except (tf.errors.OpError, OSError) as error:
      raise (errors.kept() or error) from error
    path = os.path.join(self._folder, f'sample-{file}')
    beam_tasks.write(path, json.dumps(texts).encode())


class _CountTokens(beam.DoFn):
  """Yields the token counts of a file, int64 [V]."""

  def __init__(self, config, tokens, lower_case):
    self._config = config
    self._tokens = tokens
    self._lower_case = lower_case

  def process(self, file):
    corpus = corpus_lib.open_corpus(self._config)
    documents = corpus.documents(tf.constant([file], tf.int64))
    words = vocabulary_lib.Vocabulary(self._tokens, self._lower_case)
    yield vocabulary_lib.count_tokens(documents, words)


def build_vocabulary(
  config,
  folder: str,
  size: int,
  share: float,
  lower_case: bool = True,
  min_frequency: int = 2,
  beam_options: str = '',
) -> tuple[vocabulary_lib.Vocabulary, np.ndarray]:
  """Trains the vocabulary that the one-machine tool trains, and counts.

  Args:
    config: the data section.
    folder: an empty folder, which all workers reach.
    size: V.
    share: about which share of the documents it is trained on.
    lower_case: whether text is lower-cased and stripped of accents.
    min_frequency: least number of occurrences of a merged pair.
    beam_options: options of the runner, in one string.

  Returns:
    The vocabulary, and how often each token occurs in all documents.
  """
  num_files = corpus_lib.open_corpus(config).num_files
  with (
    _named_failures(),
    beam.Pipeline(options=options(beam_options)) as pipeline,
  ):
    _ = (
      pipeline
      | beam.Create(range(num_files))
      | beam.Reshuffle()
      | beam.ParDo(_Sample(config, folder, share))
    )

  def sample():
    for file in range(num_files):
      texts = json.loads(
        beam_tasks.read(os.path.join(folder, f'sample-{file}'))
      )
      for first in range(0, len(texts), 256):
        batch = [text.encode() for text in texts[first : first + 256]]
        yield np.array(batch, dtype=object)

  documents = tf.data.Dataset.from_generator(
    sample, output_signature=tf.TensorSpec([None], tf.string)
  )
  vocabulary = vocabulary_lib.train_vocabulary(
    documents, size, lower_case, min_frequency
  )
  counts = os.path.join(folder, 'counts')
  with beam.Pipeline(options=options(beam_options)) as pipeline:
    _ = (
      pipeline
      | beam.Create(range(num_files))
      | beam.Reshuffle()
      | beam.ParDo(_CountTokens(config, vocabulary.tokens, lower_case))
      | beam.CombineGlobally(sum)
      | beam.Map(
        lambda total: beam_tasks.write(
          counts, json.dumps(np.asarray(total).tolist()).encode()
        )
      )
    )
  return vocabulary, np.array(json.loads(beam_tasks.read(counts)), np.int64)
