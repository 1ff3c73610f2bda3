"""Windows of SQuAD's paragraphs that fit into a sequence, with their answers.

A window is `[CLS] question [SEP] part of the paragraph [SEP]`. Paragraphs are
tokenized once, with the byte offsets of every token, so that answers map to
characters and back exactly; windows are rows of numbers, and become ids only in
the batch.

Letters: Q questions, W windows, B batch of a replica, S sequence length.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tokendrop_tf.config import configs, finetuning_configs
from tokendrop_tf.finetuning import (
  answer_spans,
  batches,
  squad_files,
)
from tokendrop_tf.text import vocabulary as vocabulary_lib

_TEXTS_PER_STEP = 2048


@dataclasses.dataclass(frozen=True)
class TokenTable:
  """Tokens of many texts, one after the other.

  Attributes:
    ids: int32 [T].
    starts: byte offset in its text at which a token starts, int32 [T].
    ends: byte offset behind it, int32 [T].
    offsets: tokens of text i are those from `offsets[i]` to `offsets[i + 1]`,
      int64 [number of texts + 1].
  """

  ids: np.ndarray
  starts: np.ndarray
  ends: np.ndarray
  offsets: np.ndarray

  @property
  def lengths(self) -> np.ndarray:
    """Tokens of every text, int64."""
    return np.diff(self.offsets)


@dataclasses.dataclass(frozen=True)
class Windows:
  """All windows of all questions.

  Attributes:
    data: the questions and paragraphs.
    contexts: tokens of the paragraphs.
    questions: tokens of the questions.
    question: number of the window's question, int32 [W].
    begin: place of the window's first token in the paragraph, int32 [W].
    length: tokens of the paragraph in the window, int32 [W].
    query_length: tokens of the question that are kept, int32 [W].
    start: place of the answer's first token in the sequence, int32 [W]; 0, that
      of [CLS], where the window has no answer.
    end: the same of its last token.
    num_lost: questions whose answer could not be found in the paragraph.
  """

  data: squad_files.SquadData
  contexts: TokenTable
  questions: TokenTable
  question: np.ndarray
  begin: np.ndarray
  length: np.ndarray
  query_length: np.ndarray
  start: np.ndarray
  end: np.ndarray
  num_lost: int

  @property
  def num_windows(self) -> int:
    return len(self.question)

  @functools.cached_property
  def context(self) -> np.ndarray:
    """Number of every window's paragraph, int32 [W]."""
    of_question = [question.context_index for question in self.data.questions]
    return np.array(of_question, np.int32)[self.question]


def tokenize(
  texts: list[str], vocabulary: vocabulary_lib.Vocabulary
) -> TokenTable:
  """Tokenises texts, keeping where every token stands.

  Example:
    tokenize(['A text.'], vocabulary).starts  # [0, 2, 6]
  """
  tokenizer = vocabulary.tokenizer()
  parts = []
  for first in range(0, len(texts), _TEXTS_PER_STEP):
    some = tf.constant(
      [t.encode() for t in texts[first : first + _TEXTS_PER_STEP]]
    )
    ids, starts, ends = tokenizer.tokenize_with_offsets(some)
    parts.append(
      (
        ids.flat_values.numpy(),
        starts.flat_values.numpy(),
        ends.flat_values.numpy(),
        ids.row_lengths().numpy(),
      )
    )
  ids, starts, ends, lengths = (np.concatenate(part) for part in zip(*parts))
  return TokenTable(
    ids.astype(np.int32),
    starts.astype(np.int32),
    ends.astype(np.int32),
    np.concatenate([[0], np.cumsum(lengths)]),
  )


@functools.lru_cache(maxsize=4)
def make_windows(
  input_path: str,
  version: str,
  setting: str,
  vocabulary_path: str,
  lower_case: bool,
  seq_length: int,
  doc_stride: int,
  query_length: int,
  is_training: bool,
  needs_answers: bool = False,
) -> Windows:
  """Reads files and cuts them into windows; the same call does it once.

  Args:
    input_path: as in `squad_files.read`.
    version: 'v1.1' or 'v2.0'.
    setting: name of the setting that gave the path.
    vocabulary_path: the vocabulary file.
    lower_case: whether text is lower-cased.
    seq_length: S.
    doc_stride: tokens from the start of a window to that of the next.
    query_length: tokens kept of a question.
    is_training: finds the first answer of every question; one that is not in
      its paragraph counts as lost, and its windows are omitted.
    needs_answers: as in `squad_files.read`.
  """
  data = squad_files.read(input_path, version, setting, needs_answers)
  words = vocabulary_lib.Vocabulary.from_file(vocabulary_path, lower_case)
  contexts = tokenize(data.contexts, words)
  questions = tokenize([question.text for question in data.questions], words)
  spans = _answer_spans(data, contexts) if is_training else None
  return _cut(
    data, contexts, questions, spans, seq_length, doc_stride, query_length
  )


def windows_of(
  data: finetuning_configs.TextDataConfig,
  squad: finetuning_configs.SquadConfig,
  vocabulary: configs.VocabularyConfig,
  setting: str,
) -> Windows:
  """Returns the windows of a data section; see `make_windows`.

  Questions of `squad.validation_data` need answers.
  """
  return make_windows(
    str(data.input_path),
    squad.version,
    setting,
    vocabulary.path,
    vocabulary.lower_case,
    data.seq_length,
    squad.doc_stride,
    squad.query_length,
    data.is_training,
    needs_answers=setting.endswith('validation_data'),
  )


def _answer_spans(data, contexts):
  """Returns first and last token of every question's answer, int64 [Q, 2].

  -1 stands for no answer, -2 for one that is not where it should be.
  """
  spans = np.full([len(data.questions), 2], -1, np.int64)
  for number, question in enumerate(data.questions):
    if question.answers:
      text, first = question.answers[0]
      spans[number] = _token_span(
        data.contexts[question.context_index],
        _tokens_of(contexts, question.context_index),
        text,
        first,
      )
    elif not question.is_impossible:
      spans[number] = -2
  return spans


def _tokens_of(table, index):
  begin, end = table.offsets[index], table.offsets[index + 1]
  return table.starts[begin:end], table.ends[begin:end]


def _token_span(context, tokens, text, first):
  """Returns the tokens that cover characters `first` to the end of `text`."""
  lost = (-2, -2)
  if not text or first < 0 or context[first : first + len(text)] != text:
    return lost
  begin = first if context.isascii() else len(context[:first].encode())
  end = begin + (len(text) if context.isascii() else len(text.encode()))
  starts, ends = tokens
  # Tokens are in order and do not overlap.
  first_token = int(np.searchsorted(ends, begin, side='right'))
  last_token = int(np.searchsorted(starts, end, side='left')) - 1
  if first_token > last_token:
    return lost
  return first_token, last_token


def _cut(data, contexts, questions, spans, seq_length, stride, max_query):
  context_of = np.array([q.context_index for q in data.questions], np.int64)
  query_lengths = np.minimum(questions.lengths, max_query)
  cut = answer_spans.cut_windows(
    query_lengths, contexts.lengths[context_of], seq_length, stride
  )
  question, begin, length = (column.numpy() for column in cut)
  num_lost = 0
  if spans is not None:
    is_lost = spans[:, 0] == -2
    kept = ~is_lost[question]
    question, begin, length = question[kept], begin[kept], length[kept]
    num_lost = int(is_lost.sum())
  start, end = _places(
    spans, question, begin, length, query_lengths[question] + 2
  )
  return Windows(
    data=data,
    contexts=contexts,
    questions=questions,
    question=question,
    begin=begin,
    length=length,
    query_length=query_lengths[question].astype(np.int32),
    start=start.astype(np.int32),
    end=end.astype(np.int32),
    num_lost=num_lost,
  )


def _places(spans, question, begin, length, shift):
  """Returns the answers' places in the sequences, 0 without one."""
  if spans is None:
    return np.zeros_like(begin), np.zeros_like(begin)
  first, last = spans[question].T
  is_inside = (first >= begin) & (last < begin + length)
  return (
    np.where(is_inside, first - begin + shift, 0),
    np.where(is_inside, last - begin + shift, 0),
  )


def window_batches(
  windows: Windows,
  vocabulary: vocabulary_lib.Vocabulary,
  data: finetuning_configs.TextDataConfig,
  context: tf.distribute.InputContext | None = None,
  first_batch: int = 0,
) -> tf.data.Dataset:
  """Returns batches of windows.

  Features: `input_word_ids`, `input_mask`, `input_type_ids`, int32 [B, S];
  `example_id`, int64 [B], the number of the window, -1 for rows that only fill
  up a batch; `start_positions`, `end_positions`, int32 [B].

  Args:
    windows: the windows.
    vocabulary: the vocabulary of their ids.
    data: batch size, S and seed.
    context: the part of a distributed job that this pipeline feeds.
    first_batch: of training data, number of batches read by an earlier run.
  """
  return batches.make_batches(
    data,
    windows.num_windows,
    _Assembler(windows, vocabulary, data.seq_length),
    context,
    first_batch,
  )


class _Assembler:
  """Looks up the ids of windows, in a graph.

  Args:
    windows: the windows.
    vocabulary: the vocabulary.
    seq_length: S.
  """

  def __init__(self, windows, vocabulary, seq_length):
    self._vocabulary = vocabulary
    self._seq_length = seq_length
    question, context = windows.question, windows.context
    self._context_ids = tf.constant(_padded(windows.contexts.ids))
    self._question_ids = tf.constant(_padded(windows.questions.ids))
    columns = {
      'context_begin': windows.contexts.offsets[context] + windows.begin,
      'question_begin': windows.questions.offsets[question],
      'length': windows.length,
      'query_length': windows.query_length,
      'start': windows.start,
      'end': windows.end,
    }
    self._columns = {
      name: tf.constant(column.astype(np.int32))
      for name, column in columns.items()
    }

  def __call__(self, rows):
    """int64 [B] numbers of windows -> features."""
    column = {
      name: tf.gather(values, rows) for name, values in self._columns.items()
    }
    sequences = self._sequences(
      {name: values[:, tf.newaxis] for name, values in column.items()}
    )
    return {
      **sequences,
      'start_positions': column['start'],
      'end_positions': column['end'],
    }

  def _sequences(self, column):
    """[CLS] question [SEP] window [SEP] [PAD] ..., int32 [B, S] each."""
    words = self._vocabulary
    place = tf.range(self._seq_length)[tf.newaxis]  # [1, S]
    first_sep = column['query_length'] + 1  # [B, 1]
    last_sep = first_sep + 1 + column['length']
    in_question = (place >= 1) & (place < first_sep)
    in_context = (place > first_sep) & (place < last_sep)
    question = _look_up(
      self._question_ids, column['question_begin'] + place - 1, in_question
    )
    context = _look_up(
      self._context_ids,
      column['context_begin'] + place - first_sep - 1,
      in_context,
    )
    is_sep = (place == first_sep) | (place == last_sep)
    special = tf.where(is_sep, words.sep_id, words.pad_id)
    special = tf.where(place == 0, words.cls_id, special)
    ids = tf.where(
      in_context, context, tf.where(in_question, question, special)
    )
    mask = tf.cast(place <= last_sep, tf.int32)
    types = tf.cast((place > first_sep) & (place <= last_sep), tf.int32)
    return {'input_word_ids': ids, 'input_mask': mask, 'input_type_ids': types}


def _padded(ids):
  """A text without tokens may lie at the very end."""
  return np.concatenate([ids, np.zeros([1], np.int32)])


def _look_up(table, indices, is_wanted):
  return tf.gather(table, tf.where(is_wanted, indices, 0))
