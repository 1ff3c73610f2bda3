"""Compares pretraining runs: a table, a verdict, and loss curves."""

import os

import tabulate

from tokendrop_tf import command_line, errors, files
from tokendrop_tf.data import baselines
from tokendrop_tf.pages import charts, run_curves

_EXAMPLES = """

  compare_runs.py runs/plain runs/ranked
  compare_runs.py plain=runs/plain ranked=runs/ranked --figure=losses.svg

A finished or a running run is read from its metrics.jsonl. The first run is
the one that the others are compared with. Names with a comma, 'plain, small
start', are drawn in one row of panels per part after the comma."""


def format_table(runs: list[run_curves.RunCurve]) -> str:
  """Returns the last validation of every run as a Markdown table."""
  return tabulate.tabulate(
    [
      (
        run.name,
        f'{run.steps[-1]:,}',
        run.full[-1],
        run.dropping[-1] if run.dropping else None,
        f'{run.full[-1] - run.dropping[-1]:+.3f}' if run.dropping else '-',
        run.metric('masked_lm_accuracy')[-1],
        run.seconds[-1] / run.steps[-1],
        f'{run.seconds[-1]:.0f}',
      )
      for run in runs
    ],
    headers=(
      *('run', 'steps', 'full sequences', 'with dropping', 'gap'),
      *('accuracy', 'seconds a step', 'seconds'),
    ),
    tablefmt='github',
    floatfmt='.3f',
    missingval='-',
    disable_numparse=[0, 1, 4, 7],
    colalign=('left', *['right'] * 7),
  )


def main(arguments: list[str]) -> None:
  """Prints the table and the verdict and, if asked, draws the figure."""
  flags = _parse(arguments)
  seconds = _read_seconds(flags.seconds_per_step)
  runs = [
    run_curves.read_run(name, model_dir, seconds.get(name))
    for name, model_dir in map(_name_and_folder, flags.runs)
  ]
  found = _baselines(flags, runs[0].model_dir)
  print(format_table(runs))
  sentences = [
    sentence
    for run in runs[1:]
    for sentence in run_curves.verdict(runs[0], run)
  ] + run_curves.reading_sentences(runs, found)
  print('\n'.join(['', *(f'{name}: {found[name]:.3f}' for name in found)]))
  print('\n'.join(['', *sentences]))
  if flags.figure:
    _draw(runs, found, flags.figure)


def _parse(arguments):
  parser = command_line.ArgumentParser(
    prog='compare_runs.py', description=__doc__ + _EXAMPLES
  )
  parser.add_argument(
    'runs',
    nargs='+',
    metavar='[NAME=]MODEL_DIR',
    help='Folder of a run; without a name it is called as its folder.',
  )
  parser.add_argument('--figure', help='.svg or .png file to draw')
  parser.add_argument(
    '--unigram_entropy',
    type=float,
    help='in nats; by default that of the labels that the first run is '
    'validated on',
  )
  parser.add_argument(
    '--context_free_loss',
    type=float,
    help='in nats, the level below which a model reads the text; by default '
    'that of the same labels',
  )
  parser.add_argument(
    '--seconds_per_step',
    default='',
    help='JSON file {name: seconds} with times measured apart, e.g. on an '
    'idle machine; of a run with a keep schedule a list, one for each stretch',
  )
  flags = parser.parse_args(arguments)
  if flags.figure and not flags.figure.endswith(('.svg', '.png')):
    raise errors.ConfigurationError(
      f'--figure must be an .svg or .png file. Received: {flags.figure}.'
    )
  return flags


def _name_and_folder(argument) -> tuple[str, str]:
  name, _, model_dir = argument.rpartition('=')
  if not name or os.path.isdir(argument):
    model_dir = argument
    name = os.path.basename(os.path.normpath(argument))
  return name, model_dir


def _baselines(flags, model_dir) -> dict[str, float]:
  """Returns the baselines of the flags, or those of the run's labels."""
  given = baselines.Baselines(flags.unigram_entropy, flags.context_free_loss)
  found = run_curves.baselines_by_name(given)
  if found:
    return found
  try:
    return run_curves.baselines_by_name(run_curves.read_baselines(model_dir))
  except errors.UserError as error:
    print(f'The baselines of the labels are not known: {error}\n')
    return {}


def _draw(runs, found, path):
  """Draws rows of panels; equal colours for equal first parts of names."""
  groups, labels = {}, {}
  axes = set.intersection(*(set(run.places()) for run in runs))
  for run in runs:
    label, _, group = run.name.partition(', ')
    color = labels.setdefault(label, f'C{len(labels)}')
    places = {name: run.places()[name] for name in run.places() if name in axes}
    curve = charts.Curve(label, run.full, places, color)
    groups.setdefault(group, []).append(curve)
  charts.draw_runs(dict(sorted(groups.items())), found, path)


def _read_seconds(path) -> dict:
  found = files.read_json_if_valid(path) if path else {}
  if not isinstance(found, dict):
    raise errors.DataError(
      '--seconds_per_step must be a JSON file {name: seconds}. Received: '
      f'{path}, which is not one.'
    )
  return found


def console_main():
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)
