"""Settings that change during training, written as 'SHARE:VALUE' entries.

From this share of the steps on, this value holds. The value follows from the
step alone, so a resumed run continues with the value that it stopped at.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tokendrop_tf import errors

ALL = 'all'
# Steps of one size are compiled once, so growth takes few sizes; multiples of 8
# suit the devices.
_GROWTH_SIZES = 7
_SIZE_UNIT = 8


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Values over a run.

  Attributes:
    shares: share of the steps at which each value begins, rising from 0.
    values: what holds from there on.
    num_steps: steps of the run; 0 where only shares and values are asked for.
  """

  shares: tuple[float, ...]
  values: tuple
  num_steps: int = 0

  @property
  def first_steps(self) -> list[int]:
    """The step, from 0, at which every value begins."""
    # In binary 0.55 * 100 is a little above 55.
    return [math.ceil(round(s * self.num_steps, 6)) for s in self.shares]

  @property
  def lengths(self) -> list[float]:
    """The share of the steps for which every value holds."""
    return [
      end - begin for begin, end in zip(self.shares, (*self.shares[1:], 1.0))
    ]

  def value_at(self, step: int):
    """Returns the value that holds at a step, counted from 0."""
    return self.values[bisect.bisect_right(self.first_steps, step) - 1]

  def index_at(self, steps: tf.Tensor) -> tf.Tensor:
    """Returns the index of the value that holds at each step.

    Args:
      steps: integer, any shape, counted from 0.

    Returns:
      int32, shape of `steps`.
    """
    first_steps = tf.constant(self.first_steps, steps.dtype)
    has_begun = steps[..., tf.newaxis] >= first_steps
    return tf.reduce_sum(tf.cast(has_begun, tf.int32), axis=-1) - 1


def combined(function: Callable, *parts: Schedule) -> Schedule:
  """Returns the schedule of a function of several schedules of one run.

  Args:
    function: of a value of each to a value.
    *parts: the schedules, all with the same `num_steps`.
  """
  shares = sorted({share for part in parts for share in part.shares})
  values = [
    function(
      *(part.values[bisect.bisect_right(part.shares, s) - 1] for part in parts)
    )
    for s in shares
  ]
  return Schedule(tuple(shares), tuple(values), parts[0].num_steps)


@dataclasses.dataclass(frozen=True)
class Form:
  """The form of one setting's entries, and how a message describes it.

  Attributes:
    setting: its name in gin.
    example: a valid value.
    values: completes the message 'must be a list like ...'.
    read: function of the text after the colon to the value; raises `ValueError`
      for another form.
    grows: whether an entry may be even growth, '0-0.9:128-512'.
  """

  setting: str
  example: str
  values: str
  read: Callable[[str], object]
  grows: bool = False

  def parse(
    self, entries: Sequence[str], default, num_steps: int = 0
  ) -> Schedule:
    """Returns the schedule of a setting.

    Args:
      entries: as set; without one, `default` holds throughout.
      default: value without a schedule.
      num_steps: steps of the run.

    Raises:
      errors.ConfigurationError: for an entry of another form, or shares that do
        not rise from 0 or reach 1.

    Example:

        KEEP.parse(('0:128', '0.9:all'), 256, num_steps=1000)
        # Schedule(shares=(0.0, 0.9), values=(128, None), num_steps=1000)
        KEEP.parse(('0-0.7:100-800', '0.7:all'), 256)  # 152, 248, ... 752, None
    """
    if not entries:
      return Schedule((0.0,), (default,), num_steps)
    parsed = itertools.chain.from_iterable(map(self._parse_entry, entries))
    shares, values = zip(*parsed)
    rises = all(a < b for a, b in zip(shares, shares[1:]))
    if shares[0] != 0.0 or not rises or shares[-1] >= 1.0:
      raise errors.ConfigurationError(
        f'{self.setting} must be a list like {self.example}: shares of the '
        'training that begin with 0, rise, and stay below 1. Received: '
        f'{", ".join(entries)}. Set {self.setting}.'
      )
    return Schedule(shares, values, num_steps)

  def _parse_entry(self, entry):
    """Returns the pairs of share and value that an entry stands for."""
    share, separator, value = entry.partition(':')
    try:
      if not separator:
        raise ValueError(entry)
      if self.grows and '-' in share:
        begin, end = map(float, share.split('-'))
        first, last = map(int, value.split('-'))
        return _growth(begin, end, first, last)
      return [(float(share), self.read(value))]
    except ValueError:
      raise errors.ConfigurationError(
        f'{self.setting} must be a list like {self.example}, {self.values}. '
        f'Received: {entry!r}. Set {self.setting}.'
      ) from None


def _growth(begin, end, first, last):
  """Returns entries whose sizes follow a line from `first` to `last`.

  Each size is that of the line in the middle of its stretch.
  """
  if not (begin < end <= 1 and 1 <= first < last):
    raise ValueError(f'{begin}-{end}:{first}-{last}')
  unit = _SIZE_UNIT if last - first >= _GROWTH_SIZES * _SIZE_UNIT else 1
  entries = {}
  for number in range(_GROWTH_SIZES):
    size = first + (last - first) * (number + 0.5) / _GROWTH_SIZES
    share = begin + (end - begin) * number / _GROWTH_SIZES
    entries.setdefault(math.floor(size / unit + 0.5) * unit, share)
  return [(share, size) for size, share in entries.items()]


def _read_keep_k(text):
  if text == ALL:
    return None
  keep_k = int(text)
  if keep_k < 1:
    raise ValueError(text)
  return keep_k


def _read_rate(text):
  rate = float(text)
  if not 0 < rate < 1:
    raise ValueError(text)
  return rate


# Tokens kept; `None` is all of them.
KEEP = Form(
  'token_drop.keep_schedule',
  "('0:128', '0.5:256')",
  "or ':all' for all tokens, or '0-0.9:128-512' for even growth",
  _read_keep_k,
  grows=True,
)
# What a model learns to predict.
MASKED_LM, CAUSAL_LM = 'masked_lm', 'causal_lm'
OBJECTIVES = (MASKED_LM, CAUSAL_LM)


def _read_objective(text):
  if text not in OBJECTIVES:
    raise ValueError(text)
  return text


OBJECTIVE = Form(
  'pretraining.objective_schedule',
  "('0:causal_lm', '0.2:masked_lm')",
  "with the objectives 'masked_lm' and 'causal_lm'",
  _read_objective,
)
# Share of the ordinary tokens that become labels.
MASK_RATE = Form(
  'train_data.mask_rate_schedule',
  "('0:0.3', '0.5:0.15')",
  'with rates above 0 and below 1',
  _read_rate,
)


def mask_rates(data) -> Schedule:
  """Returns the mask rates of a data section.

  Args:
    data: a `configs.PretrainingDataConfig`.

  Raises:
    errors.ConfigurationError: as `Form.parse`.
  """
  return MASK_RATE.parse(
    data.mask_rate_schedule, data.mask_rate, data.mask_schedule_steps
  )


def mask_rate_of_rows(data, rows: tf.Tensor) -> tf.Tensor:
  """Returns the mask rate of rows of a run, float32 like `rows`.

  Args:
    data: a `configs.PretrainingDataConfig` with `mask_schedule_steps`.
    rows: int64, numbers of the rows, counted from the beginning of the run;
      row r belongs to step r // global_batch_size.
  """
  rates = mask_rates(data)
  steps = tf.cast(rows, tf.int64) // data.global_batch_size
  return tf.gather(tf.constant(rates.values), rates.index_at(steps))
