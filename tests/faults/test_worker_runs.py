"""Several processes train together, are killed and told to end."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from faults import harness
from tools import launch_local_workers as workers

pytestmark = pytest.mark.faults
# Divides by one, two and three workers.
BATCHES = (
  'train_data.global_batch_size = 12',
  'validation_data.global_batch_size = 36',
)
# Every checkpoint is of a step that is validated, too, as it is by default.
INTERVALS = ('trainer.validation_interval = 10',)
# So that the replicas differ in nothing but the order of sums.
NO_DROPOUT = ('model.dropout_rate = 0.0', 'model.attention_dropout_rate = 0.0')


class WorkerRun(harness.TinyRun):
  """A training by several processes; see `harness.TinyRun`."""

  num_workers = 2
  restarts = 0

  def command(self):
    return [
      *(sys.executable, '-m', 'tools.launch_local_workers'),
      *(f'--num_workers={self.num_workers}', f'--restarts={self.restarts}'),
      *('--', *self.arguments()),
    ]

  def kill_one(self, index, signal_number, step):
    """Sends a signal to a worker after `step`; returns (code, output)."""
    process = self.start()
    try:
      while self.steps_logged() < step:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
      os.kill(children(process.pid)[index], signal_number)
      output, _ = process.communicate(timeout=900)
    finally:
      process.send_signal(signal.SIGTERM)
    return process.returncode, output


def children(pid):
  """Returns the processes that a process has started, in their order."""
  text = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
  return sorted(map(int, text.split()))


@pytest.fixture(scope='module')
def alone(split_corpus, tmp_path_factory):
  """The run of one process."""
  run = harness.TinyRun(
    split_corpus,
    tmp_path_factory.mktemp('alone') / 'run',
    (*BATCHES, *INTERVALS, *NO_DROPOUT),
  )
  run.finish()
  return run


@pytest.fixture
def run(split_corpus, tmp_path):
  return WorkerRun(
    split_corpus, tmp_path / 'run', (*BATCHES, *INTERVALS, *NO_DROPOUT)
  )


def assert_like(run, alone):
  """Asserts the same figures and weights, up to the order of sums."""
  for record, expected in zip(run.history(), alone.history(), strict=True):
    assert record.keys() == expected.keys()
    assert record['step'] == expected['step']
    for name, value in expected.items():
      if isinstance(value, float):
        assert record[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
  tensors, expected = run.tensors(60), alone.tensors(60)
  for name, value in expected.items():
    if 'optimizer' not in name and value.dtype == np.float32:
      np.testing.assert_allclose(tensors[name], value, atol=2e-3, err_msg=name)


@pytest.mark.parametrize('num_workers', [2, 3])
def test_workers_train_as_one_process_does(alone, run, num_workers):
  run.num_workers = num_workers
  run.finish()
  assert_like(run, alone)
  # One writes.
  assert len(list((run.model_dir / 'train').glob('*tfevents*'))) == 1
  assert {path.name for path in run.model_dir.iterdir()} == {
    path.name for path in alone.model_dir.iterdir()
  }
  # A run that has ended has nothing more to do, on all workers alike.
  history = run.history()
  run.finish()
  assert run.history() == history


def test_workers_that_each_read_their_part_train_as_one_does(
  split_corpus, tmp_path
):
  """On token shards, and when ended and resumed."""
  command = [
    f'--input={split_corpus.train}',
    f'--vocab_file={split_corpus.vocabulary}',
    f'--output={tmp_path}/examples',
    '--num_shards=5',
    '--seq_length=32',
  ]
  harness.run_module('tokendrop_tf.data.create_pretraining_data', command)
  bindings = (
    *BATCHES,
    *INTERVALS,
    *NO_DROPOUT,
    f"train_data.input_path = '{tmp_path}/examples-*'",
  )
  alone = harness.TinyRun(split_corpus, tmp_path / 'alone', bindings)
  alone.finish()
  run = WorkerRun(split_corpus, tmp_path / 'run', bindings)
  code, output = run.kill_one(0, signal.SIGTERM, step=15)
  assert code == 143, output
  run.finish()
  assert_like(run, alone)


@pytest.mark.parametrize('index', [0, 1])
def test_a_killed_worker_is_named_and_the_run_goes_on(run, alone, index):
  code, output = run.kill_one(index, signal.SIGKILL, step=15)
  assert code in (75, 137)
  assert 'Traceback' not in output
  if index:  # Without the chief, TensorFlow ends the others in its own way.
    assert 'Received: no more answer from' in output
    assert 'ckpt-10; the same command resumes there' in output
  assert 'resumes at step 10' in run.finish()
  assert_like(run, alone)


def test_all_start_again_after_one_was_lost(run, alone):
  run.restarts = 2
  code, output = run.kill_one(1, signal.SIGKILL, step=15)
  assert code == 0, output
  assert 'A worker was lost: all start again, 1 restarts are left' in output
  assert_like(run, alone)


@pytest.mark.parametrize('index', [0, 1])
def test_a_signal_to_one_worker_ends_all_at_the_same_step(run, alone, index):
  run.bindings += ('trainer.checkpoint_interval = 60',)
  code, output = run.kill_one(index, signal.SIGTERM, step=15)
  assert code == 143, output
  step = run.newest_checkpoint()
  assert output.count(f'ckpt-{step}; the same command resumes there') == 2
  assert f'resumes at step {step}' in run.finish()
  assert_like(run, alone)


def test_a_worker_that_never_starts_is_named(run):
  run.bindings += (
    "runtime.distribution_strategy = 'multi_worker_mirrored'",
    'runtime.worker_timeout_seconds = 20',
  )
  ports = workers.free_ports(2)
  command = [sys.executable, '-m', 'tokendrop_tf.train', *run.arguments()]
  for index, config in enumerate(workers.tf_configs(ports)):
    ended = subprocess.run(
      command,
      capture_output=True,
      text=True,
      timeout=200,
      env={**os.environ, 'TF_CONFIG': config},
    )
    assert ended.returncode == 2
    assert f'no answer from 127.0.0.1:{ports[1 - index]}' in ended.stderr
    assert 'Traceback' not in ended.stderr
