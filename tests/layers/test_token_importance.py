"""The importance table: its update equation over two steps."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.layers import token_importance

BETA, START = 0.9, 10.0


def make_table(**kwargs):
  return token_importance.TokenImportance(
    **{**dict(vocab_size=8, init_value=START, beta=BETA), **kwargs}
  )


def moved(value, mean_loss, beta=BETA):
  return beta * value + (1 - beta) * mean_loss


def test_two_steps_follow_the_equation_with_repeated_ids_and_weights():
  table = make_table()
  table.update(
    token_ids=tf.constant([[3, 3, 4], [3, 5, 5]]),
    losses=tf.constant([[1.0, 2.0, 7.0], [6.0, 4.0, 9.0]]),
    weights=tf.constant([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0]]),
  )
  first = {
    3: moved(START, (1 + 2 + 6) / 3),
    4: moved(START, 7.0),
    5: moved(START, 4.0),
  }
  expected = np.full([8], START, np.float32)
  for token_id, value in first.items():
    expected[token_id] = value
  np.testing.assert_allclose(table.table, expected, rtol=1e-6)
  table.update(
    tf.constant([[3, 6]]), tf.constant([[0.5, 3.0]]), tf.constant([[2.0, 1.0]])
  )
  expected[3] = moved(first[3], 0.5)
  expected[6] = moved(START, 3.0)
  np.testing.assert_allclose(table.table, expected, rtol=1e-6)


def test_padding_slots_leave_the_table_unchanged():
  table = make_table()
  ids = tf.zeros([2, 3], tf.int32)
  table.update(ids, tf.fill([2, 3], np.nan), tf.zeros([2, 3]))
  np.testing.assert_array_equal(table.table, np.full([8], START, np.float32))


def test_pinned_entries_never_move_and_sort_to_the_ends():
  table = make_table(always_keep_ids=(1, 2), always_drop_ids=(0,))
  ids = tf.constant([[0, 1, 2, 3]])
  for _ in range(3):
    table.update(ids, tf.fill([1, 4], 100.0), tf.ones([1, 4]))
  np.testing.assert_array_equal(
    table(ids), [[-np.inf, np.inf, np.inf, table.table[3]]]
  )
  np.testing.assert_array_equal(table.table[:3], [START] * 3)


def test_the_order_of_ids_does_not_matter():
  generator = np.random.default_rng(0)
  ids = generator.integers(0, 8, [4, 16])
  losses = generator.uniform(0, 9, [4, 16]).astype(np.float32)
  weights = generator.integers(0, 2, [4, 16]).astype(np.float32)
  permutation = generator.permutation(64)
  tables = []
  for order in (np.arange(64), permutation):
    table = make_table()
    table.update(
      *(
        tf.reshape(tf.gather(tf.reshape(x, [-1]), order), [4, 16])
        for x in (ids, losses, weights)
      )
    )
    tables.append(table.table.numpy())
  np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6)


def test_bfloat16_losses_are_averaged_in_float32():
  table = make_table(beta=0.0)
  ids = tf.fill([1, 1024], 5)
  table.update(
    ids, tf.ones([1, 1024], tf.bfloat16) * 1.5, tf.ones([1, 1024], tf.bfloat16)
  )
  assert float(table.table[5]) == 1.5


@pytest.mark.parametrize('jit_compile', [False, True])
def test_it_updates_inside_a_compiled_function(jit_compile):
  table = make_table()
  table.build(None)

  @tf.function(jit_compile=jit_compile)
  def update(ids):
    table.update(
      ids,
      losses=tf.fill(tf.shape(ids), 2.0),
      weights=tf.ones_like(ids, tf.float32),
    )

  update(tf.constant([[3, 3]]))
  assert float(table.table[3]) == pytest.approx(moved(START, 2.0))


def test_four_replicas_agree_bit_for_bit_and_with_one_device(four_replicas):
  strategy = four_replicas
  generator = np.random.default_rng(1)
  batches = [
    (
      generator.integers(0, 8, [8, 5]).astype(np.int32),
      generator.uniform(0, 9, [8, 5]).astype(np.float32),
      generator.integers(0, 2, [8, 5]).astype(np.float32),
    )
    for _ in range(5)
  ]
  one_device = make_table()
  with strategy.scope():
    mirrored = make_table()
    mirrored.build(None)

  @tf.function
  def step(ids, losses, weights):
    strategy.run(mirrored.update, args=(ids, losses, weights))

  for batch in batches:
    one_device.update(*map(tf.constant, batch))
    step(
      *(
        strategy.experimental_distribute_values_from_function(
          lambda c, x=x: tf.constant(np.split(x, 4)[c.replica_id_in_sync_group])
        )
        for x in batch
      )
    )
  replicas = [v.numpy() for v in mirrored.table.values]
  assert len(replicas) == 4
  for replica in replicas[1:]:
    np.testing.assert_array_equal(replica, replicas[0])
  np.testing.assert_allclose(replicas[0], one_device.table, rtol=1e-6)


def test_config_round_trip():
  table = make_table(always_keep_ids=(1,), always_drop_ids=(0,))
  twin = token_importance.TokenImportance.from_config(table.get_config())
  assert twin.get_config() == table.get_config()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(beta=1.5), r'beta must be in \[0, 1\). Received: beta=1.5'),
    (dict(always_keep_ids=(8,)), r'in the vocabulary. Received: \[8\]'),
    (dict(always_keep_ids=(1,), always_drop_ids=(1,)), r'both ways: \[1\]'),
  ],
)
def test_wrong_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    make_table(**arguments)
