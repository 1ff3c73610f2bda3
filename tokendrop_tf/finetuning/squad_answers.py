"""From logits to answers, and from answers to the official scores.

Letters: W windows, S sequence length, n candidates per window (n-best).
"""

import collections
import dataclasses

import numpy as np
from official.nlp.tools import squad_evaluate_v1_1, squad_evaluate_v2_0

from tokendrop_tf.finetuning import configs, squad_windows

# What stands where no logit may be chosen.
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
  squad: configs.SquadConfig,
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
  for first in range(0, windows.num_windows, _WINDOWS_PER_STEP):
    some = slice(first, min(first + _WINDOWS_PER_STEP, windows.num_windows))
    for candidate in _window_candidates(
      windows, start_logits[some], end_logits[some], first, squad
    ):
      by_question[int(windows.question[candidate.window])].append(candidate)
  lowest_null = _lowest_null(windows, null_scores)
  return _collect(windows, by_question, lowest_null, squad)


def _window_candidates(windows, start_logits, end_logits, first, squad):
  """Yields the n best spans of every window, in order of window and score."""
  rows = np.arange(first, first + len(start_logits))
  places = np.arange(start_logits.shape[1])[np.newaxis]
  shift = windows.query_length[rows, np.newaxis] + 2
  token = places - shift  # place in the window
  inside = (token >= 0) & (token < windows.length[rows, np.newaxis])
  can_start = inside & _has_most_context(windows, rows, token)
  n = min(squad.n_best_size, start_logits.shape[1])
  starts, start_values = _top(np.where(can_start, start_logits, _NEVER), n)
  ends, end_values = _top(np.where(inside, end_logits, _NEVER), n)
  span = ends[:, np.newaxis, :] - starts[:, :, np.newaxis]  # [W, n, n]
  scores = start_values[:, :, np.newaxis] + end_values[:, np.newaxis, :]
  is_span = (span >= 0) & (span < squad.max_answer_length)
  is_span &= (start_values > _NEVER / 2)[:, :, np.newaxis]
  is_span &= (end_values > _NEVER / 2)[:, np.newaxis, :]
  scores = np.where(is_span, scores, _NEVER).reshape(len(rows), -1)
  best, values = _top(scores, n)
  for row in range(len(rows)):
    for place, value in zip(best[row], values[row]):
      if value <= _NEVER / 2:
        break
      i, j = divmod(int(place), n)
      yield _Candidate(
        float(value),
        float(start_values[row, i]),
        float(end_values[row, j]),
        int(rows[row]),
        int(starts[row, i] - shift[row, 0]),
        int(ends[row, j] - shift[row, 0]),
      )


def _top(values, n):
  """Returns places and values of the n highest of every row; ties in order."""
  places = np.argsort(-values, axis=1, kind='stable')[:, :n]
  return places, np.take_along_axis(values, places, axis=1)


def _has_most_context(windows, rows, token):
  """Whether no other window shows a token with more context, [W, S].

  A token has as much context as there are tokens on its poorer side, and a
  hundredth of the window's length on top; of equals the first window wins.
  """
  begin, length = windows.begin, windows.length
  at = begin[rows, np.newaxis] + token  # place in the paragraph
  mine = _context(at, begin[rows, np.newaxis], length[rows, np.newaxis])
  result = np.ones(at.shape, bool)
  question = windows.question
  most = int(np.max(np.bincount(question - question.min())))
  for distance in range(1, most):
    for other, wins in (
      (rows - distance, np.greater_equal),
      (rows + distance, np.greater),
    ):
      is_same = (other >= 0) & (other < len(question))
      other = np.clip(other, 0, len(question) - 1)
      is_same &= question[other] == question[rows]
      theirs = _context(at, begin[other, np.newaxis], length[other, np.newaxis])
      result &= ~(is_same[:, np.newaxis] & wins(theirs, mine))
  return result


def _context(at, begin, length):
  """Returns the context of places in a window; -1 outside of it."""
  left = at - begin
  right = begin + length - 1 - at
  inside = (left >= 0) & (right >= 0)
  return np.where(inside, np.minimum(left, right) + 0.01 * length, -1.0)


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
