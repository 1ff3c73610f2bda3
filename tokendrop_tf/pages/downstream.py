"""Fine-tuning of all arms of a twin: which runs, and what came out.

The learning rate of an arm is swept with the first seed, on its first
pretraining run. At the best rate fine-tuning runs with every seed; seed n
starts from pretraining run n modulo their number, so the spread is that of
both. A random start of the same sizes is treated like an arm.
"""

import argparse
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from tokendrop_tf import errors
from tokendrop_tf.config import gin_reader
from tokendrop_tf.finetuning import acceptability, sweep
from tokendrop_tf.pages import arms as arms_lib
from tokendrop_tf.pages import launching
from tokendrop_tf.run import run_folder

TASKS_FOLDER = 'tasks'
ACCEPTABILITY = 'acceptability'
RANDOM_START = 'random start'
# Of the interval of a median.
_COVERAGE, _RESAMPLES = 0.95, 10_000


@dataclasses.dataclass(frozen=True)
class Start:
  """What is fine-tuned.

  Attributes:
    name: of the arm, or `RANDOM_START`.
    folders: of its pretraining runs; of a random start, that of its sizes.
    is_random: whether the weights are random.
  """

  name: str
  folders: tuple[str, ...]
  is_random: bool = False


@dataclasses.dataclass(frozen=True)
class Score:
  """The scores of one start on one task.

  Attributes:
    name: of the start.
    values: main metric of the last validation of every seed.
    learning_rate: the best of the sweep.
    median: of the values.
    interval: the bootstrap interval of the median.
  """

  name: str
  values: list[float]
  learning_rate: str
  median: float
  interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class TaskResult:
  """The scores of all starts on one task.

  Attributes:
    name: of the task.
    metric: its main metric.
    scores: of the arms, then of the random start, of those that have finished.
    majority: score of the most frequent label; `None` where there is none.
    facts: of `results.json`.
  """

  name: str
  metric: str
  scores: list[Score]
  majority: float | None
  facts: dict

  @property
  def chance(self) -> float | None:
    """The best score without pretraining; `None` while it is not known."""
    of_random = [s.median for s in self.scores if s.name == RANDOM_START]
    known = [*of_random, *([] if self.majority is None else [self.majority])]
    return max(known) if of_random else None

  @property
  def is_at_chance(self) -> bool:
    """Whether no arm's interval lies above chance."""
    return self.chance is not None and not any(
      score.interval[0] > self.chance
      for score in self.scores
      if score.name != RANDOM_START
    )


def run_all(twin: arms_lib.Declaration, output: str) -> None:
  """Fine-tunes what is not fine-tuned yet, of every run that is trained.

  Raises:
    errors.TrainingError: as soon as one run fails.
  """
  for task in twin.tasks:
    for start in _starts(twin, output):
      print(f'\nFine-tuning: {task}, {start.name}', flush=True)
      rate = _best_rate(twin, output, task, start, runs=True)
      for flags, runs in _final_runs(twin, output, task, start, rate):
        _run(flags, runs)


def _starts(twin, output) -> list[Start]:
  """Returns the arms whose runs are all trained, and the random start."""
  starts = []
  for arm in twin.arms:
    folders = tuple(arm.folders_in(output))
    if folders and all(map(launching.is_trained, folders)):
      starts.append(Start(arm.name, folders))
    else:
      print(f'{arm.name} is not trained yet: not fine-tuned.', flush=True)
  if starts:
    starts.append(Start(RANDOM_START, starts[0].folders[:1], is_random=True))
  return starts


def _best_rate(twin, output, task, start, runs=False) -> str | None:
  """Returns the best rate of the sweep; `None` if it has not finished.

  Args:
    twin: the declaration.
    output: folder of the twin.
    task: name of the task.
    start: what is fine-tuned.
    runs: whether to run what has not finished.
  """
  flags = _flags(twin, output, task, start, 0)
  planned = sweep.plan(
    flags.output_dir, twin.learning_rates, twin.task_seeds[:1]
  )
  if runs:
    _run(flags, planned)
  results = [(run.results(), run.learning_rate) for run in planned]
  if not all(result for result, _ in results):
    return None
  # Of equal scores the lowest rate.
  return max(results, key=lambda pair: _last(pair[0]))[1]


def _final_runs(twin, output, task, start, rate):
  """Yields (flags, runs) of every pretraining run at the best rate."""
  number = len(start.folders)
  for index in range(number):
    flags = _flags(twin, output, task, start, index)
    seeds = twin.task_seeds[index::number]
    yield flags, sweep.plan(flags.output_dir, [rate], seeds)


def _last(results) -> float:
  return results['last'][results['metric']]


def _run(flags, runs):
  sweep.check_settings(flags)
  sweep.save_settings(flags)
  sweep.run_all(runs, flags)


def _flags(twin, output, task, start, index) -> argparse.Namespace:
  """Returns the flags of a sweep over one pretraining run."""
  names = (TASKS_FOLDER, task, start.name, f'run_{index}')
  bindings = [f'INIT_FROM = {start.folders[index]!r}']
  gin_file = os.path.join('finetune', f'{task}.gin')
  if task == ACCEPTABILITY:
    gin_file = os.path.join('finetune', 'custom.gin')
    bindings += _acceptability_bindings(output)
  elif not os.path.exists(gin_reader.config_folder() / gin_file):
    raise errors.ConfigurationError(
      '--task must name a file of gin_configs/finetune, or '
      f'{ACCEPTABILITY}. Received: {task}. Correct --task.'
    )
  if start.is_random:
    bindings.append('finetuning.random_init = True')
  return argparse.Namespace(
    gin_file=[gin_file],
    gin_params=[*bindings, *twin.tasks[task]],
    output_dir=os.path.join(output, *(arms_lib.as_folder(n) for n in names)),
    processes=1,
    keep_weights=False,
  )


def _acceptability_bindings(output) -> list[str]:
  folder = os.path.join(output, TASKS_FOLDER, f'{ACCEPTABILITY}_data')
  names = (acceptability.TRAIN_FILE, acceptability.VALIDATION_FILE)
  train, validation = (os.path.join(folder, name) for name in names)
  return [
    f'TRAIN_DATA = {train!r}',
    f'VALIDATION_DATA = {validation!r}',
    "TEXT = 'sentence'",
    "LABEL = 'label'",
    "glue.metric = 'matthews_corrcoef'",
  ]


def make_acceptability(twin: arms_lib.Declaration, output: str) -> None:
  """Makes the files of the acceptability task, where it is asked for.

  Args:
    twin: the declaration; the validation text of its first run is taken.
    output: folder of the twin.
  """
  folder = os.path.join(output, TASKS_FOLDER, f'{ACCEPTABILITY}_data')
  path = os.path.join(folder, acceptability.VALIDATION_FILE)
  if ACCEPTABILITY not in twin.tasks or os.path.exists(path):
    return
  os.makedirs(folder, exist_ok=True)
  task = run_folder.load_params(twin.arms[0].folders_in(output)[0]).task
  acceptability.write_files(task.validation_data, folder)


# The results.


def read_all(twin: arms_lib.Declaration, output: str) -> list[TaskResult]:
  """Returns the results of all tasks, as far as they have finished."""
  starts = [Start(arm.name, tuple(arm.folders_in(output))) for arm in twin.arms]
  starts.append(Start(RANDOM_START, starts[0].folders[:1], is_random=True))
  results = (_read(twin, output, task, starts) for task in twin.tasks)
  return [result for result in results if result.scores]


def _read(twin, output, task, starts) -> TaskResult:
  scores, facts = [], {}
  for start in starts:
    rate = _best_rate(twin, output, task, start)
    if rate is None:
      continue
    results = [
      run.results()
      for _, runs in _final_runs(twin, output, task, start, rate)
      for run in runs
    ]
    if not all(results):
      continue
    facts = results[0]
    values = [_last(result) for result in results]
    scores.append(score_of(start.name, values, rate))
  metric = facts.get('metric', '')
  return TaskResult(
    task, metric, scores, facts.get('majority_class', {}).get(metric), facts
  )


def score_of(name: str, values: Sequence[float], learning_rate: str) -> Score:
  """Returns the median of scores with its bootstrap interval."""
  return Score(
    name,
    list(values),
    learning_rate,
    float(np.median(values)),
    bootstrap_interval(values),
  )


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
  """Returns the 95 % percentile interval of the median, over resamples.

  Args:
    values: one for each seed. Of so few, the interval is rough.
  """
  draw = np.random.default_rng(0)
  drawn = draw.choice(np.asarray(values, float), (_RESAMPLES, len(values)))
  tail = (1.0 - _COVERAGE) / 2
  low, high = np.quantile(np.median(drawn, axis=1), [tail, 1.0 - tail])
  return float(low), float(high)
