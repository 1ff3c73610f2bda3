"""Fine-tunes with several learning rates and seeds, and makes one table.

  python tools/sweep.py --gin_file=finetune/rte.gin --output_dir=runs/sweep \\
    --gin_params="INIT_FROM = 'runs/pretrain'" \\
    --gin_params="TRAIN_DATA = 'RTE/train.tsv'" \\
    --gin_params="VALIDATION_DATA = 'RTE/dev.tsv'" \\
    --learning_rates=1e-4,3e-4,1e-3 --seeds=0,1,2,3,4

Every run is one of tokendrop_tf.train in a separate folder; a finished run is
not repeated, so the same command resumes after an interruption. The
table, medians over seeds, is printed and lies with all figures in
sweep.json.
"""

import concurrent.futures
import dataclasses
import functools
import os
import shutil
import statistics
import subprocess
import sys
import threading

from tokendrop_tf import command_line, errors, files

SWEEP_FILE = 'sweep.json'
TABLE_FILE = 'sweep.md'
RESULTS_FILE = 'results.json'
LOG_FILE = 'log.txt'
# What a finished run leaves behind in its place when weights are not kept.
_WEIGHTS = ('ckpt-', 'checkpoint')


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep.

  Attributes:
    learning_rate: peak rate, as it was written.
    seed: of the run.
    folder: its model_dir.
  """

  learning_rate: str
  seed: int
  folder: str

  def results(self) -> dict | None:
    """Returns `results.json` if the run has finished, else `None`."""
    results = files.read_json_if_valid(os.path.join(self.folder, RESULTS_FILE))
    if results is None:
      return None
    finished = results['last']['step'] >= results['train_steps']
    return results if finished else None


@dataclasses.dataclass(frozen=True)
class Row:
  """The results of all seeds of one learning rate.

  Attributes:
    learning_rate: the rate.
    best: main metric of the best validation of every run, by seed.
    last: that of the last validation.
  """

  learning_rate: str
  best: dict[int, float]
  last: dict[int, float]

  @property
  def median(self) -> float:
    """Median over seeds of the last validation."""
    return statistics.median(self.last.values())


def main(arguments):
  """Runs the command.

  Args:
    arguments: list of str, the flags; see `--help`.

  Raises:
    errors.UserError: for anything that the user can put right.
    command_line.Interrupted: on Ctrl-C.
  """
  flags = parse_flags(arguments)
  runs = plan(flags.output_dir, flags.learning_rates, flags.seeds)
  check_settings(flags)
  save_settings(flags)
  try:
    run_all(runs, flags)
  except KeyboardInterrupt:
    raise command_line.Interrupted(
      f'Finished runs are kept in {flags.output_dir}; the same command goes '
      'on from there.'
    ) from None
  rows, facts = collect(runs)
  text = table(rows, facts)
  print(text)
  write_results(flags.output_dir, rows, facts, text)


def parse_flags(arguments):
  parser = command_line.ArgumentParser(
    prog='python tools/sweep.py', description=__doc__
  )
  parser.add_argument(
    '--gin_file',
    action='append',
    required=True,
    metavar='FILE',
    help='As of tokendrop_tf.train; may be repeated.',
  )
  parser.add_argument(
    '--gin_params',
    action='append',
    default=[],
    metavar='"A.B = C"',
    help='As of tokendrop_tf.train; may be repeated.',
  )
  parser.add_argument(
    '--output_dir', required=True, help='Folder of all runs and of the table.'
  )
  parser.add_argument(
    '--learning_rates', required=True, help='Peak rates, e.g. 1e-4,3e-4.'
  )
  parser.add_argument(
    '--seeds', default='0,1,2,3,4', help='Seeds (default: %(default)s).'
  )
  parser.add_number(
    '--processes',
    1,
    'Runs at a time, each with its share of the cores.',
    least=1,
  )
  parser.add_argument(
    '--keep_weights',
    action='store_true',
    help='Keep the checkpoints of finished runs.',
  )
  flags = parser.parse_args(arguments)
  flags.learning_rates = _numbers(
    '--learning_rates', flags.learning_rates, float
  )
  flags.seeds = [int(seed) for seed in _numbers('--seeds', flags.seeds, int)]
  return flags


def _numbers(name, text, kind):
  """Returns the comma-separated numbers as they were written."""
  numbers = [part.strip() for part in text.split(',') if part.strip()]
  try:
    values = [kind(number) for number in numbers]
  except ValueError:
    values = []
  is_valid = values and min(values) >= 0 and len(set(values)) == len(values)
  if not is_valid or (kind is float and min(values) == 0):
    raise errors.ConfigurationError(
      f'{name} must be different numbers between commas. Received: {text!r}. '
      f'Pass another {name}.'
    )
  return numbers


def plan(output_dir, learning_rates, seeds) -> list[Run]:
  """Returns all runs, seed by seed, so that every rate has figures early.

  Example:
    plan('runs/s', ['1e-4'], [0])[0].folder  # 'runs/s/lr_1e-4/seed_0'
  """
  return [
    Run(rate, seed, os.path.join(output_dir, f'lr_{rate}', f'seed_{seed}'))
    for seed in seeds
    for rate in learning_rates
  ]


def check_settings(flags):
  """Refuses to mix runs of other settings into one table.

  Raises:
    errors.ConfigurationError: if the folder holds a sweep of another
      experiment.
  """
  path = os.path.join(flags.output_dir, 'settings.json')
  if not os.path.exists(path):
    return
  old = files.read_json_object(path)
  if old != _settings(flags):
    raise errors.ConfigurationError(
      'A sweep resumes only with the settings that it began with. Received: '
      f'{_settings(flags)}, where {flags.output_dir} has {old}. Pass another '
      '--output_dir.'
    )


def save_settings(flags):
  """Writes what all runs have in common."""
  os.makedirs(flags.output_dir, exist_ok=True)
  files.write_json(
    os.path.join(flags.output_dir, 'settings.json'), _settings(flags)
  )


def _settings(flags):
  return {'gin_file': flags.gin_file, 'gin_params': flags.gin_params}


def run_all(runs, flags):
  """Runs what has not finished, several at a time.

  Raises:
    errors.TrainingError: as soon as one run fails; those that are running end
      first.
  """
  waiting = [run for run in runs if run.results() is None]
  if len(waiting) < len(runs):
    print(f'{len(runs) - len(waiting)} of {len(runs)} runs have finished.')
  children, stop = set(), threading.Event()

  def work(run):
    if not stop.is_set():
      _run_one(run, flags, children, stop)

  with concurrent.futures.ThreadPoolExecutor(flags.processes) as pool:
    futures = [pool.submit(work, run) for run in waiting]
    try:
      for future in concurrent.futures.as_completed(futures):
        future.result()
    except BaseException:
      stop.set()
      for child in list(children):
        child.terminate()
      raise


def _run_one(run, flags, children, stop):
  """Runs one training process and shows its main metric."""
  os.makedirs(run.folder, exist_ok=True)
  with open(os.path.join(run.folder, LOG_FILE), 'w') as log:
    child = subprocess.Popen(
      command(run, flags),
      stdout=log,
      stderr=subprocess.STDOUT,
      env=_environment(flags.processes),
    )
    children.add(child)
    code = child.wait()
    children.discard(child)
  if stop.is_set():
    return
  results = run.results()
  if code or results is None:
    raise errors.TrainingError(
      f'Every run must finish. Received: exit code {code} of {run.folder}: '
      f'{_last_words(run)} Correct the settings, and run the same command '
      'again; finished runs are kept.'
    )
  if not flags.keep_weights:
    _remove_weights(run.folder)
  metric = results['metric']
  print(
    f'learning rate {run.learning_rate}  seed {run.seed}  {metric} '
    f'{results["last"][metric]:.4f}, best {results["best"][metric]:.4f}',
    flush=True,
  )


def command(run, flags) -> list[str]:
  """Returns the command of one run, list of str."""
  return [
    *(sys.executable, '-m', 'tokendrop_tf.train', '--mode=train_and_eval'),
    *(f'--gin_file={name}' for name in flags.gin_file),
    *(f'--gin_params={binding}' for binding in flags.gin_params),
    f'--gin_params=optimizer.learning_rate = {run.learning_rate}',
    f'--gin_params=finetuning.seed = {run.seed}',
    f'--model_dir={run.folder}',
  ]


def _environment(processes):
  """Gives every process its share of the cores."""
  environment = dict(os.environ)
  if processes > 1:
    share = str(max(1, (os.cpu_count() or 1) // processes))
    for name in ('OMP_NUM_THREADS', 'TF_NUM_INTRAOP_THREADS'):
      environment.setdefault(name, share)
  return environment


def _last_words(run):
  with open(os.path.join(run.folder, LOG_FILE), errors='replace') as file:
    lines = [line.strip() for line in file if line.strip()]
  messages = [line for line in lines if line.startswith('Error: ')]
  return (messages or lines or ['it printed nothing.'])[-1]


def _remove_weights(folder):
  for name in os.listdir(folder):
    path = os.path.join(folder, name)
    if name.startswith(_WEIGHTS):
      os.remove(path)
    elif os.path.isdir(path) and name in ('train', 'validation'):
      shutil.rmtree(path)


def collect(runs) -> tuple[list[Row], dict]:
  """Returns a row per learning rate, and what all runs have in common."""
  rows, results = {}, None
  for run in runs:
    results = run.results()
    metric = results['metric']
    row = rows.setdefault(run.learning_rate, Row(run.learning_rate, {}, {}))
    row.best[run.seed] = results['best'][metric]
    row.last[run.seed] = results['last'][metric]
  facts = {
    name: value
    for name, value in results.items()
    if name not in ('best', 'last', 'seed', 'learning_rate')
  }
  return list(rows.values()), facts


def table(rows: list[Row], facts: dict) -> str:
  """Returns a Markdown table of medians with lowest and highest in brackets.

  Example:
    table([Row('1e-4', {0: 0.7}, {0: 0.6})], {'task': 'rte', ...})
  """
  num_seeds = len(rows[0].last)
  start = (
    'random weights' if facts['random_init'] else f'from {facts["init_from"]}'
  )
  lines = [
    f'{facts["task"]}, {facts["metric"]}, {start}: median of {num_seeds} '
    f'{"seed" if num_seeds == 1 else "seeds"} (lowest, highest), '
    f'{facts["train_steps"]:,} steps of {facts["batch_size"]}',
    '',
    '| learning rate | last validation | best validation |',
    '|---|---|---|',
  ]
  highest = max(row.median for row in rows)
  for row in rows:
    mark = '**' if row.median == highest else ''
    lines.append(
      f'| {mark}{row.learning_rate}{mark} | {_spread(row.last)} | '
      f'{_spread(row.best)} |'
    )
  if 'majority_class' in facts:
    value = facts['majority_class'][facts['metric']]
    lines.append(f'| most frequent label | {value:.4f} | |')
  return '\n'.join(lines)


def _spread(values):
  values = list(values.values())
  return (
    f'{statistics.median(values):.4f} ({min(values):.4f}, {max(values):.4f})'
  )


def write_results(output_dir, rows, facts, text):
  """Writes `sweep.json` and the table as `sweep.md`."""
  entries = [
    {
      'learning_rate': float(row.learning_rate),
      'median_last': row.median,
      'median_best': statistics.median(row.best.values()),
      'last': row.last,
      'best': row.best,
    }
    for row in rows
  ]
  files.write_json(
    os.path.join(output_dir, SWEEP_FILE), {**facts, 'learning_rates': entries}
  )
  files.write_whole_file(os.path.join(output_dir, TABLE_FILE), text + '\n')


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
