"""Fused element-wise functions: values, and gradients by differences."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tokendrop_tf.layers import fused

RATE = 0.25


@pytest.fixture(name='norm', scope='module')
def fixture_norm():
  layer = tf_keras.layers.LayerNormalization(epsilon=1e-12)
  layer.build([None, None, 16])
  layer.gamma.assign(tf.random.stateless_normal([16], [1, 2], 1.0, 0.3))
  layer.beta.assign(tf.random.stateless_normal([16], [3, 4]))
  return layer


def random_rows(seed):
  return tf.random.stateless_normal([2, 6, 16], [seed, 0])


def in_graph(function, *arguments):
  """Value and gradients of a weighted sum, inside a `tf.function`."""

  @tf.function
  def run(*arguments):
    with tf.GradientTape() as tape:
      tape.watch(arguments)
      value = function(*arguments)
      loss = tf.reduce_sum(value * random_rows(9))
    return value, tape.gradient(loss, arguments)

  return run(*arguments)


def test_gelu_is_tensorflows_with_its_gradient():
  x = 3.0 * random_rows(1)
  actual = in_graph(lambda x: fused.gelu(x, training=True), x)
  expected = in_graph(lambda x: tf.nn.gelu(x, approximate=True), x)
  np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)
  np.testing.assert_allclose(actual[1][0], expected[1][0], atol=1e-5)


def test_without_dropout_it_is_the_keras_layer_of_a_sum(norm):
  rows, branch = random_rows(1), random_rows(2)
  seed = tf.constant([1, 2])
  actual = in_graph(
    lambda rows, branch: fused.add_and_normalize(
      rows, branch, norm, 0.0, seed, tf.float32
    ),
    rows,
    branch,
  )
  expected = in_graph(lambda rows, branch: norm(rows + branch), rows, branch)
  np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)
  for ours, theirs in zip(actual[1], expected[1]):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_gradients_of_scale_and_shift_are_the_keras_layers(norm):
  rows, branch, seed = random_rows(1), random_rows(2), tf.constant([1, 2])

  @tf.function
  def gradients(island):
    with tf.GradientTape() as tape:
      if island:
        value = fused.add_and_normalize(
          rows, branch, norm, 0.0, seed, tf.float32
        )
      else:
        value = norm(rows + branch)
      loss = tf.reduce_sum(value * random_rows(9))
    return tape.gradient(loss, [norm.gamma, norm.beta])

  for ours, theirs in zip(gradients(True), gradients(False)):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_forward_and_backward_drop_the_same_entries(norm):
  """The gradient along a direction is the difference quotient along it."""
  rows, branch, seed = random_rows(1), random_rows(2), tf.constant([5, 6])

  def function(branch):
    return fused.add_and_normalize(rows, branch, norm, RATE, seed, tf.float32)

  step, direction = 1e-2, random_rows(3)
  _, [gradient] = in_graph(function, branch)
  above, _ = in_graph(function, branch + step * direction)
  below, _ = in_graph(function, branch - step * direction)
  quotient = tf.reduce_sum((above - below) * random_rows(9)) / (2 * step)
  assert float(tf.reduce_sum(gradient * direction)) == pytest.approx(
    float(quotient), rel=1e-2
  )
  dropped = np.mean(gradient.numpy() == 0.0)
  assert 0.1 < dropped < 0.4


def test_eager_calls_and_inference_compute_the_same(norm):
  rows, branch = random_rows(1), random_rows(2)
  eager = fused.add_and_normalize(rows, branch, norm, 0.0, None, tf.float32)
  np.testing.assert_allclose(eager, norm(rows + branch), atol=1e-5)
  np.testing.assert_allclose(
    fused.gelu(rows), tf.nn.gelu(rows, approximate=True), atol=1e-6
  )


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_the_gradient_of_a_bias_is_the_sum_of_the_rows(dtype):
  """In bfloat16 a sum in that precision would be off by some tens."""
  upstream = tf.cast(tf.random.stateless_normal([4096, 8], [1, 2]), dtype)
  bias = tf.Variable(tf.cast(tf.random.stateless_normal([8], [3, 4]), dtype))
  rows = tf.zeros([4096, 8], dtype)
  with tf.GradientTape() as tape:
    tape.watch(rows)
    value = fused.add_bias(rows, bias)
  of_rows, of_bias = tape.gradient(value, [rows, bias], upstream)
  np.testing.assert_array_equal(value, tf.broadcast_to(bias, [4096, 8]))
  np.testing.assert_array_equal(of_rows, upstream)
  exact = tf.reduce_sum(tf.cast(upstream, tf.float64), axis=0)
  # bfloat16 has 8 bits: sums of some 64 are rounded to 0.25.
  tolerance = 1e-3 if dtype == tf.float32 else 1.0
  np.testing.assert_allclose(
    tf.cast(of_bias, tf.float64), exact, atol=tolerance
  )
