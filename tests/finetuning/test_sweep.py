"""Sweeps over runs that only write their results."""

import json
import pathlib
import sys

import pytest

from tokendrop_tf import errors
from tokendrop_tf.finetuning import sweep

# Stands for a training: its metric is rate * 1000 + seed / 100.
FAKE = """
import json, pathlib, sys
folder, rate, seed, fails = sys.argv[1:]
path = pathlib.Path(folder)
with open(path.parent.parent / 'started.txt', 'a') as file:
  file.write(path.name + '\\n')
if fails == seed:
  print('Error: A file must exist. Received: none.')
  sys.exit(2)
value = float(rate) * 1000 + int(seed) / 100
entry = {'step': 5, 'accuracy': value}
(path / 'ckpt-5.index').write_text('weights')
(path / 'results.json').write_text(json.dumps({
  'task': 'rte', 'metric': 'accuracy', 'train_steps': 5, 'batch_size': 8,
  'seed': int(seed), 'learning_rate': float(rate), 'init_from': 'runs/a',
  'random_init': False, 'majority_class': {'accuracy': 0.5},
  'best': dict(entry, accuracy=value + 0.1), 'last': entry}))
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
  """Replaces the training; returns a function that makes a seed fail."""
  fails = ['']
  monkeypatch.setattr(
    sweep,
    'command',
    lambda run, flags: [
      sys.executable,
      '-c',
      FAKE,
      run.folder,
      run.learning_rate,
      str(run.seed),
      fails[0],
    ],
  )
  return lambda seed: fails.__setitem__(0, seed)


def arguments(folder, *more):
  return [
    '--gin_file=finetune/rte.gin',
    f'--output_dir={folder}',
    '--learning_rates=1e-4,3e-4',
    '--seeds=0,1,4',
    *more,
  ]


def started(folder):
  path = pathlib.Path(folder) / 'started.txt'
  return path.read_text().split() if path.exists() else []


def test_every_rate_runs_with_every_seed(fake, tmp_path, capsys):
  sweep.main(arguments(tmp_path))
  assert sorted(started(tmp_path)) == sorted(['seed_0', 'seed_1', 'seed_4'] * 2)
  results = json.loads((tmp_path / 'sweep.json').read_text())
  first, second = results['learning_rates']
  assert (first['learning_rate'], second['learning_rate']) == (1e-4, 3e-4)
  assert first['median_last'] == pytest.approx(0.11)
  assert second['median_best'] == pytest.approx(0.41)
  text = capsys.readouterr().out
  assert '| 1e-4 | 0.1100 (0.1000, 0.1400) | 0.2100 (0.2000, 0.2400) |' in text
  assert '| **3e-4** | 0.3100' in text
  assert '| most frequent label | 0.5000 | |' in text
  assert (tmp_path / 'sweep.md').read_text().strip() in text


def test_finished_runs_are_not_repeated(fake, tmp_path):
  sweep.main(arguments(tmp_path))
  sweep.main(arguments(tmp_path, '--seeds=0,1,4,5'))
  assert len(started(tmp_path)) == 8


def test_runs_may_go_side_by_side(fake, tmp_path):
  sweep.main(arguments(tmp_path, '--processes=3'))
  assert len(started(tmp_path)) == 6
  assert (tmp_path / 'sweep.json').exists()


def test_a_run_that_fails_ends_the_sweep_with_its_message(fake, tmp_path):
  fake('1')
  with pytest.raises(errors.TrainingError) as caught:
    sweep.main(arguments(tmp_path))
  assert 'exit code 2' in str(caught.value)
  assert 'Error: A file must exist. Received: none.' in str(caught.value)
  fake('')
  sweep.main(arguments(tmp_path))
  # Both runs of seed 0 had finished and only they.
  assert started(tmp_path).count('seed_0') == 2


@pytest.mark.parametrize('keeps', [False, True])
def test_weights_are_kept_only_on_request(fake, tmp_path, keeps):
  more = ['--keep_weights'] if keeps else []
  sweep.main(arguments(tmp_path, *more))
  assert (tmp_path / 'lr_1e-4/seed_0/ckpt-5.index').exists() == keeps


def test_other_settings_are_refused(fake, tmp_path):
  sweep.main(arguments(tmp_path))
  with pytest.raises(errors.ConfigurationError, match='resumes only with'):
    sweep.main(arguments(tmp_path, '--gin_params=glue.seq_length = 64'))


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--learning_rates=1e-4,high', '--learning_rates must be different'),
    ('--learning_rates=0', '--learning_rates must be different'),
    ('--seeds=1,1', '--seeds must be different numbers'),
    ('--seeds=0.5', '--seeds must be different numbers'),
    ('--processes=0', '--processes must be at least 1'),
  ],
)
def test_a_wrong_flag_is_named(tmp_path, flag, words):
  with pytest.raises(errors.ConfigurationError, match=words):
    sweep.main(arguments(tmp_path, flag))


def test_a_run_is_a_training_with_its_rate_and_seed(tmp_path):
  flags = sweep.parse_flags(arguments(tmp_path, '--gin_params=A = 1'))
  [run, *_] = sweep.plan('runs/s', flags.learning_rates, flags.seeds)
  command = sweep.command(run, flags)
  assert command[1:3] == ['-m', 'tokendrop_tf.train']
  assert '--gin_params=A = 1' in command
  assert '--gin_params=optimizer.learning_rate = 1e-4' in command
  assert '--gin_params=finetuning.seed = 0' in command
  assert command[-1] == '--model_dir=runs/s/lr_1e-4/seed_0'
