"""Questions and answers from SQuAD's official JSON, plain or gzip.

Files as annotation tools write them are read too: ids may be numbers, answers
may be null or absent, and `is_impossible` may be null or a string.
"""

import dataclasses
import json

from tokendrop_tf import errors
from tokendrop_tf.data.read import text_files


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
  """

  path: str
  contexts: list[str]
  questions: list[Question]

  @property
  def articles(self) -> list[dict]:
    """The questions as the official scores take them, as one article."""
    questions = [
      {
        'id': question.question_id,
        'question': question.text,
        'answers': [{'text': text} for text, _ in question.answers],
      }
      for question in self.questions
    ]
    return [{'paragraphs': [{'qas': questions}]}]


def read(
  input_path: str, version: str, setting: str, needs_answers: bool = False
) -> SquadData:
  """Reads the questions of one or several files.

  Args:
    input_path: comma-separated files and globs, `.json` or `.json.gz`.
    version: 'v1.1', where every question with answers has one, or 'v2.0'.
    setting: name of the setting that gave the path, for messages.
    needs_answers: refuses a question of v1.1 that has no answer.

  Raises:
    errors.DataError: naming the file and the place in it, for what is not
      SQuAD.

  Example:
    data = read('dev-v1.1.json.gz', 'v1.1', 'squad.validation_data')
    len(data.questions)  # 10570
  """
  paths = text_files.match_files(input_path, setting)
  reader = _Reader(version, setting, needs_answers)
  for path in paths:
    reader.read(path)
  return SquadData(', '.join(paths), reader.contexts, reader.questions)


class _Reader:
  """Collects the questions of files and checks each field."""

  def __init__(self, version, setting, needs_answers):
    self._version = version
    self._setting = setting
    self._needs_answers = needs_answers
    self._ids = {}
    self.contexts, self.questions = [], []

  def read(self, path):
    document = _load(path, self._setting)
    articles = _field(document, 'data', list, f'the top of {path}')
    before = len(self.questions)
    for number, article in enumerate(articles):
      place = f'data[{number}]'
      paragraphs = _field(article, 'paragraphs', list, f'{place} of {path}')
      for index, paragraph in enumerate(paragraphs):
        self._paragraph(paragraph, path, f'{place}.paragraphs[{index}]')
    if len(self.questions) == before:
      raise errors.DataError(
        f'{self._setting} must name files with questions. Received: {path}, '
        f'which has none. Set {self._setting}.'
      )

  def _paragraph(self, paragraph, path, place):
    where = f'{place} of {path}'
    self.contexts.append(_field(paragraph, 'context', str, where))
    for index, entry in enumerate(_field(paragraph, 'qas', list, where)):
      self._question(entry, path, f'{place}.qas[{index}]')

  def _question(self, entry, path, place):
    where = f'{place} of {path}'
    question_id = str(_field(entry, 'id', (str, int), where))
    if question_id in self._ids:
      raise errors.DataError(
        f'The id of a question must occur once. Received: {question_id!r} at '
        f'{where} and at {self._ids[question_id]}. Correct the file.'
      )
    self._ids[question_id] = where
    is_impossible = _is_impossible(entry, where)
    answers = ()
    if not is_impossible and entry.get('answers') is not None:
      answers = tuple(_answers(entry, path, place))
    self._check_answers(question_id, answers, is_impossible, where)
    self.questions.append(
      Question(
        question_id,
        _field(entry, 'question', str, where),
        len(self.contexts) - 1,
        answers,
        is_impossible,
      )
    )

  def _check_answers(self, question_id, answers, is_impossible, where):
    if self._version != 'v1.1':
      return
    if is_impossible:
      raise errors.DataError(
        'SQuAD v1.1 has an answer to every question. Received: the '
        f'unanswerable question {question_id!r} at {where}. Set '
        "squad.version = 'v2.0'."
      )
    if self._needs_answers and not answers:
      raise errors.DataError(
        f'{self._setting} must have an answer to every question, to score it. '
        f'Received: question {question_id!r} without one at {where}. Add the '
        "answer, remove the question, or set squad.version = 'v2.0'."
      )


def _is_impossible(entry, where) -> bool:
  value = entry.get('is_impossible')
  known = {None: False, 'false': False, 'true': True}
  key = value.lower() if isinstance(value, str) else value
  if isinstance(key, (bool, int)) and key in (0, 1):
    return bool(key)
  if isinstance(key, (str, type(None))) and key in known:
    return known[key]
  raise errors.DataError(
    "SQuAD must have true or false under 'is_impossible'. Received: "
    f'{value!r} at {where}. Correct the file.'
  )


def _answers(entry, path, place):
  answers = _field(entry, 'answers', list, f'{place} of {path}')
  for index, answer in enumerate(answers):
    where = f'{place}.answers[{index}] of {path}'
    yield (
      _field(answer, 'text', str, where),
      _field(answer, 'answer_start', int, where),
    )


_KINDS = {
  str: 'text',
  list: 'a list',
  int: 'a number',
  (str, int): 'text or a number',
}


def _field(record, name, kind, where):
  """Returns a field of a JSON object, of one of `_KINDS`."""
  value = record.get(name) if isinstance(record, dict) else None
  if not isinstance(value, kind) or isinstance(value, bool):
    found = 'nothing' if value is None else type(value).__name__
    raise errors.DataError(
      f'SQuAD must have {_KINDS[kind]} under {name!r}. Received: {found} at '
      f'{where}. Correct the file, or name another.'
    )
  if isinstance(value, str) and not text_files.is_text(value):
    raise errors.DataError(
      f'SQuAD must have whole characters under {name!r}. Received: half of an '
      f'emoji or the like (a lone surrogate) at {where}. Correct the file.'
    )
  return value


def _load(path, setting):
  text = text_files.read_text(path)
  try:
    return json.loads(text)
  except ValueError as error:
    raise errors.DataError(
      f'{setting} must name SQuAD files in JSON. Received: {path}: {error}. '
      f'Set {setting}.'
    ) from error
