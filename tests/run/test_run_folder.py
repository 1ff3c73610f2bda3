"""Settings that may change when a run resumes."""

import os
import pathlib

import gin
import gin_trees
import pytest
import tensorflow as tf
import yaml

import tokendrop_tf
from tokendrop_tf import errors
from tokendrop_tf.config import experiments
from tokendrop_tf.run import run_folder


def tree(*bindings):
  return gin_trees.build(*bindings)


@pytest.fixture
def model_dir(tmp_path):
  run_folder.save_configuration(
    tree('trainer.steps_per_loop = 50'), '', str(tmp_path)
  )
  return str(tmp_path)


def test_a_saved_tree_is_read_back(model_dir):
  params = run_folder.load_params(model_dir)
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
      "pretraining.init_checkpoint = 'other'",
      "pretraining.init_checkpoint: '' there, 'other' now",
    ),
    ("vocabulary.path = 'other'", "vocabulary.path: '' there, 'other' now"),
    (
      'vocabulary.lower_case = False',
      'vocabulary.lower_case: None there, False now',
    ),
    ('train_data.seed = 1', 'train_data.seed: 0 there, 1 now'),
    ('trainer.validation_steps = 3', 'trainer.validation_steps: -1 there, 3'),
    (
      'trainer.train_steps = 7',
      'trainer.train_steps: 1000000 there, 7 now',
    ),
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
  assert f'\n  {line}' in str(caught.value)


@pytest.mark.parametrize(
  ('binding', 'line'),
  [
    (
      "glue.train_data = 'b.tsv'",
      "glue.train_data: 'a.tsv' there, 'b.tsv' now",
    ),
    ('glue.batch_size = 8', 'glue.batch_size: 32 there, 8 now'),
    ('glue.eval_batch_size = 8', 'glue.eval_batch_size: 64 there, 8 now'),
    ('glue.seq_length = 8', 'glue.seq_length: 128 there, 8 now'),
    ("glue.metric = 'f1'", "glue.metric: 'matthews_corrcoef' there, 'f1' now"),
    ('finetuning.seed = 1', 'finetuning.seed: 0 there, 1 now'),
    ('finetuning.num_epochs = 2', 'finetuning.num_epochs: 3.0 there, 2.0 now'),
    ("glue.test_data = 'test.tsv'", ''),
  ],
)
def test_settings_of_finetuning_are_named_as_in_gin(tmp_path, binding, line):
  common = ("glue.task = 'cola'", "glue.train_data = 'a.tsv'")
  run_folder.save_configuration(tree(*common), '', str(tmp_path))
  if not line:
    run_folder.check_unchanged(tree(*common, binding), str(tmp_path))
    return
  with pytest.raises(errors.ConfigurationError) as caught:
    run_folder.check_unchanged(tree(*common, binding), str(tmp_path))
  assert f'\n  {line}' in str(caught.value)


def test_the_version_that_wrote_a_file_is_in_it(model_dir):
  path = pathlib.Path(model_dir) / 'params.yaml'
  text = path.read_text()
  first, _, rest = text.partition('\n')
  assert first == f'# Written by tokendrop_tf {tokendrop_tf.__version__}'
  path.write_text(f'{text}shine: 1\n'.replace(first, f'{first}.1'))
  with pytest.raises(errors.ConfigurationError) as caught:
    run_folder.load_params(model_dir)
  assert (
    f'Received: shine in {model_dir}, written by tokendrop_tf '
    f'{tokendrop_tf.__version__}.1, read by'
  ) in str(caught.value)


def test_a_tree_of_another_experiment_is_named(model_dir):
  with pytest.raises(errors.ConfigurationError, match='which is of token_drop'):
    run_folder.load_params(model_dir, experiments.GLUE)


def test_no_gin_is_read_for_a_run_folder(model_dir):
  gin.bind_parameter('model.num_layers', 7)
  try:
    assert run_folder.load_params(model_dir).task.model.num_layers == 12
  finally:
    gin.clear_config()


def edit(model_dir, change):
  """Lets `change` edit the tree in `params.yaml`."""
  path = pathlib.Path(model_dir) / 'params.yaml'
  content = yaml.safe_load(path.read_text())
  change(content)
  path.write_text(yaml.safe_dump(content))


def test_a_setting_that_an_old_file_lacks_has_its_default(model_dir):
  edit(model_dir, lambda tree: tree['task']['model'].pop('norm_first'))
  run_folder.check_unchanged(tree('trainer.steps_per_loop = 50'), model_dir)
  with pytest.raises(errors.ConfigurationError) as caught:
    run_folder.check_unchanged(tree('model.norm_first = True'), model_dir)
  assert 'model.norm_first: False there, True now' in str(caught.value)


def test_a_setting_that_is_unknown_names_the_versions(model_dir):
  edit(model_dir, lambda tree: tree['task']['model'].update(novel=1))
  with pytest.raises(errors.ConfigurationError) as caught:
    run_folder.load_params(model_dir)
  assert 'task.model.novel' in str(caught.value)
  assert f'tokendrop_tf {tokendrop_tf.__version__}' in str(caught.value)


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
