"""Answer spans inside a graph: windows over long contexts, the best span.

Letters: B questions, W windows of all questions, C windows of one chunk, S
sequence length, T length of a chunk's longest window.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tokendrop_tf.data import vocabulary as vocabulary_lib

# Windows that go through the model at once: a context of a megabyte must not
# ask for all its windows' activations together.
CHUNK_SIZE = 32
_IMPOSSIBLE = float('-inf')


class Windows(NamedTuple):
  """Overlapping pieces of contexts, each with its question.

  Attributes:
    example: int32 [W], the question that a window belongs to.
    question: ragged int32 [W, (q)], ids of the question.
    token: ragged int32 [W, (n)], indices of the window's context tokens among
      the context tokens of the whole batch.
    is_best_context: ragged bool [W, (n)], whether no other window shows the
      token with more context around it.
  """

  example: tf.Tensor
  question: tf.RaggedTensor
  token: tf.RaggedTensor
  is_best_context: tf.RaggedTensor


class Spans(NamedTuple):
  """The best span of every window, and what it competes with.

  Attributes:
    start: int32 [W], index of its first token among all context tokens.
    end: int32 [W], of its last token.
    score: float32 [W], start logit plus end logit; -inf without a span.
    log_total: float32 [W], log of the sum of exp(score) over all spans.
    null_score: float32 [W], the same for [CLS], that is, for no answer.
  """

  start: tf.Tensor
  end: tf.Tensor
  score: tf.Tensor
  log_total: tf.Tensor
  null_score: tf.Tensor


class AnswerFinder:
  """Finds answers to questions in contexts of any length.

  A context that does not fit beside its question is read in windows that begin
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
    # 1. Token ids, and the bytes that each came from.
    tokenizer = self._vocabulary.tokenizer()
    asked = tokenizer.tokenize(question)[:, : self._query_length]
    ids, first_bytes, end_bytes = tokenizer.tokenize_with_offsets(context)
    # 2. Windows. 3. The best span of each.
    windows = make_windows(asked, ids, self._seq_length, self._doc_stride)
    spans = self._spans_of_windows(windows, ids.flat_values)
    # 4. The best span of each question.
    best = best_window(spans.score, windows.example, ids.nrows(tf.int32))
    return self._outputs(
      context,
      Spans(*(tf.gather(field, best) for field in spans[:3]), *spans[3:]),
      windows.example,
      first_bytes.flat_values,
      end_bytes.flat_values,
    )

  def _spans_of_windows(self, windows: Windows, token_ids: tf.Tensor) -> Spans:
    """Runs the model over all windows, chunk by chunk."""
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
        Windows(*(field[chunk] for field in windows)), token_ids
      )
      written = [array.write(i, part) for array, part in zip(arrays, spans)]
      return i + 1, written

    _, arrays = tf.while_loop(
      lambda i, _: i < num_chunks,
      read_chunk,
      (tf.constant(0), arrays),
      parallel_iterations=1,
    )
    return Spans(*(array.concat() for array in arrays))

  def _spans_of_chunk(self, windows: Windows, token_ids: tf.Tensor) -> Spans:
    features, offset = self._features(windows, token_ids)
    logits = self._span_logits(features)
    # [C, n]: logits of context tokens alone, n the longest context part.
    lengths = windows.token.row_lengths()
    is_token = tf.sequence_mask(lengths, dtype=tf.bool)
    index = offset[:, tf.newaxis] + tf.range(tf.shape(is_token)[1])
    index = tf.where(is_token, index, 0)
    start, end = (
      tf.gather(logits[name], index, batch_dims=1)
      for name in ('start_logits', 'end_logits')
    )
    is_start = is_token & windows.is_best_context.to_tensor(False)
    first, last, score, log_total = best_spans(
      tf.where(is_start, start, _IMPOSSIBLE),
      tf.where(is_token, end, _IMPOSSIBLE),
      self._max_answer_length,
    )
    # One column more, as `best_spans` has it.
    token = tf.pad(windows.token.to_tensor(), [[0, 0], [0, 1]])
    return Spans(
      tf.gather(token, first, batch_dims=1),
      tf.gather(token, last, batch_dims=1),
      score,
      log_total,
      logits['start_logits'][:, 0] + logits['end_logits'][:, 0],
    )

  def _features(self, windows: Windows, token_ids: tf.Tensor):
    """Returns the encoder's inputs, and where the context begins, int32 [C]."""
    ones = tf.ones([windows.question.nrows(), 1], tf.int32)
    sep = ones * self._vocabulary.sep_id
    first = tf.concat(
      [ones * self._vocabulary.cls_id, windows.question, sep], axis=1
    )
    context = windows.token.with_flat_values(
      tf.gather(token_ids, windows.token.flat_values)
    )
    second = tf.concat([context, sep], axis=1)
    types = tf.concat([tf.zeros_like(first), tf.ones_like(second)], axis=1)
    word_ids = tf.concat([first, second], axis=1)
    features = {
      'input_word_ids': word_ids.to_tensor(self._vocabulary.pad_id),
      'input_mask': tf.ones_like(word_ids).to_tensor(),
      'input_type_ids': types.to_tensor(),
    }
    return features, tf.cast(first.row_lengths(), tf.int32)

  def _outputs(self, context, best: Spans, example, first_bytes, end_bytes):
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


def make_windows(
  question: tf.RaggedTensor,
  context: tf.RaggedTensor,
  seq_length: int,
  doc_stride: int,
) -> Windows:
  """Cuts contexts into windows that fit into S beside their questions.

  Args:
    question: ragged int32 [B, (q)], token ids.
    context: ragged int32 [B, (n)], token ids.
    seq_length: S; the question must leave room in it.
    doc_stride: tokens between the beginnings of two windows.
  """
  num_tokens = context.row_lengths()
  room = seq_length - 3 - question.row_lengths()  # [CLS] q [SEP] c [SEP]
  stride = tf.minimum(tf.cast(doc_stride, tf.int64), room)
  beyond = tf.maximum(num_tokens - room, 0)
  num_windows = 1 + (beyond + stride - 1) // stride
  example = tf.repeat(tf.range(tf.shape(num_tokens)[0]), num_windows)
  number = tf.ragged.range(num_windows).flat_values  # within its context
  first = number * tf.gather(stride, example)
  length = tf.minimum(
    tf.gather(room, example), tf.gather(num_tokens, example) - first
  )
  begin = tf.gather(context.row_starts(), example) + first
  token = tf.cast(tf.ragged.range(begin, begin + length), tf.int32)
  return Windows(
    example, tf.gather(question, example), token, _best_context(token)
  )


def _best_context(token: tf.RaggedTensor) -> tf.RaggedTensor:
  """Marks each token in the window that shows most around it.

  The measure is BERT's: the smaller of the numbers of tokens to its left and to
  its right, plus 0.01 times the window's length; the first window wins ties.
  """
  length = token.row_lengths()
  left = tf.ragged.range(length)
  right = tf.gather(length, left.value_rowids()) - 1 - left.flat_values
  context = tf.cast(tf.minimum(left.flat_values, right), tf.float64)
  context += 0.01 * tf.cast(tf.gather(length, left.value_rowids()), tf.float64)
  index = token.flat_values
  num_tokens = tf.reduce_max(tf.concat([index, [-1]], axis=0)) + 1
  most = tf.math.unsorted_segment_max(context, index, num_tokens)
  row = tf.where(
    context >= tf.gather(most, index) - 1e-9,
    token.value_rowids(),
    token.nrows(),
  )
  first_row = tf.math.unsorted_segment_min(row, index, num_tokens)
  return token.with_flat_values(row == tf.gather(first_row, index))


def best_spans(
  start: tf.Tensor, end: tf.Tensor, max_length: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """Returns the best span of each row.

  Args:
    start: float32 [C, n], logits of starting at a token; -inf where forbidden.
    end: float32 [C, n], of ending there.
    max_length: of a span, in tokens.

  Returns:
    First and last token, int32 [C]; their summed logits, float32 [C]; and the
    log of the sum of exp over all spans, float32 [C]. -inf without a span.
  """
  # A column that no span can use: there is one to look at in an empty row.
  start, end = (
    tf.pad(value, [[0, 0], [0, 1]], constant_values=_IMPOSSIBLE)
    for value in (start, end)
  )
  num_tokens = tf.shape(start)[1]
  scores = start[:, :, tf.newaxis] + end[:, tf.newaxis, :]  # [C, n, n]
  allowed = tf.linalg.band_part(
    tf.ones([num_tokens, num_tokens], tf.bool),
    0,
    tf.minimum(max_length, num_tokens) - 1,
  )
  scores = tf.where(allowed, scores, _IMPOSSIBLE)
  flat = tf.reshape(scores, [tf.shape(scores)[0], num_tokens * num_tokens])
  best = tf.argmax(flat, axis=1, output_type=tf.int32)
  return (
    best // num_tokens,
    best % num_tokens,
    tf.reduce_max(flat, axis=1),
    tf.reduce_logsumexp(flat, axis=1),
  )


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
