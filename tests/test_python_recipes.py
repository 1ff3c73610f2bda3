"""The programs of docs/python.md run as they stand there."""

import gzip
import pathlib
import re
import shutil
import textwrap

import numpy as np
import pytest

from tokendrop_tf.dropping import registry
from tokendrop_tf.weights import load_weights

DOCUMENT = pathlib.Path(__file__).resolve().parents[1] / 'docs/python.md'


def programs() -> list[str]:
  """Returns the indented blocks of the document."""
  blocks = re.findall(r'(?:^(?: {4}.*)?\n)+', DOCUMENT.read_text(), re.M)
  return [textwrap.dedent(block) for block in blocks if block.strip()]


@pytest.fixture(name='folder')
def fixture_folder(tiny_corpus, tmp_path, monkeypatch):
  """A folder with the files that the programs name."""
  for name in ('text', 'runs'):
    (tmp_path / name).mkdir()
  shutil.copy(tiny_corpus.vocabulary, tmp_path / 'runs/vocab.txt')
  for source, target in (
    (tiny_corpus.train, 'train-0.txt.gz'),
    (tiny_corpus.valid, 'valid.txt.gz'),
  ):
    text = pathlib.Path(source).read_bytes()
    (tmp_path / 'text' / target).write_bytes(gzip.compress(text))
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_the_programs_run_one_after_another(folder, monkeypatch):
  # Taken away again afterwards.
  monkeypatch.setitem(registry.IMPORTANCES, 'mistakes', None)
  recipe, own_model, own_importance = programs()
  names = {}
  exec(recipe, names)
  table = names['bert'].encoder_network.token_importance.table.numpy()
  assert (table < 10.0).sum() > 10
  history = names['model'].history.history
  assert history['loss'][1] < history['loss'][0] - 0.05
  loaded = names['task'].build_model()
  load_weights.load_pretrainer(loaded, str(folder / 'runs/python/bert'))
  np.testing.assert_array_equal(
    loaded.encoder_network.token_importance.table, table
  )
  exec(own_model, names)
  assert (names['encoder'].token_importance.table.numpy() < 10.0).sum() > 10
  exec(own_importance, names)
  table = names['model'].model.encoder_network.token_importance.table.numpy()
  # Shares of wrong answers start at 1; losses would have moved the table up.
  assert 0.9 < table.min() < 1.0
  assert table.max() == 1.0
