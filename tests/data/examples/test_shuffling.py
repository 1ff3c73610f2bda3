import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data.examples import shuffling

# Of keys(3, 7, SHARD_SALT, 2, 5).
KEYS = [16889282565162401309, 8122246469337379726, 16680231330630180740]


def chi_square(table):
  """Returns how far a table of counts is from equal ones, in deviations."""
  expected = table.sum() / table.size
  freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
  statistic = ((table - expected) ** 2 / expected).sum()
  return (statistic - freedom) / math.sqrt(2 * freedom)


def order_of_rows(seed, num_blocks=64, num_rows=128):
  """Returns the rows of an epoch, sorted by their random numbers."""
  keys = [
    shuffling.keys(num_rows, seed, shuffling.SHARD_SALT, 0, block)
    for block in range(num_blocks)
  ]
  return np.argsort(np.concatenate(keys))


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_rows_are_equally_likely_at_every_place(seed):
  order = order_of_rows(seed)
  parts = 16
  table = np.zeros([parts, parts])
  place = np.arange(len(order)) * parts // len(order)
  np.add.at(table, (order * parts // len(order), place), 1)
  assert abs(chi_square(table)) < 4


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_neighbours_come_from_anywhere(seed):
  """Two rows side by side tell nothing about each other."""
  order = order_of_rows(seed)
  parts = 16
  table = np.zeros([parts, parts])
  part = order * parts // len(order)
  np.add.at(table, (part[:-1], part[1:]), 1)
  assert abs(chi_square(table)) < 4
  together = np.mean(order[:-1] // 128 == order[1:] // 128)
  assert together < 3 / 64


def test_every_epoch_and_seed_has_numbers_of_its_own():
  found = {
    tuple(shuffling.keys(3, seed, salt, epoch, block).tolist())
    for salt in (shuffling.SHARD_SALT, shuffling.CHUNK_SALT)
    for seed in range(2)
    for epoch in range(2)
    for block in range(2)
  }
  assert len(found) == 16


def test_keys_are_the_same_in_every_version_of_numpy():
  found = shuffling.keys(3, 7, shuffling.SHARD_SALT, 2, 5).tolist()
  assert found == KEYS


@pytest.mark.parametrize('numbers', [(0, 0), (-(2**31), 2**31 - 1), (7, -3)])
def test_random_numbers_are_those_of_philox(numbers):
  seed = tf.constant(numbers, tf.int32)
  draws = [
    lambda alg: tf.random.stateless_uniform([9], seed, alg=alg),
    lambda alg: tf.random.stateless_uniform([9], seed, 0, 7, tf.int32, alg=alg),
    lambda alg: tf.random.fold_in(seed, 5, alg=alg),
    lambda alg: tf.random.split(seed, 3, alg=alg),
    lambda alg: tf.random.experimental.stateless_shuffle(
      tf.range(9), seed, alg=alg
    ),
  ]
  for draw in draws:
    np.testing.assert_array_equal(draw(shuffling.ALGORITHM), draw('philox'))
