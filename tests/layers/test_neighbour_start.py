"""The share of positions that attend to their neighbour at the start."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tokendrop_tf.layers import neighbour_start

STDDEV = 0.05


def rows(num_positions, hidden_size, num_heads):
  """Returns what the first layer sees: normalized sums of random words."""
  random = np.random.RandomState(1)
  table = neighbour_start.FourierInitializer(STDDEV, hidden_size // num_heads)(
    [num_positions, hidden_size]
  )
  embedded = (
    STDDEV * random.randn(num_positions, hidden_size)
    + STDDEV * random.randn(hidden_size)
    + table.numpy()
  )
  return (embedded - embedded.mean(1, keepdims=True)) / embedded.std(
    1, keepdims=True
  )


def attention(num_positions, hidden_size, num_heads, offsets):
  """Returns the attention of all heads, [N, S, S]."""
  shape = [hidden_size, num_heads, hidden_size // num_heads]
  initializer = tf_keras.initializers.TruncatedNormal(stddev=STDDEV, seed=1)
  query, key = (
    neighbour_start.NeighbourKernel(values, num_positions, initializer)(shape)
    for values in (offsets, [0] * len(offsets))
  )
  seen = rows(num_positions, hidden_size, num_heads).astype(np.float32)
  logits = tf.einsum(
    'snd,tnd->nst',
    tf.einsum('sh,hnd->snd', seen, query),
    tf.einsum('sh,hnd->snd', seen, key),
  )
  return tf.nn.softmax(logits / np.sqrt(shape[-1])).numpy()


@pytest.mark.parametrize(
  ('num_positions', 'hidden_size', 'num_heads'),
  [
    (32, 128, 2),
    (128, 128, 2),
    (512, 128, 4),
    (512, 768, 12),
    (4096, 128, 2),
    (4096, 256, 4),
    (128, 64, 4),
    (64, 64, 1),
    (512, 128, 1),
  ],
)
def test_inner_positions_attend_to_their_neighbour(
  num_positions, hidden_size, num_heads
):
  for layer in range(2):
    offsets = neighbour_start.offsets(layer, num_heads)
    heads = attention(num_positions, hidden_size, num_heads, offsets)
    for weights, offset in zip(heads, offsets):
      inner = np.arange(abs(offset), num_positions - abs(offset))
      looks_at = weights[inner].argmax(axis=1)
      assert np.mean(looks_at == inner + offset) >= 0.95
      # Half of the attention, on average, not all and not a trace of it.
      share = weights[inner, inner + offset].mean()
      assert 0.25 < share < 0.75


def test_heads_without_an_offset_keep_their_initial_values():
  initializer = tf_keras.initializers.TruncatedNormal(stddev=STDDEV, seed=1)
  shape = [64, 4, 16]
  kernel = neighbour_start.NeighbourKernel((-1, 1), 32, initializer)(shape)
  plain = tf_keras.initializers.TruncatedNormal(stddev=STDDEV, seed=1)(shape)
  np.testing.assert_array_equal(kernel[:, 2:], plain[:, 2:])
  assert not np.array_equal(kernel[:, :2], plain[:, :2])


def test_layers_after_the_second_have_no_offsets():
  assert neighbour_start.offsets(2, 12) == ()
  assert neighbour_start.offsets(0, 1) == (-1,)


def test_words_keep_the_columns_that_no_head_reads():
  table = neighbour_start.FourierInitializer(STDDEV, 32)([512, 128]).numpy()
  assert table.shape == (512, 128)
  assert not table[:, 32:].any()
  # Every position is as loud as any other, and no louder than a word.
  np.testing.assert_allclose(
    np.square(table).sum(1), 32 * np.log(512) * STDDEV**2, rtol=1e-5
  )
