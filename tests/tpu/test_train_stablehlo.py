"""An exported training: TensorFlow's losses with JAX, and a run again."""

import json
import subprocess

import numpy as np
import pytest
import tiny_runs

from tokendrop_tf import train
from tokendrop_tf.run import metrics_log
from tools.tpu import compile_command, export_training, training_folder


def make_batch(number):
  return {
    'input_word_ids': np.full([2, 4], number, np.int32),
    'masked_lm_weights': np.full([2, 1], 0.5, np.float32),
  }


def test_batches_are_read_from_any_number_on(tmp_path, monkeypatch):
  monkeypatch.setattr(training_folder, 'BATCHES_PER_FILE', 3)
  folder = training_folder.TrainingFolder(tmp_path)
  assert folder.write_batches(make_batch(n) for n in range(7)) == 7
  assert len(list((tmp_path / 'batches').iterdir())) == 3
  for first in range(8):
    found = [batch['input_word_ids'][0, 0] for batch in folder.batches(first)]
    assert found == list(range(first, 7))


def test_a_state_is_whole_or_not_there(tmp_path):
  folder = training_folder.TrainingFolder(tmp_path)
  for step in (0, 12):
    folder.write_state(step, [np.float32(step), np.arange(3)])
  (tmp_path / 'state-00000013.writing').write_bytes(b'half')
  assert folder.newest_step() == 12
  first, second = folder.read_state(12)
  assert first == 12.0
  assert second.tolist() == [0, 1, 2]


def run_arguments(tiny_corpus, model_dir):
  bindings = [
    *tiny_runs.TRAINING,
    f'VOCABULARY = {tiny_corpus.vocabulary!r}',
    f'TRAIN_DATA = {tiny_corpus.train!r}',
    f'VALIDATION_DATA = {tiny_corpus.valid!r}',
    'model.dropout_rate = 0.0',
    'model.attention_dropout_rate = 0.0',
    "token_drop.keep_schedule = ('0:all', '0.4:16')",
    'trainer.train_steps = 20',
    'trainer.steps_per_loop = 5',
    'trainer.validation_interval = 10',
    'trainer.validation_steps = 2',
    'trainer.checkpoint_interval = 10',
  ]
  return [
    '--gin_file=runs/pretrain.gin',
    *(f'--gin_params={binding}' for binding in bindings),
    f'--model_dir={model_dir}',
  ]


def records(folder):
  return metrics_log.read_metrics(str(folder / 'metrics.jsonl'))


def train_with_jax(jax_python, folder):
  tool = compile_command.ROOT / 'tools' / 'run_stablehlo.py'
  run = subprocess.run(
    [jax_python, str(tool), f'--train={folder}'],
    capture_output=True,
    text=True,
    env={'JAX_PLATFORMS': 'cpu'},
    check=False,
  )
  assert run.returncode == 0, run.stderr[-2000:]


def test_twenty_steps_are_those_of_tensorflow_and_come_back_as_a_run(
  jax_python, tiny_corpus, tmp_path
):
  here, away = tmp_path / 'here', tmp_path / 'away'
  train.main(run_arguments(tiny_corpus, here))
  steps = tmp_path / 'steps'
  arguments = [f'--output_dir={steps}', *run_arguments(tiny_corpus, away)]
  export_training.main(arguments)
  train_with_jax(jax_python, steps)
  # Interrupted before its last state, it resumes from the one before.
  whole = records(steps)
  (steps / 'state-00000020.npz').unlink()
  train_with_jax(jax_python, steps)
  expected = records(here)
  for found in (whole, records(steps)):
    assert [(r['kind'], r['step']) for r in found] == [
      (r['kind'], r['step']) for r in expected
    ]
    for now, there in zip(found, expected):
      name = 'training_loss' if now['kind'] == 'train' else 'validation_loss'
      assert now[name] == pytest.approx(there[name], abs=1e-4), now['step']
  export_training.main([*arguments, '--take_back'])
  train.main([f'--model_dir={away}', '--mode=eval'])
  [evaluated] = metrics_log.read_metrics(str(away / 'evaluations.jsonl'))
  last = expected[-1]
  assert (evaluated['step'], last['step']) == (20, 20)
  assert evaluated['validation_loss'] == pytest.approx(
    last['validation_loss'], abs=1e-4
  )
  assert json.loads((steps / 'training.json').read_text())['train_steps'] == 20
