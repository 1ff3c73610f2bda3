"""Scores from a file: what writes them, what reads them, what they decide."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs

from tests.tasks import test_masked_lm as tasks
from tokendrop_tf import errors, train
from tokendrop_tf.export import load_model, score_tokens
from tokendrop_tf.text import token_scores
from tokendrop_tf.text import vocabulary as vocabulary_lib

TOKENS = (*vocabulary_lib.SPECIAL_TOKENS, 'good', 'bad', 'film', '##s')
WORDS = vocabulary_lib.Vocabulary(TOKENS, path='vocab.txt')


@pytest.fixture(scope='module', name='vocab_path')
def fixture_vocab_path(tmp_path_factory):
  folder = tmp_path_factory.mktemp('vocabulary')
  tokens = [
    *tasks.SPECIAL,
    *(f'w{i}' for i in range(tasks.VOCAB_SIZE - len(tasks.SPECIAL))),
  ]
  (folder / 'vocab.txt').write_text('\n'.join(tokens) + '\n')
  counts = ''.join(f'{token}\t{7 * i}\n' for i, token in enumerate(tokens))
  (folder / 'vocab.counts.tsv').write_text(counts)
  return str(folder / 'vocab.txt')


def test_any_score_is_read_as_it_was_written(tmp_path):
  path = str(tmp_path / 'new' / 'scores.tsv')
  scores = np.random.default_rng(0).gamma(1.0, size=len(TOKENS))
  scores = scores.astype(np.float32) * np.float32([1e-30, 1e30, 0] * 3)
  token_scores.write_token_scores(path, WORDS, scores)
  np.testing.assert_array_equal(
    token_scores.read_token_scores(path, WORDS), scores
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda lines: lines[:-1], 'Received: 8 lines in .* for 9 tokens'),
    (
      lambda lines: [*lines, 'more\t1'],
      'Received: 10 lines in .* for 9 tokens',
    ),
    (
      lambda lines: [lines[0], lines[2], *lines[2:]],
      r"Received: '\[CLS\]' on line 2 of .*, '\[UNK\]' in vocab.txt",
    ),
    (lambda lines: ['[PAD]\tnan', *lines[1:]], "Received: 'nan' on line 1"),
    (lambda lines: ['[PAD]\t1e99', *lines[1:]], "Received: '1e99' on line 1"),
    (lambda lines: [*lines[:-1], '##s\t-1'], "Received: '-1' on line 9"),
    (lambda lines: [*lines[:-1], '##s'], "Received: '' on line 9"),
    (lambda lines: [*lines[:-1], '##s\tx'], "Received: 'x' on line 9"),
  ],
)
def test_another_file_is_refused_with_its_line(tmp_path, change, message):
  path = tmp_path / 'scores.tsv'
  token_scores.write_token_scores(str(path), WORDS, np.ones(len(TOKENS)))
  path.write_text('\n'.join(change(path.read_text().splitlines())) + '\n')
  with pytest.raises(errors.DataError, match=message):
    token_scores.read_token_scores(str(path), WORDS)


def test_a_policy_of_scores_needs_their_file(vocab_path):
  task = tasks.make_task(vocab_path, 'scores')
  with pytest.raises(errors.ConfigurationError, match="scores_path=''. Set"):
    task._dropping.check()
  task = tasks.make_task(vocab_path, 'scores', scores_path='absent.tsv')
  with pytest.raises(errors.DataError, match="Received: 'absent.tsv'"):
    task.initialize(task.build_model())


def test_scores_of_surprisals_are_the_policy_frequency_bit_for_bit(
  vocab_path, tmp_path
):
  path = str(tmp_path / 'scores.tsv')
  score_tokens.main(
    ['--method=frequency', f'--vocab_file={vocab_path}', f'--output={path}']
  )
  runs = [
    tasks.Run(
      tasks.make_task(vocab_path, policy, temperature=2.0, scores_path=path),
      eager=True,
    )
    for policy in ('frequency', 'scores')
  ]
  losses = [float(run.step(tasks.make_batch())) for run in runs]
  assert losses[0] == losses[1]
  for ours, theirs in zip(*(run.model.variables for run in runs), strict=True):
    np.testing.assert_array_equal(ours, theirs, err_msg=ours.name)


def information(joint):
  """In bits, from probabilities [x, y], term by term."""
  total = 0.0
  for x in range(2):
    for y in range(2):
      independent = sum(joint[x]) * (joint[0][y] + joint[1][y])
      total += joint[x][y] * np.log2(joint[x][y] / independent)
  return total


def test_mutual_information_is_that_of_four_documents_by_hand():
  """Token 0 in both documents of label 1; token 1 in one of each; 2 in none."""
  documents = [[0, 0, 1], [0], [1, 1], []]
  found = score_tokens.mutual_information(documents, [1, 1, 0, 0], 3)
  # Counts [x, y] of (absent, present) x (other label, this one), plus 1, of 8.
  expected = [
    information([[3 / 8, 1 / 8], [1 / 8, 3 / 8]]),
    information([[2 / 8, 2 / 8], [2 / 8, 2 / 8]]),
    information([[3 / 8, 3 / 8], [1 / 8, 1 / 8]]),
  ]
  np.testing.assert_allclose(found, expected, atol=1e-12)
  assert found[0] > 0.1 > found[1] + found[2]
  swapped = score_tokens.mutual_information(documents, [0, 0, 1, 1], 3)
  np.testing.assert_allclose(swapped, found, atol=1e-12)


def test_words_that_tell_the_label_score_highest(tmp_path):
  vocabulary = str(tmp_path / 'vocab.txt')
  vocabulary_lib.write_vocabulary(vocabulary, WORDS)
  texts = ['good film\tyes', 'good\tyes', 'bad film\tno', 'bad\tno'] * 5
  (tmp_path / 'rows.tsv').write_text('\n'.join(['text\tlabel', *texts]) + '\n')
  output = str(tmp_path / 'scores.tsv')
  score_tokens.main(
    [
      '--method=mutual_information',
      f'--vocab_file={vocabulary}',
      f'--labelled_text={tmp_path}/rows.tsv',
      f'--output={output}',
    ]
  )
  scores = dict(zip(TOKENS, token_scores.read_token_scores(output, WORDS)))
  assert scores['good'] == scores['bad'] > 0.5
  assert scores['film'] < 0.01
  assert not any(scores[token] for token in vocabulary_lib.SPECIAL_TOKENS)


@pytest.fixture(scope='module')
def run(tiny_corpus, tmp_path_factory) -> pathlib.Path:
  """A run of two steps by scores, started again once their file is gone."""
  folder = tmp_path_factory.mktemp('by_scores')
  words = vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary)
  path = folder / 'scores.tsv'
  token_scores.write_token_scores(str(path), words, np.arange(words.size))
  bindings = (
    *tiny_runs.TRAINING,
    f"vocabulary.path = '{tiny_corpus.vocabulary}'",
    f"train_data.input_path = '{tiny_corpus.train}'",
    f"validation_data.input_path = '{tiny_corpus.valid}'",
    'trainer.train_steps = 2',
    'trainer.steps_per_loop = 2',
    'optimizer.warmup_steps = 1',
    "token_drop.policy = 'scores'",
    f"token_drop.scores_path = '{path}'",
  )
  arguments = [f'--model_dir={folder}/run', '--mode=train']
  arguments += [f'--gin_params={binding}' for binding in bindings]
  train.main(arguments)
  path.unlink()
  train.main(arguments)
  return folder / 'run'


def test_a_run_resumes_and_loads_without_the_file(run):
  table = load_model.load_model(str(run)).encoder.token_importance.table
  np.testing.assert_array_equal(table, np.arange(64))


def test_the_table_of_a_run_is_its_scores(run, tmp_path, tiny_corpus):
  output = str(tmp_path / 'scores.tsv')
  score_tokens.main(
    ['--method=run_table', f'--model_dir={run}', f'--output={output}']
  )
  words = vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary)
  np.testing.assert_array_equal(
    token_scores.read_token_scores(output, words), np.arange(64)
  )


def test_masked_lm_loss_is_that_of_a_direct_loop(run):
  """Over three sequences, the last one half padding."""
  loaded = load_model.load_model(str(run))
  words = loaded.vocabulary
  draw = np.random.default_rng(0)
  ids = np.full([3, 32], words.pad_id, np.int32)
  for row, length in enumerate((32, 32, 16)):
    ids[row, 1 : length - 1] = draw.choice(words.ordinary_ids[:9], length - 2)
    ids[row, 0], ids[row, length - 1] = words.cls_id, words.sep_id
  batch = {
    'input_word_ids': tf.constant(ids),
    'input_mask': tf.constant(np.int32(ids != words.pad_id)),
    'input_type_ids': tf.zeros_like(ids),
    'masked_lm_positions': tf.zeros([3, 5], tf.int32),
    'masked_lm_ids': tf.zeros([3, 5], tf.int32),
    'masked_lm_weights': tf.zeros([3, 5]),
  }
  losses = [[] for _ in range(words.size)]
  for first in range(7):
    masked = ids.copy()
    places = np.arange(first, 32, 7)
    hidden = np.isin(ids[:, places], words.ordinary_ids)
    masked[:, places] = np.where(hidden, words.mask_id, ids[:, places])
    rows = loaded.encoder({**batch, 'input_word_ids': tf.constant(masked)})[
      'sequence_output'
    ]
    logits = loaded.masked_lm(rows).numpy().astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for row, column in zip(*np.nonzero(hidden)):
      label = ids[row, places[column]]
      losses[label].append(-logits[row, places[column], label])
  found = score_tokens.masked_lm_loss(loaded, [batch])
  means = np.array([np.mean(part) if part else np.nan for part in losses])
  assert sum(map(len, losses)) == 30 + 30 + 14
  seen = ~np.isnan(means)
  np.testing.assert_allclose(found[seen], means[seen], rtol=1e-5)
  assert set(found[~seen]) == {0.0, found.max()}
