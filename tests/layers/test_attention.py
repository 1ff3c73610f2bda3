"""Attention in blocks of queries against attention to all at once."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.layers import random_seeds
from tokendrop_tf.layers.attention import Attention

BATCH_SIZE, NUM_QUERIES, NUM_KEYS, HIDDEN_SIZE = 2, 11, 16, 8
BLOCK = 4  # Does not divide the queries.
SEED = [3, 4]


def make_rows():
  generator = np.random.default_rng(1)
  rows = generator.normal(size=[BATCH_SIZE, NUM_KEYS, HIDDEN_SIZE])
  keys = tf.constant(rows, tf.float32)
  return keys[:, :NUM_QUERIES] + 1.0, keys


def bias_of_padding():
  """The second row is nothing but padding."""
  mask = np.ones([BATCH_SIZE, 1, 1, NUM_KEYS], np.float32)
  mask[0, ..., 13:] = mask[1] = 0.0
  return tf.constant((1.0 - mask) * -1e9)


def bias_of_segments():
  segments = tf.constant(np.repeat([[1, 2, 3, 0]] * BATCH_SIZE, 4, axis=1))
  may_see = segments[:, :NUM_QUERIES, None] == segments[:, None, :]
  return tf.where(may_see, 0.0, -1e9)[:, tf.newaxis]


BIASES = {
  'none': lambda: None,
  'padding': bias_of_padding,
  'segments': bias_of_segments,
}


def run(attend, layer, mode='graph'):
  """Returns the output, and the gradients of rows and weights."""
  query, keys = make_rows()

  def call():
    with tf.GradientTape() as tape:
      tape.watch([query, keys])
      output = attend(query, keys)
      # Each row and unit weighs differently.
      weights = tf.reshape(tf.range(tf.size(output)), tf.shape(output))
      loss = tf.reduce_sum(output * tf.cos(tf.cast(weights, tf.float32)))
    return output, tape.gradient(
      loss, [query, keys, *layer.trainable_variables]
    )

  if mode != 'eager':
    call = tf.function(call, jit_compile=mode == 'xla')
  return tf.nest.map_structure(lambda tensor: tensor.numpy(), call())


def make_pair(rate=0.0):
  """Returns attention at once and in blocks, with the same weights."""
  layers = [Attention(2, dropout=rate, block=block) for block in (0, BLOCK)]
  query, keys = make_rows()
  for layer in layers:
    layer(query, keys)
    for index, variable in enumerate(layer.trainable_variables):
      variable.assign(
        tf.random.stateless_normal(variable.shape, [index, 1], stddev=0.5)
      )
  return layers


def assert_same(actual, expected):
  tf.nest.map_structure(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    actual,
    expected,
  )


@pytest.mark.parametrize('mode', ['eager', 'graph', 'xla'])
@pytest.mark.parametrize('kind', BIASES)
def test_blocks_give_what_all_queries_at_once_give(kind, mode):
  at_once, in_blocks = make_pair()
  bias = BIASES[kind]()
  expected = run(lambda q, k: at_once(q, k, bias), at_once, mode)
  assert_same(
    run(lambda q, k: in_blocks(q, k, bias), in_blocks, mode), expected
  )
  if kind == 'segments':
    made_in_blocks = run(
      lambda q, k: in_blocks(
        q, k, lambda places: tf.gather(bias, places, axis=2)
      ),
      in_blocks,
      mode,
    )
    assert_same(made_in_blocks, expected)


@pytest.mark.parametrize('mode', ['graph', 'xla'])
def test_gradients_drop_out_what_the_output_dropped_out(mode):
  at_once, in_blocks = make_pair(rate=0.4)
  seed = tf.constant(SEED)
  bias = bias_of_segments()

  def block_by_block(query, keys):
    """Attention at once, of each block by itself; TensorFlow's gradient."""
    places = tf.minimum(tf.range(12), NUM_QUERIES - 1)
    outputs = [
      at_once(
        tf.gather(query, places[begin : begin + BLOCK], axis=1),
        keys,
        tf.gather(bias, places[begin : begin + BLOCK], axis=2),
        seed=random_seeds.fold_in(seed, begin // BLOCK),
      )
      for begin in range(0, NUM_QUERIES, BLOCK)
    ]
    return tf.concat(outputs, axis=1)[:, :NUM_QUERIES]

  actual = run(lambda q, k: in_blocks(q, k, bias, seed), in_blocks, mode)
  assert_same(actual, run(block_by_block, at_once, mode))
  plain = run(lambda q, k: at_once(q, k, bias), at_once, mode)
  assert not np.allclose(actual[0], plain[0])


def test_no_tensor_has_the_size_of_all_queries_by_all_keys():
  at_once, in_blocks = make_pair(rate=0.4)
  size = BATCH_SIZE * NUM_QUERIES * NUM_KEYS

  def largest(layer):
    query, keys = make_rows()

    @tf.function
    def train():
      with tf.GradientTape() as tape:
        tape.watch([query, keys])
        output = layer(query, keys, bias_of_padding(), tf.constant(SEED))
      return tape.gradient(output, [query, keys])

    graphs = [train.get_concrete_function().graph]
    graphs += [
      function.graph
      for function in graphs[0]._functions.values()
      if getattr(function, 'graph', None)
    ]
    assert layer is at_once or len(graphs) > 2  # With those of the loops.
    return max(
      tensor.shape.num_elements() or 0
      for graph in graphs
      for operation in graph.get_operations()
      for tensor in operation.outputs
    )

  assert largest(at_once) == 2 * size
  assert largest(in_blocks) < size
