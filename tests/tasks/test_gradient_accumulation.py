"""Parts of a batch give the gradients of the whole."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.tasks import gradient_accumulation

NUM_ROWS, WIDTH = 12, 3


@pytest.mark.parametrize('num_parts', [2, 3, 12])
def test_losses_results_and_gradients_of_parts_add_up(num_parts):
  """Rows weigh unequally, so that a mean over parts would show."""
  draw = np.random.default_rng(1)
  rows = tf.constant(draw.normal(size=[NUM_ROWS, WIDTH]), tf.float32)
  shares = tf.constant(draw.exponential(size=[NUM_ROWS, 1]) ** 2, tf.float32)
  variables = [
    tf.Variable(draw.normal(size=[WIDTH, 1]), dtype=tf.float32),
    tf.Variable([0.5]),
  ]

  def forward_backward(part):
    rows, shares = part
    with tf.GradientTape() as tape:
      losses = tf.square(rows @ variables[0] + variables[1])
      loss = tf.reduce_sum(losses * shares)
    return loss, {'losses': losses}, tape.gradient(loss, variables)

  expected = forward_backward((rows, shares))
  found = gradient_accumulation.over_parts(
    forward_backward, num_parts, (rows, shares), variables, ('losses',)
  )
  tf.nest.map_structure(
    lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5),
    found,
    expected,
  )
