"""Trains arms with several seeds on one text and compares them in one report.

  python tools/twin.py --output=runs/twin --gin_file=wikipedia.gin \\
    --gin_params="VOCABULARY = 'runs/vocab.txt'" \\
    --gin_params="TRAIN_DATA = 'text/train*.txt.gz'" \\
    --gin_params="VALIDATION_DATA = 'text/valid.txt.gz'" \\
    --seeds=0,1,2 \\
    --arm="plain: token_drop.policy = 'none'" \\
    --arm="ranked: token_drop.temperature = 0.0" \\
    --arm="random [0]: token_drop.policy = 'random'" \\
    --task="sst2: TRAIN_DATA = 'train.tsv'; VALIDATION_DATA = 'dev.tsv'" \\
    --task=acceptability

The first arm is the one that the others are compared with. Every run is one of
tokendrop_tf.train in a folder of its own, OUTPUT/ARM/seed_N. The same command
resumes where it stopped: finished runs are read. --runs=NAME=FOLDER,... adds
runs that were trained elsewhere, finished or not.

Steps of all arms are timed in turns, on an idle machine only; --time does that
alone, --report only writes the report of what there is. Both read the arms
from OUTPUT/arms.json. A task is a file of gin_configs/finetune with its
bindings, or acceptability, which is made of the validation text.
"""

import functools
import os

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
from tokendrop_tf import errors, files, train
from tokendrop_tf.config import gin_reader, rules
from tokendrop_tf.pages import arms as arms_lib
from tokendrop_tf.pages import (
  downstream,
  launching,
  step_speeds,
  twin_page,
  twin_results,
)
from tokendrop_tf.run import run_folder

REPORT_FILE, SUMMARY_FILE = 'report.html', 'summary.json'


def main(arguments: list[str]) -> int | None:
  """Trains, fine-tunes, times and reports; returns a failed run's exit code."""
  flags = _parse(arguments)
  os.makedirs(flags.output, exist_ok=True)
  twin = _declaration(flags)
  arms_lib.write(twin, flags.output)
  does_all = not (flags.time or flags.report)
  if does_all:
    code = train_all(twin, flags.output)
    if code:
      return code
    downstream.make_acceptability(twin, flags.output)
    downstream.run_all(twin, flags.output)
  if flags.time or does_all and not _is_timed(twin, flags.output):
    time_all(twin, flags.output)
  write_report(twin, flags.output)
  return None


def _parse(arguments):
  parser = command_line.ArgumentParser(prog='twin.py', description=__doc__)
  parser.add_argument('--output', required=True, help='Folder of everything.')
  parser.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help='As of tokendrop_tf.train, of all arms; may be repeated.',
  )
  parser.add_argument(
    '--gin_params',
    action='append',
    default=[],
    metavar='"A.B = C"',
    help='As of tokendrop_tf.train, of all arms; may be repeated.',
  )
  parser.add_argument(
    '--arm',
    action='append',
    default=[],
    metavar='"NAME: A.B = C; ..."',
    help='An arm and its own bindings; "NAME [0, 1]: ..." has its own seeds.',
  )
  parser.add_argument(
    '--seeds', default='0', help='Of every arm. Default %(default)s.'
  )
  parser.add_argument(
    '--runs',
    action='append',
    default=[],
    metavar='NAME=FOLDER,...',
    help='Runs to read, of an arm of this name.',
  )
  parser.add_argument(
    '--task',
    action='append',
    default=[],
    metavar='"NAME: A.B = C; ..."',
    help='A fine-tuning task; "acceptability" needs no files.',
  )
  parser.add_argument(
    '--learning_rates',
    default='1e-4,3e-4,1e-3',
    help='Peak rates of fine-tuning, swept with the first seed. Default '
    '%(default)s.',
  )
  parser.add_argument(
    '--task_seeds',
    default='0,1,2,3,4',
    help='Of fine-tuning, at the best rate. Default %(default)s.',
  )
  parser.add_argument(
    '--time',
    action='store_true',
    help='Only times the steps of all arms in turns, and writes the report.',
  )
  parser.add_argument(
    '--report', action='store_true', help='Only writes the report.'
  )
  return parser.parse_args(arguments)


def _declaration(flags) -> arms_lib.Declaration:
  """Returns the twin of the flags; without arms or runs, that of the folder."""
  if not flags.arm and not flags.runs:
    return arms_lib.read(flags.output)
  if flags.arm and not flags.gin_file:
    raise errors.ConfigurationError(
      'Arms that are trained need a gin file. Received: none. Set --gin_file.'
    )
  seeds = _integers('--seeds', flags.seeds)
  return arms_lib.Declaration(
    arms=arms_lib.gathered(
      [arms_lib.parse_arm(text, seeds) for text in flags.arm],
      [arms_lib.parse_runs(text) for text in flags.runs],
    ),
    gin_files=tuple(flags.gin_file),
    gin_params=tuple(flags.gin_params),
    tasks=dict(arms_lib.parse_task(text) for text in flags.task),
    learning_rates=tuple(flags.learning_rates.split(',')),
    task_seeds=tuple(_integers('--task_seeds', flags.task_seeds)),
  )


def _integers(name, text) -> list[int]:
  try:
    numbers = [int(part) for part in text.split(',') if part.strip()]
  except ValueError:
    numbers = []
  if not numbers or len(set(numbers)) < len(numbers):
    raise errors.ConfigurationError(
      f'{name} must be different integers between commas. Received: {text!r}. '
      f'Pass another {name}.'
    )
  return numbers


# The runs.


def train_all(twin: arms_lib.Declaration, output: str) -> int:
  """Trains what is not trained; returns the exit code of a run that failed.

  Every arm has its first seed before any has its second.
  """
  seeds = dict.fromkeys(seed for arm in twin.arms for seed in arm.seeds)
  planned = [
    (arm, seed) for seed in seeds for arm in twin.arms if seed in arm.seeds
  ]
  for arm, seed in planned:
    check_settings(arm, twin.launcher_arguments(arm, seed, output))
  for number, (arm, seed) in enumerate(planned, start=1):
    model_dir = arm.folder_of(output, seed)
    say(f'\n[{number}/{len(planned)}] {arm.name}, seed {seed}')
    if launching.is_trained(model_dir):
      say(f'{model_dir} is trained already.')
      continue
    arguments = twin.launcher_arguments(arm, seed, output)
    say(launching.shown_command(arguments) + '\n')
    code = launching.run_launcher(arguments)
    if code:
      return code
  return 0


@gin_reader.macros_in_messages()
def check_settings(arm: arms_lib.Arm, arguments: list[str]) -> None:
  """Checks the settings of a run before any run is trained.

  Raises:
    errors.ConfigurationError: naming the arm.
  """
  try:
    params, _ = train.read_configuration(train.parse_flags(arguments))
    rules.validate_experiment(params)
    rules.validate_validation_source(params)
  except errors.ConfigurationError as error:
    raise errors.ConfigurationError(f'In arm {arm.name!r}: {error}') from error


def say(text: str) -> None:
  print(text, flush=True)


# The times.


def _is_timed(twin, output) -> bool:
  """Whether the arms were timed together on an idle machine."""
  speeds = twin_results.read_speeds(output)
  return speeds is not None and set(speeds.medians) == {
    arm.name for arm in twin.arms if _begun(arm, output)
  }


def _begun(arm, output) -> list[str]:
  return [
    folder
    for folder in arm.folders_in(output)
    if run_folder.has_configuration(folder)
  ]


def time_all(twin: arms_lib.Declaration, output: str) -> None:
  """Times the steps of all arms; keeps the times of an idle machine."""
  say('\nTiming steps of all arms in turns.')
  trees = {
    arm.name: run_folder.load_params(folders[0])
    for arm in twin.arms
    if (folders := _begun(arm, output))
  }
  speeds = step_speeds.measure(trees)
  say(speeds.describe())
  if not speeds.is_quiet:
    say(
      'The machine did other work meanwhile, so these times are not kept. On '
      f'an idle machine: {launching.python_name()} tools/twin.py '
      f'--output={output} --time'
    )
    return
  twin_results.write_speeds(speeds, output)


# The report.


def write_report(twin: arms_lib.Declaration, output: str) -> None:
  """Writes `summary.json` and `report.html`, and prints what they say."""
  curves = twin_results.read_arms(twin, output)
  results = downstream.read_all(twin, output)
  summary = twin_results.summarize(twin, curves, results, output)
  files.write_json(os.path.join(output, SUMMARY_FILE), summary)
  page = twin_page.render(twin, curves, summary)
  files.write_whole_file(os.path.join(output, REPORT_FILE), page)
  say(twin_page.as_text(summary))
  say(
    f'\nreport   {os.path.join(output, REPORT_FILE)}\n'
    f'summary  {os.path.join(output, SUMMARY_FILE)}'
  )


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
