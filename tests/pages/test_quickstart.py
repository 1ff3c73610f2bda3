"""The quickstart: a fair comparison, told honestly, that resumes when asked."""

import json
import pathlib
import shlex

import numpy as np
import pytest

from tokendrop_tf import command_line, errors, train
from tokendrop_tf.data import baselines
from tokendrop_tf.export import load_model
from tokendrop_tf.pages import (
  launching,
  quickstart,
  quickstart_plan,
  quickstart_results,
  run_curves,
  step_speeds,
  validation_text,
)
from tokendrop_tf.run import step_times

TINY_GIN = """
include 'quickstart.gin'
model.num_layers = 3
model.hidden_size = 16
model.intermediate_size = 32
model.max_position_embeddings = 32
model.initializer_range = 0.1
train_data.seq_length = 32
train_data.max_predictions_per_seq = 5
train_data.global_batch_size = 8
train_data.shuffle_buffer_size = 16
validation_data.global_batch_size = 8
token_drop.token_keep_k = 16
# What both arms share is trained once.
token_drop.keep_schedule = ('0:all', '0.6:16')
"""


def parse(*arguments):
  return quickstart._parse(list(arguments))


def message_of(function, *arguments) -> str:
  with pytest.raises(errors.UserError) as caught:
    function(*arguments)
  return str(caught.value)


def make_speeds(is_quiet=True):
  return step_speeds.StepSpeeds(
    {'plain': [0.25], 'token_dropping': [0.25, 0.15]},
    {'plain': [0.01], 'token_dropping': [0.01, 0.01]},
    is_quiet,
  )


def make_plan(**changes):
  settings = {
    'corpus': '',
    'fingerprint': 'embedded',
    'seed': 0,
    'minutes': 10.0,
    'steps': 200,
    'steps_from': 'as asked for',
    'fork_step': 100,
    'validation_batches': 11,
    'speeds': make_speeds(),
  }
  return quickstart_plan.Plan(**{**settings, **changes})


# The command line.


def test_minutes_come_from_the_flag_the_environment_or_the_default(monkeypatch):
  monkeypatch.delenv('QUICKSTART_MINUTES', raising=False)
  assert parse().minutes == 10.0
  monkeypatch.setenv('QUICKSTART_MINUTES', '25')
  assert parse().minutes == 25.0
  assert parse('--minutes=3').minutes == 3.0


@pytest.mark.parametrize('minutes', ['soon', '-1', '0', 'nan', 'inf'])
def test_minutes_that_are_no_time_are_refused(monkeypatch, minutes):
  monkeypatch.setenv('QUICKSTART_MINUTES', minutes)
  message = message_of(parse)
  assert message.startswith('QUICKSTART_MINUTES must be')
  assert minutes in message


def test_output_must_be_a_folder(tmp_path):
  file = tmp_path / 'file'
  file.write_text('')
  assert 'OUTPUT must be a folder' in message_of(parse, f'--output={file}')


def test_absent_corpus_is_refused_by_the_name_the_user_typed(tmp_path):
  flags = parse(f'--corpus={tmp_path}/*.txt', f'--output={tmp_path}/out')
  message = message_of(quickstart.check_corpus, flags.corpus)
  assert message.endswith('Set CORPUS.')
  assert f'{tmp_path}/*.txt' in message


def test_corpus_means_the_same_in_every_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert quickstart.absolute_globs('a/*.txt, /b.txt,gs://c/d.txt') == (
    f'{tmp_path}/a/*.txt,/b.txt,gs://c/d.txt'
  )


def test_arms_differ_in_the_policy_and_in_nothing_else(tiny_corpus, tmp_path):
  (tmp_path / 'vocab.txt').write_text(
    pathlib.Path(tiny_corpus.vocabulary).read_text()
  )
  flags = parse(f'--output={tmp_path}')
  plain, dropping = (
    quickstart.read_params(flags, make_plan(), name)[0].as_dict()
    for name in ('plain', 'token_dropping')
  )
  assert plain['task']['token_drop'].pop('policy') == 'none'
  assert dropping['task']['token_drop'].pop('policy') != 'none'
  assert plain == dropping
  assert plain['task']['model']['num_layers'] == 12
  assert plain['task']['train_data']['held_out_documents'] == 50


def test_launched_command_is_shown_as_a_person_would_type_it():
  arguments = ['--gin_file=a.gin', "--gin_params=A = 'b c'", '--model_dir=$x']
  shown = launching.shown_command(arguments)
  first, *flags = shown.split(' \\\n    ')
  assert first == f'$ {launching.python_name()} -m tokendrop_tf.train'
  assert flags == [
    '--gin_file=a.gin',
    '--gin_params="A = \'b c\'"',
    "--model_dir='$x'",
  ]
  assert shlex.split(' '.join(flags)) == arguments


def test_next_commands_are_those_of_a_checkout_or_of_an_installation(
  monkeypatch, tmp_path
):
  settings = {'corpus': 'a b/*.txt', 'minutes': 60, 'output': 'runs/x'}
  assert quickstart.quickstart_command(**settings) == (
    "make quickstart CORPUS='a b/*.txt' QUICKSTART_MINUTES=60 OUTPUT=runs/x"
  )
  monkeypatch.setattr(
    quickstart, '__file__', str(tmp_path / 'tokendrop_tf/pages/quickstart.py')
  )
  assert quickstart.quickstart_command(**settings) == (
    "tokendrop-quickstart --corpus='a b/*.txt' --minutes=60 --output=runs/x"
  )


# What the runs say.


def validation(step, loss, **more):
  return {
    'kind': 'validation',
    'step': step,
    'tokens': 2048 * step,
    'validation_loss': loss,
    'lm_example_loss': loss,
    'masked_lm_accuracy': 0.1,
    **more,
  }


def make_run(name, seconds, loss, **more):
  times = step_times.StepTimes((0, 100), seconds)
  return run_curves.RunCurve(
    name,
    f'runs/{name}',
    (validation(100, 6.5, **more), validation(200, loss, **more)),
    times,
    step_times.StepTimes((0, 100), (2.0, 1.0)),
  )


def make_runs(plain_loss, dropping_loss):
  dropping = {
    'lm_example_loss_dropping': dropping_loss - 0.125,
    'full_sequence_gap': 0.125,
  }
  return [
    make_run('plain', (0.25, 0.25), plain_loss),
    make_run('token_dropping', (0.25, 0.15), dropping_loss, **dropping),
  ]


def summary_of(plain_loss, dropping_loss, **plan):
  return quickstart_results.summarize(
    make_runs(plain_loss, dropping_loss),
    baselines.Baselines(6.0, 5.5),
    make_plan(**plan),
  )


def verdict_of(plain_loss, dropping_loss, **plan):
  return quickstart_results.verdict(
    summary_of(plain_loss, dropping_loss, **plan),
    make_runs(plain_loss, dropping_loss),
  )


def test_summary_has_every_figure_of_both_arms():
  summary = summary_of(5.0, 5.25)
  assert summary['unigram_entropy'] == 6.0
  assert summary['context_free_loss'] == 5.5
  plain, dropping = summary['arms']
  assert plain == {
    'name': 'plain',
    'model_dir': 'runs/plain',
    'steps': 200,
    'tokens': 409600,
    'seconds_per_step': 0.25,
    'train_seconds': 50.0,
    'multiply_adds': 300.0,
    'validation_loss': 5.0,
    'validation_accuracy': 0.1,
    'validation_loss_dropping': None,
    'full_sequence_gap': None,
    'context_gain': 0.5,
  }
  assert dropping['validation_loss_dropping'] == 5.125
  assert summary['ratios'] == pytest.approx(
    {
      'seconds_per_step': 0.8,
      'train_seconds': 0.8,
      'multiply_adds': 1.0,
      'validation_loss': 1.05,
      'validation_accuracy': 1.0,
    }
  )
  assert not summary['is_comparison_empty']
  assert 'plain 0.2500 s ± 0.0100' in summary['times_note']


@pytest.mark.parametrize(
  ('plain', 'dropping', 'words'),
  [
    (5.47, 5.0, 'plain BERT is 5.47, and a model that looks at no other'),
    (5.0, 6.1, 'token dropping is 6.10, and a model that looks at no other'),
  ],
)
def test_comparison_is_called_empty_unless_both_arms_have_learnt(
  plain, dropping, words
):
  assert summary_of(plain, dropping)['is_comparison_empty']
  lines = verdict_of(plain, dropping)
  assert lines[0].startswith('The comparison of losses is empty:')
  assert words in lines[0]
  assert 'QUICKSTART_MINUTES' in lines[1]
  [announced, *_] = verdict_of(plain, dropping, will_read=False)
  assert 'empty, as was said before it began' in announced


@pytest.mark.parametrize(
  ('dropping', 'words'),
  [(5.25, '0.250 nats higher'), (4.75, '0.250 nats lower')],
)
def test_verdict_says_which_loss_is_higher_and_shows_the_gap(dropping, words):
  text = ' '.join(verdict_of(5.0, dropping))
  assert '20% less time in all' in text
  assert words in text
  assert 'full-sequence gap of +0.125' in text


def test_times_of_a_busy_machine_are_not_compared():
  summary = summary_of(5.0, 4.75, speeds=make_speeds(is_quiet=False))
  assert 'seconds_per_step' not in summary['ratios']
  assert 'did other work' in summary['times_note']
  text = ' '.join(verdict_of(5.0, 4.75, speeds=make_speeds(is_quiet=False)))
  assert 'less time' not in text
  curves = quickstart_results.curves(make_runs(5.0, 4.75), summary)
  assert run_curves.SECONDS not in curves[0].places
  assert run_curves.STEPS in curves[0].places


def test_the_common_part_is_drawn_once_and_then_the_fork():
  runs = make_runs(5.0, 4.75)
  runs = [
    run_curves.dataclasses.replace(
      run, validations=(validation(50, 7.0), *run.validations)
    )
    for run in runs
  ]
  both, plain, dropping = quickstart_results.curves(runs, summary_of(5.0, 4.75))
  assert both.losses == [7.0, 6.5]
  assert plain.losses == [6.5, 5.0]
  assert dropping.losses == [6.5, 4.75]
  for axis in (run_curves.STEPS, run_curves.SECONDS, run_curves.MULTIPLY_ADDS):
    assert both.places[axis][-1] == plain.places[axis][0]
    assert both.places[axis][-1] == dropping.places[axis][0]


# End to end.


@pytest.fixture(scope='module')
def finished(tiny_corpus, tmp_path_factory):
  """A tiny quickstart of the fewest steps, trained in this process."""
  folder = tmp_path_factory.mktemp('quickstart')
  gin_file = folder / 'tiny.gin'
  gin_file.write_text(TINY_GIN)
  arguments = [
    f'--corpus={tiny_corpus.train}',
    f'--output={folder}/out',
    '--minutes=0.01',
  ]
  patch = pytest.MonkeyPatch()
  patch.setattr(quickstart, 'GIN_FILE', str(gin_file))
  patch.setattr(launching, 'run_launcher', lambda args: train.main(args) or 0)
  quickstart.main(arguments)
  yield folder / 'out', arguments, patch
  patch.undo()


def test_quickstart_leaves_summary_report_and_both_runs(finished):
  output, _, _ = finished
  summary = json.loads((output / 'summary.json').read_text())
  assert [arm['name'] for arm in summary['arms']] == ['plain', 'token_dropping']
  for arm in summary['arms']:
    assert arm['steps'] == 40
    assert arm['tokens'] == 40 * 8 * 32
    assert arm['seconds_per_step'] > 0
    assert pathlib.Path(arm['model_dir'], 'params.yaml').exists()
  assert summary['arms'][0]['validation_loss_dropping'] is None
  assert summary['arms'][1]['validation_loss_dropping'] > 0
  # In nats, of about a hundred labels: a small sample of the corpus.
  counts = np.array(
    [
      int(line.split('\t')[1])
      for line in (output / 'vocab.counts.tsv').read_text().splitlines()
    ]
  )
  shares = counts[counts > 0] / counts.sum()
  assert summary['unigram_entropy'] == pytest.approx(
    -np.sum(shares * np.log(shares)), abs=0.6
  )
  # All labels show [MASK].
  assert summary['context_free_loss'] == summary['unigram_entropy']
  page = (output / 'report.html').read_text(encoding='utf-8')
  assert page.count('<blockquote>') >= 1
  assert '<s>' in page
  assert page.count('<mark>[MASK]</mark>') == 2
  assert page.count('<dt>plain BERT</dt>') == 2


def test_the_plain_arm_branches_off_where_dropping_begins(finished):
  output, _, _ = finished
  plan = json.loads((output / 'plan.json').read_text())
  assert plan['fork_step'] == 24
  records = {
    name: [
      json.loads(line)
      for line in (output / name / 'metrics.jsonl').read_text().splitlines()
    ]
    for name in ('plain', 'token_dropping')
  }
  losses = {
    name: {
      record['step']: record['lm_example_loss']
      for record in records[name]
      if record['kind'] == 'validation'
    }
    for name in records
  }
  assert losses['plain'].keys() == losses['token_dropping'].keys()
  for step, loss in losses['plain'].items():
    assert (loss == losses['token_dropping'][step]) == (step <= 24), step
  assert not any('full_sequence_gap' in record for record in records['plain'])


def test_same_command_again_reads_the_results_and_trains_nothing(
  finished, capsys
):
  output, arguments, patch = finished
  before = (output / 'summary.json').read_bytes()
  with patch.context() as inner:
    inner.setattr(launching, 'run_launcher', lambda _: pytest.fail('trained'))
    quickstart.main(arguments)
  assert (output / 'summary.json').read_bytes() == before
  printed = capsys.readouterr().out
  assert f'Resuming in {output}.' in printed
  assert printed.count('is trained already') == 2
  assert 'unigram entropy of the validation labels' in printed


def test_arm_without_its_end_is_trained_on_and_its_failure_reported(
  finished, capsys
):
  output, arguments, patch = finished
  before = (output / 'summary.json').read_bytes()
  (output / 'token_dropping' / 'metrics.jsonl').rename(output / 'moved')
  calls = []
  with patch.context() as inner:
    inner.setattr(launching, 'run_launcher', lambda a: calls.append(a) or 3)
    with pytest.raises(SystemExit) as ended:
      command_line.run_main(quickstart.main, arguments)
  (output / 'moved').rename(output / 'token_dropping' / 'metrics.jsonl')
  assert ended.value.code == 3
  [launched] = calls
  assert launched[-1] == f'--model_dir={output}/token_dropping'
  assert 'Results' not in capsys.readouterr().out
  assert (output / 'summary.json').read_bytes() == before


def test_a_trained_model_marks_the_tokens_it_keeps(finished):
  output, _, _ = finished
  trained = load_model.load_model(str(output / 'token_dropping'))
  rows = validation_text.validation_rows(trained.params.task)
  assert rows.shape[1] == 32
  [passage, *_] = validation_text.passages(trained, rows)
  kept = [is_kept for _, is_kept in passage]
  # [CLS] and [SEP] are kept and not shown.
  assert 12 <= sum(kept) <= 16
  assert len(kept) <= 31


def test_speed_decides_the_steps_where_none_are_given(finished):
  output, _, _ = finished
  plan = json.loads((output / 'plan.json').read_text())
  assert plan['steps'] == quickstart_plan.LEAST_STEPS
  assert 's for a plain step on this machine' in plan['steps_from']
  medians = plan['speeds']['medians']
  assert len(medians['plain']) == 1
  assert len(medians['token_dropping']) == 2
  assert not plan['will_read']
