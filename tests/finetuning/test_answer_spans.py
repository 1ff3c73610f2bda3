"""Windows over contexts, and the best spans in them."""

import numpy as np
import tensorflow as tf

from tokendrop_tf.finetuning import answer_spans


def test_windows_overlap_by_what_the_stride_leaves():
  windows = answer_spans.cut_windows([2, 0], [9, 1], 10, doc_stride=3)
  assert windows.example.numpy().tolist() == [0, 0, 0, 1]
  assert windows.begin.numpy().tolist() == [0, 3, 6, 0]
  assert windows.length.numpy().tolist() == [5, 5, 3, 1]


def test_every_token_has_one_window_that_shows_most_of_its_context():
  windows = answer_spans.cut_windows([2, 2], [9, 9], 10, doc_stride=3)
  expected = [
    [True, True, True, True, False],
    [False, True, True, True, False],
    [False, True, True],
  ]
  assert answer_spans.most_context(windows).to_list() == expected * 2


def spans_of(start, end, max_length, n_best=None):
  """Best spans of one window, all of whose tokens may start one."""
  is_start = tf.RaggedTensor.from_tensor(tf.ones([1, len(start)], tf.bool))
  found = answer_spans.best_spans(
    *map(tf.constant, ([start], [end], [0])), is_start, max_length, n_best
  )
  return answer_spans.Spans(*(field[0].numpy() for field in found))


def test_spans_are_no_longer_than_allowed_and_end_after_they_start():
  start, end = [0.0, 5.0, 1.0, 0.0], [9.0, 0.0, 1.0, 7.0]
  for max_length, first, last in ((1, 0, 0), (2, 0, 0), (3, 1, 3)):
    for n_best in (None, 4):
      best = spans_of(start, end, max_length, n_best)
      assert (best.first[0], best.last[0]) == (first, last)
      assert best.score[0] == start[first] + end[last]


def test_only_the_highest_starts_and_ends_compete():
  # The best span of length 1 lies at the second highest start and end.
  start, end = [9.0, 0.0, 5.0, 0.0], [0.0, 9.0, 5.0, 0.0]
  assert spans_of(start, end, 1).score[0] == 10.0
  assert spans_of(start, end, 1, n_best=1).score[0] == -np.inf
  assert spans_of(start, end, 2, n_best=1).score.tolist() == [18.0]


def test_a_window_without_tokens_has_no_span():
  for n_best in (None, 3):
    assert (spans_of([], [], 3, n_best).score == -np.inf).all()
