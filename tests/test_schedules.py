"""Settings written as 'SHARE:VALUE': their form, and what holds when."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors, schedules
from tokendrop_tf.config import configs


def data(*schedule, **settings):
  return configs.PretrainingDataConfig(
    mask_rate_schedule=schedule, **{'global_batch_size': 4, **settings}
  )


def test_without_entries_the_default_holds_throughout():
  assert schedules.KEEP.parse((), 6) == schedules.Schedule((0.0,), (6,))
  rates = schedules.mask_rate_of_rows(
    data(mask_rate=0.2), tf.range(9, dtype=tf.int64)
  )
  np.testing.assert_allclose(rates, 0.2)


def test_a_value_begins_at_its_share_of_the_steps():
  keeps = schedules.KEEP.parse(('0:2', '0.25:4', '0.9:all'), 6, num_steps=10)
  assert keeps.values == (2, 4, None)
  assert keeps.first_steps == [0, 3, 9]
  assert keeps.lengths == pytest.approx([0.25, 0.65, 0.1])
  index = keeps.index_at(tf.constant([0, 2, 3, 8, 9, 50], tf.int64))
  np.testing.assert_array_equal(index, [0, 0, 1, 1, 2, 2])
  assert int(keeps.index_at(tf.constant(3))) == 1
  assert [keeps.value_at(step) for step in (0, 2, 3, 50)] == [2, 2, 4, None]


@pytest.mark.parametrize(
  ('share', 'steps', 'first'), [(0.07, 100, 7), (0.55, 100, 55), (0.6, 7, 5)]
)
def test_a_share_that_comes_out_even_begins_with_that_step(share, steps, first):
  keeps = schedules.KEEP.parse(('0:2', f'{share}:4'), 6, num_steps=steps)
  assert keeps.first_steps == [0, first]


def test_the_mask_rate_follows_from_the_step_of_the_row():
  """Rows 4 s .. 4 s + 3 are step s; a share begins with the step above it."""
  section = data('0:0.3', '0.25:0.2', '0.5:0.1', mask_schedule_steps=10)
  rates = schedules.mask_rate_of_rows(section, tf.range(44, dtype=tf.int64))
  by_step = np.float32([0.3] * 3 + [0.2] * 2 + [0.1] * 6)
  np.testing.assert_array_equal(rates, np.repeat(by_step, 4))


def test_growth_follows_a_line_in_few_sizes():
  """As Random-LTD grows K, in steps of 8, compiled at most 8 times."""
  keeps = schedules.KEEP.parse(('0-0.75:128-512', '0.75:all'), 6)
  assert keeps.values == (152, 208, 264, 320, 376, 432, 488, None)
  assert keeps.shares == pytest.approx(
    [*(0.75 * number / 7 for number in range(7)), 0.75]
  )
  middles = [(number + 0.5) / 7 for number in range(7)]
  for size, middle in zip(keeps.values, middles):
    assert abs(size - (128 + 384 * middle)) <= 4
  later = schedules.KEEP.parse(('0:4', '0.5-1:4-11'), 6)
  assert later.values == (4, 5, 6, 7, 8, 9, 10, 11)
  with pytest.raises(errors.ConfigurationError, match='a list like'):
    schedules.mask_rates(data('0-0.5:8-16'))


@pytest.mark.parametrize(
  ('entries', 'message'),
  [
    (('128',), "or '0-0.9:128-512' for even growth. Received: '128'."),
    (('0-0.9:128',), "Received: '0-0.9:128'"),
    (('0-0.9:8-all',), "Received: '0-0.9:8-all'"),
    (('0.9-0.5:8-16',), "Received: '0.9-0.5:8-16'"),
    (('0-0.5:16-8',), "Received: '0-0.5:16-8'"),
    (('0-0.5:0-8',), "Received: '0-0.5:0-8'"),
    (('0-0.5:8-800', '0.4:all'), 'Received: 0-0.5:8-800, 0.4:all.'),
    (('0:x',), "Received: '0:x'"),
    (('0:0',), "Received: '0:0'"),
    (('0.1:4',), 'begin with 0, rise, and stay below 1. Received: 0.1:4.'),
    (('0:4', '0.5:8', '0.5:all'), 'Received: 0:4, 0.5:8, 0.5:all.'),
    (('0:4', '1.0:all'), 'Received: 0:4, 1.0:all.'),
  ],
)
def test_a_keep_schedule_of_another_form_is_refused(entries, message):
  with pytest.raises(errors.ConfigurationError) as caught:
    schedules.KEEP.parse(entries, 6)
  assert str(caught.value).startswith(
    "token_drop.keep_schedule must be a list like ('0:128', '0.5:256')"
  )
  assert message in str(caught.value)
  assert str(caught.value).endswith('Set token_drop.keep_schedule.')


@pytest.mark.parametrize(
  ('entries', 'message'),
  [
    (('0:0.3', 'x:0.1'), "Received: 'x:0.1'."),
    (('0:1.0',), 'with rates above 0 and below 1.'),
    (('0:0',), 'with rates above 0 and below 1.'),
    (('0.3',), "Received: '0.3'."),
    (('0.1:0.3',), 'begin with 0'),
    (('0:0.3', '1:0.2'), 'stay below 1'),
  ],
)
def test_a_mask_rate_schedule_of_another_form_is_refused(entries, message):
  with pytest.raises(errors.ConfigurationError) as caught:
    schedules.mask_rates(data(*entries))
  assert message in str(caught.value)
  assert str(caught.value).endswith('Set train_data.mask_rate_schedule.')
