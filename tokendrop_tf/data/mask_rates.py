"""The share of tokens that are labels, as a function of the step.

A schedule is written 'SHARE:RATE' in `train_data.mask_rate_schedule`: from this
share of `trainer.train_steps` on, this mask rate. The rate follows from the
step alone, so a run resumes with the rate it stopped at.
"""

import dataclasses

import tensorflow as tf

from tokendrop_tf import errors, share_schedule

_FORM = (
  "train_data.mask_rate_schedule must be a list like ('0:0.3', '0.5:0.15')"
)
_REMEDY = 'Set train_data.mask_rate_schedule.'


@dataclasses.dataclass(frozen=True)
class Stretch:
  """A stretch of the training.

  Attributes:
    share: where it begins, in [0, 1), of the training.
    mask_rate: share of the ordinary tokens that are labels, in (0, 1).
  """

  share: float
  mask_rate: float


def parse(data) -> tuple[Stretch, ...]:
  """Returns the stretches of a data section, one where there is no schedule.

  Args:
    data: a `configs.PretrainingDataConfig`.

  Raises:
    errors.ConfigurationError: for an entry that is not 'SHARE:RATE', or shares
      that do not rise from 0.

  Example:

      parse(PretrainingDataConfig(mask_rate_schedule=('0:0.3', '0.5:0.15')))
      # (Stretch(share=0.0, mask_rate=0.3), Stretch(share=0.5, mask_rate=0.15))
  """
  if not data.mask_rate_schedule:
    return (Stretch(0.0, data.mask_rate),)
  stretches = tuple(_parse_entry(entry) for entry in data.mask_rate_schedule)
  share_schedule.check_shares(
    [stretch.share for stretch in stretches],
    data.mask_rate_schedule,
    _FORM,
    _REMEDY,
  )
  return stretches


def _parse_entry(entry):
  share, _, rate = entry.partition(':')
  try:
    stretch = Stretch(float(share), float(rate))
  except ValueError:
    stretch = None
  if stretch is None or not 0 < stretch.mask_rate < 1:
    raise errors.ConfigurationError(
      f'{_FORM}, with rates above 0 and below 1. Received: {entry!r}. {_REMEDY}'
    )
  return stretch


def highest(data) -> float:
  """Returns the highest mask rate that a data section ever uses."""
  return max(stretch.mask_rate for stretch in parse(data))


def at_rows(data, rows) -> tf.Tensor:
  """Returns the mask rate of rows of a run, float32 like `rows`.

  Args:
    data: a `configs.PretrainingDataConfig` with `mask_schedule_steps`.
    rows: int64, numbers of the rows, counted from the beginning of the run;
      row r belongs to step r // global_batch_size.
  """
  stretches = parse(data)
  first_steps = share_schedule.first_steps(
    [stretch.share for stretch in stretches], data.mask_schedule_steps
  )
  steps = tf.cast(rows, tf.int64) // data.global_batch_size
  number = tf.searchsorted(
    tf.constant(first_steps, tf.int64), tf.reshape(steps, [-1]), side='right'
  )
  rates = tf.constant([stretch.mask_rate for stretch in stretches])
  return tf.reshape(tf.gather(rates, number - 1), tf.shape(steps))
