"""Trains BERT on one text twice, plainly and with token dropping, and compares.

  make quickstart
  make quickstart CORPUS='texts/*.txt.gz' OUTPUT=runs/mine
  QUICKSTART_MINUTES=60 make quickstart OUTPUT=runs/longer

The text is that of CORPUS (a blank line ends a document), or, without one, the
documentation strings of the installed Python packages. Both arms have 12
narrow layers, the same seeds, the same batches and the same number of steps: as
many as fit into the minutes on this machine. Until dropping begins they are one
run, which is trained once. Before it trains, the quickstart says what it will
take and whether the models will learn to read. OUTPUT ends with summary.json
and report.html. The same command resumes where it stopped.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import shlex
import sys
import textwrap
import time

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import tensorflow as tf

from tokendrop_tf import errors, files, train
from tokendrop_tf.config import configs, rules
from tokendrop_tf.data import baselines, build_vocab, checks
from tokendrop_tf.data.read import text_files
from tokendrop_tf.export import load_model
from tokendrop_tf.pages import (
  branch,
  launching,
  quickstart_plan,
  quickstart_results,
  report,
  step_speeds,
  validation_text,
)
from tokendrop_tf.run import console
from tokendrop_tf.serving import fill_mask
from tokendrop_tf.text import vocabulary as vocabulary_lib

GIN_FILE = 'quickstart.gin'
DEFAULT_OUTPUT = os.path.join('runs', 'quickstart')
DEFAULT_MINUTES = 10.0
MINUTES_VARIABLE = 'QUICKSTART_MINUTES'
VOCAB_SIZE = 1024
# Name of an arm, and its bindings in addition to those that both share. The arm
# that drops trains first: the other branches off from it.
ARMS = {
  quickstart_plan.DROPPING: (),
  quickstart_plan.PLAIN: ("token_drop.policy = 'none'",),
}
# Metrics that the plain arm does not have.
_DROPPING_METRICS = (
  'lm_example_loss_dropping',
  'masked_lm_accuracy_dropping',
  'full_sequence_gap',
)


def main(arguments: list[str]) -> int | None:
  """Runs the quickstart; returns the exit code of an arm that failed."""
  # This process has loaded TensorFlow, as each arm will.
  began, load_seconds = time.monotonic(), time.process_time()
  flags = _parse(arguments)
  # The arms run on the CPU, so their speed is measured there.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], 'GPU')
  say(_introduction(flags))
  # 1. The text is checked before anything is written.
  check_corpus(flags.corpus)
  os.makedirs(flags.output, exist_ok=True)
  plan = quickstart_plan.begin(flags, ARMS)
  # 2. One vocabulary for both arms.
  say('\n[1/4] Vocabulary')
  build_vocabulary(flags, plan)
  # 3. As many steps as fit into the time, for both arms alike.
  if not plan.steps:
    say('\n[2/4] Speed of this machine')
    plan = complete_plan(flags, plan, began, load_seconds)
    if plan is None:
      return None
    quickstart_plan.write(plan, flags.output)
  say(f'{plan.steps:,} steps for each arm: {plan.steps_from}.')
  # 4. Both arms.
  for number, name in enumerate(ARMS, start=1):
    say(f'\n[3/4] Arm {number} of {len(ARMS)}: {name}')
    code = train_arm(flags, plan, name)
    if code:
      return code
  # 5. The results.
  say('\n[4/4] Results')
  show_results(flags, plan, began)
  return None


def _parse(arguments):
  parser = command_line.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--corpus',
    default='',
    help='Comma-separated files or globs, .txt or .txt.gz. Default: the '
    'embedded text.',
  )
  parser.add_argument(
    '--lower_case',
    action=argparse.BooleanOptionalAction,
    default=None,
    help='Lower-cases text and strips accents. The default does.',
  )
  parser.add_argument(
    '--output',
    default=DEFAULT_OUTPUT,
    help='Folder for everything. Default %(default)s.',
  )
  parser.add_argument(
    '--minutes',
    type=float,
    default=None,
    help=f'Time for everything. Default: {MINUTES_VARIABLE}, or '
    f'{DEFAULT_MINUTES:g}.',
  )
  parser.add_argument(
    '--steps',
    type=int,
    default=None,
    help='Train steps of each arm, instead of as many as fit.',
  )
  parser.add_argument(
    '--seed',
    type=int,
    default=0,
    help='Of weights, masks and order. Default %(default)s.',
  )
  flags = parser.parse_args(arguments)
  flags.asks_for_minutes = bool(
    flags.minutes or os.environ.get(MINUTES_VARIABLE)
  )
  flags.minutes = _minutes(flags)
  flags.corpus = absolute_globs(flags.corpus)
  if flags.steps is not None and flags.steps < quickstart_plan.LEAST_STEPS:
    raise errors.ConfigurationError(
      f'An arm needs at least {quickstart_plan.LEAST_STEPS} steps. Received: '
      f'--steps={flags.steps}. Set a larger --steps.'
    )
  if os.path.isfile(flags.output):
    raise errors.ConfigurationError(
      'OUTPUT must be a folder. Received: '
      f'{flags.output}, which is a file. Set another OUTPUT.'
    )
  return flags


def _minutes(flags) -> float:
  """Returns the minutes of the flag, of the environment, or the default."""
  minutes = flags.minutes
  if minutes is None:
    text = os.environ.get(MINUTES_VARIABLE) or str(DEFAULT_MINUTES)
    try:
      minutes = float(text)
    except ValueError as error:
      raise errors.ConfigurationError(
        f'{MINUTES_VARIABLE} must be a number of minutes. Received: '
        f'{text!r}. Set {MINUTES_VARIABLE}, e.g. to 30.'
      ) from error
  if not 0.0 < minutes < 1e6:
    raise errors.ConfigurationError(
      f'{MINUTES_VARIABLE} must be above 0. Received: {minutes:g}. Set '
      f'{MINUTES_VARIABLE}, e.g. to 30.'
    )
  return minutes


def absolute_globs(text: str) -> str:
  """Returns comma-separated globs that mean the same in any folder."""
  globs = [part.strip() for part in text.split(',') if part.strip()]
  return ','.join(
    part
    if text_files.is_remote(part)
    else os.path.abspath(os.path.expanduser(part))
    for part in globs
  )


def say(text: str) -> None:
  print(text, flush=True)


def _introduction(flags) -> str:
  text = flags.corpus or 'the documentation strings of the installed packages'
  return (
    'Pretrains BERT twice on the same text, plainly and with token '
    f'dropping.\n  text    {text}\n  output  {flags.output}\n'
    f'  time    about {flags.minutes:g} minutes'
  )


def _path(flags, *names) -> str:
  return os.path.join(flags.output, *names)


def _vocabulary(flags) -> str:
  return _path(flags, quickstart_plan.VOCABULARY_FILE)


# The text, the vocabulary and the plan.


def check_corpus(corpus: str) -> None:
  """Checks the user's text.

  Raises:
    DataError: if a glob matches nothing or a file is not UTF-8 text.
  """
  if not corpus:
    return
  try:
    checks.check_text(
      configs.PretrainingDataConfig(is_training=True, input_path=corpus)
    )
  except errors.DataError as error:
    message = str(error).replace('train_data.input_path', 'CORPUS')
    raise errors.DataError(message) from error


def build_vocabulary(flags, plan: quickstart_plan.Plan) -> None:
  """Trains the vocabulary, unless it is there already."""
  path = _vocabulary(flags)
  if os.path.exists(path) and os.path.exists(
    vocabulary_lib.counts_path_for(path)
  ):
    vocabulary_lib.Vocabulary.from_file(path, flags.lower_case)
    say(f'{path} is there already.')
    return
  if not flags.corpus:
    say(
      'Reading the documentation strings of the installed packages; the '
      'first time takes half a minute.'
    )
  build_vocab.main(
    [
      f'--input={flags.corpus}',
      f'--output={path}',
      f'--vocab_size={VOCAB_SIZE}',
      f'--held_out_documents={plan.held_out_documents}',
      '--no-lower_case' if flags.lower_case is False else '--lower_case',
    ]
  )


def complete_plan(
  flags, plan: quickstart_plan.Plan, began: float, load_seconds: float
) -> quickstart_plan.Plan | None:
  """Measures this machine and chooses the number of steps.

  Args:
    flags: the command line.
    plan: the plan begun.
    began: when the quickstart began, by `time.monotonic`.
    load_seconds: until TensorFlow was loaded.

  Returns:
    The whole plan; `None` if the user would rather not begin.
  """
  trees = _trees(flags, dataclasses.replace(plan, steps=1000))
  params = trees[quickstart_plan.DROPPING]
  batches = quickstart_plan.count_validation_batches(params.task)
  speeds = step_speeds.measure(trees)
  return quickstart_plan.choose(
    dataclasses.replace(plan, validation_batches=batches, speeds=speeds),
    params,
    60.0 * flags.minutes - (time.monotonic() - began),
    load_seconds,
    flags.steps,
    _ask,
  )


def _trees(flags, plan) -> dict:
  """Returns the trees that the launcher will build, by arm."""
  return {name: read_params(flags, plan, name)[0] for name in ARMS}


def _ask(text: str) -> str:
  """Returns the answer of a person; '' where there is none to ask."""
  if not (sys.stdin and sys.stdin.isatty()):
    say('There is nobody to ask: training the smaller one.')
    return ''
  try:
    return input(text).strip().lower()[:1]
  except EOFError:
    return ''


# The arms.


def arm_arguments(flags, plan: quickstart_plan.Plan, name: str) -> list[str]:
  """Returns the launcher's arguments for an arm, short of the defaults."""
  # The checkpoint where the plain arm branches off is still there at the end.
  kept = (plan.steps - plan.branch_step) // plan.validation_interval + 2
  bindings = [
    f"VOCABULARY = '{os.path.abspath(_vocabulary(flags))}'",
    f'TRAIN_DATA = {plan.corpus!r}',
    f'train_data.held_out_documents = {plan.held_out_documents}',
    f'trainer.train_steps = {plan.steps}',
    f'trainer.steps_per_loop = {plan.steps_per_loop}',
    f'trainer.validation_interval = {plan.validation_interval}',
    f'trainer.validation_steps = {plan.validation_batches}',
    f'trainer.checkpoint_interval = {plan.validation_interval}',
    f'trainer.max_to_keep = {kept}',
    f'optimizer.warmup_steps = {plan.warmup_steps}',
    f'pretraining.seed = {plan.seed}',
    *ARMS[name],
  ]
  return [
    f'--gin_file={GIN_FILE}',
    *(f'--gin_params={binding}' for binding in bindings),
    f'--model_dir={_path(flags, name)}',
  ]


def read_params(
  flags, plan: quickstart_plan.Plan, name: str = 'token_dropping'
):
  """Returns the tree that the launcher will build for an arm, and its gin."""
  launcher_flags = train.parse_flags(arm_arguments(flags, plan, name))
  params, gin_text = train.read_configuration(launcher_flags)
  rules.validate_experiment(params)
  rules.resolve_vocabulary(
    params,
    vocabulary_lib.Vocabulary.from_file(
      params.task.vocabulary.path, params.task.vocabulary.lower_case
    ),
  )
  return params, gin_text


def train_arm(flags, plan: quickstart_plan.Plan, name: str) -> int:
  """Trains an arm, unless it is trained already; returns its exit code."""
  if launching.is_trained(_path(flags, name)):
    say(f'{_path(flags, name)} is trained already.')
    return 0
  if name == 'plain' and plan.branch_step:
    branch_off(flags, plan)
  arguments = arm_arguments(flags, plan, name)
  say(launching.shown_command(arguments) + '\n')
  return launching.run_launcher(arguments)


def branch_off(flags, plan: quickstart_plan.Plan) -> None:
  """Lets the plain arm begin where both arms have been the same so far."""
  params, gin_text = read_params(flags, plan, 'plain')
  is_there = branch.branch_run(
    _path(flags, 'token_dropping'),
    _path(flags, 'plain'),
    plan.branch_step,
    params,
    gin_text,
    _DROPPING_METRICS,
  )
  if is_there:
    say(
      f'Dropping begins at step {plan.fork_step:,}: up to step '
      f'{plan.branch_step:,} both arms are one run, which is trained already.'
    )


# The results.


def show_results(flags, plan: quickstart_plan.Plan, began: float) -> None:
  """Writes `summary.json` and `report.html`, and prints what they say."""
  plan = measured_on_a_quiet_machine(flags, plan)
  runs = quickstart_results.read_runs(flags.output, plan)
  models = {
    name: load_model.load_model(_path(flags, name))
    for name in quickstart_results.NAMES
  }
  trained = models['token_dropping']
  task = trained.params.task
  summary = quickstart_results.summarize(
    runs,
    baselines.read_baselines(task.validation_data, task.vocabulary),
    plan,
  )
  files.write_json(_path(flags, 'summary.json'), summary)
  rows = validation_text.validation_rows(task)
  filled = quickstart_results.filled_sentences(
    models, _sentences(plan, trained, rows)
  )
  content = quickstart_results.build_report(
    summary, runs, trained, filled, rows, _commands(flags, plan)
  )
  files.write_whole_file(_path(flags, 'report.html'), report.render(content))
  say(_results_text(flags, summary, content))
  say(f'\nDone in {console.duration_text(time.monotonic() - began)}.')


def measured_on_a_quiet_machine(
  flags, plan: quickstart_plan.Plan
) -> quickstart_plan.Plan:
  """Times the steps again where the machine was busy before."""
  if plan.is_quiet:
    return plan
  say('Timing steps again: the machine did other work before.')
  speeds = step_speeds.measure(_trees(flags, plan))
  if speeds.is_quiet:
    plan = dataclasses.replace(plan, speeds=speeds)
    quickstart_plan.write(plan, flags.output)
  return plan


def _sentences(plan, trained, rows) -> list[tuple[str, str]]:
  if not plan.corpus:
    return [(text, '') for text in quickstart_results.SENTENCES]
  vocabulary = trained.vocabulary
  counts = vocabulary_lib.read_token_counts(
    vocabulary_lib.counts_path_for(vocabulary.path), vocabulary
  )
  return validation_text.masked_sentences(vocabulary, rows, counts)


def _commands(flags, plan) -> list[tuple[str, str]]:
  model_dir = shlex.quote(_path(flags, 'token_dropping'))
  minutes = max(60, round(4 * plan.minutes))
  corpus = {'corpus': plan.corpus} if plan.corpus else {}
  return [
    (
      'Fill in a sentence of your own:',
      f'{launching.python_name()} -m tokendrop_tf.serving.fill_mask '
      f'--model_dir={model_dir} "This is a [MASK] of my own."',
    ),
    (
      'Train longer, for a comparison that says more:',
      quickstart_command(minutes=minutes, output='runs/longer', **corpus),
    ),
    (
      'Train on your own text:',
      quickstart_command(corpus='texts/*.txt.gz', output='runs/mine'),
    ),
    (
      'See the curves of both runs:',
      f'{launching.python_name()} -m tensorboard.main '
      f'--logdir={shlex.quote(flags.output)}',
    ),
  ]


def quickstart_command(**settings) -> str:
  """Returns the command of a quickstart: by make in a checkout.

  Args:
    **settings: `corpus`, `minutes`, `output`.
  """
  root = pathlib.Path(__file__).resolve().parents[2]
  if not os.path.exists(os.path.join(root, 'Makefile')):
    return ' '.join(
      [
        'tokendrop-quickstart',
        *(
          f'--{name}={shlex.quote(str(value))}'
          for name, value in settings.items()
        ),
      ]
    )
  names = {'corpus': 'CORPUS', 'minutes': MINUTES_VARIABLE, 'output': 'OUTPUT'}
  return ' '.join(
    [
      'make quickstart',
      *(
        f'{names[name]}={shlex.quote(str(value))}'
        for name, value in settings.items()
      ),
    ]
  )


def _results_text(flags, summary, content: report.Report) -> str:
  lines = [
    report.results_text(summary),
    '',
    f'unigram entropy of the validation labels: '
    f'{summary["unigram_entropy"]:.4f} nats',
    'least loss without a look at other tokens:    '
    f'{summary["context_free_loss"]:.4f} nats',
    '',
  ]
  lines += [textwrap.fill(line, 80) for line in content.verdict]
  lines += ['', textwrap.fill(summary['times_note'], 80)]
  lines += ['', 'Both models fill in, on full sequences:']
  for sentence in content.filled:
    answer = f'  (the text has: {sentence.answer})' if sentence.answer else ''
    lines.append(f'  {sentence.text}{answer}')
    lines += [
      f'    {name:<16}{fill_mask.format_predictions(predictions)}'
      for name, rows in sentence.predictions.items()
      for predictions in rows
    ]
  lines += [
    '',
    f'report   {_path(flags, "report.html")}',
    f'summary  {_path(flags, "summary.json")}',
  ]
  return '\n'.join(lines)


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
