"""Timing in turns: order, warm-up, spread, and other work on the machine."""

import pytest

from tokendrop_tf.run import turns


def test_alternatives_take_turns_and_the_warm_up_is_not_timed():
  calls = []
  alternatives = {name: lambda name=name: calls.append(name) for name in 'ab'}
  times = turns.time_in_turns(alternatives, turns=3, warm_up=1)
  assert calls == ['a', 'b'] * 4
  assert [len(values) for values in times.seconds.values()] == [3, 3]


def test_median_and_spread_are_those_of_each_alternative():
  times = turns.Turns({'a': [1.0, 2.0, 3.0, 4.0, 50.0], 'b': [7.0]})
  assert times.median('a') == 3.0
  assert times.spread('a') == pytest.approx((27.0 - 1.5) / 2)
  assert times.spread('b') == 0.0


@pytest.mark.parametrize(
  ('seconds', 'others_share', 'is_quiet'),
  [
    ([1.0, 1.01, 1.02], 0.0, True),
    ([1.0, 1.01, 1.02], 0.5, False),
    ([1.0, 1.5, 2.0], 0.0, False),
  ],
)
def test_other_work_or_a_wide_spread_make_times_incomparable(
  seconds, others_share, is_quiet
):
  assert turns.Turns({'a': seconds}, others_share).is_quiet == is_quiet
