"""A numbered text: every word occurs once, so that nothing can hide."""

import dataclasses
import os
import pathlib
import random

import pytest

from tokendrop_tf.config import configs
from tokendrop_tf.text import vocabulary as vocabulary_lib

NUM_WORDS = 3000


@dataclasses.dataclass(frozen=True)
class NumberedText:
  """Documents of words that occur once in all of them.

  Attributes:
    folder: where the files lie.
    documents: the words of every document.
    vocabulary: section with the special tokens and all words.
  """

  folder: pathlib.Path
  documents: list[list[str]]
  vocabulary: configs.VocabularyConfig

  @property
  def words(self) -> vocabulary_lib.Vocabulary:
    return vocabulary_lib.Vocabulary.from_file(self.vocabulary.path)

  def config(self, **settings) -> configs.PretrainingDataConfig:
    """Returns a data section that reads this text."""
    defaults = {
      'input_path': str(self.folder / 'text.txt'),
      'is_training': True,
      'global_batch_size': 4,
      'seq_length': 16,
      'max_predictions_per_seq': 3,
      'mask_rate': 0.15,
      'shuffle_buffer_size': 64,
      'num_epochs': 1,
      'drop_remainder': False,
    }
    return configs.PretrainingDataConfig(**(defaults | settings))


@pytest.fixture(scope='session')
def numbered_text(tmp_path_factory) -> NumberedText:
  folder = tmp_path_factory.mktemp('numbered_text')
  draw = random.Random(3)
  words = [f'n{number}' for number in range(NUM_WORDS)]
  documents, left = [], list(words)
  while left:
    size = draw.choice([1, 2, 13, 14, 15, 28, 60, 100])
    documents.append(left[:size])
    left = left[size:]
  vocabulary = folder / 'vocab.txt'
  vocabulary.write_text(
    '\n'.join([*vocabulary_lib.SPECIAL_TOKENS, *words]) + '\n'
  )
  lines = [_in_lines(draw, document) for document in documents]
  (folder / 'text.txt').write_text('\n\n'.join(lines) + '\n')
  return NumberedText(
    folder, documents, configs.VocabularyConfig(path=str(vocabulary))
  )


def _in_lines(draw, words):
  size = draw.randint(1, 20)
  rows = [words[start : start + size] for start in range(0, len(words), size)]
  return '\n'.join(' '.join(row) for row in rows)


@pytest.fixture(scope='session')
def real_text() -> pathlib.Path:
  """The folder of optional real text."""
  default = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  folder = pathlib.Path(os.environ.get('TOKENDROP_TEST_TEXT') or default)
  if not (folder / 'wikipedia' / 'valid.txt.gz').exists():
    pytest.skip(
      'No real text: set TOKENDROP_TEST_TEXT to a folder with '
      'wikipedia/train.txt.gz and wikipedia/valid.txt.gz.'
    )
  return folder / 'wikipedia'
