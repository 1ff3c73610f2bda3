"""Dropout: its rate, its scale, its independence, in every mode."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.layers.dropout import dropout

SHAPE = [40, 50, 31]  # no multiple of four entries in a row


def drop_ones(rate, seed, mode, shape=SHAPE):
  def run(seed):
    return dropout(tf.ones(shape), rate, seed)

  if mode != 'eager':
    run = tf.function(run, jit_compile=mode == 'xla')
  return run(tf.constant(seed)).numpy()


@pytest.mark.parametrize('mode', ['graph', 'xla'])
@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_entries_are_dropped_at_the_rate_over_many_seeds(rate, mode):
  run = tf.function(
    lambda seed: dropout(tf.ones(SHAPE), rate, seed),
    jit_compile=mode == 'xla',
  )
  num_seeds = 60
  shares, means = [], []
  for number in range(num_seeds):
    values = run(tf.constant([number, 17])).numpy()
    shares.append(np.mean(values == 0.0))
    means.append(values.mean())
  # Bytes round the share of a call to 1/256; entries vary besides.
  spread = math.hypot(
    0.5 / 256, math.sqrt(rate * (1 - rate) / math.prod(SHAPE))
  )
  error = 3 * spread / math.sqrt(num_seeds)
  assert np.mean(shares) == pytest.approx(rate, abs=error)
  assert np.mean(means) == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize('mode', ['graph', 'xla'])
def test_neighbours_rows_and_seeds_are_independent(mode):
  first = drop_ones(0.5, [1, 2], mode) == 0.0
  error = 4 * 0.5 / math.sqrt(first.size)
  for other in (
    drop_ones(0.5, [1, 3], mode) == 0.0,
    drop_ones(0.5, [2, 2], mode) == 0.0,
    np.roll(first, 1, axis=2),
    np.roll(first, 1, axis=1),
    np.roll(first, 1, axis=0),
    np.roll(first, 16, axis=2),
  ):
    assert np.mean(first == other) == pytest.approx(0.5, abs=error)


def test_eager_and_graph_drop_the_same_entries():
  np.testing.assert_array_equal(
    drop_ones(0.3, [1, 2], 'eager'), drop_ones(0.3, [1, 2], 'graph')
  )


@pytest.mark.parametrize('mode', ['eager', 'xla'])
def test_what_is_dropped_gets_no_gradient(mode):
  def run(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = dropout(x, 0.3, tf.constant([1, 2]))
    return y, tape.gradient(y, x)

  if mode == 'xla':
    run = tf.function(run, jit_compile=True)
  value, gradient = run(tf.ones([30, 30], tf.bfloat16))
  np.testing.assert_array_equal(value, gradient)
  assert value.dtype == tf.bfloat16


def test_a_rate_of_zero_and_no_seed_change_nothing():
  x = tf.ones([4, 4])
  assert dropout(x, 0.0, tf.constant([1, 2])) is x
  assert dropout(x, 0.5, None) is x
