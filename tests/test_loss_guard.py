"""The watch over losses, on one device and on several."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import loss_guard


@pytest.mark.parametrize('replica', range(4))
@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_a_loss_that_breaks_on_any_replica_is_seen_in_its_step(
  replica, broken, four_replicas
):
  with four_replicas.scope():
    first = loss_guard.create()

  def take_step(step, factor):
    context = tf.distribute.get_replica_context()
    is_here = context.replica_id_in_sync_group == replica
    loss = tf.where(is_here, factor, 1.0)
    loss_guard.watch(first, loss, step)

  run = tf.function(lambda *args: four_replicas.run(take_step, args=args))
  run(tf.constant(6, tf.int64), tf.constant(2.0))
  assert first.numpy() == -1
  for step in (7, 8):  # The first one counts.
    run(tf.constant(step, tf.int64), tf.constant(broken))
  assert first.numpy() == 8


def test_one_device_watches_its_own():
  first = loss_guard.create()
  loss_guard.watch(first, tf.constant(1.0), tf.constant(0, tf.int64))
  assert first.numpy() == -1
  loss_guard.watch(first, tf.constant(np.nan), tf.constant(1, tf.int64))
  assert first.numpy() == 2
