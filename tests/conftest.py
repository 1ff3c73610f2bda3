"""One TensorFlow for all tests, with four logical CPU devices; a tiny text."""

import dataclasses
import pathlib
import random

from tokendrop_tf import command_line  # noqa: F401  (quiet start)

# isort: split
import pytest
import tensorflow as tf
import tf_keras

# Before the first operation: devices cannot change after it.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices('CPU')[0],
  [tf.config.LogicalDeviceConfiguration() for _ in range(4)],
)

SPECIAL_TOKENS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


# Tests of these folders share what takes long to make.
_ONE_PROCESS = ('export', 'serving'), ('finetuning',), ('faults',)


def pytest_collection_modifyitems(config, items):
  """Keeps tests that share fixtures in one process of `make test`."""
  if not config.pluginmanager.hasplugin('xdist'):
    return
  for item in items:
    item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item) -> str:
  if 'exports' in getattr(item, 'fixturenames', ()):
    return 'export'
  folder = item.path.parent.name
  for folders in _ONE_PROCESS:
    if folder in folders:
      return folders[0]
  return str(item.path)


@dataclasses.dataclass(frozen=True)
class TinyCorpus:
  """Files of a made-up language of 59 words; word n occurs 1 / n as often.

  Attributes:
    train: text of 200 documents.
    valid: text of 20 others.
    vocabulary: the special tokens and the words.
    counts: token counts of `train`.
  """

  train: str
  valid: str
  vocabulary: str
  counts: str


@pytest.fixture(scope='session')
def four_replicas() -> tf.distribute.Strategy:
  """MirroredStrategy on four logical CPU devices.

  One for all tests: each strategy numbers its collective operations from the
  same start, so two in one process get in each other's way.
  """
  return tf.distribute.MirroredStrategy([f'CPU:{i}' for i in range(4)])


@pytest.fixture(scope='session')
def tiny_corpus(tmp_path_factory) -> TinyCorpus:
  folder = tmp_path_factory.mktemp('tiny_corpus')
  words = [f'w{number:02d}' for number in range(59)]
  draw = random.Random(1)
  documents = [_document(draw, words) for _ in range(220)]
  vocabulary = folder / 'vocab.txt'
  vocabulary.write_text('\n'.join([*SPECIAL_TOKENS, *words]) + '\n')
  train = _write(folder / 'train.txt', documents[:200])
  counts = folder / 'vocab.counts.tsv'
  text = train.read_text()
  counts.write_text(''.join(f'{word}\t{text.count(word)}\n' for word in words))
  return TinyCorpus(
    str(train),
    str(_write(folder / 'valid.txt', documents[200:])),
    str(vocabulary),
    str(counts),
  )


@pytest.fixture(scope='session')
def exports(tmp_path_factory):
  """Exported serving models of tiny models of every kind."""
  # Imports what most tests do not need, and devices must be configured first.
  import tiny_exports

  return tiny_exports.Exports(tmp_path_factory.mktemp('exports'))


def _document(draw, words):
  weights = [1 / (rank + 1) for rank in range(len(words))]
  lines = [draw.choices(words, weights, k=60) for _ in range(3)]
  return '\n'.join(' '.join(line) for line in lines)


def _write(path: pathlib.Path, documents) -> pathlib.Path:
  path.write_text('\n\n'.join(documents) + '\n')
  return path


@pytest.fixture(autouse=True)
def float32_policy():
  """A test that trains in another precision leaves no trace."""
  yield
  tf_keras.mixed_precision.set_global_policy('float32')
