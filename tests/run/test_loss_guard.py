"""The watch over losses, on one device and on several."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.run import loss_guard


@pytest.mark.parametrize('replica', range(4))
@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_a_loss_that_breaks_on_any_replica_is_seen_in_its_step(
  replica, broken, four_replicas
):
  with four_replicas.scope():
    guard = loss_guard.LossGuard()

  def take_step(step, factor):
    context = tf.distribute.get_replica_context()
    is_here = context.replica_id_in_sync_group == replica
    loss = tf.where(is_here, factor, 1.0)
    guard.watch(loss, tf.constant(3.0), step)

  run = tf.function(lambda *args: four_replicas.run(take_step, args=args))
  run(tf.constant(6, tf.int64), tf.constant(2.0))
  first = guard.first_nonfinite_step
  assert first.numpy() == -1
  for step in (7, 8):  # The first one counts.
    run(tf.constant(step, tf.int64), tf.constant(broken))
  assert first.numpy() == 8


def test_one_device_watches_its_own():
  guard = loss_guard.LossGuard()
  for step, (loss, norm) in enumerate([(1.0, 2.0), (np.nan, 5.0)]):
    assert guard.first_nonfinite_step.numpy() == -1
    guard.watch(
      tf.constant(loss), tf.constant(norm), tf.constant(step, tf.int64)
    )
    assert guard.gradient_norm.numpy() == norm
  assert guard.first_nonfinite_step.numpy() == 2
