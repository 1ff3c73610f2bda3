"""The learning rate by the tokens that layers computed."""

import numpy as np
import pytest
import tensorflow as tf
from official.modeling import optimization

from tests import test_distribution
from tokendrop_tf.dropping import Dropping, TokenDropConfig
from tokendrop_tf.dropping.token_clock import TokenClock

STEPS = 100


def make_clock(rate, **settings):
  section = TokenDropConfig(
    plan='layerwise', policy='random', schedule_steps=STEPS, **settings
  )
  return TokenClock(rate, Dropping(section, 12, 64))


def test_the_rate_is_read_at_the_share_of_tokens_computed():
  """As a sum over steps of (S (L - n) + K n) / L, of n layers on K."""
  clock = make_clock(
    lambda place: place, keep_schedule=('0:16', '0.5:32', '0.8:all')
  )
  kept = np.repeat([16, 32, 64], [50, 30, 20])
  tokens = np.cumsum((64 * 2 + kept * 10) / 12)
  places = [float(clock(tf.constant(step))) for step in range(STEPS + 1)]
  np.testing.assert_allclose(
    places, STEPS * np.append(0, tokens) / tokens[-1], rtol=1e-5
  )


def test_full_steps_count_whole():
  clock = make_clock(
    lambda place: place, keep_schedule=('0:16', '0.5:all'), full_step_every=2
  )
  halves = (64 * 12 + 64 * 2 + 16 * 10) / 24, 64
  assert float(clock(50)) == pytest.approx(STEPS * halves[0] / sum(halves))


def test_an_even_run_is_read_by_steps():
  clock = make_clock(lambda place: place, keep_schedule=('0:16',))
  assert [float(clock(step)) for step in (0, 7, 100)] == [0.0, 7.0, 100.0]


@pytest.mark.parametrize(
  ('clock', 'rate'), [('steps', 0.5), ('layer_tokens', 1 - 40 / 104)]
)
def test_a_task_has_its_optimizer_read_the_clock(tiny_corpus, clock, rate):
  """Half of the steps compute 10 tokens in the mean of 4 layers, half 16."""
  task = test_distribution.make_task(
    tiny_corpus,
    num_layers=4,
    token_drop={
      'plan': 'layerwise',
      'policy': 'random',
      'keep_schedule': ('0:4', '0.5:all'),
      'schedule_steps': 8,
      'learning_rate_clock': clock,
    },
  )
  optimizer = task.create_optimizer(
    optimization.OptimizationConfig(
      {
        'optimizer': {'type': 'adamw'},
        'learning_rate': {
          'type': 'polynomial',
          'polynomial': {
            'initial_learning_rate': 1.0,
            'end_learning_rate': 0.0,
            'decay_steps': 8,
          },
        },
      }
    )
  )
  assert float(optimizer.learning_rate(4)) == pytest.approx(rate)
