"""A run that is cut and started again ends as one that was not.

In this process; `faults/` does it with real signals, `test_train.py` in short.
"""

import os
import signal

import pytest
from faults import harness
from faults.conftest import SplitCorpus

from tokendrop_tf import command_line, train
from tokendrop_tf.run import run_report, trainer

pytestmark = pytest.mark.faults
STEPS = ('trainer.train_steps = 20', 'trainer.validation_interval = 10')


class Killed(BaseException):
  """Passes through everything, as the end of a process does."""


@pytest.fixture(scope='module')
def corpus(tiny_corpus, tmp_path_factory):
  return SplitCorpus(tiny_corpus, tmp_path_factory.mktemp('split'))


@pytest.fixture(scope='module')
def whole(corpus, tmp_path_factory):
  run = harness.TinyRun(corpus, tmp_path_factory.mktemp('whole') / 'run', STEPS)
  train.main(run.arguments())
  return run


def cut(run, monkeypatch, method, is_time, error):
  """Runs until `method` of the report is called at the right step."""
  original = getattr(run_report.RunReport, method)

  def replaced(self, step, *arguments):
    if is_time(step):
      error()
    return original(self, step, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(run_report.RunReport, method, replaced)
    with pytest.raises((Killed, command_line.Interrupted)) as caught:
      train.main(run.arguments())
  return caught.value


def kill():
  raise Killed


@pytest.mark.parametrize(
  'bindings', [(), ('trainer.async_checkpoints = False',)]
)
def test_killed_between_checkpoints(
  corpus, whole, tmp_path, monkeypatch, bindings
):
  run = harness.TinyRun(corpus, tmp_path / 'run', (*STEPS, *bindings))
  cut(run, monkeypatch, 'end_loop', lambda step: step == 15, kill)
  assert run.newest_checkpoint() == 10
  train.main(run.arguments())
  harness.assert_same_result(whole, run, step=20)


def test_killed_in_the_last_validation(corpus, whole, tmp_path, monkeypatch):
  run = harness.TinyRun(corpus, tmp_path / 'run', STEPS)
  cut(run, monkeypatch, 'end_validation', lambda step: step == 20, kill)
  train.main(run.arguments())
  harness.assert_same_result(whole, run, step=20)


def test_terminated_within_a_loop(corpus, whole, tmp_path, monkeypatch, capsys):
  run = harness.TinyRun(corpus, tmp_path / 'run', STEPS)
  monkeypatch.setattr(trainer, 'SECONDS_PER_SLICE', 0.0)
  original = trainer.Trainer._choose_slice

  def terminate(self, seconds):
    if int(self.global_step.numpy()) == 13:  # Loops end at 10 and 15.
      os.kill(os.getpid(), signal.SIGTERM)
    original(self, seconds)

  with monkeypatch.context() as patch:
    patch.setattr(trainer.Trainer, '_choose_slice', terminate)
    with pytest.raises(command_line.Terminated) as caught:
      train.main(run.arguments())
  assert caught.value.code == 143
  assert f'{run.model_dir}/ckpt-13' in str(caught.value)
  train.main(run.arguments())
  assert 'resumes at step 13' in ' '.join(capsys.readouterr().out.split())
  harness.assert_same_result(whole, run, step=20)
