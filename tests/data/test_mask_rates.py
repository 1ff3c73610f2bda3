import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import configs, errors
from tokendrop_tf.data import mask_rates


def data(*schedule, **settings):
  return configs.PretrainingDataConfig(
    mask_rate_schedule=schedule, **{'global_batch_size': 4, **settings}
  )


def test_without_a_schedule_the_rate_is_the_mask_rate():
  section = data(mask_rate=0.2)
  assert mask_rates.highest(section) == 0.2
  np.testing.assert_allclose(
    mask_rates.at_rows(section, tf.range(9, dtype=tf.int64)), 0.2
  )


def test_the_rate_follows_from_the_step_of_the_row():
  """Rows 4 s .. 4 s + 3 are step s; a share begins with the step above it."""
  section = data('0:0.3', '0.25:0.2', '0.5:0.1', mask_schedule_steps=10)
  rates = mask_rates.at_rows(section, tf.range(44, dtype=tf.int64)).numpy()
  by_step = np.float32([0.3] * 3 + [0.2] * 2 + [0.1] * 6)
  np.testing.assert_array_equal(rates, np.repeat(by_step, 4))
  assert mask_rates.highest(section) == 0.3


@pytest.mark.parametrize(
  ('schedule', 'words'),
  [
    (('0:0.3', 'x:0.1'), "'x:0.1'"),
    (('0:1.0',), 'above 0 and below 1'),
    (('0:0',), 'above 0 and below 1'),
    (('0.3',), "'0.3'"),
    (('0.1:0.3',), 'begin with 0'),
    (('0:0.3', '0.5:0.1', '0.5:0.2'), 'rise'),
    (('0:0.3', '1:0.2'), 'stay below 1'),
  ],
)
def test_other_forms_are_refused(schedule, words):
  with pytest.raises(errors.ConfigurationError) as caught:
    mask_rates.parse(data(*schedule))
  assert words in str(caught.value)
  assert str(caught.value).endswith('Set train_data.mask_rate_schedule.')
