"""The quickstart: a fair comparison, told honestly, that goes on when asked."""

import json
import pathlib
import shlex

import numpy as np
import pytest

from tokendrop_tf import (
  command_line,
  errors,
  fill_mask,
  quickstart,
  quickstart_results,
  report,
  train,
)
from tokendrop_tf.data import label_levels, loader
from tokendrop_tf.data import vocabulary as vocabulary_lib

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
"""


def parse(*arguments):
  return quickstart._parse(list(arguments))


def message_of(function, *arguments) -> str:
  with pytest.raises(errors.UserError) as caught:
    function(*arguments)
  return str(caught.value)


# The command line and the plan.


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


def test_more_time_or_a_faster_machine_gives_more_steps():
  def steps(minutes, seconds_per_step):
    return quickstart.fitting_steps(
      60.0 * minutes, seconds_per_step, startup=10.0, validation_steps=20.0
    )

  assert steps(10, 0.25) < steps(20, 0.25) < steps(60, 0.25)
  assert steps(10, 0.5) < steps(10, 0.25)
  assert steps(0.1, 10.0) == quickstart.LEAST_STEPS
  assert steps(10, 0.25) % 50 == 0


def test_chosen_steps_leave_time_for_all_else():
  seconds, plain = 600.0, 0.25
  steps = quickstart.fitting_steps(seconds, plain, 10.0, validation_steps=20.0)
  both_arms = steps * plain * 1.93
  startups = 2 * (10.0 + 10.0)
  validations = 6 * 3 * 0.4 * 20.0 * plain
  assert 0.5 * seconds < both_arms + startups + validations < 0.97 * seconds


def make_plan(**changes):
  settings = {
    'corpus': '',
    'minutes': 10.0,
    'steps': 1000,
    'steps_from': 'as asked for',
    'validation_batches': 11,
    'seed': 0,
  }
  return quickstart.Plan(**{**settings, **changes})


@pytest.mark.parametrize('steps', [40, 60, 390, 400, 850, 12350])
def test_validations_fall_on_the_end_of_loops_a_few_times_a_run(steps):
  plan = make_plan(steps=steps)
  assert plan.validation_interval % plan.steps_per_loop == 0
  assert 4 <= steps / plan.validation_interval <= quickstart.NUM_VALIDATIONS + 1


def test_arms_differ_in_the_policy_and_in_nothing_else(tiny_corpus, tmp_path):
  (tmp_path / 'vocab.txt').write_text(
    pathlib.Path(tiny_corpus.vocabulary).read_text()
  )
  flags = parse(f'--output={tmp_path}')
  plain, dropping = (
    quickstart.read_params(flags, make_plan(), name).as_dict()
    for name in quickstart.ARMS
  )
  assert plain['task']['token_drop'].pop('policy') == 'none'
  assert dropping['task']['token_drop'].pop('policy') != 'none'
  assert plain == dropping
  assert plain['task']['model']['num_layers'] == 12
  assert plain['task']['train_data']['held_out_documents'] == 50


def test_plan_for_other_settings_is_refused_and_left_alone(tmp_path):
  plan = tmp_path / 'plan.json'
  quickstart.write_json(
    str(plan), {**vars(make_plan()), 'corpus': '/texts/*.txt'}
  )
  before = plan.read_text()
  flags = parse(f'--output={tmp_path}', '--minutes=30')
  message = message_of(quickstart.read_plan, flags)
  assert "corpus: '/texts/*.txt' there, '' now" in message
  assert 'minutes: 10.0 there, 30.0 now' in message
  assert 'Set another OUTPUT' in message
  assert plan.read_text() == before


def test_damaged_plan_is_refused(tmp_path):
  (tmp_path / 'plan.json').write_text('{"corpus":')
  message = message_of(quickstart.read_plan, parse(f'--output={tmp_path}'))
  assert 'must be as the quickstart wrote it' in message


def test_launched_command_is_shown_as_a_person_would_type_it():
  arguments = ['--gin_file=a.gin', "--gin_params=A = 'b c'", '--model_dir=$x']
  shown = quickstart.shown_command(arguments)
  first, *flags = shown.split(' \\\n    ')
  assert first == f'$ {quickstart.python_name()} -m tokendrop_tf.train'
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
    quickstart, '__file__', str(tmp_path / 'tokendrop_tf' / 'quickstart.py')
  )
  assert quickstart.quickstart_command(**settings) == (
    "tokendrop-quickstart --corpus='a b/*.txt' --minutes=60 --output=runs/x"
  )


# What the runs say.


def loop(step, seconds_per_step, includes_compilation=False):
  return {
    'kind': 'train',
    'step': step,
    'seconds_per_step': seconds_per_step,
    'includes_compilation': includes_compilation,
  }


def validation(step, loss, **more):
  return {
    'kind': 'validation',
    'step': step,
    'tokens': 2048 * step,
    'validation_loss': loss,
    'masked_lm_accuracy': 0.1,
    **more,
  }


def make_run(name, seconds_per_step, loss, **more):
  return quickstart_results.Run(
    name,
    f'runs/{name}',
    (
      loop(50, 9.0, includes_compilation=True),
      validation(50, 6.5),
      loop(100, seconds_per_step),
      loop(150, seconds_per_step),
      loop(200, 5 * seconds_per_step),
      validation(200, loss, **more),
    ),
  )


def summary_of(plain_loss, dropping_loss, entropy=6.0, context_free_loss=5.5):
  return quickstart_results.summarize(
    [
      make_run('plain', 0.25, plain_loss),
      make_run(
        'token_dropping',
        0.2,
        dropping_loss,
        lm_example_loss_dropping=dropping_loss - 0.125,
        full_sequence_gap=0.125,
      ),
    ],
    label_levels.LabelLevels(entropy, context_free_loss),
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
    'validation_loss': 5.0,
    'validation_accuracy': 0.1,
    'validation_loss_dropping': None,
    'full_sequence_gap': None,
    'nats_learned': 1.0,
  }
  assert dropping['validation_loss_dropping'] == 5.125
  assert summary['ratios'] == pytest.approx(
    {
      'seconds_per_step': 0.8,
      'train_seconds': 0.8,
      'validation_loss': 1.05,
      'validation_accuracy': 1.0,
    }
  )
  assert not summary['is_comparison_empty']


@pytest.mark.parametrize(
  ('plain', 'dropping', 'words'),
  [
    (5.7, 5.0, 'plain BERT is 5.70, 0.30 nats below the unigram entropy'),
    (5.0, 6.1, 'token dropping is 6.10, 0.10 nats above the unigram'),
  ],
)
def test_comparison_is_called_empty_unless_both_arms_have_learnt(
  plain, dropping, words
):
  summary = summary_of(plain, dropping)
  assert summary['is_comparison_empty']
  lines = quickstart_results.verdict(summary)
  assert lines[0].startswith('The comparison is empty')
  assert words in lines[0]
  assert 'QUICKSTART_MINUTES' in lines[1]


def test_arms_that_could_do_without_the_context_are_named():
  summary = summary_of(5.0, 5.55)
  assert summary['loss_to_beat'] == pytest.approx(5.6)
  assert not summary['is_comparison_empty']
  note = quickstart_results.verdict(summary)[-1]
  assert 'can reach 5.50: token dropping ended above that' in note
  assert 'no other token' not in ' '.join(
    quickstart_results.verdict(summary_of(5.0, 5.45))
  )


@pytest.mark.parametrize(
  ('dropping', 'words'),
  [(5.25, '0.250 nats higher'), (4.75, '0.250 nats lower')],
)
def test_verdict_says_which_loss_is_higher_and_shows_the_gap(dropping, words):
  text = ' '.join(quickstart_results.verdict(summary_of(5.0, dropping)))
  assert '20% less time a step' in text
  assert words in text
  assert 'full-sequence gap of +0.125' in text


def test_curves_run_over_warm_training_time():
  run = make_run('plain', 0.25, 5.0)
  assert run.curve('validation_loss') == ((12.5, 6.5), (50.0, 5.0))
  assert run.curve('lm_example_loss_dropping') == ()


def test_run_that_was_never_validated_is_refused(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(json.dumps(loop(5, 0.1)) + '\n')
  message = message_of(quickstart_results.Run.read, 'plain', str(tmp_path))
  assert 'must end with a validation' in message


# The table.


def test_expected_updates_are_those_of_drawing_labels():
  counts = np.array([5, 1000, 300, 20, 2])  # Id 0 is no label.
  ordinary = np.arange(1, 5)
  expected = quickstart_results.expected_updates(
    counts, ordinary, labels_per_step=20, steps=400
  )
  random = np.random.default_rng(3)
  share = counts[ordinary] / counts[ordinary].sum()
  draws = random.multinomial(20, share, size=(200, 400)) > 0
  updates = draws.sum(axis=1)  # [200, 4]
  error = updates.std(axis=0) / np.sqrt(200) + 1e-9
  # The draws are a little less spread than the Poisson counts of the formula.
  np.testing.assert_array_less(
    np.abs(updates.mean(axis=0) - expected[ordinary]),
    4 * error + 0.02 * expected[ordinary],
  )


def make_table(values, counts, updates):
  return quickstart_results.ImportanceTable(
    values=np.array(values, np.float32),
    counts=np.array(counts),
    expected_updates=np.array(updates),
    memory=200.0,
    ordinary_ids=np.arange(1, len(values)),
    tokens=tuple(f't{i}' for i in range(len(values))),
  )


def test_lists_are_sorted_and_leave_special_and_unlearnt_tokens_out():
  values = [0.0, *np.linspace(9.0, 1.0, 60)]
  updates = [1e9, *([10.0] * 20), *([500.0] * 40)]
  table = make_table(values, np.arange(61), updates)
  dropped, kept = table.dropped_first(), table.kept_longest()
  assert [score.token for score in dropped[:3]] == ['t60', 't59', 't58']
  assert [score.token for score in kept[:3]] == ['t21', 't22', 't23']
  assert len(dropped) == len(kept) == quickstart_results.NUM_LISTED_TOKENS
  assert '20 of 60 tokens are too rare' in table.note()


def test_short_training_lists_the_most_frequent_tokens_instead():
  table = make_table(np.arange(100.0), np.arange(100), np.zeros(100))
  kept = {score.token for score in table.kept_longest()}
  assert kept == {f't{i}' for i in range(85, 100)}
  assert min(table.settled_ids) == 70


def test_scatter_takes_a_bounded_sample_of_all_frequencies(monkeypatch):
  monkeypatch.setattr(quickstart_results, 'MAX_SCATTERED_TOKENS', 20)
  table = make_table(np.ones(200), np.arange(200), np.zeros(200))
  counts = [score.count for score in table.sample()]
  assert len(counts) == len(set(counts)) == 20
  assert counts[:10] == list(range(199, 189, -1))
  assert counts[-1] == 1


# Passages and sentences.


def test_kept_positions_have_the_highest_scores():
  random = np.random.default_rng(0)
  scores = random.permutation(np.arange(20.0))
  scores[3], scores[7] = np.inf, -np.inf
  kept = quickstart_results.kept_positions(scores, 8, random)
  assert kept.sum() == 8
  assert scores[kept].min() > scores[~kept].max()
  assert kept[3]
  assert not kept[7]


def test_ties_are_kept_by_chance():
  random = np.random.default_rng(0)
  kept = [
    quickstart_results.kept_positions(np.zeros(6), 3, random)
    for _ in range(600)
  ]
  shares = np.mean(kept, axis=0)
  np.testing.assert_allclose(shares, 0.5, atol=3 * 0.5 / np.sqrt(600))


def test_unmasking_restores_every_label_and_no_more(tiny_corpus, tmp_path):
  (tmp_path / 'vocab.txt').write_text(
    pathlib.Path(tiny_corpus.vocabulary).read_text()
  )
  flags = parse(f'--output={tmp_path}', f'--corpus={tiny_corpus.train}')
  task = quickstart.read_params(
    flags, make_plan(corpus=flags.corpus), 'plain'
  ).task
  task.validation_data.held_out_documents = 0
  vocabulary = vocabulary_lib.Vocabulary.from_file(task.vocabulary.path)
  batch = next(iter(loader.load_dataset(task.validation_data, task.vocabulary)))
  batch = {name: tensor.numpy() for name, tensor in batch.items()}
  ids = quickstart_results.unmask(batch)
  assert (batch['input_word_ids'] == vocabulary.mask_id).any()
  assert not (ids == vocabulary.mask_id).any()
  changed = np.argwhere(ids != batch['input_word_ids'])
  labels = {
    (row, position)
    for row, (positions, weights) in enumerate(
      zip(batch['masked_lm_positions'], batch['masked_lm_weights'])
    )
    for position in positions[weights > 0]
  }
  assert {tuple(place) for place in changed} <= labels


def test_masked_word_is_a_whole_frequent_one_of_its_sentence():
  tokens = (
    '[PAD]',
    '[UNK]',
    '[CLS]',
    '[SEP]',
    '[MASK]',
    '.',
    'the',
    'small',
    'house',
    'stands',
    'on',
    'hill',
    '##s',
    'far',
    'away',
    'end',
  )
  vocabulary = vocabulary_lib.Vocabulary(tokens)
  text = (
    '[CLS] end . the small house stands on hill ##s far away . the [SEP]'
  ).split()
  row = np.array(vocabulary.ids_of(text))
  counts = np.zeros(len(tokens))
  counts[list(vocabulary.ids_of(['small', 'house', 'hill', 'the']))] = (
    5,
    7,
    9,
    11,
  )
  found = quickstart_results.masked_sentences(vocabulary, row[None], counts)
  # 'the' is too short, and 'hill' is only the beginning of a word.
  assert found == [('the small [MASK] stands on hills far away .', 'house')]


def test_text_without_long_words_is_masked_all_the_same():
  tokens = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', '##b', 'c')
  vocabulary = vocabulary_lib.Vocabulary(tokens)
  row = np.array(vocabulary.ids_of('[CLS] a ##b c a ##b [SEP]'.split()))
  found = quickstart_results.masked_sentences(
    vocabulary, np.stack([row, row, row]), np.arange(8)
  )
  assert found == [('ab [MASK] ab', 'c')] * 2


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
  patch.setattr(quickstart, 'run_launcher', lambda args: train.main(args) or 0)
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
  assert (
    0.8 * summary['unigram_entropy']
    < summary['context_free_loss']
    < (summary['unigram_entropy'])
  )
  page = (output / 'report.html').read_text(encoding='utf-8')
  assert page.count('<blockquote>') >= 1
  assert '<s>' in page
  assert page.count('<mark>[MASK]</mark>') == 2


def test_same_command_again_reads_the_results_and_trains_nothing(
  finished, capsys
):
  output, arguments, patch = finished
  before = (output / 'summary.json').read_bytes()
  with patch.context() as inner:
    inner.setattr(quickstart, 'run_launcher', lambda _: pytest.fail('trained'))
    quickstart.main(arguments)
  assert (output / 'summary.json').read_bytes() == before
  printed = capsys.readouterr().out
  assert f'Going on in {output}.' in printed
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
    inner.setattr(quickstart, 'run_launcher', lambda a: calls.append(a) or 3)
    with pytest.raises(SystemExit) as ended:
      command_line.run_main(quickstart.main, arguments)
  (output / 'moved').rename(output / 'token_dropping' / 'metrics.jsonl')
  assert ended.value.code == 3
  [launched] = calls
  assert launched[-1] == f'--model_dir={output}/token_dropping'
  assert 'Results' not in capsys.readouterr().out
  assert (output / 'summary.json').read_bytes() == before


def test_trained_model_fills_in_a_sentence_of_the_text(finished):
  output, _, _ = finished
  trained = fill_mask.load_trained_model(str(output / 'token_dropping'))
  rows = quickstart_results.validation_rows(trained.params.task)
  assert rows.shape[1] == 32
  [passage, *_] = quickstart_results.passages(trained, rows)
  assert isinstance(passage, report.Passage)
  kept = [is_kept for _, is_kept in passage.pieces]
  # [CLS] and [SEP] are kept and not shown.
  assert 12 <= sum(kept) <= 16
  assert len(kept) <= 31


def test_speed_decides_the_steps_where_none_are_given(finished):
  output, _, _ = finished
  plan = json.loads((output / 'plan.json').read_text())
  assert plan['steps'] == quickstart.LEAST_STEPS
  assert 's for a plain step on this machine' in plan['steps_from']
