"""Tiny tasks that a tiny model can learn, over the words of `tiny_corpus`."""

import dataclasses
import json
import pathlib
import random

import pytest

from tokendrop_tf.text import vocabulary as vocabulary_lib

WORDS = [f'w{number:02d}' for number in range(59)]


@dataclasses.dataclass(frozen=True)
class TinyTasks:
  """Files of tasks over the words of `tiny_corpus`.

  Attributes:
    folder: where they lie.
    sst2: two files, train and dev; a text is '1' if it has the word w01.
    squad: two files; the answer is the word after w07.
  """

  folder: pathlib.Path
  sst2: tuple[str, str]
  squad: tuple[str, str]


@pytest.fixture(scope='session')
def words(tiny_corpus) -> vocabulary_lib.Vocabulary:
  return vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary)


@pytest.fixture(scope='session')
def tiny_tasks(tmp_path_factory) -> TinyTasks:
  folder = tmp_path_factory.mktemp('tiny_tasks')
  draw = random.Random(5)
  sst2 = tuple(
    _write_sst2(folder / f'{name}.tsv', draw, rows)
    for name, rows in (('train', 200), ('dev', 50))
  )
  squad = tuple(
    _write_squad(folder / f'{name}.json', draw, name)
    for name in ('train', 'dev')
  )
  return TinyTasks(folder, sst2, squad)


def _write_sst2(path, draw, num_rows):
  lines = ['sentence\tlabel']
  for row in range(num_rows):
    text = draw.choices(WORDS[2:], k=draw.randint(2, 10))
    if row % 2:
      text[draw.randrange(len(text))] = 'w01'
    lines.append(f'{" ".join(text)}\t{row % 2}')
  path.write_text('\n'.join(lines) + '\n')
  return str(path)


def _write_squad(path, draw, name):
  paragraphs = [squad_paragraph(draw, f'{name}-{n}') for n in range(12)]
  path.write_text(json.dumps({'data': [{'paragraphs': paragraphs}]}))
  return str(path)


def squad_paragraph(draw, name):
  """Returns a paragraph of 40 words with two questions."""
  text = draw.choices(WORDS[8:], k=40)
  place = draw.randrange(38)
  text[place] = 'w07'
  context = ' '.join(text)
  start = len(' '.join(text[: place + 1])) + 1
  answer = {'text': text[place + 1], 'answer_start': start}
  return {
    'context': context,
    'qas': [
      {'id': f'{name}-{n}', 'question': 'w05 w06', 'answers': [answer]}
      for n in range(2)
    ],
  }
