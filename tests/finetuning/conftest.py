"""A tiny pretrained run, and tiny tasks that a tiny model can learn."""

import dataclasses
import json
import pathlib
import random

import pytest
import tensorflow as tf
from official.core import exp_factory

from tokendrop_tf import experiments, gin_support, run_folder
from tokendrop_tf import task as task_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib

WORDS = [f'w{number:02d}' for number in range(59)]
PRETRAINED = (
  'model.num_layers = 3',
  'model.hidden_size = 16',
  'model.num_attention_heads = 2',
  'model.intermediate_size = 32',
  'model.max_position_embeddings = 32',
  'model.initializer_range = 0.2',
  'model.dropout_rate = 0.0',
  'train_data.seq_length = 32',
  'train_data.max_predictions_per_seq = 5',
  'token_drop.token_keep_k = 16',
)


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
def pretrained(tiny_corpus, tmp_path_factory) -> str:
  """A model_dir as pretraining leaves it, weights drawn at random."""
  folder = str(tmp_path_factory.mktemp('pretrained'))
  gin_support.parse(
    [],
    [*PRETRAINED, f"vocabulary.path = '{tiny_corpus.vocabulary}'"],
    experiments.sections(),
  )
  params = exp_factory.get_exp_config(experiments.PRETRAINING)
  params.task.model.vocab_size = len(WORDS) + 5
  run_folder.save_configuration(params, '', folder)
  model = task_lib.TokenDropPretrainingTask(params.task).build_model()
  tf.train.CheckpointManager(
    tf.train.Checkpoint(model=model, **model.checkpoint_items), folder, 1
  ).save()
  gin_support.clear()
  return folder


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
