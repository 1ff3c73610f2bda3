"""Ranking, random ties, and Gumbel top-K against its closed form."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.layers import token_order

NUM_DRAWS = 20_000


def seed(number=0):
  return tf.constant([number, 7])


def kept_sets(scores, temperature, keep_k, num_draws=NUM_DRAWS):
  """Sorted kept positions of many draws, [num_draws, keep_k]."""
  layer = token_order.TokenOrder(temperature=temperature)
  rows = tf.tile(tf.constant([scores], tf.float32), [num_draws, 1])
  return np.sort(layer(rows, seed=seed())[:, :keep_k].numpy(), axis=1)


def inclusion_probability(weights, index, keep_k):
  """Sum over all ordered samples without replacement that hold `index`."""
  total = 0.0
  for sample in itertools.permutations(range(len(weights)), keep_k):
    probability, left = 1.0, sum(weights)
    for i in sample:
      probability *= weights[i] / left
      left -= weights[i]
    total += probability * (index in sample)
  return total


def assert_within_three_standard_errors(observed, probability, num_draws):
  error = math.sqrt(probability * (1 - probability) / num_draws)
  assert abs(observed - probability) <= 3 * error + 1e-12


def test_ranked_order_is_by_score():
  scores = tf.constant([[1.0, 3.0, 2.0], [5.0, -1.0, 9.0]])
  order = token_order.TokenOrder()(scores, seed=seed())
  np.testing.assert_array_equal(order, [[1, 2, 0], [2, 0, 1]])


def test_temperature_zero_equals_the_ranked_rule_exactly():
  scores = tf.random.stateless_uniform([50, 20], [1, 2], 0.1, 10.0)
  expected = tf.argsort(scores, direction='DESCENDING')
  layer = token_order.TokenOrder(temperature=0.0)
  for number in range(3):
    np.testing.assert_array_equal(layer(scores, seed=seed(number)), expected)
  np.testing.assert_array_equal(layer(scores), expected)


def test_every_row_is_a_permutation():
  scores = tf.random.stateless_uniform([30, 17], [1, 2], 0.1, 10.0)
  for temperature in (0.0, 0.5, 100.0):
    order = token_order.TokenOrder(temperature)(scores, seed=seed())
    np.testing.assert_array_equal(
      np.sort(order, axis=1), np.tile(np.arange(17), [30, 1])
    )


def test_ties_are_uniform_with_a_seed_and_in_reading_order_without():
  sets = kept_sets([10.0] * 5, temperature=0.0, keep_k=1)
  for position in range(5):
    assert_within_three_standard_errors(
      np.mean(sets == position), 1 / 5, NUM_DRAWS
    )
  order = token_order.TokenOrder()(tf.fill([1, 5], 10.0))
  np.testing.assert_array_equal(order, [[0, 1, 2, 3, 4]])


def test_pins_stay_at_the_ends_and_tie_at_random_among_themselves():
  scores = [np.inf, 1.0, -np.inf, np.inf, 100.0]
  for temperature in (0.0, 1.0, 1e6):
    assert set(kept_sets(scores, temperature, 2)[:, 1]) == {3}
    assert 2 not in kept_sets(scores, temperature, 4)
    first = kept_sets(scores, temperature, 1)
    assert_within_three_standard_errors(np.mean(first == 0), 0.5, NUM_DRAWS)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.0])
def test_one_kept_token_has_softmax_probability(temperature):
  scores = [0.5, 1.0, 2.0, 4.0]
  weights = np.array(scores) ** (1 / temperature)
  sets = kept_sets(scores, temperature, keep_k=1)
  for position, weight in enumerate(weights):
    assert_within_three_standard_errors(
      np.mean(sets == position), weight / weights.sum(), NUM_DRAWS
    )


@pytest.mark.parametrize('keep_k', [2, 3])
def test_inclusion_probabilities_are_those_of_sampling_without_replacement(
  keep_k,
):
  scores = [0.5, 1.0, 3.0, 6.0]
  sets = kept_sets(scores, temperature=1.0, keep_k=keep_k)
  for position in range(4):
    assert_within_three_standard_errors(
      np.mean((sets == position).any(axis=1)),
      inclusion_probability(scores, position, keep_k),
      NUM_DRAWS,
    )


def test_a_high_temperature_tends_to_uniform():
  sets = kept_sets([0.01, 1.0, 100.0], temperature=1e6, keep_k=1)
  for position in range(3):
    assert_within_three_standard_errors(
      np.mean(sets == position), 1 / 3, NUM_DRAWS
    )


def test_an_importance_of_zero_is_sampled_last_but_finite():
  order = token_order.TokenOrder(temperature=1.0)(
    tf.constant([[0.0, 1.0, 0.0, 1.0]] * 50), seed=seed()
  )
  assert set(order[:, :2].numpy().flatten()) == {1, 3}


def test_draws_do_not_depend_on_the_number_of_replicas(four_replicas):
  strategy = four_replicas
  layer = token_order.TokenOrder(temperature=1.0)
  scores = tf.random.stateless_uniform([8, 11], [5, 6], 0.1, 10.0)
  expected = layer(scores, seed=seed())
  rows = strategy.experimental_distribute_values_from_function(
    lambda c: tf.split(scores, 4)[c.replica_id_in_sync_group]
  )
  replicas = strategy.run(lambda x: layer(x, seed=seed()), args=(rows,))
  np.testing.assert_array_equal(
    tf.concat(strategy.experimental_local_results(replicas), 0), expected
  )


def test_one_seed_gives_one_order_eager_compiled_and_under_xla():
  scores = tf.random.stateless_uniform([4, 9], [5, 6], 0.1, 10.0)
  layer = token_order.TokenOrder(temperature=1.0)

  def call():
    return layer(scores, seed=seed())

  expected = call()
  for jit_compile in (False, True):
    np.testing.assert_array_equal(
      tf.function(call, jit_compile=jit_compile)(), expected
    )


def test_a_negative_temperature_is_refused():
  with pytest.raises(ValueError, match='Received: temperature=-0.5'):
    token_order.TokenOrder(temperature=-0.5)
