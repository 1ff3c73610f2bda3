"""The three places of a block that drop out: their rates and their seeds."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import layers

BATCH_SIZE, NUM_QUERIES, HIDDEN_SIZE = 64, 32, 4
ATTENTION_RATE, OUTPUT_RATE = 0.4, 0.2
SEEDS = [[1, 2], [3, 4], [5, 6]]


def run(mode='eager', seed=SEEDS, output_dropout=OUTPUT_RATE, **weights):
  """Returns what a block adds to its queries, all other weights being zero.

  There is one key, so that the attention probabilities are 1 before dropout.
  """
  block = layers.TransformerBlock(
    num_attention_heads=2,
    inner_dim=8,
    inner_activation='relu',
    output_dropout=output_dropout,
    attention_dropout=ATTENTION_RATE,
    norm_first=True,
  )
  queries = tf.zeros([BATCH_SIZE, NUM_QUERIES, HIDDEN_SIZE])
  key = tf.zeros([BATCH_SIZE, 1, HIDDEN_SIZE])
  block(queries, key_value=key)
  for variable in block.trainable_variables:
    name = variable.name.split('/', 1)[1].removesuffix(':0')
    value = weights.pop(name, 0.0)
    variable.assign(np.broadcast_to(value, variable.shape))
  assert not weights

  def call():
    return block(queries, key_value=key, training=True, seed=tf.constant(seed))

  if mode != 'eager':
    call = tf.function(call, jit_compile=mode == 'xla')
  return call().numpy()


PLACES = {
  'attention probabilities': (
    ATTENTION_RATE,
    {
      'output_dropout': 0.0,
      'self_attention/value/bias': 1.0,
      'self_attention/attention_output/kernel': np.eye(4).reshape([2, 2, 4]),
    },
  ),
  'attention output': (
    OUTPUT_RATE,
    {'self_attention/attention_output/bias': 1.0},
  ),
  'feed-forward output': (OUTPUT_RATE, {'output/bias': 1.0}),
}


@pytest.mark.parametrize('mode', ['eager', 'xla'])
@pytest.mark.parametrize('place', PLACES)
def test_every_place_drops_at_its_rate_and_keeps_the_mean(place, mode):
  rate, weights = PLACES[place]
  values = run(mode, **weights)
  heads = values[..., ::2]  # Both entries of a head are one probability.
  dropped = np.mean(heads == 0.0)
  # Without XLA the rate of a call is a multiple of 1 / 256.
  error = 1 / 256 + 4 * math.sqrt(rate * (1 - rate) / heads.size)
  assert dropped == pytest.approx(rate, abs=error)
  np.testing.assert_allclose(
    heads[heads != 0.0], 1.0 / (1.0 - rate), rtol=2 / 256
  )


@pytest.mark.parametrize('seed', [SEEDS, [7, 8]], ids=['three', 'one'])
def test_every_place_has_a_seed_of_its_own(seed):
  masks = [run(seed=seed, **weights) != 0.0 for _, weights in PLACES.values()]
  for (first, one), (second, other) in (
    ((ATTENTION_RATE, masks[0]), (OUTPUT_RATE, masks[1])),
    ((ATTENTION_RATE, masks[0]), (OUTPUT_RATE, masks[2])),
    ((OUTPUT_RATE, masks[1]), (OUTPUT_RATE, masks[2])),
  ):
    alike = first * second + (1 - first) * (1 - second)
    assert np.mean(one == other) == pytest.approx(alike, abs=0.03)
