"""Position embeddings by index, and their sinusoidal start."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import layers


def make_layer(**kwargs):
  layer = layers.IndexedPositionEmbedding(max_length=12, **kwargs)
  layer(tf.zeros([1, 12, 6]))
  return layer


def test_positions_are_looked_up_and_default_to_reading_order():
  layer = make_layer()
  rows = tf.zeros([2, 5, 6])
  in_order = layer(rows)
  assert in_order.shape == (1, 5, 6)
  positions = tf.constant([[4, 3, 2, 1, 0], [0, 0, 1, 1, 2]])
  np.testing.assert_array_equal(
    layer(rows, positions=positions), tf.gather(in_order[0], positions)
  )


@pytest.mark.parametrize('width', [64, 7])
def test_a_shift_is_one_rotation_for_all_positions(width):
  table = layers.SinusoidalInitializer(stddev=0.06)([512, width]).numpy()
  assert table.shape == (512, width)
  # Inner products depend on the distance alone.
  if width % 2 == 0:
    products = table @ table.T
    for distance in (0, 1, 5):
      diagonal = np.diagonal(products, distance)
      np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.sqrt(np.mean(table**2)) == pytest.approx(0.06, rel=1e-3)


def test_config_round_trip():
  initializer = layers.SinusoidalInitializer(stddev=0.06)
  twin = layers.SinusoidalInitializer.from_config(initializer.get_config())
  np.testing.assert_array_equal(initializer([8, 4]), twin([8, 4]))
