"""A run is used from another folder, or after it has been moved."""

import os
import shutil

import gin_trees
import numpy as np
import pytest

from tokendrop_tf import errors
from tokendrop_tf.run import run_folder, run_paths
from tokendrop_tf.text import tokenization
from tokendrop_tf.text import vocabulary as vocabulary_lib

TOKENS = (*vocabulary_lib.SPECIAL_TOKENS, 'Wort', 'Öl')
BINDINGS = (
  "vocabulary.path = 'words.txt'",
  "train_data.input_path = 'data/*.txt, data/more.txt'",
  "validation_data.input_path = 'gs://bucket/valid.txt'",
)


@pytest.fixture
def project(tmp_path, monkeypatch):
  """A folder with a vocabulary, text, and a run that was begun in it."""
  folder = tmp_path / 'project'
  (folder / 'data').mkdir(parents=True)
  (folder / 'data' / 'more.txt').write_text('Wort\n')
  monkeypatch.chdir(folder)
  vocabulary = vocabulary_lib.Vocabulary(TOKENS, tokenization.CASED)
  vocabulary_lib.write_vocabulary('words.txt', vocabulary, np.arange(7))
  params = gin_trees.build(*BINDINGS)
  os.mkdir('run')
  run_paths.keep_vocabulary(params, 'run')
  run_folder.save_configuration(params, '', 'run')
  return folder


def test_a_run_keeps_its_vocabulary_tokenisation_and_counts(project):
  shutil.move('run', '../moved')
  shutil.rmtree(project / 'data')
  os.remove('words.txt')
  params = run_folder.load_params('../moved')
  assert params.task.vocabulary.path == '../moved/vocab.txt'
  vocabulary = vocabulary_lib.Vocabulary.from_file(params.task.vocabulary.path)
  assert vocabulary.tokens == TOKENS
  assert vocabulary.settings == tokenization.CASED
  counts = vocabulary_lib.read_token_counts(
    vocabulary_lib.counts_path_for(vocabulary.path), vocabulary
  )
  assert counts.tolist() == list(range(7))


def test_relative_data_are_found_from_another_folder(project, monkeypatch):
  monkeypatch.chdir(project.parent)
  task = run_folder.load_params('project/run').task
  assert task.train_data.input_path == (
    f'{project}/data/*.txt,{project}/data/more.txt'
  )
  assert task.validation_data.input_path == 'gs://bucket/valid.txt'


def test_data_that_were_moved_with_the_run_are_found(project, monkeypatch):
  moved = project.rename(project.parent / 'moved')
  monkeypatch.chdir(moved)
  task = run_folder.load_params('run').task
  assert task.train_data.input_path == 'data/*.txt,data/more.txt'


@pytest.mark.parametrize('folder', ['.', '..'])
def test_a_run_resumes_from_any_folder(project, monkeypatch, folder):
  monkeypatch.chdir(project / folder)
  run = os.path.relpath(project / 'run')
  run_folder.check_unchanged(run_folder.load_params(run), run)
  monkeypatch.chdir(project)
  run_folder.check_unchanged(gin_trees.build(*BINDINGS), 'run')


def test_a_copy_of_the_vocabulary_is_the_same(project):
  shutil.copy('words.txt', 'copy.txt')
  bindings = ("vocabulary.path = 'copy.txt'", *BINDINGS[1:])
  run_folder.check_unchanged(gin_trees.build(*bindings), 'run')


def test_a_vocabulary_that_has_changed_in_its_place_is_refused(project):
  vocabulary = vocabulary_lib.Vocabulary((*TOKENS, 'neu'), tokenization.CASED)
  vocabulary_lib.write_vocabulary('words.txt', vocabulary)
  with pytest.raises(errors.ConfigurationError) as caught:
    run_folder.check_unchanged(gin_trees.build(*BINDINGS), 'run')
  assert "vocabulary.path: 'run/vocab.txt' there, 'words.txt' now" in str(
    caught.value
  )


def test_a_run_of_an_earlier_version_has_its_vocabulary_where_it_was(project):
  os.remove('run/vocab.txt')
  assert run_folder.load_params('run').task.vocabulary.path == 'words.txt'
