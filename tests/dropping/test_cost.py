"""The arithmetic of a step, for 12 x 768, S 512, K 256, P 76, V 30522."""

import pytest

from tokendrop_tf.config import configs
from tokendrop_tf.dropping import cost

S, H, INNER, V, P = 512, 768, 3072, 30522, 76


def make_task(**token_drop):
  return configs.PretrainingTaskConfig(
    model=configs.ModelConfig(
      vocab_size=V, hidden_size=H, intermediate_size=INNER, num_layers=12
    ),
    train_data=configs.PretrainingDataConfig(
      seq_length=S, max_predictions_per_seq=P
    ),
    token_drop=configs.TokenDropConfig(**{'token_keep_k': 256, **token_drop}),
  )


def test_a_full_layer_is_counted_in_closed_form():
  plain = cost.step_cost(make_task(), None)
  assert plain.encoder == 12 * (
    4 * S * H * H + 2 * S * S * H + 2 * S * H * INNER
  )
  assert plain.head == P * (H * H + H * V)


def test_the_last_layer_counts_the_rows_that_are_asked_for():
  whole, at_positions = (
    cost.step_cost(make_task(), 256, rows).encoder for rows in (None, P)
  )
  assert whole - at_positions == (S - P) * (
    2 * H * H + 2 * S * H + 2 * H * INNER
  )


def test_the_published_layout_saves_a_quarter():
  plain, dropping = (cost.step_cost(make_task(), k) for k in (None, 256))
  saved = 1 - dropping.encoder / plain.encoder
  assert saved == pytest.approx(0.254, abs=5e-4)
  saved_with_head = 1 - dropping.total / plain.total
  assert saved_with_head == pytest.approx(0.245, abs=5e-4)


@pytest.mark.parametrize(
  'token_drop', [{'token_keep_k': S}, {'policy': 'none'}]
)
def test_computing_all_rows_saves_nothing(token_drop):
  assert cost.expected_saving(make_task(**token_drop)) == 0.0


@pytest.mark.parametrize(
  'token_drop',
  [
    {'full_step_every': 4},
    {'keep_schedule': ('0:256', '0.75:all'), 'schedule_steps': 100},
  ],
)
def test_full_steps_count_by_their_share(token_drop):
  whole = cost.expected_saving(make_task())
  assert cost.expected_saving(make_task(**token_drop)) == pytest.approx(
    0.75 * whole
  )


def layer(queries, keys):
  """Queries, keys and values, scores and sums, output, feed-forward."""
  return (
    *(queries * H * H, 2 * keys * H * H, 2 * queries * keys * H),
    *(queries * H * H, 2 * queries * H * INNER),
  )


@pytest.mark.parametrize(
  ('token_drop', 'middle'),
  [
    (
      {'plan': 'layerwise', 'full_layers': (1, 6)},
      [*2 * layer(S, S), *9 * layer(256, 256)],
    ),
    (
      {'crossing_layer': 4, 'halve_every': 4},
      [
        *3 * layer(S, S),
        *(*layer(256, S), *3 * layer(256, 256)),
        *(*layer(128, 256), *3 * layer(128, 128)),
      ],
    ),
    (
      {'plan': 'pooled', 'summary_rows': 16},
      [*5 * layer(S, S), *layer(272, 528), *5 * layer(272, 272)],
    ),
  ],
)
def test_other_plans_are_counted_layer_by_layer(token_drop, middle):
  counted = cost.step_cost(make_task(**token_drop), 256, P)
  assert counted.encoder == sum(middle) + sum(layer(P, S))


def test_an_earlier_crossing_saves_more():
  savings = [
    cost.expected_saving(make_task(crossing_layer=layer))
    for layer in range(1, 12)
  ]
  assert savings == sorted(savings, reverse=True)
  assert savings[-1] > 0
