"""Answers in the graph: the best of all spans, exact pieces of contexts."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tiny_exports

from tokendrop_tf.export import answer_finder
from tokendrop_tf.text import vocabulary as vocabulary_lib

VOCABULARY = tiny_exports.make_vocabulary()
CONTEXTS = [
  'the bank of the river',
  'a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y',
  'Who was born? Café Ünal, 中文川 — in\tthe  city! ☃ ' * 3,
  'é中' * 30,
  '☃',
  '',
]
QUESTIONS = [
  'who was born',
  'who was born in the city of the river bank and of the other river',
  '',
  '中文?',
  'where',
  'the city',
]


def random_logits(features):
  """Logits that follow from a token, its place and its row's first tokens."""
  ids = tf.cast(features['input_word_ids'], tf.float32)
  place = tf.range(tf.shape(ids)[1], dtype=tf.float32)
  row = tf.reduce_sum(ids[:, :14], axis=1, keepdims=True)
  return {
    'start_logits': 3 * tf.sin(ids * 12.9 + place * 3.7 + row),
    'end_logits': 3 * tf.sin(ids * 7.3 + place * 1.1 + row * 2),
  }


def finder(**settings):
  return answer_finder.AnswerFinder(
    random_logits,
    VOCABULARY,
    **{
      'seq_length': 20,
      'query_length': 6,
      'doc_stride': 4,
      'max_answer_length': 3,
      **settings,
    },
  )


def find(questions, contexts, **settings):
  answers = finder(**settings)(tf.constant(questions), tf.constant(contexts))
  return {name: value.numpy() for name, value in answers.items()}


def spans_one_by_one(question, context, settings):
  """All spans that count: (score, first byte, end byte); and the null score.

  Windows are cut in Python, and run through the model one at a time.
  """
  tokenizer = VOCABULARY.tokenizer()
  asked = tokenizer.tokenize([question])[0].numpy().tolist()[:6]
  ids, first, end = (
    part[0].numpy() for part in tokenizer.tokenize_with_offsets([context])
  )
  room = 20 - 3 - len(asked)
  begins = [0]
  while begins[-1] + room < len(ids):
    begins.append(begins[-1] + min(settings.get('doc_stride', 4), room))

  def amount_of_context(begin, token):
    length = min(room, len(ids) - begin)
    left, right = token - begin, begin + length - 1 - token
    return min(left, right) + 0.01 * length if min(left, right) >= 0 else -1

  spans, null = [], np.inf
  for begin in begins:
    part = ids[begin : begin + room].tolist()
    head = [VOCABULARY.cls_id, *asked, VOCABULARY.sep_id]
    row = tf.constant([[*head, *part, VOCABULARY.sep_id]])
    start_logits, end_logits = (
      value[0].numpy()
      for value in random_logits({'input_word_ids': row}).values()
    )
    null = min(null, start_logits[0] + end_logits[0])
    for i, j in itertools.product(range(len(part)), repeat=2):
      # max() takes the first of equals.
      best = max(begins, key=lambda b: amount_of_context(b, begin + i))
      if 0 <= j - i < 3 and best == begin:
        score = start_logits[len(head) + i] + end_logits[len(head) + j]
        spans.append((score, first[begin + i], end[begin + j]))
  return spans, null


@pytest.mark.parametrize('doc_stride', [1, 4, 50])
def test_the_answer_is_the_best_of_all_spans_tried_one_by_one(doc_stride):
  answers = find(QUESTIONS, CONTEXTS, doc_stride=doc_stride)
  for number, (question, context) in enumerate(zip(QUESTIONS, CONTEXTS)):
    spans, _ = spans_one_by_one(question, context, {'doc_stride': doc_stride})
    expected, score = b'', 0.0
    if spans:
      best, first, end = max(spans)
      expected = context.encode()[first:end]
      score = 1 / np.sum(np.exp([other - best for other, _, _ in spans]))
    assert answers['answer'][number] == expected
    assert answers['score'][number] == pytest.approx(score, abs=1e-5)


def test_an_answer_is_an_exact_piece_of_its_context():
  answers = find(QUESTIONS, CONTEXTS)
  found = set()
  for context, answer, start, end in zip(
    CONTEXTS, answers['answer'], answers['start'], answers['end']
  ):
    assert context[start:end] == answer.decode()
    found.add(answer)
  assert len(found) > 3


def test_an_answer_has_whole_characters():
  # Every letter is a piece, and normalization takes both characters apart.
  vocabulary = vocabulary_lib.Vocabulary(
    (
      *vocabulary_lib.SPECIAL_TOKENS,
      *'\u1100sa',
      *(f'##{c}' for c in '\u1161s'),
    )
  )
  context = '가 ß a'

  def answers_starting_at(place):
    def logits(features):
      position = tf.range(tf.shape(features['input_word_ids'])[1])
      score = tf.where(position == place, 9.0, 0.0)
      score = tf.ones_like(features['input_word_ids'], tf.float32) * score
      return {'start_logits': score, 'end_logits': score}

    find_answers = answer_finder.AnswerFinder(
      logits,
      vocabulary,
      seq_length=20,
      query_length=6,
      doc_stride=4,
      max_answer_length=1,
    )
    [answer] = find_answers(tf.constant(['a']), tf.constant([context]))[
      'answer'
    ].numpy()
    return answer.decode()

  num_tokens = len(vocabulary.tokenizer().tokenize([context])[0])
  found = {answers_starting_at(3 + n) for n in range(num_tokens)}
  assert found == {'가', 'ß', 'a'}


def test_no_answer_where_its_score_exceeds_the_threshold():
  plain = find(QUESTIONS, CONTEXTS, null_score_threshold=1e9)
  assert (
    plain['answer'].tolist() == find(QUESTIONS, CONTEXTS)['answer'].tolist()
  )
  odds = plain['no_answer_score']
  for number, (question, context) in enumerate(zip(QUESTIONS, CONTEXTS)):
    spans, null = spans_one_by_one(question, context, {})
    best = max([score for score, _, _ in spans], default=-np.inf)
    assert odds[number] == pytest.approx(null - best, abs=1e-4)
  threshold = float(np.sort(odds)[2])
  answers = find(QUESTIONS, CONTEXTS, null_score_threshold=threshold)
  assert (answers['answer'] == b'').tolist() == (
    (odds > threshold) | (plain['answer'] == b'')
  ).tolist()
  is_empty = answers['answer'] == b''
  assert not answers['start'][is_empty].any()
  assert not answers['end'][is_empty].any()


def test_the_probability_of_no_answer_completes_that_of_the_spans():
  questions, contexts = QUESTIONS[:1], CONTEXTS[:1]
  spans, null = spans_one_by_one(questions[0], contexts[0], {})
  scores = [score for score, _, _ in spans]
  total = np.sum(np.exp([*scores, null]))
  for threshold, chosen in ((1e9, max(scores)), (-1e9, null)):
    answers = find(questions, contexts, null_score_threshold=threshold)
    assert answers['score'][0] == pytest.approx(
      np.exp(chosen) / total, abs=1e-5
    )


def test_chunks_of_windows_change_nothing(monkeypatch):
  whole = find(QUESTIONS, CONTEXTS, null_score_threshold=0.0)
  monkeypatch.setattr(answer_finder, 'CHUNK_SIZE', 3)
  in_parts = find(QUESTIONS, CONTEXTS, null_score_threshold=0.0)
  for name, value in whole.items():
    if value.dtype == object:
      assert in_parts[name].tolist() == value.tolist()
    else:
      np.testing.assert_allclose(in_parts[name], value, atol=1e-5)
