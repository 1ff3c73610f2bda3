"""Linguistic acceptability, made from any text.

Is a sentence as it was written? Of every second one a word is dropped, or two
neighbouring words have changed places, as in ScaLA (Nielsen 2023, arXiv
2304.00906). Without ScaLA's rules about parts of speech a few of these are
still acceptable, so no model is always right.
"""

import os
import random
import re
from collections.abc import Iterable

from tokendrop_tf import errors, files
from tokendrop_tf.config import configs
from tokendrop_tf.data.read import corpus as corpus_lib

LABELS = ACCEPTABLE, UNACCEPTABLE = 'acceptable', 'unacceptable'
TRAIN_FILE, VALIDATION_FILE = 'train.tsv', 'validation.tsv'
# Words of a sentence that is taken.
_LEAST_WORDS, _MOST_WORDS = 6, 25
# One document in so many is for validation.
_EVERY = 5
_LEAST_ROWS = 20
_SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=[^\W\d_a-z])')


def write_files(
  config: configs.PretrainingDataConfig, folder: str, seed: int = 0
) -> tuple[str, str]:
  """Makes the task of the documents of a data section.

  Args:
    config: its text; the documents that it names, or holds out.
    folder: an existing folder for `TRAIN_FILE` and `VALIDATION_FILE`, with the
      columns `sentence` and `label`.
    seed: the same one gives the same files.

  Returns:
    The paths of both files.

  Raises:
    errors.DataError: if there are too few sentences.
  """
  corpus = corpus_lib.open_corpus(config)
  texts = [
    document.decode() for documents in corpus.read() for document in documents
  ]
  train = [t for n, t in enumerate(texts) if n % _EVERY != _EVERY - 1]
  paths = []
  for name, part in (
    (TRAIN_FILE, train),
    (VALIDATION_FILE, texts[_EVERY - 1 :: _EVERY]),
  ):
    rows = make_rows(part, seed)
    if len(rows) < _LEAST_ROWS:
      raise errors.DataError(
        f'Acceptability needs at least {_LEAST_ROWS} sentences of '
        f'{_LEAST_WORDS} to {_MOST_WORDS} words. Received: {len(rows)} for '
        f'{name} in {corpus.name}. Give more validation text.'
      )
    paths.append(os.path.join(folder, name))
    lines = ['sentence\tlabel', *('\t'.join(row) for row in rows)]
    files.write_whole_file(paths[-1], '\n'.join(lines) + '\n')
  return tuple(paths)


def make_rows(texts: Iterable[str], seed: int = 0) -> list[tuple[str, str]]:
  """Returns (sentence, label) for the sentences of texts, in random order.

  Args:
    texts: documents; every sentence is taken once.
    seed: the same one gives the same rows.
  """
  draw = random.Random(seed)
  found = list(dict.fromkeys(s for text in texts for s in sentences(text)))
  draw.shuffle(found)
  rows = []
  for number, sentence in enumerate(found):
    words = sentence.split()
    changed = corrupt(words, draw) if number % 2 else words
    label = LABELS[number % 2]
    rows.append((' '.join(changed), label))
  draw.shuffle(rows)
  return rows


def sentences(text: str) -> list[str]:
  """Returns the sentences of a text that are neither short nor long."""
  parts = (
    part.split()
    for line in text.splitlines()
    for part in _SENTENCE_END.split(line)
  )
  return [
    ' '.join(words)
    for words in parts
    if _LEAST_WORDS <= len(words) <= _MOST_WORDS and words[-1][-1] in '.!?'
  ]


def corrupt(words: list[str], draw: random.Random) -> list[str]:
  """Returns the words without one of them, or with two neighbours swapped.

  The first and the last word stay, so that neither capitals nor the full stop
  tell.

  Args:
    words: of a sentence, at least 4.
    draw: decides which words, and whether one is dropped.

  Example:
    corrupt('The cat sat on the mat.'.split(), random.Random(0))
  """
  inner = range(1, len(words) - 1)
  pairs = [n for n in inner[:-1] if words[n].lower() != words[n + 1].lower()]
  if not pairs or draw.random() < 0.5:
    dropped = draw.choice(inner)
    return words[:dropped] + words[dropped + 1 :]
  n = draw.choice(pairs)
  return [*words[:n], words[n + 1], words[n], *words[n + 2 :]]
