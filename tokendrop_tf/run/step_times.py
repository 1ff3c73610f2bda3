"""Seconds per step of a run, from its metrics log.

A run with a keep schedule has steps of several costs. Within one stretch of the
schedule all cost the same, and the median over its loops is the time of a step
on a machine that does nothing else.
"""

import dataclasses
import statistics
from collections.abc import Sequence

from tokendrop_tf import dropping, errors
from tokendrop_tf.config import experiments
from tokendrop_tf.run import run_folder


@dataclasses.dataclass(frozen=True)
class StepTimes:
  """Seconds of a step in every stretch of a run.

  Attributes:
    first_steps: the step, from 0, with which every stretch begins.
    seconds: seconds of one of its steps.
  """

  first_steps: tuple[int, ...]
  seconds: tuple[float, ...]

  def until(self, step: int) -> float:
    """Returns the seconds that the first `step` steps take."""
    ends = (*self.first_steps[1:], step)
    return sum(
      max(min(end, step) - first, 0) * seconds
      for first, end, seconds in zip(self.first_steps, ends, self.seconds)
    )


def first_steps_of(model_dir: str) -> tuple[int, ...]:
  """Returns where the stretches of equal steps of a pretraining run begin.

  A folder of metrics alone, without settings, is one stretch.

  Raises:
    errors.DataError: for a run of another kind.
  """
  if not run_folder.has_configuration(model_dir):
    return (0,)
  experiment = run_folder.experiment_of(model_dir)
  if experiment != experiments.PRETRAINING:
    raise errors.DataError(
      'Runs to compare must be of pretraining. Received: '
      f'{model_dir}, which is of {experiment}. tools/sweep.py compares '
      'fine-tunings.'
    )
  params = run_folder.load_params(model_dir)
  return tuple(dropping.Dropping.of(params.task).kinds.schedule.first_steps)


def measured(
  records: Sequence[dict], stretches: Sequence[int] = (0,)
) -> StepTimes:
  """Returns the median step of every stretch.

  Loops that compiled something count only where there are no others, and a
  stretch without a loop of its own is taken to be like the whole run.

  Args:
    records: the lines of a `metrics.jsonl`.
    stretches: the step, from 0, with which every stretch begins.
  """
  loops = [record for record in records if record['kind'] == 'train']
  loops = [loop for loop in loops if not loop['includes_compilation']] or loops
  every = [loop['seconds_per_step'] for loop in loops]
  ends = (*stretches[1:], float('inf'))
  medians = []
  for first, end in zip(stretches, ends):
    # A loop's record has the number of its last step, counted from 1.
    own = [
      loop['seconds_per_step'] for loop in loops if first < loop['step'] <= end
    ]
    medians.append(statistics.median(own or every or [float('nan')]))
  return StepTimes(tuple(stretches), tuple(medians))
