"""Which changes a run may go on with."""

import os

import pytest
import tensorflow as tf
from official.core import exp_factory

from tokendrop_tf import errors, experiments, gin_support, run_folder


def tree(*bindings):
  gin_support.parse([], bindings, experiments.sections())
  return exp_factory.get_exp_config(experiments.PRETRAINING)


@pytest.fixture
def model_dir(tmp_path):
  run_folder.save_configuration(
    tree('trainer.steps_per_loop = 50'), '', str(tmp_path)
  )
  return str(tmp_path)


def test_a_saved_tree_is_read_back(model_dir):
  params = run_folder.load_params(experiments.PRETRAINING, model_dir)
  saved = tree('trainer.steps_per_loop = 50')
  assert run_folder._plain(params.as_dict()) == run_folder._plain(
    saved.as_dict()
  )


@pytest.mark.parametrize(
  'binding',
  [
    'trainer.steps_per_loop = 100',
    'trainer.max_to_keep = 2',
    'trainer.validation_interval = 500',
    'trainer.checkpoint_interval = 500',
    "runtime.distribution_strategy = 'mirrored'",
    'runtime.num_gpus = 1',
    'runtime.enable_xla = True',
  ],
)
def test_bookkeeping_and_devices_may_change(model_dir, binding):
  run_folder.check_unchanged(tree(binding), model_dir)


@pytest.mark.parametrize(
  ('binding', 'line'),
  [
    ('model.num_layers = 6', 'model.num_layers: 12 there, 6 now'),
    (
      'token_drop.crossing_layer = 6',
      'token_drop.crossing_layer: None there, 6 now',
    ),
    (
      "token_drop.always_keep_tokens = ['[CLS]']",
      "token_drop.always_keep_tokens: ['[UNK]', '[CLS]', '[SEP]', '[MASK]'] "
      "there, ['[CLS]'] now",
    ),
    (
      'train_data.global_batch_size = 64',
      'train_data.global_batch_size: 32 there, 64 now',
    ),
    (
      "validation_data.input_path = 'other'",
      "validation_data.input_path: '' there, 'other' now",
    ),
    (
      'optimizer.learning_rate = 1e-3',
      'optimizer.learning_rate: 0.0001 there, 0.001 now',
    ),
    (
      'optimizer.warmup_steps = 5',
      'optimizer.warmup_steps: 10000 there, 5 now',
    ),
    (
      "optimizer.decay = 'constant'",
      "optimizer.decay: 'polynomial' there, 'constant' now",
    ),
    ('pretraining.seed = 1', 'pretraining.seed: 0 there, 1 now'),
    (
      "runtime.mixed_precision_dtype = 'bfloat16'",
      "runtime.mixed_precision_dtype: 'float32' there, 'bfloat16' now",
    ),
  ],
)
def test_what_changes_a_step_may_not(model_dir, binding, line):
  with pytest.raises(errors.ConfigurationError) as caught:
    run_folder.check_unchanged(
      tree('trainer.steps_per_loop = 50', binding), model_dir
    )
  assert f'\n  {line}\n' in str(caught.value)


def test_evaluation_may_read_other_data(model_dir):
  run_folder.check_same_model(
    tree("validation_data.input_path = 'other'", 'trainer.train_steps = 5'),
    model_dir,
  )


def test_an_empty_folder_takes_anything(tmp_path):
  run_folder.check_unchanged(tree(), str(tmp_path))


def test_the_gin_text_of_a_run_must_be_there_to_be_changed(model_dir):
  with pytest.raises(errors.ConfigurationError, match='Pass --gin_file.'):
    run_folder.gin_file(model_dir)


def test_workers_may_try_a_shared_folder_at_once(tmp_path, monkeypatch):
  """In containers all are process 1."""
  monkeypatch.setattr(os, 'getpid', lambda: 1)
  remove, probes = tf.io.gfile.remove, []

  def remove_after_another_worker_came(path):
    probes.append(path)
    if len(probes) == 1:
      run_folder.check_writable(str(tmp_path))
    remove(path)

  monkeypatch.setattr(tf.io.gfile, 'remove', remove_after_another_worker_came)
  run_folder.check_writable(str(tmp_path))
  assert len(probes) == 2
  assert not list(tmp_path.iterdir())
