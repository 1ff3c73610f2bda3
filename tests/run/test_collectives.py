import types

import fake_workers
import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.config import experiments
from tokendrop_tf.run import checkpoints, collectives, loop


def test_a_process_alone_agrees_with_itself():
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  np.testing.assert_array_equal(collectives.total(strategy, [1, 2]), [1, 2])
  assert collectives.of_each(strategy, 7) == [7]
  assert collectives.of_chief(strategy, True) is True
  assert collectives.of_chief(strategy, False) is False


def test_every_worker_learns_the_number_of_each(monkeypatch):
  lists = fake_workers.run(
    monkeypatch, lambda i, strategy: collectives.of_each(strategy, 10 + i), 3
  )
  assert lists == [[10, 11, 12]] * 3


@pytest.mark.parametrize('of_chief', [True, False])
def test_the_chief_decides_for_all(monkeypatch, of_chief):
  decisions = fake_workers.run(
    monkeypatch,
    lambda i, strategy: collectives.of_chief(strategy, of_chief == (i == 0)),
  )
  assert decisions == [of_chief] * 2


def test_workers_that_see_other_checkpoints_are_refused(monkeypatch):
  """As in folders of their own."""
  steps = {'chief': 10, 'first': 10, 'second': 1000}
  monkeypatch.setattr(checkpoints, 'step_of', steps.get)

  def messages(*found):
    def require(index, strategy):
      try:
        loop._require_same_checkpoint(found[index], 'runs/a', strategy)
      except errors.ConfigurationError as error:
        return str(error)
      return ''

    return fake_workers.run(monkeypatch, require, len(found))

  assert messages('chief', 'first') == ['', '']
  assert messages(None, None) == ['', '']
  first, other = messages('chief', None)
  assert first == other
  assert 'with step 10 on worker 0, none on worker 1.' in first
  assert 'none on worker 0, step 1,000 on' in messages(None, 'second')[0]


def test_workers_with_other_settings_are_refused(monkeypatch):
  def params(seed=1, num_gpus=0):
    tree = experiments.build(experiments.PRETRAINING)
    tree.task.seed, tree.runtime.num_gpus = seed, num_gpus
    return tree

  def require(index, strategy):
    loop._require_same_settings(trees[index], strategy)

  # Devices may differ.
  trees = [params(), params(num_gpus=1), params()]
  fake_workers.run(monkeypatch, require, 3)
  trees[2] = params(seed=2)
  with pytest.raises(errors.ConfigurationError, match='on worker 2. Start'):
    fake_workers.run(monkeypatch, require, 3)


@pytest.mark.parametrize('is_logged', [True, False])
def test_all_workers_make_up_for_a_validation_or_none(monkeypatch, is_logged):
  """The history that tells of it is with the chief."""

  def misses(index, strategy):
    report = types.SimpleNamespace(
      has_validation=lambda step: is_logged and index == 0
    )
    run = types.SimpleNamespace(_strategy=strategy, _report=report, step=20)
    return loop.Loop._misses_validation(run, 60, 10)

  assert fake_workers.run(monkeypatch, misses) == [not is_logged] * 2
