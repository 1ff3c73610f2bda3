"""The plan of a quickstart: how long both arms train, and what that will show.

A plan is made before anything is trained and kept in `plan.json`, with a
fingerprint of the text that it is for.
"""

import dataclasses
import json
import math
import os
import zlib

import tensorflow as tf

from tokendrop_tf import dropping, errors, files
from tokendrop_tf.data import loader
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.read import source_files, text_files
from tokendrop_tf.pages import step_speeds
from tokendrop_tf.run import run_folder

PLAN_FILE = 'plan.json'
VOCABULARY_FILE = 'vocab.txt'
# Tokens after which models of `quickstart.gin` read the default text: before
# that they know little more than which tokens are frequent, and a comparison of
# their losses says nothing.
READING_TOKENS = 1_000_000

NUM_VALIDATIONS = 10
MAX_VALIDATION_BATCHES = 40
# One document, or passage, in so many is for validation: fewer of much text. Of
# little text more, so that there are labels to compare losses on.
_HELD_OUT = range(5, 51)
_VALIDATION_BYTES = 50_000
LEAST_STEPS = 40
# 2 / (1 - beta_2), beta_2 of `quickstart.gin`: how long Adam's rate has to rise
# until its mean of squares says how large gradients are (Ma and Yarats, 2021,
# arXiv 1910.04209). Runs with less have jumps of the loss.
WARMUP_STEPS = 100
PLAIN, DROPPING = 'plain', 'token_dropping'
# Rough costs for choosing the number of steps: reading the results, as a
# multiple of loading TensorFlow; a forward pass as a share of a train step; and
# the share of the time that is planned.
_RESULTS_PER_LOAD = 3.0
_FORWARD_SHARE = 0.4
_USABLE_SHARE = 0.92


@dataclasses.dataclass(frozen=True)
class Plan:
  """What both arms do; fixed once an arm has begun.

  Attributes:
    corpus: comma-separated globs, or '' for the embedded text.
    fingerprint: of the text.
    seed: of weights, masks and order.
    minutes: time for everything.
    steps: train steps of each arm; 0 while they are not yet chosen.
    steps_from: how `steps` was chosen.
    fork_step: the step at which dropping begins; until then the arms are one.
    held_out_documents: one document in so many is for validation.
    validation_batches: batches per validation.
    speeds: seconds of the steps of both arms on this machine; `None` while they
      are not measured.
    will_read: whether the models are expected to read at the end.
  """

  corpus: str
  fingerprint: str
  seed: int
  minutes: float
  steps: int = 0
  steps_from: str = ''
  fork_step: int = 0
  held_out_documents: int = _HELD_OUT[-1]
  validation_batches: int = 1
  speeds: step_speeds.StepSpeeds | None = None
  will_read: bool = True

  @property
  def validation_interval(self) -> int:
    """About `NUM_VALIDATIONS` in a run, on the end of a loop."""
    loops = math.ceil(self.steps / NUM_VALIDATIONS / self.steps_per_loop)
    return loops * self.steps_per_loop

  @property
  def warmup_steps(self) -> int:
    """A tenth of the run, but not less than `WARMUP_STEPS`, or half of it."""
    return max(self.steps // 10, min(WARMUP_STEPS, self.steps // 2))

  @property
  def steps_per_loop(self) -> int:
    return 25 if self.steps >= 400 else 2

  @property
  def branch_step(self) -> int:
    """The last validation that both arms share; 0 without one."""
    return self.fork_step // self.validation_interval * self.validation_interval

  @property
  def is_quiet(self) -> bool:
    """Whether the machine did little else while steps were measured."""
    return self.speeds is not None and self.speeds.is_quiet


def fingerprint(corpus: str) -> str:
  """Returns a checksum of names, sizes and both ends of the text's files.

  Args:
    corpus: comma-separated globs, or '' for the embedded text.
  """
  if not corpus:
    return 'embedded'
  found = [
    (path, source_files.fingerprint(path))
    for path in text_files.match_files(corpus)
  ]
  return f'{zlib.crc32(repr(found).encode()):08x}'


def held_out_documents(corpus: str) -> int:
  """Returns which part of a text is for validation: one document in so many.

  Args:
    corpus: comma-separated globs, or '' for the embedded text.
  """
  if not corpus:
    return _HELD_OUT[-1]
  size = corpus_lib.TextCorpus(text_files.match_files(corpus)).num_bytes()
  return min(max(size // _VALIDATION_BYTES, _HELD_OUT[0]), _HELD_OUT[-1])


def begin(flags, arms) -> Plan:
  """Returns the plan of this folder, complete or just begun, and writes it.

  What an attempt on another text left, short of a run, is removed.

  Args:
    flags: the command line.
    arms: names of the runs in the folder.

  Raises:
    ConfigurationError: if the folder holds runs of another quickstart.
  """
  asked = Plan(
    flags.corpus,
    fingerprint(flags.corpus),
    flags.seed,
    flags.minutes,
    held_out_documents=held_out_documents(flags.corpus),
  )
  found = _read(os.path.join(flags.output, PLAN_FILE), flags.output)
  has_runs = any(
    run_folder.has_configuration(os.path.join(flags.output, arm))
    for arm in arms
  )
  if found and not _differences(flags, asked, found):
    print(f'Resuming in {flags.output}.', flush=True)
    return found
  if has_runs:
    raise errors.ConfigurationError(
      'A quickstart resumes only with what it began with. '
      f'{flags.output} has another one:\n'
      + '\n'.join(_differences(flags, asked, found) or ['  no plan.json'])
      + '\nSet another OUTPUT, or remove the folder.'
    )
  if not found or found.fingerprint != asked.fingerprint:
    _remove_vocabulary(flags.output)
  write(asked, flags.output)
  return asked


def _read(path, output) -> Plan | None:
  if not os.path.exists(path):
    return None
  try:
    with open(path, encoding='utf-8') as file:
      found = json.load(file)
    if found.get('speeds'):
      found['speeds'] = step_speeds.StepSpeeds(**found['speeds'])
    return Plan(**found)
  except (ValueError, TypeError) as error:
    raise errors.ConfigurationError(
      f'{path} must be as the quickstart wrote it. Received: {error}. Remove '
      f'{output}, or set another OUTPUT.'
    ) from error


def _differences(flags, asked: Plan, found: Plan | None) -> list[str]:
  """Returns the settings that differ, one per line."""
  if found is None:
    return []
  pairs = {
    'corpus': (found.corpus, asked.corpus),
    'seed': (found.seed, asked.seed),
  }
  if flags.asks_for_minutes:
    pairs['minutes'] = (found.minutes, asked.minutes)
  if flags.steps and found.steps:
    pairs['steps'] = (found.steps, flags.steps)
  lines = [
    f'  {name}: {there!r} there, {now!r} now'
    for name, (there, now) in pairs.items()
    if there != now
  ]
  if found.corpus == asked.corpus and found.fingerprint != asked.fingerprint:
    lines.append('  corpus: its files have changed')
  return lines


def _remove_vocabulary(output):
  for path in tf.io.gfile.glob(os.path.join(output, 'vocab.*')):
    print(f'{path} was made of another text: removing it.', flush=True)
    os.remove(path)


def write(plan: Plan, output: str) -> None:
  """Writes `plan.json`."""
  files.write_json(os.path.join(output, PLAN_FILE), dataclasses.asdict(plan))


# Choosing.


def count_validation_batches(task) -> int:
  """Returns how many batches a validation reads, and checks the data."""
  arguments = (task.validation_data, task.vocabulary)
  loader.check_dataset(*arguments)
  batches = loader.load_dataset(*arguments)
  return sum(1 for _ in batches.take(MAX_VALIDATION_BATCHES))


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds that a quickstart takes, as a line over its steps.

  Attributes:
    fixed: whatever the number of steps.
    per_step: for each step of the arms.
  """

  fixed: float
  per_step: float

  @classmethod
  def of(
    cls,
    speeds: step_speeds.StepSpeeds,
    keeps,
    validation_steps: float,
    load_seconds: float,
  ) -> 'Estimate':
    """Estimates from measured steps.

    Args:
      speeds: of both arms on this machine.
      keeps: the keep schedule of the dropping arm.
      validation_steps: size of a validation in train batches.
      load_seconds: until TensorFlow is loaded.
    """
    [plain] = speeds.medians[PLAIN]
    dropping_arm = sum(
      length * seconds
      for length, seconds in zip(keeps.lengths, speeds.medians[DROPPING])
    )
    alone = 1.0 - common_share(keeps)
    validation = _FORWARD_SHARE * validation_steps * plain
    return cls(
      # The dropping arm validates in two ways; the plain arm where it is alone.
      fixed=2 * (speeds.startup + load_seconds)
      + _RESULTS_PER_LOAD * load_seconds
      + NUM_VALIDATIONS * validation * (2.0 + alone),
      per_step=dropping_arm + alone * plain,
    )

  def steps_in(self, seconds: float) -> int:
    """Returns how many steps fit, rounded down to whole validations."""
    steps = int(max(_USABLE_SHARE * seconds - self.fixed, 0) / self.per_step)
    return whole_steps(steps)

  def minutes_of(self, steps: int) -> int:
    """Returns the whole minutes that so many steps take."""
    seconds = (self.fixed + steps * self.per_step) / _USABLE_SHARE
    return math.ceil(seconds / 60)


def whole_steps(steps: int) -> int:
  """Rounds down to a number that validations divide; `LEAST_STEPS` at least."""
  unit = 250 if steps >= 1000 else 50 if steps >= 400 else 20
  return max(steps // unit * unit, LEAST_STEPS)


def common_share(keeps) -> float:
  """Returns the share of the steps before dropping begins."""
  if keeps.values[0] is not None:
    return 0.0
  return keeps.lengths[0]


def choose(
  plan: Plan,
  params,
  seconds_left: float,
  load_seconds: float,
  steps: int | None,
  ask,
) -> Plan | None:
  """Completes a plan; `None` if the user would rather not begin.

  Args:
    plan: the plan begun, with its validation batches and speeds.
    params: the tree of the dropping arm.
    seconds_left: time for the arms and the results.
    load_seconds: until TensorFlow is loaded.
    steps: train steps of each arm, as asked for; `None` is as many as fit.
    ask: function of a text to the answer of the user; '' where there is none.
  """
  task = params.task
  data = task.train_data
  keeps = dropping.Dropping.of(task).kinds.keeps
  estimate = Estimate.of(
    plan.speeds,
    keeps,
    plan.validation_batches
    * task.validation_data.global_batch_size
    / data.global_batch_size,
    load_seconds,
  )
  tokens_per_step = data.global_batch_size * data.seq_length
  needed = whole_steps(math.ceil(READING_TOKENS / tokens_per_step / 250) * 250)
  chosen = steps or estimate.steps_in(seconds_left)
  minutes = plan.minutes
  [plain] = plan.speeds.medians[PLAIN]
  origin = 'as asked for'
  if not steps:
    origin = (
      f'what fits into {plan.minutes:g} minutes at {plain:.3f} s for a plain '
      'step on this machine'
    )
  if chosen < needed:
    longer = estimate.minutes_of(needed)
    print(
      _too_short_text(
        chosen, chosen * tokens_per_step, estimate, needed, plain
      ),
      flush=True,
    )
    answer = ask(
      f'Type l for the longer run of {longer} minutes, s for the smaller one, '
      'q to stop: '
    )
    if answer == 'q':
      return None
    if answer == 'l':
      chosen, minutes = needed, float(longer)
      origin = f'what the models need to read, about {longer} minutes'
  else:
    print(
      f'\nBoth models are expected to read after {chosen:,} steps, in about '
      f'{estimate.minutes_of(chosen)} minutes from here.{_own_text_note(plan)}',
      flush=True,
    )
  return dataclasses.replace(
    plan,
    minutes=minutes,
    steps=chosen,
    steps_from=origin,
    will_read=chosen >= needed,
    fork_step=round(common_share(keeps) * chosen),
  )


def _own_text_note(plan: Plan) -> str:
  if not plan.corpus:
    return ''
  return (
    ' That was measured on the default text; with little text of your own they '
    'may not, and the comparison would be of how fast they learn which tokens '
    'are frequent.'
  )


def _too_short_text(steps, tokens, estimate, needed, plain_seconds) -> str:
  longer, smaller = estimate.minutes_of(needed), estimate.minutes_of(steps)
  return (
    f'\nA plain step takes {plain_seconds:.3f} s on this machine. Models of '
    f'this size begin to read after about {READING_TOKENS / 1e6:.1f} million '
    f'tokens; {steps:,} steps are {tokens / 1e6:.1f} million. There is a '
    'choice:\n'
    f'  longer   {needed:,} steps, {longer} minutes (QUICKSTART_MINUTES='
    f'{longer}): two models\n'
    '           that read\n'
    f'  smaller  {steps:,} steps, {smaller} minutes: models that know which '
    'tokens are\n'
    '           frequent; their speeds compare, their losses do not yet'
  )
