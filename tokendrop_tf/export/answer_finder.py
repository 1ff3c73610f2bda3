"""Answers to questions inside a graph: windows, the best span, its text.

Letters: B questions, W windows of all questions, C windows of one chunk, S
sequence length, T length of a chunk's longest window.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tokendrop_tf.finetuning import answer_spans
from tokendrop_tf.text import vocabulary as vocabulary_lib

# Windows that go through the model at once: a context of a megabyte must not
# ask for all its windows' activations together.
CHUNK_SIZE = 32
_IMPOSSIBLE = float('-inf')


class _Spans(NamedTuple):
  """The best span of every window, and what it competes with.

  Attributes:
    start: int32 [W], index of its first token among all context tokens.
    end: int32 [W], of its last token.
    score: float32 [W], start logit plus end logit; -inf without a span.
    log_total: float32 [W], log of the sum of exp(score) over all spans.
    null_score: float32 [W], the score of [CLS], that is, of no answer.
  """

  start: tf.Tensor
  end: tf.Tensor
  score: tf.Tensor
  log_total: tf.Tensor
  null_score: tf.Tensor


class AnswerFinder:
  """Finds answers to questions in contexts of any length.

  A context that does not fit with its question is read in windows that begin
  `doc_stride` tokens apart, as in BERT's SQuAD code. A span counts in the
  window that shows its first token with most context. Every span of at most
  `max_answer_length` tokens competes; BERT's code considers the
  `n_best_size` highest starts and ends of a window, which for a trained model
  gives the same answer.

  Inputs: `question` and `context`, string [B], UTF-8.

  Outputs: a dict of
    answer: string [B], the exact bytes of the context; '' for no answer.
    score: float32 [B], the probability of that answer among all spans of all
      windows (and no answer, where that is possible).
    start, end: int32 [B], where it is, in characters (Unicode code points), so
      that in Python `context[start:end] == answer`; 0, 0 for no answer.
    with a null threshold also no_answer_score: float32 [B], the null score
      minus the best span's; above the threshold there is no answer.

  Args:
    span_logits: function of the encoder's inputs, int32 [C, T], to a dict of
      `start_logits` and `end_logits`, float32 [C, T].
    vocabulary: the model's vocabulary.
    seq_length: S.
    query_length: tokens to which a question is cut.
    doc_stride: tokens between the beginnings of windows.
    max_answer_length: of a span, in tokens.
    null_score_threshold: above which there is no answer; `None` where every
      question has one.

  Example:
    find = AnswerFinder(logits, vocabulary, seq_length=384, query_length=64,
        doc_stride=128, max_answer_length=30)
    find(question=tf.constant(['Who?']), context=tf.constant(['Ada did.']))
  """

  def __init__(
    self,
    span_logits: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
    vocabulary: vocabulary_lib.Vocabulary,
    *,
    seq_length: int,
    query_length: int,
    doc_stride: int,
    max_answer_length: int,
    null_score_threshold: float | None = None,
  ):
    self._span_logits = span_logits
    self._vocabulary = vocabulary
    self._seq_length = seq_length
    self._query_length = min(query_length, seq_length - 4)
    self._doc_stride = doc_stride
    self._max_answer_length = max_answer_length
    self._null_score_threshold = null_score_threshold

  def __call__(
    self, question: tf.Tensor, context: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    # 1. Token ids, and the bytes that each stands for.
    tokenizer = self._vocabulary.tokenizer()
    asked = tokenizer.tokenize(question)[:, : self._query_length]
    ids, first_bytes, end_bytes = tokenizer.tokenize_with_offsets(context)
    # 2. Windows. 3. The best span of each.
    windows = answer_spans.cut_windows(
      asked.row_lengths(), ids.row_lengths(), self._seq_length, self._doc_stride
    )
    spans = self._spans_of_windows(windows, asked, ids)
    # 4. The best span of each question.
    best = best_window(spans.score, windows.example, ids.nrows(tf.int32))
    return self._outputs(
      context,
      _Spans(*(tf.gather(field, best) for field in spans[:3]), *spans[3:]),
      windows.example,
      first_bytes.flat_values,
      end_bytes.flat_values,
    )

  def _spans_of_windows(self, windows, asked, ids) -> _Spans:
    """Runs the model over all windows, chunk by chunk."""
    is_start = answer_spans.most_context(windows)
    num_windows = tf.shape(windows.example)[0]
    dtypes = (tf.int32, tf.int32, tf.float32, tf.float32, tf.float32)
    num_chunks = (num_windows + CHUNK_SIZE - 1) // CHUNK_SIZE
    arrays = [
      tf.TensorArray(dtype, size=num_chunks, infer_shape=False)
      for dtype in dtypes
    ]

    def read_chunk(i, arrays):
      chunk = slice(i * CHUNK_SIZE, (i + 1) * CHUNK_SIZE)
      spans = self._spans_of_chunk(
        answer_spans.Windows(*(field[chunk] for field in windows)),
        is_start[chunk],
        asked,
        ids,
      )
      written = [array.write(i, part) for array, part in zip(arrays, spans)]
      return i + 1, written

    _, arrays = tf.while_loop(
      lambda i, _: i < num_chunks,
      read_chunk,
      (tf.constant(0), arrays),
      parallel_iterations=1,
    )
    return _Spans(*(array.concat() for array in arrays))

  def _spans_of_chunk(self, windows, is_start, asked, ids) -> _Spans:
    begin = windows.begin + tf.cast(
      tf.gather(ids.row_starts(), windows.example), tf.int32
    )
    token = tf.ragged.range(
      begin, begin + windows.length, row_splits_dtype=tf.int64
    )
    features, offset = self._features(
      tf.gather(asked, windows.example),
      token.with_flat_values(tf.gather(ids.flat_values, token.flat_values)),
    )
    logits = self._span_logits(features)
    start, end = logits['start_logits'], logits['end_logits']
    best = answer_spans.best_spans(
      start, end, offset, is_start, self._max_answer_length
    )
    return _Spans(
      begin + best.first[:, 0],
      begin + best.last[:, 0],
      best.score[:, 0],
      best.log_total,
      start[:, 0] + end[:, 0],
    )

  def _features(self, question, context):
    """Returns the encoder's inputs, and where the context begins, int32 [C]."""
    ones = tf.ones([question.nrows(), 1], tf.int32)
    sep = ones * self._vocabulary.sep_id
    first = tf.concat([ones * self._vocabulary.cls_id, question, sep], axis=1)
    second = tf.concat([context, sep], axis=1)
    types = tf.concat([tf.zeros_like(first), tf.ones_like(second)], axis=1)
    word_ids = tf.concat([first, second], axis=1)
    features = {
      'input_word_ids': word_ids.to_tensor(self._vocabulary.pad_id),
      'input_mask': tf.ones_like(word_ids).to_tensor(),
      'input_type_ids': types.to_tensor(),
    }
    return features, tf.cast(first.row_lengths(), tf.int32)

  def _outputs(self, context, best: _Spans, example, first_bytes, end_bytes):
    num_questions = tf.shape(context)[0]
    log_total = segment_logsumexp(best.log_total, example, num_questions)
    has_answer = best.score > _IMPOSSIBLE
    log_score = best.score
    outputs = {}
    if self._null_score_threshold is not None:
      null = tf.math.segment_min(best.null_score, example)
      log_total = tf.reduce_logsumexp(tf.stack([log_total, null]), axis=0)
      outputs['no_answer_score'] = null - best.score
      has_answer &= null - best.score <= self._null_score_threshold
      log_score = tf.where(has_answer, best.score, null)
    start = _gather_or_zero(first_bytes, best.start, has_answer)
    end = _gather_or_zero(end_bytes, best.end, has_answer)
    return {
      'answer': tf.strings.substr(context, start, end - start),
      'score': tf.where(
        log_score > _IMPOSSIBLE, tf.exp(log_score - log_total), 0.0
      ),
      'start': _num_characters(context, start),
      'end': _num_characters(context, end),
      **outputs,
    }


def best_window(
  score: tf.Tensor, example: tf.Tensor, num_examples: tf.Tensor
) -> tf.Tensor:
  """Returns, for each example, its best window; the first of equals.

  Args:
    score: float32 [W].
    example: int32 [W], ascending; every example has a window.
    num_examples: B.

  Returns:
    int32 [B], indices of windows.
  """
  highest = tf.math.segment_max(score, example)
  num_windows = tf.shape(score)[0]
  candidate = tf.where(
    score == tf.gather(highest, example), tf.range(num_windows), num_windows
  )
  return tf.math.unsorted_segment_min(candidate, example, num_examples)


def segment_logsumexp(
  values: tf.Tensor, segment: tf.Tensor, num_segments: tf.Tensor
) -> tf.Tensor:
  """Returns the log of the sum of exp over every segment, float32 [B].

  A segment of nothing but -inf gives -inf.
  """
  largest = tf.math.segment_max(values, segment)
  largest = tf.where(largest > _IMPOSSIBLE, largest, 0.0)
  total = tf.math.unsorted_segment_sum(
    tf.exp(values - tf.gather(largest, segment)), segment, num_segments
  )
  return tf.math.log(total) + largest


def _gather_or_zero(values, index, is_wanted):
  """`values[index]` where wanted, else 0; int32 [B]. `values` may be empty."""
  padded = tf.pad(tf.cast(values, tf.int32), [[0, 1]])
  nothing = tf.shape(padded)[0] - 1
  return tf.gather(padded, tf.where(is_wanted, index, nothing))


def _num_characters(text, num_bytes):
  """Returns how many characters the first `num_bytes` bytes are, int32 [B]."""
  return tf.strings.length(
    tf.strings.substr(text, tf.zeros_like(num_bytes), num_bytes),
    unit='UTF8_CHAR',
  )
