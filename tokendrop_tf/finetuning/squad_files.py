"""Reads questions and answers from SQuAD's official JSON, plain or gzip."""

import dataclasses
import json

from tokendrop_tf import errors
from tokendrop_tf.data import text_files


@dataclasses.dataclass(frozen=True)
class Question:
  """One question about a paragraph.

  Attributes:
    question_id: its name in the file.
    text: the question.
    context_index: number of its paragraph.
    answers: (text, first character in the context), in code points; ()
      without.
    is_impossible: whether the paragraph has no answer, as far as it is known.
  """

  question_id: str
  text: str
  context_index: int
  answers: tuple[tuple[str, int], ...]
  is_impossible: bool


@dataclasses.dataclass(frozen=True)
class SquadData:
  """The contents of one or more files.

  Attributes:
    path: what was read, for messages.
    contexts: the paragraphs.
    questions: the questions, in order.
    articles: the list under 'data', as official scores take it.
  """

  path: str
  contexts: list[str]
  questions: list[Question]
  articles: list[dict]


def read(input_path: str, version: str, setting: str) -> SquadData:
  """Reads the questions of one or several files.

  Args:
    input_path: comma-separated files and globs, `.json` or `.json.gz`.
    version: 'v1.1', where every question with answers has one, or 'v2.0'.
    setting: name of the setting that gave the path, for messages.

  Raises:
    errors.DataError: naming the file and the place in it, for what is no
      SQuAD.

  Example:
    data = read('dev-v1.1.json.gz', 'v1.1', 'squad.validation_data')
    len(data.questions)  # 10570
  """
  paths = text_files.match_files(input_path, setting)
  reader = _Reader(version, setting)
  for path in paths:
    reader.read(path)
  return SquadData(
    ', '.join(paths), reader.contexts, reader.questions, reader.articles
  )


class _Reader:
  """Collects the questions of files, checking each field."""

  def __init__(self, version, setting):
    self._version = version
    self._setting = setting
    self._ids = {}
    self.contexts, self.questions, self.articles = [], [], []

  def read(self, path):
    articles = _field(_load(path, self._setting), 'data', list, path, '')
    before = len(self.questions)
    for number, article in enumerate(articles):
      place = f'data[{number}]'
      paragraphs = _field(article, 'paragraphs', list, path, place)
      for index, paragraph in enumerate(paragraphs):
        self._paragraph(paragraph, path, f'{place}.paragraphs[{index}]')
    if len(self.questions) == before:
      raise errors.DataError(
        f'{self._setting} must name files with questions. Received: {path}, '
        f'which has none. Set {self._setting}.'
      )
    self.articles.extend(articles)

  def _paragraph(self, paragraph, path, place):
    self.contexts.append(_field(paragraph, 'context', str, path, place))
    for index, entry in enumerate(_field(paragraph, 'qas', list, path, place)):
      self._question(entry, path, f'{place}.qas[{index}]')

  def _question(self, entry, path, place):
    question_id = _field(entry, 'id', str, path, place)
    if question_id in self._ids:
      raise errors.DataError(
        f'The id of a question must occur once. Received: {question_id!r} at '
        f'{place} of {path} and at {self._ids[question_id]}. Correct the file.'
      )
    self._ids[question_id] = f'{place} of {path}'
    answers = entry.get('answers', [])
    is_impossible = bool(entry.get('is_impossible', False))
    if self._version == 'v1.1' and is_impossible:
      raise errors.DataError(
        'SQuAD v1.1 has an answer to every question. Received: the '
        f'unanswerable question {question_id!r} at {place} of {path}. Set '
        "squad.version = 'v2.0'."
      )
    self.questions.append(
      Question(
        question_id,
        _field(entry, 'question', str, path, place),
        len(self.contexts) - 1,
        () if is_impossible else tuple(_answers(answers, path, place)),
        is_impossible,
      )
    )


def _answers(answers, path, place):
  for index, answer in enumerate(answers):
    where = f'{place}.answers[{index}]'
    yield (
      _field(answer, 'text', str, path, where),
      _field(answer, 'answer_start', int, path, where),
    )


def _field(record, name, kind, path, place):
  value = record.get(name) if isinstance(record, dict) else None
  if not isinstance(value, kind):
    names = {str: 'text', list: 'a list', int: 'a number'}
    found = 'nothing' if value is None else type(value).__name__
    raise errors.DataError(
      f'SQuAD must have {names[kind]} under {name!r}. Received: {found} at '
      f'{place or "the top"} of {path}. Correct the file, or name another.'
    )
  return value


def _load(path, setting):
  text_files.check_utf8(path)
  text = b''.join(text_files.chunks(path)).decode('utf-8-sig')
  try:
    return json.loads(text)
  except ValueError as error:
    raise errors.DataError(
      f'{setting} must name SQuAD files in JSON. Received: {path}: {error}. '
      f'Set {setting}.'
    ) from error
