"""Compares finished or running pretraining runs from their `metrics.jsonl`."""

import dataclasses
import json
import os

from tokendrop_tf import command_line, errors, progress, run_times


@dataclasses.dataclass(frozen=True)
class RunCurve:
  """The validations of one run.

  Attributes:
    name: what the run is called in tables and figures.
    steps: step of each validation.
    full: MLM loss on full sequences, in nats.
    dropping: MLM loss with dropping, in nats; empty for plain BERT.
    accuracy: MLM accuracy on full sequences.
    times: of its steps, from its train loops or measured apart.
  """

  name: str
  steps: list[int]
  full: list[float]
  dropping: list[float]
  accuracy: list[float]
  times: run_times.StepTimes

  @property
  def seconds(self) -> list[float]:
    """Training time of each validation."""
    return [self.times.until(step) for step in self.steps]


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
    errors.DataError: for a folder that is no validated pretraining.
  """
  rows = progress.read_metrics(os.path.join(model_dir, progress.METRICS_FILE))
  stretches = run_times.first_steps_of(model_dir)
  validations = [row for row in rows if row['kind'] == 'validation']
  if not validations:
    raise errors.DataError(
      f'A run to compare must hold validations in {progress.METRICS_FILE}. '
      f'Received: {model_dir}, which does not. Name the --model_dir of a '
      'training with --mode=train_and_eval.'
    )
  return RunCurve(
    name=name,
    steps=[row['step'] for row in validations],
    full=[row['lm_example_loss'] for row in validations],
    dropping=[
      row['lm_example_loss_dropping']
      for row in validations
      if 'lm_example_loss_dropping' in row
    ],
    accuracy=[row['masked_lm_accuracy'] for row in validations],
    times=_times(name, rows, stretches, seconds_per_step),
  )


def _times(name, rows, stretches, seconds):
  if seconds is None:
    return run_times.measured(rows, stretches)
  seconds = seconds if isinstance(seconds, list) else [seconds]
  if len(seconds) != len(stretches):
    raise errors.ConfigurationError(
      '--seconds_per_step must give a number for each stretch of the keep '
      f'schedule. Received: {len(seconds)} for {name}, which has '
      f'{len(stretches)}.'
    )
  return run_times.StepTimes(stretches, tuple(seconds))


def format_table(curves: list[RunCurve]) -> str:
  """Returns the last validation of every run as a Markdown table."""
  lines = [
    '| run | steps | full sequences | with dropping | gap | accuracy '
    '| seconds a step | seconds |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for curve in curves:
    dropping, gap = '-', '-'
    if curve.dropping:
      dropping = f'{curve.dropping[-1]:.3f}'
      gap = f'{curve.full[-1] - curve.dropping[-1]:+.3f}'
    lines.append(
      f'| {curve.name} | {curve.steps[-1]:,} | {curve.full[-1]:.3f} '
      f'| {dropping} | {gap} | {curve.accuracy[-1]:.3f} '
      f'| {curve.seconds[-1] / curve.steps[-1]:.3f} '
      f'| {curve.seconds[-1]:.0f} |'
    )
  return '\n'.join(lines)


def draw(
  curves: list[RunCurve], path: str, levels: dict[str, float] | None = None
) -> None:
  """Draws full-sequence loss against steps and against time.

  Args:
    curves: the runs; equal colours for equal first words of their names.
    path: file to write, .svg or .png.
    levels: losses in nats to draw as lines, by name.
  """
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  groups = sorted({_group(curve) for curve in curves})
  figure, axes = pyplot.subplots(
    len(groups),
    2,
    figsize=(9, 3.2 * len(groups)),
    sharey='row',
    squeeze=False,
    layout='constrained',
  )
  labels = list(dict.fromkeys(map(_label, curves)))
  for group, (by_step, by_time) in zip(groups, axes, strict=True):
    members = [curve for curve in curves if _group(curve) == group]
    for curve in members:
      label = _label(curve)
      color = f'C{labels.index(label)}'
      by_step.plot(curve.steps, curve.full, color=color, label=label)
      by_time.plot(curve.seconds, curve.full, color=color, label=label)
    for axis in (by_step, by_time):
      for (name, loss), style in zip((levels or {}).items(), _LEVEL_STYLES):
        axis.axhline(loss, color='grey', linestyle=style, label=name)
      axis.spines[['top', 'right']].set_visible(False)
    by_step.set_title(group or 'full sequences', loc='left', fontsize=10)
    by_step.set_ylabel('validation MLM loss, nats')
    by_step.set_xlabel('steps')
    by_time.set_xlabel('seconds of training')
    by_time.legend(frameon=False, fontsize=8)
  figure.savefig(path)


_LEVEL_STYLES = (':', '--')


def _label(curve):
  return curve.name.partition(', ')[0]


def _group(curve):
  return curve.name.partition(', ')[2]


def main(arguments):
  """Prints the table and, if asked, draws the figure."""
  parser = command_line.ArgumentParser(
    prog='compare_runs.py',
    description=__doc__
    + """

  compare_runs.py plain=runs/plain ranked=runs/ranked --figure=losses.svg

Names with a comma, 'plain, small start', are drawn in one panel per part after
the comma.""",
  )
  parser.add_argument('runs', nargs='+', metavar='NAME=MODEL_DIR')
  parser.add_argument('--figure', help='.svg or .png file to draw')
  parser.add_argument(
    '--unigram_entropy',
    type=float,
    help='in nats; drawn as the floor to get below',
  )
  parser.add_argument(
    '--context_free_loss',
    type=float,
    help='in nats; drawn as the level below which a model reads the text',
  )
  parser.add_argument(
    '--seconds_per_step',
    default='',
    help='JSON file {name: seconds} with times measured apart, e.g. on an '
    'idle machine; of a run with a keep schedule a list, one for each stretch',
  )
  flags = parser.parse_args(arguments)
  _check_figure(flags.figure)
  seconds = _read_seconds(flags.seconds_per_step)
  curves = []
  for run in flags.runs:
    name, equals, model_dir = run.rpartition('=')
    if not equals:
      raise errors.ConfigurationError(
        f'A run is named NAME=MODEL_DIR. Received: {run}.'
      )
    curves.append(read_run(name, model_dir, seconds.get(name)))
  print(format_table(curves))
  if flags.figure:
    levels = {
      'unigram entropy': flags.unigram_entropy,
      'without the context': flags.context_free_loss,
    }
    draw(
      curves,
      flags.figure,
      {name: loss for name, loss in levels.items() if loss is not None},
    )


def _check_figure(path):
  if path and not path.endswith(('.svg', '.png')):
    raise errors.ConfigurationError(
      f'--figure must be an .svg or .png file. Received: {path}.'
    )


def _read_seconds(path):
  if not path:
    return {}
  try:
    with open(path, encoding='utf-8') as file:
      return dict(json.load(file))
  except (OSError, ValueError, TypeError) as error:
    raise errors.DataError(
      '--seconds_per_step must be a JSON file {name: seconds}. Received: '
      f'{path} ({error}).'
    ) from error


def console_main():
  """Entry point of the tool."""
  command_line.run_main(main)
