"""Windows, answers and scores, beside the Model Garden's own."""

import gzip
import itertools
import json
import os
import pathlib

import fake_workers
import numpy as np
import pytest
from official.nlp.data import squad_lib
from official.nlp.tools import (
  squad_evaluate_v1_1,
  squad_evaluate_v2_0,
  tokenization,
)

from tokendrop_tf import errors
from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.finetuning import (
  question_task,
  squad_answers,
  squad_files,
  squad_windows,
)
from tokendrop_tf.text import vocabulary as vocabulary_lib

SEQ_LENGTH, STRIDE, QUERY = 24, 7, 4


def windows_of(path, vocabulary, is_training, version='v1.1', **lengths):
  settings = {
    'seq_length': SEQ_LENGTH,
    'doc_stride': STRIDE,
    'query_length': QUERY,
  }
  return squad_windows.make_windows(
    str(path),
    version,
    'squad.train_data',
    vocabulary.path,
    vocabulary.lower_case,
    is_training=is_training,
    **(settings | lengths),
  )


def batch_of(windows, vocabulary, is_training=False, **settings):
  """Returns all windows as one batch."""
  data = finetuning_configs.TextDataConfig(
    seq_length=SEQ_LENGTH,
    global_batch_size=windows.num_windows,
    is_training=is_training,
    trim_padding=False,
  )
  data = data.replace(**settings)
  [batch] = squad_windows.window_batches(windows, vocabulary, data).take(1)
  return {name: value.numpy() for name, value in batch.items()}


def write(path, paragraphs):
  path.write_text(json.dumps({'data': [{'paragraphs': paragraphs}]}))
  return path


def question(name, text, answers=(), **more):
  entries = [{'text': a, 'answer_start': start} for a, start in answers]
  return {'id': name, 'question': text, 'answers': entries, **more}


def message_of(path, version='v1.1'):
  with pytest.raises(errors.DataError) as caught:
    squad_files.read(str(path), version, 'squad.train_data')
  return str(caught.value)


@pytest.fixture(scope='module')
def characters(tmp_path_factory) -> vocabulary_lib.Vocabulary:
  """A vocabulary in which every character is a piece."""
  letters = 'abcdefghijklmnopqrstuvwxyz0123456789'
  tokens = [*letters, *(f'##{c}' for c in letters), *'.,"(川中', '##é']
  path = tmp_path_factory.mktemp('characters') / 'vocab.txt'
  path.write_text('\n'.join([*vocabulary_lib.SPECIAL_TOKENS, *tokens]))
  return vocabulary_lib.Vocabulary.from_file(str(path))


class TestWindows:
  @pytest.mark.parametrize('is_training', [True, False])
  def test_they_are_those_of_the_model_garden(
    self, tiny_tasks, words, is_training
  ):
    path = tiny_tasks.squad[0 if is_training else 1]
    examples = squad_lib.read_squad_examples(path, is_training, False)
    expected = []
    squad_lib.convert_examples_to_features(
      examples,
      tokenization.FullTokenizer(words.path, do_lower_case=True),
      max_seq_length=SEQ_LENGTH,
      doc_stride=STRIDE,
      max_query_length=QUERY,
      is_training=is_training,
      output_fn=lambda feature, is_padding=False: (
        None if is_padding else expected.append(feature)
      ),
      batch_size=1,
    )
    windows = windows_of(path, words, is_training)
    batch = batch_of(windows, words)
    assert windows.num_windows == len(expected) > 24
    for ours, theirs in (
      ('input_word_ids', 'input_ids'),
      ('input_mask', 'input_mask'),
      ('input_type_ids', 'segment_ids'),
    ):
      np.testing.assert_array_equal(
        batch[ours], [getattr(feature, theirs) for feature in expected]
      )
    if is_training:
      for name in ('start_position', 'end_position'):
        np.testing.assert_array_equal(
          batch[f'{name}s'], [getattr(feature, name) for feature in expected]
        )
      assert 0 < np.count_nonzero(batch['start_positions']) < len(expected)

  def test_training_batches_hold_the_same_windows(self, tiny_tasks, words):
    windows = windows_of(tiny_tasks.squad[0], words, True)
    ordered, shuffled = (
      batch_of(windows, words, is_training) for is_training in (False, True)
    )
    assert sorted(shuffled['example_id']) == list(range(windows.num_windows))
    for name, values in shuffled.items():
      np.testing.assert_array_equal(
        values, ordered[name][shuffled['example_id']]
      )

  @pytest.mark.parametrize(
    ('context', 'answer'),
    [
      ('plain ascii text', 'ascii'),
      ('Ünïcödé before the answer', 'the answer'),
      ('the accent é itself', 'é'),
      ('川中 between', '中'),
      ('a "quoted" (word).', 'quoted'),
      ('tabs\tand\xa0spaces', 'and'),
      ('cafe\u0301 combined', 'combined'),
      ('control\x00characters here', 'here'),
    ],
  )
  def test_the_tokens_of_an_answer_give_its_text(
    self, tmp_path, characters, context, answer
  ):
    start = context.index(answer)
    entry = question('q', 'who', [(answer, start)])
    path = write(tmp_path / 'a.json', [{'context': context, 'qas': [entry]}])
    windows = windows_of(path, characters, True, seq_length=64, doc_stride=30)
    logits = np.zeros([2, windows.num_windows, 64], np.float32)
    logits[0, 0, windows.start[0]] = logits[1, 0, windows.end[0]] = 5.0
    answers = squad_answers.find_answers(
      windows, *logits, finetuning_configs.SquadConfig()
    )
    assert windows.num_lost == 0
    assert answers.predictions == {'q': answer}

  def test_an_answer_that_is_elsewhere_is_left_out(self, tmp_path, words):
    qas = [
      question('right', 'w01', [('w03', 4)]),
      question('wrong', 'w01', [('w03', 0)]),
      question('none', 'w01'),
    ]
    path = write(tmp_path / 'a.json', [{'context': 'w02 w03', 'qas': qas}])
    windows = windows_of(path, words, True)
    assert (windows.num_windows, windows.num_lost) == (1, 2)
    assert windows_of(path, words, False).num_windows == 3

  def test_unanswerable_questions_point_at_the_start(self, tmp_path, words):
    qas = [question('q', 'w01', is_impossible=True)]
    path = write(tmp_path / 'a.json', [{'context': 'w02 w03', 'qas': qas}])
    windows = windows_of(path, words, True, 'v2.0')
    assert (windows.num_windows, windows.num_lost) == (1, 0)
    assert windows.start.tolist() == windows.end.tolist() == [0]

  def test_empty_texts_are_legal(self, tmp_path, words):
    qas = [question('q', '')]
    path = write(tmp_path / 'a.json', [{'context': '', 'qas': qas}])
    windows = windows_of(path, words, False)
    batch = batch_of(windows, words)
    assert batch['input_mask'].sum() == 3
    logits = np.zeros([2, 1, SEQ_LENGTH], np.float32)
    answers = squad_answers.find_answers(
      windows, *logits, finetuning_configs.SquadConfig()
    )
    assert answers.predictions == {'q': ''}


def best_by_looking_at_all(windows, start, end, squad):
  """The plainest way to the same answers: every span of every window."""
  best = {}
  for w in range(windows.num_windows):
    shift = windows.query_length[w] + 2
    inside = range(shift, shift + windows.length[w])
    for i, j in itertools.product(inside, inside):
      if not 0 <= j - i < squad.max_answer_length:
        continue
      if not has_most_context(windows, w, windows.begin[w] + i - shift):
        continue
      score = start[w, i] + end[w, j]
      key = int(windows.question[w])
      if key not in best or score > best[key][0]:
        base = windows.contexts.offsets[windows.context[w]] + windows.begin[w]
        context = windows.data.contexts[windows.context[w]].encode()
        text = context[
          windows.contexts.starts[base + i - shift] : windows.contexts.ends[
            base + j - shift
          ]
        ].decode()
        best[key] = (score, text)
  names = [q.question_id for q in windows.data.questions]
  return {names[key]: text for key, (_, text) in best.items()}


def has_most_context(windows, w, place):
  most, winner = None, None
  for other in np.flatnonzero(windows.question == windows.question[w]):
    left = place - windows.begin[other]
    right = windows.begin[other] + windows.length[other] - 1 - place
    if min(left, right) < 0:
      continue
    score = min(left, right) + 0.01 * windows.length[other]
    if most is None or score > most:
      most, winner = score, other
  return winner == w


class TestAnswers:
  @pytest.fixture(scope='class')
  def windows(self, tiny_tasks, words):
    return windows_of(tiny_tasks.squad[1], words, False)

  @pytest.fixture(scope='class')
  def logits(self, windows):
    draw = np.random.default_rng(3)
    return draw.normal(size=[2, windows.num_windows, SEQ_LENGTH]).astype(
      np.float32
    )

  @pytest.mark.parametrize('longest', [1, 3, 30])
  def test_they_are_the_best_of_all_spans(self, windows, logits, longest):
    squad = finetuning_configs.SquadConfig(
      n_best_size=SEQ_LENGTH, max_answer_length=longest
    )
    answers = squad_answers.find_answers(windows, *logits, squad)
    assert answers.predictions == best_by_looking_at_all(
      windows, *logits, squad
    )

  def test_logits_of_all_workers_come_together(
    self, windows, logits, monkeypatch
  ):
    """Batches are cut to their longest row, and the last one is filled up."""
    data = finetuning_configs.TextDataConfig(seq_length=SEQ_LENGTH)
    config = finetuning_configs.SquadTaskConfig(validation_data=data)
    numbers = np.arange(windows.num_windows)
    width = SEQ_LENGTH - 8

    def stack(index, strategy):
      own = numbers[1:][numbers[1:] % 2 == index]
      part = (np.append(own, -1), *logits[:, np.append(own, 0), :width])
      return question_task.stack_logits([part], windows, config, strategy)

    for found in fake_workers.run(monkeypatch, stack):
      np.testing.assert_array_equal(
        np.array(found)[:, 1:, :width], logits[:, 1:, :width]
      )
      # Nobody computed the first one.
      assert np.all(np.array(found)[:, 0] == np.float32(-1e30))
      assert np.all(np.array(found)[:, :, width:] == np.float32(-1e30))

  def test_candidates_differ_and_fall(self, windows, logits):
    squad = finetuning_configs.SquadConfig(n_best_size=5)
    answers = squad_answers.find_answers(windows, *logits, squad)
    for entries in answers.nbest.values():
      texts = [entry['text'] for entry in entries]
      scores = [e['start_logit'] + e['end_logit'] for e in entries]
      assert len(set(texts)) == len(texts) == 5
      assert scores == sorted(scores, reverse=True)

  def test_the_threshold_decides_on_no_answer(self, windows, logits):
    odds = squad_answers.find_answers(
      windows, *logits, finetuning_configs.SquadConfig(version='v2.0')
    ).null_odds
    threshold = float(np.median(list(odds.values())))
    answers = squad_answers.find_answers(
      windows,
      *logits,
      finetuning_configs.SquadConfig(
        version='v2.0', null_score_threshold=threshold
      ),
    )
    for name, prediction in answers.predictions.items():
      assert (prediction == '') == (odds[name] > threshold)
      assert answers.best_answers[name] != ''

  def test_the_score_of_no_answer_is_the_lowest_of_all_windows(
    self, windows, logits
  ):
    answers = squad_answers.find_answers(
      windows, *logits, finetuning_configs.SquadConfig(version='v2.0')
    )
    null = logits[0, :, 0] + logits[1, :, 0]
    for number, entry in enumerate(windows.data.questions):
      [empty] = [e for e in answers.nbest[entry.question_id] if e['text'] == '']
      assert empty['start_logit'] == pytest.approx(
        null[windows.question == number].min()
      )


class TestScores:
  """Equal to the Model Garden's on the same predictions."""

  ARTICLES = [
    {
      'paragraphs': [
        {
          'context': 'The red fox ran.',
          'qas': [
            question('a', '?', [('The red fox', 0), ('fox', 8)]),
            question('b', '?', [('ran', 12)]),
            question('c', '?', [('red fox', 4)]),
            question('d', '?', is_impossible=True),
            question('e', '?', is_impossible=True),
          ],
        }
      ]
    }
  ]
  PREDICTIONS = {'a': 'red fox!', 'b': 'fox ran', 'c': '', 'd': '', 'e': 'fox'}
  ODDS = {'a': -3.0, 'b': 0.5, 'c': 1.5, 'd': 2.0, 'e': -0.5}

  def answers(self, names='abcde'):
    chosen = {name: self.PREDICTIONS[name] for name in names}
    best = dict(chosen, **{n: 'fox' for n in names if not chosen[n]})
    return squad_answers.Answers(chosen, best, {}, self.ODDS)

  def test_of_v1(self):
    articles = json.loads(json.dumps(self.ARTICLES))
    del articles[0]['paragraphs'][0]['qas'][3:]
    found = squad_answers.official_scores(articles, self.answers('abc'), 'v1.1')
    official = squad_evaluate_v1_1.evaluate(
      articles, self.answers('abc').predictions
    )
    assert found == {
      'exact_match': 100 * official['exact_match'],
      'f1': 100 * official['final_f1'],
    }
    assert found['exact_match'] == pytest.approx(100 / 3)
    # 'fox ran' against 'ran' has half of precision, '' nothing.
    assert found['f1'] == pytest.approx(100 * (1 + 2 / 3 + 0) / 3)

  def test_of_v2(self):
    found = squad_answers.official_scores(self.ARTICLES, self.answers(), 'v2.0')
    official = squad_evaluate_v2_0.evaluate(self.ARTICLES, self.PREDICTIONS)
    assert found['exact_match'] == official['exact']
    assert found['f1'] == official['f1']
    assert found['has_answer_f1'] == official['HasAns_f1']
    assert found['no_answer_exact_match'] == official['NoAns_exact'] == 50.0
    assert found['exact_match'] == pytest.approx(40.0)

  def test_the_best_threshold_is_that_of_the_model_garden(self):
    answers = self.answers()
    found = squad_answers.official_scores(self.ARTICLES, answers, 'v2.0')
    official = squad_evaluate_v2_0.evaluate(
      self.ARTICLES, answers.best_answers, self.ODDS
    )
    assert found['best_f1'] == official['final_f1']
    assert found['best_f1_threshold'] == official['final_f1_thresh']
    assert found['best_f1'] >= found['f1']


class TestFiles:
  GOOD = {'context': 'w01', 'qas': [question('q', 'w02', [('w01', 0)])]}

  @pytest.mark.parametrize('name', ['a.json', 'a.json.gz'])
  def test_plain_and_compressed_are_read(self, tmp_path, name):
    text = json.dumps({'data': [{'paragraphs': [self.GOOD]}]}).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith('.gz') else text)
    data = squad_files.read(str(path), 'v1.1', 'squad.train_data')
    assert data.contexts == ['w01']
    assert data.questions[0].answers == (('w01', 0),)

  def test_json_that_breaks_off_is_named(self, tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('{"data": [')
    assert 'must name SQuAD files in JSON' in message_of(path)
    assert str(path) in message_of(path)

  @pytest.mark.parametrize(
    ('change', 'words'),
    [
      (lambda p: p.pop('context'), "under 'context'. Received: nothing at"),
      (lambda p: p.pop('qas'), "a list under 'qas'"),
      (lambda p: p['qas'][0].pop('id'), 'paragraphs[0].qas[0] of'),
      (lambda p: p['qas'][0].update(question=3), 'Received: int at'),
      (lambda p: p['qas'][0]['answers'][0].pop('answer_start'), 'answers[0]'),
      (lambda p: p['qas'].append(p['qas'][0]), 'must occur once'),
      (lambda p: p['qas'].clear(), 'must name files with questions'),
      (
        lambda p: p['qas'].append(p['qas'][0] | {'id': 3, 'answers': 'w01'}),
        "a list under 'answers'. Received: str at data[0].paragraphs[0].qas[1]",
      ),
      (
        lambda p: p['qas'][0].update(is_impossible='no'),
        "true or false under 'is_impossible'. Received: 'no' at data[0]",
      ),
      (
        lambda p: p.update(context='w01 \ud83d'),
        "whole characters under 'context'. Received: half of an emoji",
      ),
      (
        lambda p: p['qas'][0].update(is_impossible=True),
        "Set squad.version = 'v2.0'",
      ),
    ],
  )
  def test_what_is_no_squad_is_named(self, tmp_path, change, words):
    paragraph = json.loads(json.dumps(self.GOOD))
    change(paragraph)
    message = message_of(write(tmp_path / 'a.json', [paragraph]))
    assert words in message
    assert 'a.json' in message

  @pytest.mark.parametrize('answers', [{'answers': None}, {}])
  def test_questions_without_answers_are_named_where_answers_are_needed(
    self, tmp_path, answers
  ):
    asked = {'id': 'lonely', 'question': 'w02', **answers}
    paragraph = {'context': 'w01', 'qas': [*self.GOOD['qas'], asked]}
    path = write(tmp_path / 'a.json', [paragraph])
    data = squad_files.read(str(path), 'v1.1', 'squad.test_data')
    assert data.questions[1].answers == ()
    with pytest.raises(errors.DataError, match="'lonely' without one at data"):
      squad_files.read(str(path), 'v1.1', 'squad.validation_data', True)

  @pytest.mark.parametrize(
    ('value', 'is_impossible'),
    [(True, True), ('true', True), ('False', False), (None, False), (0, False)],
  )
  def test_annotation_tools_write_ids_and_impossible_in_other_types(
    self, tmp_path, value, is_impossible
  ):
    entry = self.GOOD['qas'][0] | {'id': 51874, 'is_impossible': value}
    paragraph = {'context': 'w01', 'qas': [entry]}
    path = write(tmp_path / 'a.json', [paragraph])
    data = squad_files.read(str(path), 'v2.0', 'squad.train_data')
    [found] = data.questions
    assert (found.question_id, found.is_impossible) == ('51874', is_impossible)
    [qa] = data.articles[0]['paragraphs'][0]['qas']
    assert bool(qa['answers']) is not is_impossible

  def test_another_json_is_named(self, tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('[1, 2]')
    assert "a list under 'data'. Received: nothing at the top" in message_of(
      path
    )


def test_answers_of_the_real_validation_set_are_found_in_their_windows(
  tmp_path,
):
  default = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
  folder = pathlib.Path(os.environ.get('TOKENDROP_TEST_TEXT') or default)
  path = folder / 'squad_v1.1' / 'dev-v1.1.json.gz'
  if not path.exists():
    pytest.skip(
      'No real questions: set TOKENDROP_TEST_TEXT to a folder with '
      'squad_v1.1/dev-v1.1.json.gz.'
    )
  data = json.loads(gzip.decompress(path.read_bytes()))
  small = tmp_path / 'dev.json'
  small.write_text(json.dumps({'data': data['data'][:4]}))
  words = sorted({w.lower() for w in small.read_text().split() if w.isalpha()})
  letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
  pieces = dict.fromkeys([*letters, *(f'##{c}' for c in letters), *words])
  vocabulary = tmp_path / 'vocab.txt'
  vocabulary.write_text(
    '\n'.join([*vocabulary_lib.SPECIAL_TOKENS, *pieces]) + '\n'
  )
  windows = windows_of(
    small,
    vocabulary_lib.Vocabulary.from_file(str(vocabulary)),
    True,
    seq_length=256,
    doc_stride=96,
    query_length=64,
  )
  logits = np.zeros([2, windows.num_windows, 256], np.float32)
  has_answer = windows.start > 0
  rows = np.flatnonzero(has_answer)
  # The window with most context around the answer; others show it, too.
  logits[0, rows, windows.start[rows]] = 9.0
  logits[1, rows, windows.end[rows]] = 9.0
  answers = squad_answers.find_answers(
    windows, *logits, finetuning_configs.SquadConfig(max_answer_length=200)
  )
  found = squad_answers.official_scores(windows.data.articles, answers, 'v1.1')
  assert windows.num_lost == 0
  assert len(answers.predictions) > 500
  assert found['exact_match'] > 99.0
