"""The results of a twin, read from the folders of its runs."""

import dataclasses
import os
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from tokendrop_tf import errors, files
from tokendrop_tf.data import baselines as baselines_lib
from tokendrop_tf.pages import arms as arms_lib
from tokendrop_tf.pages import (
  downstream,
  environment,
  launching,
  run_curves,
  step_speeds,
)
from tokendrop_tf.run import run_folder

SPEEDS_FILE = 'step_speeds.json'
# Settings by which runs of one arm differ.
_SEEDS = ('pretraining.seed', 'train_data.seed')
# What decides which labels a validation has, and what they show.
_VALIDATION = 'validation_data.'
_NO_MATTER = ('validation_data.global_batch_size', 'validation_data.seed')


@dataclasses.dataclass(frozen=True)
class ArmCurve:
  """The validations of all runs of an arm.

  Attributes:
    name: of the arm.
    runs: its runs, one for each seed, each with a validation.
    unfinished: folders of runs that have not ended, or not begun.
    is_timed: whether seconds of its steps were taken in turns with the others.
  """

  name: str
  runs: tuple[run_curves.RunCurve, ...]
  unfinished: tuple[str, ...] = ()
  is_timed: bool = False

  @property
  def steps(self) -> list[int]:
    """Steps of the validations of the first run that all runs have reached."""
    last = min(run.steps[-1] for run in self.runs)
    return [step for step in self.runs[0].steps if step <= last]

  def losses(self) -> np.ndarray:
    """Returns full-sequence losses at `steps`, [runs, steps]."""
    return np.array(
      [np.interp(self.steps, run.steps, run.full) for run in self.runs]
    )

  def places(self) -> dict[str, list[float]]:
    """Returns where `steps` stand, by axis."""
    first = self.runs[0]
    places = {
      run_curves.TOKENS: [1e-6 * self.tokens_at(step) for step in self.steps]
    }
    if self.is_timed:
      places[run_curves.SECONDS] = [first.times.until(s) for s in self.steps]
    if first.costs:
      places[run_curves.MULTIPLY_ADDS] = [
        first.costs.until(step) for step in self.steps
      ]
    return places

  def tokens_at(self, step: float) -> float:
    """Returns the tokens of so many steps."""
    last = self.runs[0].validations[-1]
    return step * last['tokens'] / last['step']

  def first_below(self, loss: float) -> list[float | None]:
    """Returns the step at which each run first was as low; `None`: never."""
    return [run.first_below(loss) for run in self.runs]

  @property
  def mean(self) -> run_curves.RunCurve:
    """One run with the mean losses of all."""
    losses = self.losses().mean(axis=0)
    records = tuple(
      {'step': step, 'lm_example_loss': float(loss)}
      for step, loss in zip(self.steps, losses)
    )
    return dataclasses.replace(self.runs[0], validations=records)

  def final(self, metric: str) -> list[float]:
    """Returns a metric of the last validation of every run that has it."""
    return [v[-1] for run in self.runs if (v := run.metric(metric))]


# Reading.


def write_speeds(speeds: step_speeds.StepSpeeds, output: str) -> None:
  """Writes the times of steps, with the machine that they are of."""
  files.write_json(
    os.path.join(output, SPEEDS_FILE),
    {**dataclasses.asdict(speeds), 'machine': environment.machine()},
  )


def read_speeds(output: str) -> step_speeds.StepSpeeds | None:
  """Reads the times of steps; `None` while there are none."""
  found = files.read_json_if_valid(os.path.join(output, SPEEDS_FILE))
  if not found:
    return None
  del found['machine']
  return step_speeds.StepSpeeds(**found)


def read_arms(twin: arms_lib.Declaration, output: str) -> list[ArmCurve]:
  """Reads the runs of all arms that have a validation.

  Raises:
    errors.DataError: if the first arm has none.
  """
  speeds = read_speeds(output)
  arms = [_read_arm(arm, output, speeds) for arm in twin.arms]
  if not arms[0].runs:
    raise errors.DataError(
      'The first arm is what the others are compared with. Received: '
      f'{arms[0].name}, without a validated run. Train it first.'
    )
  return [arm for arm in arms if arm.runs]


def _read_arm(arm, output, speeds) -> ArmCurve:
  medians = speeds.medians.get(arm.name) if speeds else None
  runs, unfinished = [], []
  for folder in arm.folders_in(output):
    if not launching.is_trained(folder):
      unfinished.append(folder)
    try:
      runs.append(run_curves.read_run(arm.name, folder, medians))
    except errors.DataError:  # No validation yet.
      continue
  return ArmCurve(arm.name, tuple(runs), tuple(unfinished), bool(medians))


# What was equal.


def differing_settings(
  trees: Mapping[str, Sequence],
) -> dict[str, dict[str, object]]:
  """Returns the settings that are not the same in all runs.

  Seeds may differ within an arm and are not reported.

  Args:
    trees: the `ExperimentConfig`s of the runs of every arm, by its name.

  Returns:
    By setting, its value in every arm; a list of several if the runs of the arm
    differ.
  """
  values = {
    name: [_settings(params) for params in runs] for name, runs in trees.items()
  }
  names = dict.fromkeys(n for runs in values.values() for r in runs for n in r)
  found = {}
  for setting in names:
    if setting in _SEEDS:
      continue
    by_arm = {
      arm: _distinct([run.get(setting) for run in runs])
      for arm, runs in values.items()
    }
    if len(_distinct([v for several in by_arm.values() for v in several])) > 1:
      found[setting] = {
        arm: several[0] if len(several) == 1 else several
        for arm, several in by_arm.items()
      }
  return found


def _settings(params) -> dict[str, object]:
  settings = run_folder.settings_of(params)
  # A path may differ where the file does not.
  path = params.task.vocabulary.path
  checksum = zlib.crc32(files.read_bytes(path)) if os.path.exists(path) else 0
  settings['vocabulary.path'] = f'vocabulary {checksum:08x}'
  settings.pop('vocabulary.counts_path', None)
  return settings


def _distinct(values: list) -> list:
  found = []
  for value in values:
    if value not in found:
      found.append(value)
  return found


def validates_alike(differences: Mapping[str, dict]) -> bool:
  """Whether all runs were validated on the same labels in the same way."""
  return not any(
    name.startswith((_VALIDATION, 'vocabulary.'))
    and name not in _NO_MATTER
    or name == 'trainer.validation_steps'
    for name in differences
  )


# The summary.


def summarize(
  twin: arms_lib.Declaration,
  arms: Sequence[ArmCurve],
  tasks: Sequence[downstream.TaskResult],
  output: str,
) -> dict:
  """Returns the comparison, as `summary.json` holds it.

  Args:
    twin: the declaration.
    arms: what `read_arms` gave; the first is what others are compared with.
    tasks: what `downstream.read_all` gave.
    output: folder of the twin.
  """
  first = arms[0]
  known = _baselines(first)
  speeds = read_speeds(output)
  trees = {
    arm.name: [run_folder.load_params(run.model_dir) for run in arm.runs]
    for arm in arms
  }
  differences = differing_settings(trees)
  return {
    'baseline_arm': first.name,
    'unigram_entropy': known.unigram_entropy if known else None,
    'context_free_loss': known.context_free_loss if known else None,
    'losses_compare': validates_alike(differences),
    'times_compare': all(arm.is_timed for arm in arms),
    'step_times': speeds.describe() if speeds else None,
    'arms': [_summarize_arm(arm, first, known) for arm in arms],
    'tasks': [_summarize_task(task) for task in tasks],
    'different_settings': differences,
    'equal_settings': _equal_settings(trees[first.name][0], differences),
    'commands': commands(twin, output),
    'machine': environment.machine(),
    'versions': environment.versions(),
  }


def _baselines(arm) -> baselines_lib.Baselines | None:
  try:
    return run_curves.read_baselines(arm.runs[0].model_dir)
  except errors.UserError as error:
    print(f'The baselines of the labels are not known: {error}', flush=True)
    return None


def _summarize_arm(arm: ArmCurve, first: ArmCurve, known) -> dict:
  """Returns the figures of an arm; losses in nats, costs in 10^12."""
  finals = [run.full[-1] for run in arm.runs]
  target = float(np.mean([run.full[-1] for run in first.runs]))
  steps = arm.runs[0].steps[-1]
  mean = arm.mean
  summary = {
    'name': arm.name,
    'folders': [run.model_dir for run in arm.runs],
    'unfinished': list(arm.unfinished),
    'num_runs': len(arm.runs),
    'steps': steps,
    'tokens': arm.tokens_at(steps),
    'validation_loss': _spread(finals),
    'validation_accuracy': _spread(arm.final('masked_lm_accuracy')),
    'full_sequence_gap': _spread(arm.final('full_sequence_gap')),
    'multiply_adds': _at(arm.runs[0].costs, steps),
    'train_seconds': _at(arm.runs[0].times, steps) if arm.is_timed else None,
    # Of the mean curve, and of every run.
    'steps_to_baseline_loss': mean.first_below(target),
    'steps_to_baseline_loss_of_runs': arm.first_below(target),
  }
  reached = summary['steps_to_baseline_loss']
  is_timed = arm.is_timed and first.is_timed
  seconds = first.runs[0].times.until(first.runs[0].steps[-1])
  summary |= {
    'context_gain': None,
    'tokens_until_reading': None,
    'tokens_to_baseline_loss': _scaled(arm.tokens_at, reached),
    'seconds_to_baseline_loss': _at(arm.runs[0].times, reached)
    if is_timed
    else None,
    'multiply_adds_to_baseline_loss': _at(arm.runs[0].costs, reached),
    'loss_at_equal_time': mean.loss_at(seconds) if is_timed else None,
  }
  if known:
    summary['context_gain'] = _spread(
      [known.context_free_loss - loss for loss in finals]
    )
    began = arm.first_below(known.reading_loss)
    summary['tokens_until_reading'] = [
      _scaled(arm.tokens_at, step) for step in began
    ]
  return summary


def _spread(values: Sequence[float]) -> dict | None:
  """Returns mean, lowest, highest and all of some values."""
  if not values:
    return None
  return {
    'mean': float(np.mean(values)),
    'low': min(values),
    'high': max(values),
    'values': list(values),
  }


def _at(step_figure, step):
  if step_figure is None or step is None:
    return None
  return step_figure.until(step)


def _scaled(function, value):
  return None if value is None else function(value)


def _summarize_task(task: downstream.TaskResult) -> dict:
  kept = ('train_steps', 'batch_size', 'seq_length', 'num_train_examples')
  return {
    'name': task.name,
    'metric': task.metric,
    'chance': task.chance,
    'is_at_chance': task.is_at_chance,
    'majority': task.majority,
    'scores': [dataclasses.asdict(score) for score in task.scores],
    **{name: task.facts[name] for name in kept if name in task.facts},
  }


def _equal_settings(params, differences) -> dict[str, str]:
  """Returns the settings that a reader asks for first, where all share them."""
  task, model, data = params.task, params.task.model, params.task.train_data
  settings = run_folder.settings_of(params)
  rows = {
    'model': (
      ('model.',),
      f'{model.num_layers} layers x {model.hidden_size}, '
      f'{model.num_attention_heads} heads, vocabulary {model.vocab_size:,}',
    ),
    'text': (
      ('train_data.input_path', 'train_data.tfds_', 'train_data.held_out'),
      data.input_path or data.tfds_name or 'documentation strings',
    ),
    'order of the text': (('train_data.shuffle', 'train_data.pack'), 'one'),
    'tokens a step': (
      ('train_data.global_batch_size', 'train_data.seq_length'),
      f'{data.global_batch_size} x {data.seq_length}',
    ),
    'steps': (('trainer.train_steps',), f'{params.trainer.train_steps:,}'),
    'masks': (
      ('train_data.mask', 'train_data.random_', 'train_data.max_pred'),
      f'rate {data.mask_rate:g}, {data.mask_token_share:.0%} [MASK], '
      f'{data.random_token_share:.0%} random',
    ),
    'optimizer': (
      ('optimizer.',),
      f'peak rate {settings["optimizer.learning_rate"]}, '
      f'{settings["optimizer.warmup_steps"]} warm-up steps',
    ),
    'precision': (
      ('runtime.mixed_precision_dtype',),
      params.runtime.mixed_precision_dtype,
    ),
    'validation': (
      (_VALIDATION, 'trainer.validation_steps'),
      f'rate {task.validation_data.mask_rate:g}, '
      f'{task.validation_data.mask_token_share:.0%} [MASK], full sequences',
    ),
  }
  return {
    title: text
    for title, (prefixes, text) in rows.items()
    if not any(
      name.startswith(prefixes) and name not in _NO_MATTER
      for name in differences
    )
  }


def commands(twin: arms_lib.Declaration, output: str) -> dict[str, str]:
  """Returns the commands that train each run, by its arm and seed."""
  return {
    f'{arm.name}, seed {seed}': launching.shown_command(
      twin.launcher_arguments(arm, seed, output)
    )
    for arm in twin.arms
    for seed in arm.seeds
  }


# In words.


def verdict(summary: dict) -> list[str]:
  """Returns in sentences what the comparison shows.

  Args:
    summary: what `summarize` gave.
  """
  first, *others = summary['arms']
  lines = []
  if not summary['losses_compare']:
    lines.append(
      'The losses do not compare: not all runs were validated on the same '
      'labels in the same way (see the settings that differ).'
    )
  if not summary['times_compare']:
    lines.append(
      'Times are not compared: steps have not been timed in turns on an idle '
      'machine yet.'
    )
  lines += _unfinished_sentences(summary)
  if summary['losses_compare']:
    lines += [
      _arm_sentence(arm, first, summary['times_compare']) for arm in others
    ]
    lines += _reading_sentences(summary)
  return lines + _task_sentences(summary)


def _unfinished_sentences(summary):
  number = sum(len(arm['unfinished']) for arm in summary['arms'])
  if not number:
    return []
  runs = 'run has' if number == 1 else 'runs have'
  return [f'{number} {runs} not finished yet: figures are provisional.']


def _arm_sentence(arm, first, times_compare) -> str:
  loss, target = arm['validation_loss'], first['validation_loss']['mean']
  difference = loss['mean'] - target
  side = 'above' if difference > 0 else 'below'
  stands = 'ends' if not arm['unfinished'] else 'so far stands'
  text = (
    f'{arm["name"]} {stands} at {_range_text(loss)}, {abs(difference):.3f} '
    f'{side} {first["name"]} ({_range_text(first["validation_loss"])})'
  )
  shares = []
  for key, total, words in (
    ('seconds_to_baseline_loss', 'train_seconds', 'time'),
    ('multiply_adds_to_baseline_loss', 'multiply_adds', 'multiply-adds'),
    ('tokens_to_baseline_loss', 'tokens', 'tokens'),
  ):
    if arm[key] is not None and first[total]:
      shares.append(f'{arm[key] / first[total]:.2f} of its {words}')
  if shares:
    text += f'; it reached that loss in {_listed(shares)}'
  else:
    text += '; it did not reach that loss'
  if times_compare and arm['loss_at_equal_time'] is not None:
    text += f', and stood at {arm["loss_at_equal_time"]:.3f} after as much time'
  return text + '.'


def _range_text(spread) -> str:
  if len(spread['values']) == 1:
    return f'{spread["mean"]:.3f}'
  return (
    f'{spread["mean"]:.3f} ({spread["low"]:.3f} to {spread["high"]:.3f}, '
    f'{len(spread["values"])} seeds)'
  )


def _listed(parts) -> str:
  *before, last = parts
  return f'{", ".join(before)} and {last}' if before else last


def _reading_sentences(summary):
  never = [
    arm['name']
    for arm in summary['arms']
    if arm['tokens_until_reading'] and None in arm['tokens_until_reading']
  ]
  if not never:
    return []
  return [
    f'{_listed(never)} did not learn to read with every seed: a model that '
    f'looks at no other token can reach {summary["context_free_loss"]:.2f}.'
  ]


def _task_sentences(summary):
  at_chance = [t['name'] for t in summary['tasks'] if t['is_at_chance']]
  lines = []
  if at_chance:
    lines.append(
      f'{_listed(at_chance)}: no arm is above chance, so '
      f'{"it is" if len(at_chance) == 1 else "they are"} not counted.'
    )
  for task in summary['tasks']:
    if task['is_at_chance']:
      continue
    scores = ', '.join(
      f'{score["name"]} {score["median"]:.3f}' for score in task['scores']
    )
    metric = task['metric'].replace('_', ' ')
    lines.append(f'{task["name"]}, {metric}: {scores}.')
  return lines
