"""Finding exported models, and joining the pieces of a request."""

import numpy as np
import pytest

from tokendrop_tf import errors
from tokendrop_tf.serving import served_model


def found(path, names=()):
  return [
    (model.name, model.version)
    for model in served_model.find_models(str(path), names)
  ]


@pytest.fixture
def folder(tmp_path):
  """An exported folder with two versions of one model."""
  for name in (
    'embeddings/1',
    'embeddings/12',
    'embeddings/3',
    'fill_mask/1',
    'ids/1',
    'encoder',
  ):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / 'saved_model.pb').touch()
  (tmp_path / 'embeddings' / '99').mkdir()  # being written
  (tmp_path / 'vocab.txt').touch()
  return tmp_path


def test_the_newest_version_of_every_model_is_found(folder):
  assert found(folder) == [('embeddings', 12), ('fill_mask', 1)]


def test_the_copy_without_text_operations_is_served_when_named(folder):
  assert found(folder, ['ids']) == [('ids', 1)]
  assert found(folder / 'ids') == [('ids', 1)]


def test_one_models_folder_is_enough(folder, monkeypatch):
  assert found(folder / 'embeddings') == [('embeddings', 12)]
  assert found(folder / 'embeddings' / '3') == [('embeddings', 3)]
  assert found(folder / 'encoder') == [('encoder', 1)]
  monkeypatch.chdir(folder / 'embeddings')
  assert found('3') == [('embeddings', 3)]
  assert found('.') == [('embeddings', 12)]


def test_a_folder_without_models_is_refused(tmp_path):
  for path in (tmp_path, tmp_path / 'nothing'):
    with pytest.raises(errors.ConfigurationError) as caught:
      served_model.find_models(str(path))
    assert str(path) in str(caught.value)
    assert 'tools/export.py --format=saved_model' in str(caught.value)


def test_a_model_that_is_not_there_is_refused_with_those_that_are(folder):
  with pytest.raises(errors.ConfigurationError) as caught:
    served_model.find_models(str(folder), ['fill_mask', 'answer'])
  assert 'embeddings, fill_mask, ids' in str(caught.value)
  assert 'Received: answer.' in str(caught.value)


def test_a_broken_model_is_refused(folder):
  [place] = served_model.find_models(str(folder), ['fill_mask'])
  with pytest.raises(errors.ConfigurationError) as caught:
    served_model.ServedModel(place)
  assert str(folder / 'fill_mask' / '1') in str(caught.value)


def test_pieces_are_joined_at_the_width_of_the_widest():
  narrow = {'x': np.ones([2, 1], np.float32), 't': np.array([[b'a']], object)}
  wide = {'x': np.ones([1, 3], np.float32), 't': np.array([[b'b'] * 2], object)}
  joined = served_model.join_rows([narrow, wide])
  assert joined['x'].tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 1]]
  assert joined['t'].tolist() == [[b'a', b''], [b'b', b'b']]
