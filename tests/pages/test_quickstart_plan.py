"""The plan of a quickstart: honest before it begins, and for one text only."""

import dataclasses
import json
import pathlib
import re
import types

import pytest

from tokendrop_tf import errors, schedules
from tokendrop_tf.config import configs
from tokendrop_tf.pages import quickstart_plan, step_speeds

ARMS = ('token_dropping', 'plain')
KEEPS = schedules.KEEP.parse(('0:all', '0.6:16'), 16, 1000)


@pytest.fixture(autouse=True)
def reading_tokens(monkeypatch):
  """The figure follows the recipe; these tests need one."""
  monkeypatch.setattr(quickstart_plan, 'READING_TOKENS', 3_000_000)


def make_flags(output, **changes):
  settings = {
    'corpus': '',
    'output': str(output),
    'seed': 0,
    'minutes': 10.0,
    'asks_for_minutes': False,
    'steps': None,
  }
  return types.SimpleNamespace(**(settings | changes))


def make_speeds(plain, dropping, is_quiet=True):
  medians = {'plain': [plain], 'token_dropping': [plain, dropping]}
  return step_speeds.StepSpeeds(medians, medians, is_quiet, startup=10.0)


def estimate(speeds, keeps=KEEPS, validation_steps=20.0):
  return quickstart_plan.Estimate.of(speeds, keeps, validation_steps, 12.0)


def make_params():
  task = configs.PretrainingTaskConfig()
  task.train_data.override({'global_batch_size': 64, 'seq_length': 32})
  task.validation_data.override({'global_batch_size': 128, 'seq_length': 32})
  task.token_drop.override(
    {
      'token_keep_k': 16,
      'keep_schedule': ('0:all', '0.6:16'),
      'schedule_steps': 1000,
    }
  )
  return types.SimpleNamespace(task=task)


def choose(seconds_per_step, minutes=10.0, steps=None, answer=''):
  asked = []
  plan = quickstart_plan.choose(
    quickstart_plan.Plan(
      '',
      'embedded',
      0,
      minutes,
      speeds=make_speeds(seconds_per_step, 0.8 * seconds_per_step),
    ),
    make_params(),
    60.0 * minutes,
    12.0,
    steps,
    lambda text: asked.append(text) or answer,
  )
  return plan, asked


# How long it takes.


def test_more_time_or_a_faster_machine_gives_more_steps():
  def steps(minutes, seconds):
    speeds = make_speeds(seconds, 0.8 * seconds)
    return estimate(speeds).steps_in(60.0 * minutes)

  assert steps(10, 0.25) < steps(20, 0.25) < steps(60, 0.25)
  assert steps(10, 0.5) < steps(10, 0.25)
  assert steps(0.1, 10.0) == quickstart_plan.LEAST_STEPS
  assert steps(10, 0.25) % 50 == 0


def test_steps_until_dropping_begins_are_counted_once():
  per_step = estimate(make_speeds(1.0, 0.5)).per_step
  # 0.6 together, then 0.4 of plain steps and 0.4 of cheaper ones.
  assert per_step == pytest.approx(0.6 + 0.4 + 0.2)
  at_once = schedules.KEEP.parse((), 16, 1000)
  speeds = step_speeds.StepSpeeds({'plain': [1.0], 'token_dropping': [0.5]}, {})
  per_step = estimate(speeds, at_once).per_step
  assert per_step == pytest.approx(1.0 + 0.5)


def test_minutes_of_the_steps_that_fit_are_those_given():
  found = estimate(make_speeds(0.1, 0.08))
  assert 9 <= found.minutes_of(found.steps_in(600.0)) <= 10


@pytest.mark.parametrize(
  ('steps', 'warmup_steps'), [(40, 20), (160, 80), (600, 100), (3000, 300)]
)
def test_short_runs_warm_up_as_long_as_adam_asks_for(steps, warmup_steps):
  plan = quickstart_plan.Plan('', '', 0, 10.0, steps)
  assert plan.warmup_steps == warmup_steps


def test_the_warm_up_follows_from_beta_2_of_the_recipe():
  root = pathlib.Path(__file__).resolve().parents[2]
  recipe = (root / 'gin_configs/quickstart.gin').read_text()
  [beta_2] = re.findall(r'^optimizer\.beta_2 = (.*)$', recipe, re.M)
  assert quickstart_plan.WARMUP_STEPS == round(2 / (1 - float(beta_2)))


@pytest.mark.parametrize('steps', [40, 60, 400, 850, 12250])
def test_validations_fall_on_the_end_of_loops_a_few_times_a_run(steps):
  plan = quickstart_plan.Plan('', '', 0, 10.0, steps, fork_step=steps * 6 // 10)
  assert plan.validation_interval % plan.steps_per_loop == 0
  most = quickstart_plan.NUM_VALIDATIONS
  assert most / 2 <= steps / plan.validation_interval <= most + 1
  assert 0 < plan.branch_step <= plan.fork_step


# What is said before.


def test_a_fast_machine_is_asked_nothing():
  plan, asked = choose(0.1)
  assert plan.steps * 64 * 32 >= quickstart_plan.READING_TOKENS
  assert plan.will_read
  assert plan.fork_step == 0.6 * plan.steps
  assert asked == []


@pytest.mark.parametrize(
  ('answer', 'will_read'), [('', False), ('s', False), ('l', True)]
)
def test_a_slow_machine_says_so_and_offers_a_longer_run(
  answer, will_read, capsys
):
  plan, asked = choose(1.0, answer=answer)
  printed = capsys.readouterr().out
  assert 'begin to read after about 3.0 million tokens' in printed
  assert 'longer   1,500 steps' in printed
  assert 'their losses do not yet' in printed
  assert '(QUICKSTART_MINUTES=' in printed
  [question] = asked
  assert 'longer run' in question
  assert plan.will_read == will_read
  assert (plan.minutes > 10.0) == will_read


def test_a_user_may_stop_before_anything_is_trained():
  assert choose(1.0, answer='q')[0] is None


def test_steps_that_are_asked_for_are_taken_and_judged(capsys):
  plan, _ = choose(0.1, steps=60)
  assert plan.steps == 60
  assert not plan.will_read
  assert 'million tokens; 60 steps are 0.1 million' in capsys.readouterr().out


def test_what_it_will_take_is_said_before_and_that_own_text_may_differ(capsys):
  choose(0.1)
  printed = capsys.readouterr().out
  assert 'expected to read after' in printed
  assert 'minutes from here.\n' in printed
  plan = quickstart_plan.Plan(
    'a.txt', '', 0, 10.0, speeds=make_speeds(0.1, 0.08)
  )
  quickstart_plan.choose(plan, make_params(), 600.0, 12.0, None, None)
  assert 'of your own they may not' in capsys.readouterr().out


# One folder, one text.


@pytest.fixture(name='texts')
def fixture_texts(tmp_path):
  for name in ('one', 'two'):
    (tmp_path / f'{name}.txt').write_text(f'{name}\n')
  output = tmp_path / 'out'
  output.mkdir()
  return tmp_path


def begin(texts, name, **changes):
  flags = make_flags(
    texts / 'out', corpus=str(texts / f'{name}.txt'), **changes
  )
  return quickstart_plan.begin(flags, ARMS)


def start_run(texts):
  (texts / 'out' / 'token_dropping').mkdir()
  (texts / 'out' / 'token_dropping' / 'params.yaml').write_text('task: {}\n')


def test_a_vocabulary_of_a_failed_attempt_on_another_text_is_not_taken(texts):
  begin(texts, 'one')
  vocabulary = texts / 'out' / 'vocab.txt'
  vocabulary.write_text('of one')
  begin(texts, 'one')
  assert vocabulary.exists()
  begin(texts, 'two')
  assert not vocabulary.exists()
  assert json.loads((texts / 'out' / 'plan.json').read_text())[
    'corpus'
  ].endswith('two.txt')


def test_a_vocabulary_of_a_text_that_has_changed_is_not_taken(texts):
  begin(texts, 'one')
  vocabulary = texts / 'out' / 'vocab.txt'
  vocabulary.write_text('of one')
  (texts / 'one.txt').write_text('one, corrected\n')
  begin(texts, 'one')
  assert not vocabulary.exists()


def test_a_vocabulary_without_a_plan_is_not_taken(texts):
  vocabulary = texts / 'out' / 'vocab.txt'
  vocabulary.write_text('of any text')
  begin(texts, 'one')
  assert not vocabulary.exists()


def test_runs_on_another_text_are_refused_and_left_alone(texts):
  begin(texts, 'one', minutes=10.0)
  start_run(texts)
  before = (texts / 'out' / 'plan.json').read_text()
  with pytest.raises(errors.ConfigurationError) as caught:
    begin(texts, 'two', minutes=30.0, asks_for_minutes=True, seed=1)
  message = str(caught.value)
  assert 'one.txt' in message
  assert 'two.txt' in message
  assert 'minutes: 10.0 there, 30.0 now' in message
  assert 'seed: 0 there, 1 now' in message
  assert 'Set another OUTPUT' in message
  assert (texts / 'out' / 'plan.json').read_text() == before


def test_runs_without_a_plan_are_refused(texts):
  start_run(texts)
  with pytest.raises(errors.ConfigurationError, match=r'no plan\.json'):
    begin(texts, 'one')


def test_the_same_command_resumes_a_longer_run_that_was_chosen(texts, capsys):
  plan = begin(texts, 'one')
  longer = dataclasses.replace(
    plan, steps=1500, minutes=54.0, speeds=make_speeds(1.0, 0.8)
  )
  quickstart_plan.write(longer, str(texts / 'out'))
  start_run(texts)
  assert begin(texts, 'one') == longer
  assert 'Resuming in' in capsys.readouterr().out


def test_a_damaged_plan_is_refused(texts):
  (texts / 'out' / 'plan.json').write_text('{"corpus":')
  with pytest.raises(
    errors.ConfigurationError, match='as the quickstart wrote'
  ):
    begin(texts, 'one')


@pytest.mark.parametrize(
  ('size', 'every'), [(1_000, 5), (500_000, 10), (10_000_000, 50)]
)
def test_of_little_text_a_larger_part_is_for_validation(tmp_path, size, every):
  path = tmp_path / 'text.txt'
  path.write_bytes(b'x' * size)
  assert quickstart_plan.held_out_documents(str(path)) == every
  assert quickstart_plan.held_out_documents('') == 50
