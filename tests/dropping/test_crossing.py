"""Crossings against gather and scatter in reading order."""

import pytest
import tensorflow as tf

from tests.dropping import reading_order
from tests.test_encoder import make_features
from tokendrop_tf.dropping.crossing import Crossing


def by_rank(pair, features):
  """Runs layers on the most important tokens, as `rows` says how many."""
  rows, sees = pair.embed(features), reading_order.may_see(features)
  order = pair.order(features)
  for layer, (queries, keys) in zip(
    pair.stock.transformer_layers, pair.dropping.rows(pair.dropping.keep_k)
  ):
    # In reading order, as the Model Garden's code would keep them.
    at, seen = tf.sort(order[:, :queries]), tf.sort(order[:, :keys])
    among = tf.gather(
      tf.gather(sees, at, batch_dims=1), seen, axis=2, batch_dims=1
    )
    computed = layer(
      [
        tf.gather(rows, at, batch_dims=1),
        tf.gather(rows, seen, batch_dims=1),
        among,
      ]
    )
    rows = reading_order.scatter(rows, at, computed)
  return rows


@pytest.mark.parametrize('documents', [1, 2])
@pytest.mark.parametrize('halve_every', [1, 2])
def test_halving_equals_gather_and_scatter(tmp_path, halve_every, documents):
  pair = reading_order.Pair(
    tmp_path,
    num_layers=6,
    token_keep_k=7,
    crossing_layer=2,
    halve_every=halve_every,
  )
  features = make_features(seed=5)
  if documents == 2:
    features = reading_order.packed(features)
  pair.assert_equal(features, lambda features: by_rank(pair, features))


def test_each_crossing_attends_to_the_rows_before_it():
  plan = Crossing(crossing_layer=4, halve_every=4)
  assert plan.rows(12, 512, 256) == [
    *[(512, 512)] * 3,
    *[(256, 512), *[(256, 256)] * 3],
    *[(128, 256), *[(128, 128)] * 3],
    (512, 512),
  ]
  assert plan.describe(12) == 'layers 4-11 of 12, half as many after every 4'
  # A single row is not halved.
  assert [q for q, _ in Crossing(1, 1).rows(5, 8, 2)] == [2, 1, 1, 1, 8]
