"""Windows over contexts and the best spans in them, in a graph or eagerly.

Fine-tuning and exported models share this code, so both give the same answers.

Letters: B questions, W windows of all questions, n context tokens of a window,
m candidates for each end of a span.
"""

from typing import NamedTuple

import tensorflow as tf

_IMPOSSIBLE = float('-inf')


class Windows(NamedTuple):
  """Overlapping pieces of contexts, in order.

  Attributes:
    example: int32 [W], the question that a window belongs to, ascending.
    begin: int32 [W], place of the window's first token in its context.
    length: int32 [W], tokens of the context in the window.
  """

  example: tf.Tensor
  begin: tf.Tensor
  length: tf.Tensor


class Spans(NamedTuple):
  """The best spans of every window, best first.

  Attributes:
    first: int32 [W, k], place of a span's first token in its window.
    last: int32 [W, k], of its last token.
    start_logit: float32 [W, k].
    end_logit: float32 [W, k].
    score: float32 [W, k], their sum; -inf where there are fewer spans.
    log_total: float32 [W], log of the sum of exp(score) over all spans that
      compete.
  """

  first: tf.Tensor
  last: tf.Tensor
  start_logit: tf.Tensor
  end_logit: tf.Tensor
  score: tf.Tensor
  log_total: tf.Tensor


def cut_windows(
  query_length: tf.Tensor,
  context_length: tf.Tensor,
  seq_length: int,
  doc_stride: int,
) -> Windows:
  """Cuts contexts into windows that fit into S with their questions.

  Args:
    query_length: int [B], tokens of the question that are kept.
    context_length: int [B], tokens of the context.
    seq_length: S; the question must leave room in it.
    doc_stride: tokens between the beginnings of two windows.

  Example:
    cut_windows([2], [9], seq_length=10, doc_stride=3).begin  # [0, 3, 6]
  """
  query_length = tf.cast(query_length, tf.int32)
  context_length = tf.cast(context_length, tf.int32)
  room = seq_length - 3 - query_length  # [CLS] q [SEP] c [SEP]
  stride = tf.minimum(doc_stride, room)
  beyond = tf.maximum(context_length - room, 0)
  num_windows = 1 + (beyond + stride - 1) // stride
  example = tf.repeat(tf.range(tf.size(num_windows)), num_windows)
  number = tf.ragged.range(num_windows).flat_values  # within its context
  begin = number * tf.gather(stride, example)
  length = tf.minimum(
    tf.gather(room, example), tf.gather(context_length, example) - begin
  )
  return Windows(example, begin, length)


def most_context(windows: Windows) -> tf.RaggedTensor:
  """Marks each token in the window that shows most around it.

  The measure is BERT's: the smaller of the numbers of tokens to its left and to
  its right, plus 0.01 times the window's length; the first window wins ties.

  Returns:
    Ragged bool [W, (n)].
  """
  example, begin, length = windows
  place = tf.ragged.range(begin, begin + length)
  row = tf.cast(place.value_rowids(), tf.int32)
  left = place.flat_values - tf.gather(begin, row)
  right = tf.gather(length, row) - 1 - left
  context = tf.cast(tf.minimum(left, right), tf.float64)
  context += 0.01 * tf.cast(tf.gather(length, row), tf.float64)
  # Contexts one after the other: every token of every question has a number.
  sizes = tf.math.segment_max(begin + length, example)
  offset = tf.cumsum(sizes, exclusive=True)
  token = place.flat_values + tf.gather(tf.gather(offset, example), row)
  num_tokens = tf.reduce_sum(sizes)
  most = tf.math.unsorted_segment_max(context, token, num_tokens)
  best_row = tf.math.unsorted_segment_min(
    tf.where(context == tf.gather(most, token), row, tf.size(begin)),
    token,
    num_tokens,
  )
  return place.with_flat_values(row == tf.gather(best_row, token))


def best_spans(
  start_logits: tf.Tensor,
  end_logits: tf.Tensor,
  offset: tf.Tensor,
  is_start: tf.RaggedTensor,
  max_length: int,
  n_best: int | None = None,
) -> Spans:
  """Returns the best spans of every window.

  Args:
    start_logits: float32 [W, S'], logits of starting at a position.
    end_logits: float32 [W, S'], of ending there.
    offset: int32 [W], position of the window's first context token.
    is_start: ragged bool [W, (n)], whether a span may start at a context token.
    max_length: of a span, in tokens.
    n_best: only the so many highest starts and ends of a window compete, as in
      BERT's SQuAD code, and as many spans are returned; `None` lets every span
      compete and returns the best one.
  """
  lengths = is_start.row_lengths()
  is_token = tf.sequence_mask(lengths)
  place = tf.range(tf.shape(is_token)[1])
  index = tf.where(is_token, offset[:, tf.newaxis] + place, 0)
  start, end = (
    # A column more that no span can use: an empty row has one to look at.
    tf.pad(
      tf.where(allowed, tf.gather(logits, index, batch_dims=1), _IMPOSSIBLE),
      [[0, 0], [0, 1]],
      constant_values=_IMPOSSIBLE,
    )
    for logits, allowed in (
      (start_logits, is_start.to_tensor(False)),
      (end_logits, is_token),
    )
  )
  if n_best is None:
    first = last = tf.broadcast_to(
      tf.range(tf.shape(start)[1]), tf.shape(start)
    )
  else:
    most = tf.minimum(n_best, tf.shape(start)[1])
    start, first = tf.math.top_k(start, most)
    end, last = tf.math.top_k(end, most)
  num_tokens = last[:, tf.newaxis, :] - first[:, :, tf.newaxis] + 1
  scores = tf.where(
    (num_tokens >= 1) & (num_tokens <= max_length),
    start[:, :, tf.newaxis] + end[:, tf.newaxis, :],
    _IMPOSSIBLE,
  )
  m = tf.shape(start)[1]
  scores = tf.reshape(scores, [tf.shape(scores)[0], m * m])
  score, best = tf.math.top_k(
    scores, 1 if n_best is None else tf.minimum(n_best, m * m)
  )
  i, j = best // m, best % m
  return Spans(
    tf.gather(first, i, batch_dims=1),
    tf.gather(last, j, batch_dims=1),
    tf.gather(start, i, batch_dims=1),
    tf.gather(end, j, batch_dims=1),
    score,
    tf.reduce_logsumexp(scores, axis=1),
  )
