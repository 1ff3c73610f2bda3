"""The launcher end to end: tiny runs through `train.main`, in this process."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import refusals
import tensorflow as tf
import tiny_runs
import yaml
from faults import harness
from faults.conftest import SplitCorpus

from tokendrop_tf import command_line, train
from tokendrop_tf.data import baselines
from tokendrop_tf.run import metrics_log, run_folder, run_report
from tokendrop_tf.tasks import masked_lm, pretraining

TINY = (
  *tiny_runs.TRAINING,
  'train_data.shuffle_buffer_size = 16',
  'trainer.train_steps = 12',
  'trainer.steps_per_loop = 3',
  'trainer.validation_interval = 6',
  'trainer.checkpoint_interval = 6',
)
BASELINES = baselines.Baselines(3.25, 3.0)


def flags(corpus, model_dir, *bindings, mode='train_and_eval'):
  gin_file = pathlib.Path(corpus.vocabulary).with_name('tiny.gin')
  gin_file.write_text(
    '\n'.join(
      [
        f"vocabulary.path = '{corpus.vocabulary}'",
        f"train_data.input_path = '{corpus.train}'",
        f"validation_data.input_path = '{corpus.valid}'",
        *TINY,
      ]
    )
  )
  return [
    f'--model_dir={model_dir}',
    f'--mode={mode}',
    f'--gin_file={gin_file}',
    *(f'--gin_params={binding}' for binding in bindings),
  ]


def records(model_dir, name='metrics.jsonl', kind=None):
  found = metrics_log.read_metrics(str(pathlib.Path(model_dir) / name))
  return [record for record in found if kind in (None, record['kind'])]


def losses(model_dir):
  return [
    record['training_loss'] for record in records(model_dir, kind='train')
  ]


def weights(checkpoint):
  reader = tf.train.load_checkpoint(str(checkpoint))
  return {
    name: reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if 'save_counter' not in name
    and name.startswith(('model/', 'optimizer/', 'global_step', 'encoder/'))
  }


message_of = functools.partial(refusals.message_of, train.main)


def words(capsys):
  """Returns what was printed, with its line breaks undone."""
  return ' '.join(capsys.readouterr().out.split())


def contents(folder):
  return {
    path.name: path.read_bytes()
    for path in pathlib.Path(folder).iterdir()
    if path.is_file()
  }


@pytest.fixture(scope='module', autouse=True)
def unchecked_data():
  """The corpus is good; looking through it again takes a third of a run."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pretraining.loader, 'check_dataset', lambda *arguments: None)
    patch.setattr(
      pretraining.baselines, 'read_baselines', lambda *_, **__: BASELINES
    )
    yield


@pytest.fixture(scope='module')
def tiny_corpus(tiny_corpus, tmp_path_factory):
  """In three files, one of them compressed."""
  return SplitCorpus(tiny_corpus, tmp_path_factory.mktemp('split'))


@pytest.fixture(scope='module')
def finished(tiny_corpus, tmp_path_factory):
  """A run of 12 steps, its arguments and what it printed."""
  model_dir = tmp_path_factory.mktemp('finished')
  arguments = flags(tiny_corpus, model_dir)
  train.main(arguments)
  return model_dir, arguments


class TestRun:
  def test_loops_validations_and_checkpoints_fall_on_their_steps(
    self, finished
  ):
    model_dir, _ = finished
    assert [r['step'] for r in records(model_dir, kind='train')] == [
      3,
      6,
      9,
      12,
    ]
    assert [r['step'] for r in records(model_dir, kind='validation')] == [6, 12]
    assert sorted(path.name for path in model_dir.glob('ckpt-*.index')) == [
      'ckpt-12.index',
      'ckpt-6.index',
    ]

  def test_validation_reports_both_losses_and_their_gap(self, finished):
    last = records(finished[0], kind='validation')[-1]
    gap = last['lm_example_loss'] - last['lm_example_loss_dropping']
    assert last['full_sequence_gap'] == pytest.approx(gap, abs=1e-4)
    assert last['validation_loss'] == last['lm_example_loss']

  def test_the_configuration_is_saved(self, finished):
    model_dir, _ = finished
    tree = yaml.safe_load((model_dir / 'params.yaml').read_text())
    assert tree['task']['model']['num_layers'] == 3
    assert tree['task']['model']['vocab_size'] == 64
    assert 'model.num_layers = 3' in (model_dir / 'config.gin').read_text()

  def test_tensorboard_has_scalars_and_the_table(self, finished):
    tags = set()
    for path in (finished[0] / 'train').iterdir():
      for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        tags |= {value.tag for value in event.summary.value}
    assert {
      'training_loss',
      'masked_lm_accuracy',
      'learning_rate',
      'steps_per_second',
      'tokens_per_second',
      'gradient_norm',
      'token_keep_k',
      'token_importance',
      'settings',
    } <= tags

  def test_biases_and_norms_do_not_decay(self, finished):
    params = run_folder.load_params(finished[0])
    params.task.model.vocab_size = 64
    task = masked_lm.TokenDropPretrainingTask(params.task)
    optimizer = task.create_optimizer(
      params.trainer.optimizer_config, params.runtime
    )
    for variable in task.build_model().trainable_variables:
      is_matrix = len(variable.shape) > 1 and 'bias' not in variable.name
      assert optimizer._do_use_weight_decay(variable.name) == is_matrix, (
        variable.name
      )

  def test_training_alone_from_other_weights_prints_its_own_lines_only(
    self, finished, tiny_corpus, tmp_path, capfd
  ):
    train.main(
      flags(
        tiny_corpus,
        tmp_path,
        f"pretraining.init_checkpoint = '{finished[0] / 'ckpt-12'}'",
        'trainer.train_steps = 3',
        mode='train',
      )
    )
    output = capfd.readouterr()
    assert output.err == ''
    assert output.out.splitlines()[0] == 'tokendrop_tf'
    assert 'restoring' not in output.out  # orbit's
    assert 'steps/sec' not in output.out  # orbit's
    assert 'step 3/3  loss ' in output.out
    assert f'tensorboard --logdir={tmp_path}' in output.out
    assert not records(tmp_path, kind='validation')
    # It starts where the other ended, not at the entropy of 64 words.
    assert losses(tmp_path)[0] < losses(finished[0])[0]


class TestOtherArms:
  @pytest.mark.parametrize(
    ('mode', 'bindings'),
    [
      (
        'train_and_eval',
        (
          "token_drop.policy = 'none'",
          'model.norm_first = True',
          "runtime.mixed_precision_dtype = 'bfloat16'",
        ),
      ),
      (
        'train_and_eval',
        (
          "token_drop.policy = 'frequency'",
          'token_drop.temperature = 1.0',
          "runtime.mixed_precision_dtype = 'float16'",
        ),
      ),
      (
        'train',
        (
          "token_drop.policy = 'random'",
          'token_drop.full_step_every = 2',
          'runtime.enable_xla = True',
        ),
      ),
    ],
  )
  def test_it_trains(self, tiny_corpus, tmp_path, mode, bindings):
    train.main(
      flags(
        tiny_corpus, tmp_path, *bindings, 'trainer.train_steps = 3', mode=mode
      )
    )
    assert len(losses(tmp_path)) == 1
    assert np.all(np.isfinite(losses(tmp_path)))
    drops = "token_drop.policy = 'none'" not in bindings
    for record in records(tmp_path, kind='validation'):
      assert ('full_sequence_gap' in record) == drops

  def test_it_trains_on_several_devices(self, tiny_corpus, tmp_path):
    # A process of its own: see the fixture `four_replicas`.
    arguments = flags(
      tiny_corpus,
      tmp_path,
      "runtime.distribution_strategy = 'mirrored'",
      'runtime.num_logical_cpu_devices = 2',
      'trainer.train_steps = 3',
      mode='train_and_eval',
    )
    subprocess.run(
      [sys.executable, '-m', 'tokendrop_tf.train', *arguments],
      check=True,
      capture_output=True,
    )
    assert np.all(np.isfinite(losses(tmp_path)))
    assert len(records(tmp_path, kind='validation')) == 1


class TestResume:
  def test_a_finished_run_trains_no_further(self, finished, capsys):
    model_dir, arguments = finished
    before = contents(model_dir)
    train.main(arguments)
    assert 'already trained to its last step, 12' in words(capsys)
    assert contents(model_dir) == before

  def test_an_interrupted_run_goes_on_without_telling_it_the_settings(
    self, finished, tiny_corpus, tmp_path, monkeypatch, capsys
  ):
    with monkeypatch.context() as patch:
      patch.setattr(
        run_report.RunReport,
        'end_loop',
        _interrupt_at(9, run_report.RunReport.end_loop),
      )
      with pytest.raises(command_line.Interrupted) as caught:
        train.main(flags(tiny_corpus, tmp_path))
    assert f'The last checkpoint is {tmp_path}/ckpt-6' in str(caught.value)
    tree = (tmp_path / 'params.yaml').read_text()

    train.main([f'--model_dir={tmp_path}'])
    assert 'resumes at step 6' in words(capsys)
    # The vocabulary is now read where the run keeps it.
    tree = tree.replace(tiny_corpus.vocabulary, f'{tmp_path}/vocab.txt')
    steps = [record['step'] for record in records(tmp_path, kind='train')]
    assert steps == [3, 6, 9, 12]
    assert (tmp_path / 'params.yaml').read_text() == tree
    # Bit for bit, with dropout, shuffling and several files.
    harness.assert_same_result(
      harness.TinyRun(tiny_corpus, finished[0]),
      harness.TinyRun(tiny_corpus, tmp_path),
      step=12,
    )

  def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(
    self, finished, tmp_path
  ):
    model_dir = tmp_path / 'run'
    shutil.copytree(finished[0], model_dir)
    for path in (*model_dir.glob('ckpt-*'), model_dir / 'checkpoint'):
      path.unlink()
    before = contents(model_dir)
    message = message_of([f'--model_dir={model_dir}'])
    assert 'has none, where its history reaches step 12' in message
    assert contents(model_dir) == before

  def test_a_longer_training_is_refused_with_the_reason(
    self, finished, tiny_corpus
  ):
    message = message_of(
      flags(tiny_corpus, finished[0], 'trainer.train_steps = 24')
    )
    assert 'trainer.train_steps: 12 there, 24 now' in message
    assert 'decay_steps' not in message
    assert 'length of the learning-rate schedule' in message
    assert 'pretraining.init_checkpoint' in message


class TestEval:
  def test_a_run_is_evaluated_with_its_own_settings(self, finished, capsys):
    model_dir, _ = finished
    train.main([f'--model_dir={model_dir}', '--mode=eval'])
    (evaluated,) = records(model_dir, 'evaluations.jsonl')
    validated = records(model_dir, kind='validation')[-1]
    assert evaluated['step'] == 12
    for name in ('validation_loss', 'masked_lm_accuracy'):
      assert evaluated[name] == pytest.approx(validated[name], rel=1e-6)
    assert 'checkpoint of step 12' in words(capsys)

  def test_one_setting_can_be_changed(self, finished, tiny_corpus, tmp_path):
    model_dir, _ = finished
    (model_dir / 'evaluations.jsonl').unlink(missing_ok=True)
    train.main(
      [
        f'--model_dir={model_dir}',
        '--mode=eval',
        f"--gin_params=validation_data.input_path = '{tiny_corpus.train}'",
      ]
    )
    (evaluated,) = records(model_dir, 'evaluations.jsonl')
    validated = records(model_dir, kind='validation')[-1]
    assert evaluated['validation_loss'] != validated['validation_loss']

  def test_another_model_is_refused(self, finished, tiny_corpus):
    message = message_of(
      flags(tiny_corpus, finished[0], 'model.num_layers = 4', mode='eval')
    )
    assert 'model.num_layers: 3 there, 4 now' in message

  def test_a_folder_without_a_checkpoint_is_refused(
    self, tiny_corpus, tmp_path
  ):
    assert 'must hold a checkpoint' in message_of(
      flags(tiny_corpus, tmp_path, mode='eval')
    )

  def test_continuous_eval_ends_with_the_last_checkpoint(
    self, finished, tiny_corpus
  ):
    model_dir, _ = finished
    # As a power cut leaves it: TensorFlow does not sync it to disk.
    (model_dir / 'checkpoint').write_bytes(b'')
    (model_dir / 'evaluations.jsonl').unlink(missing_ok=True)
    train.main(flags(tiny_corpus, model_dir, mode='continuous_eval'))
    assert [
      record['step'] for record in records(model_dir, 'evaluations.jsonl')
    ] == [12]


class TestBrokenLoss:
  def test_it_stops_and_keeps_the_last_good_checkpoint(
    self, tiny_corpus, tmp_path, monkeypatch
  ):
    original = masked_lm.TokenDropPretrainingTask._replica_loss

    def explode(self, slots, shares):
      loss = original(self, slots, shares)
      step = tf.summary.experimental.get_step()
      return tf.where(step >= 7, np.nan, 1.0) * loss  # The eighth step.

    monkeypatch.setattr(
      masked_lm.TokenDropPretrainingTask, '_replica_loss', explode
    )
    message = message_of(flags(tiny_corpus, tmp_path))
    assert 'The training loss must be finite. Received: nan at step 8.' in (
      message
    )
    assert f'The last good checkpoint is kept: {tmp_path}/ckpt-6' in message
    assert not list(tmp_path.glob('ckpt-9*'))
    assert all(
      np.all(np.isfinite(value))
      for value in weights(tmp_path / 'ckpt-6').values()
    )

  def test_a_huge_learning_rate_ends_in_one_message(
    self, tiny_corpus, tmp_path
  ):
    message = message_of(
      flags(
        tiny_corpus,
        tmp_path,
        'optimizer.learning_rate = 1e38',
        'trainer.checkpoint_interval = 3',
        'trainer.train_steps = 30',
        mode='train',
      )
    )
    assert 'must be finite' in message
    assert 'optimizer.learning_rate' in message
    for index in tmp_path.glob('ckpt-*.index'):
      for name, value in weights(index.with_suffix('')).items():
        assert np.all(np.isfinite(value)), name


class TestFolders:
  def test_a_file_is_no_model_dir(self, tiny_corpus, tmp_path):
    path = tmp_path / 'file'
    path.write_text('')
    assert 'must be a folder. Received' in message_of(flags(tiny_corpus, path))

  def test_a_folder_below_a_file_cannot_be_made(self, tiny_corpus, tmp_path):
    (tmp_path / 'file').write_text('')
    assert 'can be written' in message_of(
      flags(tiny_corpus, tmp_path / 'file' / 'run')
    )

  @pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
  def test_a_read_only_folder_is_refused(self, tiny_corpus, tmp_path):
    tmp_path.chmod(0o500)
    message = message_of(flags(tiny_corpus, tmp_path))
    tmp_path.chmod(0o700)
    assert 'can be written' in message

  def test_checkpoints_of_something_else_are_left_alone(
    self, finished, tiny_corpus, tmp_path
  ):
    tf.train.CheckpointManager(tf.train.Checkpoint(), str(tmp_path), 1).save(5)
    assert 'ckpt-5 but no params.yaml' in message_of(
      flags(tiny_corpus, tmp_path)
    )

  def test_a_damaged_params_file_is_named(self, tiny_corpus, tmp_path):
    (tmp_path / 'params.yaml').write_text('a: [1')
    assert 'params.yaml must be YAML' in message_of(
      flags(tiny_corpus, tmp_path)
    )

  def test_params_files_cannot_run_code(self, tmp_path):
    (tmp_path / 'params.yaml').write_text(
      '!!python/object/apply:os.mkdir ["run_by_yaml"]'
    )
    assert 'params.yaml must be YAML' in message_of([f'--model_dir={tmp_path}'])
    assert not pathlib.Path('run_by_yaml').exists()

  def test_a_refused_configuration_leaves_no_trace(self, tiny_corpus, tmp_path):
    message_of(
      flags(tiny_corpus, tmp_path / 'run', 'token_drop.token_keep_k = 99')
    )
    assert not (tmp_path / 'run').exists()


def _interrupt_at(step, original):

  def end_loop(self, now, num_steps, output):
    if now == step:
      raise KeyboardInterrupt
    return original(self, now, num_steps, output)

  return end_loop
