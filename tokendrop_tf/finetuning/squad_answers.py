"""From logits to answers, and from answers to the official scores.

Letters: W windows, S sequence length, n candidates per window (n-best).
"""

import collections
import dataclasses

import numpy as np
import tensorflow as tf
from official.nlp.tools import squad_evaluate_v1_1, squad_evaluate_v2_0

from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.finetuning import (
  answer_spans,
  squad_windows,
)

# Below every score of logits that a model computed.
_NEVER = -1e30
_WINDOWS_PER_STEP = 1024


@dataclasses.dataclass(frozen=True)
class Answers:
  """The answers to all questions.

  Attributes:
    predictions: the answer by question id; '' where v2.0 has none.
    best_answers: the best answer that is not empty, by question id.
    nbest: candidates by question id, best first: dicts of `text`,
      `probability`, `start_logit`, `end_logit`.
    null_odds: by question id, the score of no answer minus that of the best
      one; {} for v1.1.
  """

  predictions: dict[str, str]
  best_answers: dict[str, str]
  nbest: dict[str, list[dict]]
  null_odds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Candidate:
  score: float
  start_logit: float
  end_logit: float
  window: int
  first: int
  last: int


def find_answers(
  windows: squad_windows.Windows,
  start_logits: np.ndarray,
  end_logits: np.ndarray,
  squad: finetuning_configs.SquadConfig,
) -> Answers:
  """Returns the best spans of every question over all its windows.

  A span starts and ends inside the paragraph, at most `max_answer_length`
  tokens apart, and starts at a token that no other window of the question shows
  with more context around. Its score is the sum of both logits. The text is
  what stands in the paragraph from the first character of the first token to
  the last of the last one. The score of no answer is the lowest of all windows
  at [CLS]. (Devlin et al., 2019, arXiv 1810.04805, section 4.3.)

  Args:
    windows: the windows.
    start_logits: float32 [W, S].
    end_logits: float32 [W, S].
    squad: n-best size, longest answer, version and threshold.
  """
  null_scores = start_logits[:, 0] + end_logits[:, 0]
  by_question = collections.defaultdict(list)
  for rows in _whole_questions(windows.question):
    for candidate in _window_candidates(
      windows, start_logits[rows], end_logits[rows], rows, squad
    ):
      by_question[int(windows.question[candidate.window])].append(candidate)
  lowest_null = _lowest_null(windows, null_scores)
  return _collect(windows, by_question, lowest_null, squad)


def _whole_questions(question):
  """Yields slices of about `_WINDOWS_PER_STEP` windows, of whole questions."""
  begin = 0
  while begin < len(question):
    last = question[min(begin + _WINDOWS_PER_STEP, len(question)) - 1]
    end = int(np.searchsorted(question, last, side='right'))
    yield slice(begin, end)
    begin = end


def _window_candidates(windows, start_logits, end_logits, rows, squad):
  """Yields the n best spans of every window, in order of window and score."""
  _, example = np.unique(windows.question[rows], return_inverse=True)
  is_start = answer_spans.most_context(
    answer_spans.Windows(
      tf.constant(example, tf.int32),
      tf.constant(windows.begin[rows]),
      tf.constant(windows.length[rows]),
    )
  )
  spans = answer_spans.best_spans(
    tf.constant(start_logits),
    tf.constant(end_logits),
    tf.constant(windows.query_length[rows] + 2),
    is_start,
    squad.max_answer_length,
    squad.n_best_size,
  )
  first, last, start, end, score, _ = (field.numpy() for field in spans)
  for row, place in zip(*np.nonzero(score > _NEVER)):
    yield _Candidate(
      float(score[row, place]),
      float(start[row, place]),
      float(end[row, place]),
      rows.start + int(row),
      int(first[row, place]),
      int(last[row, place]),
    )


def _lowest_null(windows, null_scores):
  lowest = np.full(len(windows.data.questions), np.inf)
  np.minimum.at(lowest, windows.question, null_scores)
  return lowest


def _collect(windows, by_question, lowest_null, squad):
  answers = Answers({}, {}, {}, {})
  with_null = squad.version == 'v2.0'
  contexts = [None] * len(windows.data.contexts)
  for number, question in enumerate(windows.data.questions):
    index = question.context_index
    if contexts[index] is None:
      contexts[index] = windows.data.contexts[index].encode()
    entries = _entries(
      windows, contexts[index], by_question.get(number, []), squad.n_best_size
    )
    name = question.question_id
    best = entries[0] if entries else None
    answers.best_answers[name] = best['text'] if best else ''
    answers.predictions[name] = answers.best_answers[name]
    null_score = float(lowest_null[number])
    if with_null:
      score = best['start_logit'] + best['end_logit'] if best else _NEVER
      odds = null_score - score
      answers.null_odds[name] = odds
      if odds > squad.null_score_threshold:
        answers.predictions[name] = ''
      entries.append({'text': '', 'start_logit': null_score, 'end_logit': 0.0})
      entries.sort(key=_score, reverse=True)
    answers.nbest[name] = _with_probabilities(
      entries or [{'text': '', 'start_logit': 0.0, 'end_logit': 0.0}]
    )
  return answers


def _score(entry):
  return entry['start_logit'] + entry['end_logit']


def _entries(windows, context, candidates, n):
  """Returns the n best different texts."""
  table, entries, seen = windows.contexts, [], set()
  for candidate in sorted(candidates, key=lambda c: c.score, reverse=True):
    base = (
      table.offsets[windows.context[candidate.window]]
      + windows.begin[candidate.window]
    )
    text = context[
      table.starts[base + candidate.first] : table.ends[base + candidate.last]
    ].decode()
    if text in seen:
      continue
    seen.add(text)
    entries.append(
      {
        'text': text,
        'start_logit': candidate.start_logit,
        'end_logit': candidate.end_logit,
      }
    )
    if len(entries) == n:
      break
  return entries


def _with_probabilities(entries):
  totals = np.array([_score(entry) for entry in entries])
  shares = np.exp(totals - totals.max())
  shares /= shares.sum()
  return [
    {
      'text': entry['text'],
      'probability': float(share),
      'start_logit': entry['start_logit'],
      'end_logit': entry['end_logit'],
    }
    for entry, share in zip(entries, shares)
  ]


def official_scores(
  articles: list[dict], answers: Answers, version: str
) -> dict[str, float]:
  """Returns the Model Garden's (the official) scores, in percent.

  Args:
    articles: the list under 'data' of the file.
    answers: what `find_answers` gave.
    version: 'v1.1' gives `exact_match` and `f1`. 'v2.0' adds those of
      questions with and without an answer, and the best that another
      `squad.null_score_threshold` could give, with that threshold.
  """
  # Its errors about unanswered questions would go to the terminal one by one.
  if version == 'v1.1':
    found = squad_evaluate_v1_1.evaluate(articles, answers.predictions)
    return {
      'exact_match': 100.0 * found['exact_match'],
      'f1': 100.0 * found['final_f1'],
    }
  found = squad_evaluate_v2_0.evaluate(articles, answers.predictions)
  names = {
    'exact': 'exact_match',
    'f1': 'f1',
    'HasAns_exact': 'has_answer_exact_match',
    'HasAns_f1': 'has_answer_f1',
    'NoAns_exact': 'no_answer_exact_match',
    'NoAns_f1': 'no_answer_f1',
  }
  results = {new: found[old] for old, new in names.items() if old in found}
  best = squad_evaluate_v2_0.evaluate(
    articles, answers.best_answers, answers.null_odds
  )
  results |= {
    'best_exact_match': best['final_exact'],
    'best_exact_match_threshold': best['final_exact_thresh'],
    'best_f1': best['final_f1'],
    'best_f1_threshold': best['final_f1_thresh'],
  }
  return {name: float(value) for name, value in results.items()}
