"""The twin: arms and seeds trained, resumed, timed and compared."""

import dataclasses
import json
import pathlib

import pytest
import tiny_runs

from tokendrop_tf import errors, train
from tokendrop_tf.finetuning import sweep
from tokendrop_tf.pages import (
  arms,
  downstream,
  launching,
  run_curves,
  step_speeds,
  twin,
  twin_page,
  twin_results,
)
from tokendrop_tf.run import step_times

# Arms and their declarations.


def test_an_arm_is_declared_in_one_line_with_its_own_seeds_if_any():
  assert arms.parse_arm('plain', (0, 1)) == arms.Arm('plain', (), (0, 1))
  found = arms.parse_arm("late start [3, 4]: a.b = 'x'; c.d = (1, 2)", (0,))
  assert found == arms.Arm('late start', ("a.b = 'x'", 'c.d = (1, 2)'), (3, 4))
  assert found.folder_of('out', 3) == 'out/late_start/seed_3'
  with pytest.raises(errors.ConfigurationError, match='NAME: BINDING'):
    arms.parse_arm(': a.b = 1', (0,))


def test_given_runs_join_the_arm_of_their_name(tmp_path):
  for name in 'ab':
    (tmp_path / name).mkdir()
  name, folders = arms.parse_runs(f'plain={tmp_path}/a,{tmp_path}/b')
  [plain, other] = arms.gathered(
    [arms.Arm('plain', (), (0,))], [(name, folders), ('other', folders[:1])]
  )
  assert plain.folders_in('out') == ['out/plain/seed_0', *folders]
  assert other.folders_in('out') == [folders[0]]
  with pytest.raises(errors.ConfigurationError, match='without .*/absent'):
    arms.parse_runs(f'plain={tmp_path}/absent')
  with pytest.raises(errors.ConfigurationError, match="'plain' twice"):
    arms.gathered([plain, plain], [])


# Curves.


def make_run(losses, seconds=1.0, name='arm'):
  records = tuple(
    {
      'step': 10 * number,
      'tokens': 10_000 * number,
      'lm_example_loss': loss,
      'masked_lm_accuracy': 0.1,
    }
    for number, loss in enumerate(losses, start=1)
  )
  times = step_times.StepTimes((0,), (seconds,))
  return run_curves.RunCurve(name, 'runs/a', records, times, times)


def make_arm(*losses, seconds=1.0, name='arm'):
  runs = tuple(make_run(each, seconds, name) for each in losses)
  return twin_results.ArmCurve(name, runs, is_timed=True)


def test_an_arm_has_the_mean_of_its_seeds_with_all_of_them_around_it():
  arm = make_arm([6.0, 5.0, 4.0], [7.0, 5.5])
  assert arm.steps == [10, 20]
  assert arm.mean.full == [6.5, 5.25]
  assert arm.places()[run_curves.TOKENS] == [0.01, 0.02]
  assert arm.first_below(5.5) == [15.0, 20.0]
  assert arm.first_below(4.5) == [25.0, None]


def test_time_and_tokens_to_the_loss_of_the_first_arm_are_interpolated():
  plain = make_arm([6.0, 5.0, 4.0], [6.0, 5.0, 5.0], name='plain')
  fast = make_arm([6.0, 5.0, 4.0], seconds=0.5)
  found = twin_results._summarize_arm(fast, plain, None)
  # The first arm ends at 4.5 in the mean, after 30 s.
  assert found['steps_to_baseline_loss'] == 25.0
  assert found['seconds_to_baseline_loss'] == 12.5
  assert found['tokens_to_baseline_loss'] == 25_000
  assert found['loss_at_equal_time'] is None
  slow = make_arm([6.0, 5.0, 4.0], seconds=1.5)
  found = twin_results._summarize_arm(slow, plain, None)
  assert found['loss_at_equal_time'] == 5.0


# Downstream.


def test_the_interval_of_a_median_holds_it_and_is_that_of_resampling():
  low, high = downstream.bootstrap_interval([0.5, 0.6, 0.7, 0.8, 0.9])
  assert (low, high) == (0.5, 0.9)
  assert downstream.bootstrap_interval([0.7] * 5) == (0.7, 0.7)
  low, high = downstream.bootstrap_interval([0.1, *[0.7] * 30, 0.9])
  assert (low, high) == (0.7, 0.7)


def test_a_task_counts_only_if_an_arm_is_above_random_start_and_majority():
  def result(values, random=(0.5, 0.55, 0.5), majority=0.51):
    scores = [
      downstream.score_of('plain', values, '1e-3'),
      downstream.score_of(downstream.RANDOM_START, random, '1e-3'),
    ]
    return downstream.TaskResult('t', 'accuracy', scores, majority, {})

  assert result([0.6, 0.61, 0.62]).chance == 0.51
  assert not result([0.6, 0.61, 0.62]).is_at_chance
  assert result([0.6, 0.61, 0.5]).is_at_chance
  assert result([0.6, 0.61, 0.62], random=[0.7] * 3).is_at_chance
  assert not result([0.6] * 3, majority=None).is_at_chance


# From the command to the report.

FINETUNING = """
import json, pathlib, sys
folder, rate, seed, gain = sys.argv[1:]
value = 0.5 + float(gain) + float(rate) + int(seed) / 100
entry = {'step': 5, 'matthews_corrcoef': value}
pathlib.Path(folder, 'results.json').write_text(json.dumps({
  'task': 'custom', 'metric': 'matthews_corrcoef', 'train_steps': 5,
  'majority_class': {'matthews_corrcoef': 0.0}, 'seed': int(seed),
  'init_from': 'x', 'random_init': False, 'batch_size': 8, 'seq_length': 32,
  'num_train_examples': 9, 'best': entry, 'last': entry}))
"""


def stand_in(run, flags):
  """Stands for a fine-tuning; scores depend on rate, seed and start."""
  import sys

  is_random = 'finetuning.random_init = True' in flags.gin_params
  gain = '0' if is_random else '0.3'
  return [
    *(sys.executable, '-c', FINETUNING, run.folder, run.learning_rate),
    *(str(run.seed), gain),
  ]


# The quickstart's tests measure; here the machine is busy.
SPEEDS = step_speeds.StepSpeeds(
  {'plain': [1.0], 'dropping': [1.0, 0.5]},
  {'plain': [0.1], 'dropping': [0.1, 0.1]},
  is_quiet=False,
)


@pytest.fixture(scope='module')
def finished(tiny_corpus, tmp_path_factory):
  """A twin of two arms, the second with two seeds, and its launches."""
  output = tmp_path_factory.mktemp('twin') / 'out'
  text = output.parent / 'valid.txt'
  sentence = 'w01 w02 w03 w04 w05 w06 w{:02d}.'
  text.write_text(
    '\n\n'.join(
      '\n'.join(sentence.format(n) for n in range(d, d + 30)) for d in range(9)
    )
  )
  bindings = [
    *tiny_runs.TRAINING,
    f'VOCABULARY = {tiny_corpus.vocabulary!r}',
    f'TRAIN_DATA = {tiny_corpus.train!r}',
    f'VALIDATION_DATA = {str(text)!r}',
    'trainer.train_steps = 6',
    'trainer.steps_per_loop = 3',
    'trainer.validation_interval = 3',
    'trainer.checkpoint_interval = 3',
    'trainer.validation_steps = 2',
  ]
  arguments = [
    f'--output={output}',
    '--gin_file=runs/pretrain.gin',
    *(f'--gin_params={binding}' for binding in bindings),
    "--arm=plain: token_drop.policy = 'none'",
    "--arm=dropping [0, 1]: token_drop.keep_schedule = ('0:all', '0.5:16')",
    '--task=acceptability',
    '--learning_rates=1e-3,1e-2',
    '--task_seeds=0,1,2',
  ]
  launches = []
  patch = pytest.MonkeyPatch()
  patch.setattr(
    launching,
    'run_launcher',
    lambda args: launches.append(args) or train.main(args) or 0,
  )
  patch.setattr(sweep, 'command', stand_in)
  patch.setattr(step_speeds, 'measure', lambda runs: SPEEDS)
  assert twin.main(arguments) is None
  yield output, arguments, launches
  patch.undo()


def summary_of(output):
  return json.loads((output / 'summary.json').read_text())


def test_every_arm_has_its_seeds_and_one_validation_for_all(finished):
  output, _, launches = finished
  folders = [args[-1].removeprefix('--model_dir=') for args in launches]
  assert folders == [
    f'{output}/{name}'
    for name in ('plain/seed_0', 'dropping/seed_0', 'dropping/seed_1')
  ]
  summary = summary_of(output)
  assert summary['losses_compare']
  plain, dropping = summary['arms']
  assert dropping['num_runs'] == 2
  assert plain['tokens'] == 6 * 8 * 32
  assert set(summary['different_settings']) == {
    'token_drop.policy',
    'token_drop.keep_schedule',
    'token_drop.schedule_steps',
  }
  assert summary['equal_settings']['validation'].startswith('rate 0.15, 100%')
  # All labels show [MASK], so only their frequencies can be known.
  assert summary['context_free_loss'] == summary['unigram_entropy']


def test_the_random_start_and_the_majority_stand_next_to_the_arms(finished):
  output, _, _ = finished
  [task] = summary_of(output)['tasks']
  scores = {score['name']: score for score in task['scores']}
  assert scores['dropping']['learning_rate'] == '1e-2'
  # Seeds 0 and 2 start from the first pretraining run.
  assert scores['dropping']['values'] == pytest.approx([0.81, 0.83, 0.82])
  assert scores['random start']['median'] == pytest.approx(0.52)
  assert (task['majority'], task['is_at_chance']) == (0.0, False)
  folder = output / 'tasks' / 'acceptability_data'
  assert len((folder / 'train.tsv').read_text().splitlines()) > 20


def test_the_same_command_reads_what_is_finished_and_writes_the_same(
  finished, capsys
):
  output, arguments, launches = finished
  before, number = summary_of(output), len(launches)
  twin.main(arguments)
  assert len(launches) == number
  assert capsys.readouterr().out.count('is trained already') == 3
  twin.main([f'--output={output}', '--report'])
  now = summary_of(output)
  assert now == before


def test_times_are_kept_only_of_an_idle_machine(finished, monkeypatch, capsys):
  output, _, _ = finished
  twin.main([f'--output={output}', '--time'])
  assert 'not kept' in capsys.readouterr().out
  assert not summary_of(output)['times_compare']
  speeds = dataclasses.replace(SPEEDS, is_quiet=True)
  monkeypatch.setattr(step_speeds, 'measure', lambda runs: speeds)
  twin.main([f'--output={output}', '--time'])
  summary = summary_of(output)
  assert summary['times_compare']
  assert [arm['train_seconds'] for arm in summary['arms']] == [6.0, 4.5]


def test_runs_trained_elsewhere_are_read_also_before_they_end(
  finished, tmp_path
):
  output, _, _ = finished
  folder = output / 'dropping' / 'seed_1'
  running = tmp_path / 'running'
  running.mkdir()
  (running / 'params.yaml').write_bytes((folder / 'params.yaml').read_bytes())
  lines = (folder / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (running / 'metrics.jsonl').write_text(''.join(lines[:2]))
  twin.main(
    [
      f'--output={tmp_path}/out',
      f'--runs=plain={output}/plain/seed_0',
      f'--runs=now={running}',
      '--report',
    ]
  )
  summary = summary_of(tmp_path / 'out')
  plain, now = summary['arms']
  assert (plain['unfinished'], now['unfinished']) == ([], [str(running)])
  assert now['steps'] == 3
  assert '1 run has not finished' in twin_results.verdict(summary)[1]


def test_settings_of_all_arms_are_checked_before_any_is_trained(
  finished, tmp_path
):
  _, arguments, launches = finished
  number = len(launches)
  with pytest.raises(errors.ConfigurationError, match="In arm 'bad': .*polcy"):
    twin.main(
      [
        *arguments,
        f'--output={tmp_path}',
        "--arm=bad: token_drop.polcy = 'none'",
      ]
    )
  assert len(launches) == number


def test_another_validation_is_told_and_no_loss_is_compared(finished):
  output, _, _ = finished
  summary = summary_of(output)
  differences = {'validation_data.mask_rate': {'plain': 0.15, 'dropping': 0.4}}
  assert not twin_results.validates_alike(differences)
  assert twin_results.validates_alike({'validation_data.seed': {}})
  lines = twin_results.verdict(summary | {'losses_compare': False})
  assert lines[0].startswith('The losses do not compare')
  assert not any('ends at' in line for line in lines)


def test_the_page_shows_every_figure_of_the_summary(finished):
  output, _, _ = finished
  page = (output / 'report.html').read_text(encoding='utf-8')
  for row in twin_page.result_rows(summary_of(output)):
    assert all(cell in page for cell in row)
  assert page.count('<svg') == 2
  assert 'fill-opacity' in page or 'opacity: 0.2' in page
  for command in summary_of(output)['commands']:
    assert command in page
  assert pathlib.Path(output, 'arms.json').exists()
