"""Pretraining runs read for a comparison: losses, times and multiply-adds."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from tokendrop_tf import dropping, errors, schedules
from tokendrop_tf.data import baselines
from tokendrop_tf.dropping import cost, steps
from tokendrop_tf.run import metrics_log, run_folder, step_times

# Axes that losses are drawn against.
STEPS, TOKENS, SECONDS = 'steps', '10⁶ tokens', 'seconds of training'
MULTIPLY_ADDS = '10¹² multiply-adds'
# Names of the baselines.
UNIGRAM, CONTEXT_FREE = 'unigram entropy', 'best without context'


@dataclasses.dataclass(frozen=True)
class RunCurve:
  """The validations of one run.

  Attributes:
    name: what the run is called in tables and figures.
    model_dir: its folder.
    validations: their records in `metrics.jsonl`, in order.
    times: seconds of its steps.
    costs: multiply-adds of its steps, in 10^12; `None` of a folder of metrics
      without settings.
  """

  name: str
  model_dir: str
  validations: tuple[dict, ...]
  times: step_times.StepTimes
  costs: step_times.StepTimes | None = None

  @property
  def steps(self) -> list[int]:
    """Step of each validation."""
    return [record['step'] for record in self.validations]

  @property
  def full(self) -> list[float]:
    """MLM loss on full sequences, in nats."""
    return self.metric('lm_example_loss')

  @property
  def dropping(self) -> list[float]:
    """MLM loss with dropping, in nats; empty for plain BERT."""
    return self.metric('lm_example_loss_dropping')

  @property
  def seconds(self) -> list[float]:
    """Training time until each validation."""
    return [self.times.until(step) for step in self.steps]

  def metric(self, name: str) -> list[float]:
    """Returns a metric of all validations that have it."""
    return [record[name] for record in self.validations if name in record]

  def places(self) -> dict[str, list[float]]:
    """Returns where the validations stand, by axis."""
    places = {STEPS: self.steps, SECONDS: self.seconds}
    if self.costs:
      places[MULTIPLY_ADDS] = [self.costs.until(step) for step in self.steps]
    return places

  def loss_at(self, seconds: float) -> float | None:
    """Returns the full-sequence loss after as much training, interpolated.

    `None` before the first validation and after the last.
    """
    if not self.seconds[0] <= seconds <= self.seconds[-1]:
      return None
    return float(np.interp(seconds, self.seconds, self.full))

  def first_below(self, loss: float) -> float | None:
    """Returns the step at which the full-sequence loss first was as low.

    Interpolated between validations; `None` if it never was.
    """
    before = None
    for step, value in zip(self.steps, self.full):
      if value <= loss:
        if before is None:
          return float(step)
        last_step, last = before
        return last_step + (step - last_step) * (last - loss) / (last - value)
      before = step, value
    return None


def read_run(
  name: str,
  model_dir: str,
  seconds_per_step: float | list[float] | None = None,
) -> RunCurve:
  """Reads one run.

  Args:
    name: its name.
    model_dir: its folder.
    seconds_per_step: replaces the time that the run itself measured; of a run
      with a keep schedule a list, one number for each of its stretches.

  Raises:
    errors.DataError: for a folder without a validated pretraining run.
  """
  rows = metrics_log.read_metrics(
    os.path.join(model_dir, metrics_log.METRICS_FILE)
  )
  stretches = step_times.first_steps_of(model_dir)
  validations = tuple(row for row in rows if row['kind'] == 'validation')
  if not validations:
    raise errors.DataError(
      f'A run to compare must hold validations in {metrics_log.METRICS_FILE}. '
      f'Received: {model_dir}, which does not. Name the --model_dir of a '
      'training with --mode=train_and_eval.'
    )
  return RunCurve(
    name=name,
    model_dir=model_dir,
    validations=validations,
    times=_times(name, rows, stretches, seconds_per_step),
    costs=_costs(model_dir, stretches),
  )


def _times(name, rows, stretches, seconds):
  if seconds is None:
    return step_times.measured(rows, stretches)
  seconds = seconds if isinstance(seconds, list) else [seconds]
  if len(seconds) != len(stretches):
    raise errors.ConfigurationError(
      '--seconds_per_step must give a number for each stretch of the keep '
      f'schedule. Received: {len(seconds)} for {name}, which has '
      f'{len(stretches)}.'
    )
  return step_times.StepTimes(stretches, tuple(seconds))


def _costs(model_dir, stretches):
  if not run_folder.has_configuration(model_dir):
    return None
  costs = step_costs(pretraining_task(model_dir))
  return step_times.StepTimes(stretches, tuple(costs))


def step_costs(task) -> list[float]:
  """Returns the multiply-adds of a train step in each stretch, in 10^12.

  The backward pass counts as two forward passes.

  Args:
    task: a `configs.PretrainingTaskConfig`.
  """
  scale = 3e-12 * task.train_data.global_batch_size
  return by_stretch(
    dropping.Dropping.of(task).kinds,
    lambda step: scale * cost.kind_cost(task, step),
  )


def by_stretch(
  kinds: steps.StepKinds, of_step: Callable[[steps.Step], float]
) -> list[float]:
  """Returns the mean of a figure of steps in each stretch of a schedule.

  Args:
    kinds: the kinds of steps of a run.
    of_step: the figure of a step of one kind.
  """
  return [
    sum(
      share * of_step(step) for share, step in kinds.mixture(ordinary) if share
    )
    for ordinary in kinds.schedule.values
  ]


def pretraining_task(model_dir: str):
  """Returns the `configs.PretrainingTaskConfig` of a run."""
  return run_folder.load_params(model_dir).task


def renamed(run: RunCurve, name: str) -> RunCurve:
  """Returns a run under another name."""
  return dataclasses.replace(run, name=name)


def read_baselines(model_dir: str) -> baselines.Baselines:
  """Returns the baselines of the labels that a run is validated on.

  Raises:
    errors.UserError: without its settings, or if its data are not there.
  """
  task = pretraining_task(model_dir)
  return baselines.read_baselines(
    task.validation_data,
    task.vocabulary,
    causal=task.objective == schedules.CAUSAL_LM,
  )


def baselines_by_name(known: baselines.Baselines | None) -> dict[str, float]:
  """Returns the known baselines of labels, in nats, by their names."""
  if known is None:
    return {}
  found = {
    UNIGRAM: known.unigram_entropy,
    CONTEXT_FREE: known.context_free_loss,
  }
  return {name: loss for name, loss in found.items() if loss is not None}


def distinct_baselines(
  unigram_entropy: float, context_free_loss: float
) -> dict[str, float]:
  """Returns the baselines to draw: one where both are the same.

  They are the same where all labels show [MASK].
  """
  found = {CONTEXT_FREE: context_free_loss}
  if unigram_entropy - context_free_loss > 1e-6:
    found[UNIGRAM] = unigram_entropy
  return found


def verdict(
  first: RunCurve, second: RunCurve, times_compare: bool = True
) -> list[str]:
  """Returns in sentences what the second run shows next to the first.

  Args:
    first: the run to compare with.
    second: another, validated on the same labels.
    times_compare: whether the times were measured alike.
  """
  difference = second.full[-1] - first.full[-1]
  side = 'higher' if difference > 0.0 else 'lower'
  after = (
    f'After the same {second.steps[-1]:,} steps'
    if first.steps[-1] == second.steps[-1]
    else f'After {second.steps[-1]:,} steps'
  )
  than = (
    '' if first.steps[-1] == second.steps[-1] else f' after {first.steps[-1]:,}'
  )
  lines = [
    f'{after}, the full-sequence loss of {second.name} is '
    f'{second.full[-1]:.3f}; that of {first.name} is {first.full[-1]:.3f}'
    f'{than}: {abs(difference):.3f} nats {side}.'
  ]
  if times_compare:
    lines += _time_sentences(first, second)
  if second.dropping:
    gap = second.full[-1] - second.dropping[-1]
    lines.append(
      f'Read with dropping on, the loss of {second.name} is '
      f'{second.dropping[-1]:.3f}: a full-sequence gap of {gap:+.3f}.'
    )
  return lines


def _time_sentences(first, second):
  saved = 1.0 - second.seconds[-1] / first.seconds[-1]
  more_or_less = 'less' if saved > 0.0 else 'more'
  lines = [
    f'Its steps took {abs(saved):.0%} {more_or_less} time in all: '
    f'{second.seconds[-1]:,.0f} s instead of {first.seconds[-1]:,.0f} s.'
  ]
  shorter, longer = sorted((first, second), key=lambda run: run.seconds[-1])
  loss = longer.loss_at(shorter.seconds[-1])
  if loss is not None:
    lines.append(
      f'In the time of {shorter.name}, {longer.name} had reached {loss:.3f}.'
    )
  return lines


def reading_sentences(
  runs: Sequence[RunCurve], found: dict[str, float]
) -> list[str]:
  """Names the runs that have not shown that they read the context."""
  if CONTEXT_FREE not in found:
    return []
  level = found[CONTEXT_FREE]
  above = [run.name for run in runs if run.full[-1] >= level]
  if not above:
    return []
  return [
    f'A model that looks at no other token can reach {level:.2f}: '
    f'{" and ".join(above)} ended above that. There the comparison shows how '
    'fast runs learn which tokens are frequent, not yet how well they read.'
  ]
