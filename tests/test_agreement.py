import types

import fake_workers
import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import agreement, runner


def test_a_process_alone_agrees_with_itself():
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  np.testing.assert_array_equal(agreement.total(strategy, [1, 2]), [1, 2])
  assert agreement.of_each(strategy, 7) == [7]
  assert agreement.of_chief(strategy, True) is True
  assert agreement.of_chief(strategy, False) is False


def test_every_worker_learns_the_number_of_each(monkeypatch):
  lists = fake_workers.run(
    monkeypatch, lambda i, strategy: agreement.of_each(strategy, 10 + i), 3
  )
  assert lists == [[10, 11, 12]] * 3


@pytest.mark.parametrize('of_chief', [True, False])
def test_the_chief_decides_for_all(monkeypatch, of_chief):
  decisions = fake_workers.run(
    monkeypatch,
    lambda i, strategy: agreement.of_chief(strategy, of_chief == (i == 0)),
  )
  assert decisions == [of_chief] * 2


@pytest.mark.parametrize('is_logged', [True, False])
def test_all_workers_make_up_for_a_validation_or_none(monkeypatch, is_logged):
  """The history that tells of it is with the chief."""

  def misses(index, strategy):
    report = types.SimpleNamespace(
      has_validation=lambda step: is_logged and index == 0
    )
    controller = types.SimpleNamespace(
      strategy=strategy, _report=report, _step=lambda: 20
    )
    return runner.Controller._misses_validation(controller, 60, 10)

  assert fake_workers.run(monkeypatch, misses) == [not is_logged] * 2
