"""Trains BERT on one text twice, plainly and with token dropping, and compares.

  make quickstart
  make quickstart CORPUS='texts/*.txt.gz' OUTPUT=runs/mine
  QUICKSTART_MINUTES=60 make quickstart OUTPUT=runs/longer

The text is that of CORPUS (a blank line ends a document), or, without one, the
documentation strings of the installed Python packages. Both arms have 12
narrow layers, the same seeds, the same batches and the same number of steps: as
many as fit into the minutes on this machine. OUTPUT ends with summary.json and
report.html. The same command again goes on where it stopped.
"""

import contextlib
import dataclasses
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import textwrap
import time

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import tensorflow as tf

from tokendrop_tf import (
  checkpoints,
  configs,
  errors,
  fill_mask,
  progress,
  quickstart_results,
  report,
  train,
)
from tokendrop_tf import task as task_lib
from tokendrop_tf.data import (
  build_vocab,
  checks,
  label_levels,
  loader,
  text_files,
)
from tokendrop_tf.data import vocabulary as vocabulary_lib

GIN_FILE = 'quickstart.gin'
DEFAULT_OUTPUT = os.path.join('runs', 'quickstart')
DEFAULT_MINUTES = 10.0
MINUTES_VARIABLE = 'QUICKSTART_MINUTES'
VOCAB_SIZE = 1024
HELD_OUT_DOCUMENTS = 50
# Name of an arm, and what it binds beside what both share.
ARMS = {
  'plain': ("token_drop.policy = 'none'",),
  'token_dropping': (),
}

NUM_VALIDATIONS = 6
MAX_VALIDATION_BATCHES = 40
LEAST_STEPS = 40
_TIMED_STEPS = 20
# Rough costs on two cores, for choosing the number of steps: loading
# TensorFlow for an arm; reading the results; a forward pass as a share of a
# train step; the steps of the dropping arm as a share of the plain arm's; and
# what the rest of the machine takes.
_LOAD_SECONDS = 12.0
_RESULT_SECONDS = 25.0
_FORWARD_SHARE = 0.4
_DROPPING_SHARE = 0.93
_USABLE_SHARE = 0.92


@dataclasses.dataclass(frozen=True)
class Plan:
  """What both arms do; fixed when a folder is first used.

  Attributes:
    corpus: comma-separated globs, or '' for the embedded text.
    minutes: time for everything.
    steps: train steps of each arm.
    steps_from: how `steps` was chosen.
    validation_batches: batches per validation.
    seed: of weights, masks and order.
  """

  corpus: str
  minutes: float
  steps: int
  steps_from: str
  validation_batches: int
  seed: int

  @property
  def steps_per_loop(self) -> int:
    return 25 if self.steps >= 400 else 5

  @property
  def validation_interval(self) -> int:
    """About `NUM_VALIDATIONS` in a run, on the end of a loop."""
    loops = math.ceil(self.steps / NUM_VALIDATIONS / self.steps_per_loop)
    return loops * self.steps_per_loop


def main(arguments: list[str]) -> int | None:
  """Runs the quickstart; returns the exit code of an arm that failed."""
  began = time.monotonic()
  flags = _parse(arguments)
  # The arms run on the CPU, so their speed is measured there.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], 'GPU')
  say(_introduction(flags))
  # 1. The text is checked before anything is written.
  check_corpus(flags.corpus)
  os.makedirs(flags.output, exist_ok=True)
  plan = read_plan(flags)
  # 2. One vocabulary for both arms.
  say('\n[1/4] Vocabulary')
  build_vocabulary(flags)
  # 3. As many steps as fit into the time, for both arms alike.
  if plan is None:
    say('\n[2/4] Speed of this machine')
    plan = make_plan(flags, began)
    write_json(_path(flags, 'plan.json'), dataclasses.asdict(plan))
  say(f'{plan.steps:,} steps for each arm: {plan.steps_from}.')
  # 4. Both arms.
  for number, name in enumerate(ARMS, start=1):
    say(f'\n[3/4] Arm {number} of {len(ARMS)}: {name}')
    code = train_arm(flags, plan, name)
    if code:
      return code
  # 5. What came out.
  say('\n[4/4] Results')
  show_results(flags, plan, began)


def _parse(arguments):
  parser = command_line.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--corpus',
    default='',
    help='Comma-separated files or globs, .txt or .txt.gz. Default: the '
    'embedded text.',
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
  flags.minutes = _minutes(flags)
  flags.corpus = absolute_globs(flags.corpus)
  if flags.steps is not None and flags.steps < LEAST_STEPS:
    raise errors.ConfigurationError(
      f'An arm needs at least {LEAST_STEPS} steps. Received: '
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


def write_json(path: str, content) -> None:
  """Writes a whole file or none."""
  vocabulary_lib.write_whole_file(path, json.dumps(content, indent=2) + '\n')


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


def read_plan(flags) -> Plan | None:
  """Returns the plan of an earlier call for this folder, if there is one.

  Raises:
    ConfigurationError: if it was made for something else.
  """
  path = _path(flags, 'plan.json')
  if not os.path.exists(path):
    return None
  try:
    with open(path, encoding='utf-8') as file:
      plan = Plan(**json.load(file))
  except (ValueError, TypeError) as error:
    raise errors.ConfigurationError(
      f'{path} must be as the quickstart wrote it. Received: {error}. Remove '
      f'{flags.output}, or set another OUTPUT.'
    ) from error
  asked = {
    'corpus': flags.corpus,
    'minutes': flags.minutes,
    'seed': flags.seed,
    'steps': flags.steps,
  }
  differences = [
    f'  {name}: {getattr(plan, name)!r} there, {value!r} now'
    for name, value in asked.items()
    if value is not None and getattr(plan, name) != value
  ]
  if differences:
    raise errors.ConfigurationError(
      'A quickstart goes on only with what it began with. '
      f'{flags.output} has another one:\n'
      + '\n'.join(differences)
      + '\nSet another OUTPUT, or remove the folder.'
    )
  say(f'Going on in {flags.output}.')
  return plan


def build_vocabulary(flags) -> None:
  """Trains the vocabulary, unless it is there already."""
  path = _path(flags, 'vocab.txt')
  if os.path.exists(path) and os.path.exists(
    vocabulary_lib.counts_path_for(path)
  ):
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
      f'--held_out_documents={HELD_OUT_DOCUMENTS}',
    ]
  )


def make_plan(flags, began: float) -> Plan:
  """Chooses the number of steps: given, or what fits into the time.

  Args:
    flags: the command line.
    began: when the quickstart began, by `time.monotonic`.
  """
  plan = Plan(
    corpus=flags.corpus,
    minutes=flags.minutes,
    steps=flags.steps or 1000,
    steps_from='as asked for',
    validation_batches=1,
    seed=flags.seed,
  )
  params = read_params(flags, plan, 'plain')
  plan = dataclasses.replace(
    plan, validation_batches=_count_validation_batches(params.task)
  )
  if flags.steps:
    return plan
  seconds_per_step, startup = time_train_step(params)
  left = 60.0 * flags.minutes - (time.monotonic() - began)
  steps = fitting_steps(
    left,
    seconds_per_step,
    startup,
    validation_steps=plan.validation_batches
    * params.task.validation_data.global_batch_size
    / params.task.train_data.global_batch_size,
  )
  return dataclasses.replace(
    plan,
    steps=steps,
    steps_from=f'what fits into {flags.minutes:g} minutes at '
    f'{seconds_per_step:.3f} s for a plain step on this machine',
  )


def fitting_steps(
  seconds: float,
  seconds_per_step: float,
  startup: float,
  validation_steps: float,
) -> int:
  """Returns how many steps of each arm fit into a time.

  Args:
    seconds: time for both arms and the results.
    seconds_per_step: of a plain train step.
    startup: seconds until the first step of an arm is done.
    validation_steps: size of a validation in train batches.

  Returns:
    A multiple of 50 from 400 on, of 10 below; at least `LEAST_STEPS`.
  """
  validation = _FORWARD_SHARE * validation_steps * seconds_per_step
  # The dropping arm validates twice: full, and with dropping.
  spent = (
    2 * (startup + _LOAD_SECONDS)
    + _RESULT_SECONDS
    + NUM_VALIDATIONS * validation * (1.0 + 2.0)
  )
  usable = max(_USABLE_SHARE * (seconds - spent), 0.0)
  steps = int(usable / (seconds_per_step * (1.0 + _DROPPING_SHARE)))
  unit = 50 if steps >= 400 else 10
  return max(steps // unit * unit, LEAST_STEPS)


def _count_validation_batches(task) -> int:
  """Returns how many batches a validation reads, and checks the data."""
  loader_arguments = (task.validation_data, task.vocabulary)
  checks.check_dataset(*loader_arguments)
  batches = loader.load_dataset(*loader_arguments)
  return sum(1 for _ in batches.take(MAX_VALIDATION_BATCHES))


def time_train_step(params) -> tuple[float, float]:
  """Times train steps in this process.

  Args:
    params: the experiment's tree.

  Returns:
    Median seconds of a warm step, and seconds until the first was done.
  """
  began = time.monotonic()
  command_line.silence_xla()
  task = task_lib.TokenDropPretrainingTask(params.task)
  model = task.build_model()
  optimizer = task.create_optimizer(params.trainer.optimizer_config)
  metrics = task.build_metrics(training=True)
  batch = next(
    iter(loader.load_dataset(params.task.train_data, params.task.vocabulary))
  )
  step = tf.function(lambda: task.train_step(batch, model, optimizer, metrics))
  _timed(step)
  startup = time.monotonic() - began
  _timed(step)
  seconds = [_timed(step) for _ in range(_TIMED_STEPS)]
  return statistics.median(seconds), startup


def _timed(step) -> float:
  began = time.monotonic()
  step()['loss'].numpy()
  return time.monotonic() - began


# The arms.


def arm_arguments(flags, plan: Plan, name: str) -> list[str]:
  """Returns the launcher's arguments for an arm, short of the defaults."""
  bindings = [
    f"VOCABULARY = '{os.path.abspath(_path(flags, 'vocab.txt'))}'",
    f'TRAIN_DATA = {plan.corpus!r}',
    f'train_data.held_out_documents = {HELD_OUT_DOCUMENTS}',
    f'trainer.train_steps = {plan.steps}',
    f'trainer.steps_per_loop = {plan.steps_per_loop}',
    f'trainer.validation_interval = {plan.validation_interval}',
    f'trainer.validation_steps = {plan.validation_batches}',
    f'trainer.checkpoint_interval = {plan.validation_interval}',
    f'optimizer.warmup_steps = {plan.steps // 10}',
    f'pretraining.seed = {plan.seed}',
    *ARMS[name],
  ]
  return [
    f'--gin_file={GIN_FILE}',
    *(f'--gin_params={binding}' for binding in bindings),
    f'--model_dir={_path(flags, name)}',
  ]


def read_params(flags, plan: Plan, name: str):
  """Returns the tree that the launcher will build for an arm."""
  launcher_flags = train.parse_flags(arm_arguments(flags, plan, name))
  params, _ = train.read_configuration(launcher_flags)
  configs.validate_experiment(params)
  configs.resolve_vocabulary(
    params,
    vocabulary_lib.Vocabulary.from_file(
      params.task.vocabulary.path, params.task.vocabulary.lower_case
    ),
  )
  return params


def is_trained(flags, plan: Plan, name: str) -> bool:
  """Whether an arm has its last checkpoint and its last validation."""
  model_dir = _path(flags, name)
  checkpoint = checkpoints.newest(model_dir) or ''
  records = progress.read_metrics(
    os.path.join(model_dir, progress.METRICS_FILE)
  )
  return checkpoint.endswith(f'-{plan.steps}') and any(
    record['kind'] == 'validation' and record['step'] == plan.steps
    for record in records
  )


def train_arm(flags, plan: Plan, name: str) -> int:
  """Trains an arm, unless it is trained already; returns its exit code."""
  if is_trained(flags, plan, name):
    say(f'{_path(flags, name)} is trained already.')
    return 0
  arguments = arm_arguments(flags, plan, name)
  say(shown_command(arguments) + '\n')
  return run_launcher(arguments)


def run_launcher(arguments: list[str]) -> int:
  """Runs the launcher in a process of its own; returns its exit code.

  Raises:
    Interrupted: on Ctrl-C, once the process has ended.
  """
  command = [sys.executable, '-m', 'tokendrop_tf.train', *arguments]
  with subprocess.Popen(command) as process:
    try:
      return process.wait()
    except KeyboardInterrupt:
      _end(process)
      raise command_line.Interrupted(
        'The same command goes on from here.'
      ) from None


def shown_command(arguments: list[str]) -> str:
  """Returns the launcher's command as a person would type it, line by line.

  Example:
    shown_command(['--gin_file=quickstart.gin', '--model_dir=runs/plain'])
  """
  lines = [f'$ {python_name()} -m tokendrop_tf.train']
  for argument in arguments:
    flag, value = argument.split('=', 1)
    # Double quotes leave the single ones of gin as they are.
    is_plain = not set(value) & set('"$`\\!')
    quoted = shlex.quote(value)
    if quoted != value and is_plain:
      quoted = f'"{value}"'
    lines.append(f'    {flag}={quoted}')
  return ' \\\n'.join(lines)


def _end(process) -> None:
  """Waits for an arm that Ctrl-C reached too, and insists in the end."""
  try:
    process.wait(timeout=20)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGTERM)
    process.wait()


# The results.


def show_results(flags, plan: Plan, began: float) -> None:
  """Writes `summary.json` and `report.html`, and prints what they say."""
  runs = [
    quickstart_results.Run.read(name, _path(flags, name)) for name in ARMS
  ]
  trained = fill_mask.load_trained_model(_path(flags, 'token_dropping'))
  task = trained.params.task
  summary = quickstart_results.summarize(
    runs,
    label_levels.read_label_levels(task.validation_data, task.vocabulary),
  )
  summary.update(
    corpus=plan.corpus,
    minutes=plan.minutes,
    seed=plan.seed,
    steps_from=plan.steps_from,
    machine=quickstart_results.machine(),
    versions=quickstart_results.versions(),
  )
  write_json(_path(flags, 'summary.json'), summary)
  rows = quickstart_results.validation_rows(task)
  filled = quickstart_results.filled_sentences(
    trained, _sentences(plan, trained, rows)
  )
  page = report.render(
    quickstart_results.build_report(
      summary, runs, trained, filled, rows, _commands(flags, plan)
    )
  )
  vocabulary_lib.write_whole_file(_path(flags, 'report.html'), page)
  say(_results_text(flags, summary, filled))
  say(f'\nDone in {progress.duration_text(time.monotonic() - began)}.')


def _sentences(plan, trained, rows) -> list[tuple[str, str]]:
  if not plan.corpus:
    return [(text, '') for text in quickstart_results.SENTENCES]
  vocabulary = trained.vocabulary
  counts = vocabulary_lib.read_token_counts(
    vocabulary_lib.counts_path_for(vocabulary.path), vocabulary
  )
  return quickstart_results.masked_sentences(vocabulary, rows, counts)


def _commands(flags, plan) -> list[tuple[str, str]]:
  model_dir = shlex.quote(_path(flags, 'token_dropping'))
  minutes = max(60, round(4 * plan.minutes))
  corpus = {'corpus': plan.corpus} if plan.corpus else {}
  return [
    (
      'Fill in a sentence of your own:',
      f'{python_name()} -m tokendrop_tf.fill_mask --model_dir={model_dir} '
      '"This is a [MASK] of my own."',
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
      f'{python_name()} -m tensorboard.main '
      f'--logdir={shlex.quote(flags.output)}',
    ),
  ]


def python_name() -> str:
  """Returns this Python as one would type it here."""
  relative = os.path.relpath(sys.executable)
  return sys.executable if relative.startswith(os.pardir) else relative


def quickstart_command(**settings) -> str:
  """Returns the command of a quickstart: by make in a checkout.

  Args:
    **settings: `corpus`, `minutes`, `output`.
  """
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
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


def _results_text(flags, summary, filled) -> str:
  lines = [
    report.results_text(summary),
    '',
    f'unigram entropy of the validation labels: '
    f'{summary["unigram_entropy"]:.4f} nats',
    'least loss without a look at other tokens:    '
    f'{summary["context_free_loss"]:.4f} nats',
    '',
  ]
  lines += [
    textwrap.fill(line, 80) for line in quickstart_results.verdict(summary)
  ]
  lines += ['', 'The token-dropping model fills in, on full sequences:']
  for sentence in filled:
    answer = f'  (the text has: {sentence.answer})' if sentence.answer else ''
    lines.append(f'  {sentence.text}{answer}')
    lines += [
      f'    {fill_mask.format_predictions(predictions)}'
      for predictions in sentence.predictions
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
