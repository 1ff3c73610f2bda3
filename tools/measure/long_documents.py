"""Makes a classification that only a reader of long texts can solve.

  python tools/make_long_documents.py --input_path=wikipedia/train.txt.gz \\
      --output_dir=tasks/long

A text is a chain of passages of many articles. One of them, behind at least
--depth_words words, is of one of the longest articles; which one, is the label.
All other passages are of articles that are no label, chosen without regard to
it. A word is at least one token, so a model that reads the first 512 tokens
sees nothing of the answer and can only guess: it is right in one case of
--num_classes. Texts and labels are columns of train.tsv and valid.tsv, for
gin_configs/finetune/custom.gin; no passage is drawn for both files.
"""

import argparse
import dataclasses
import os
import random
from collections.abc import Iterable, Sequence

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import tensorflow as tf

from tokendrop_tf import errors, files
from tokendrop_tf.data.read import documents, text_files

TEXT, LABEL = 'text', 'label'
# Share of each article, and of the articles that are no label, for training.
_TRAIN_SHARE = 0.8
_LENGTHS = {
  'num_words': 'Length of a text',
  'depth_words': 'What stands before the passage that decides',
  'passage_words': 'Length of a passage',
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Lengths of a text, in words.

  Attributes:
    num_words: of the whole text.
    depth_words: before the passage that decides.
    passage_words: of a passage.
  """

  num_words: int = 2400
  depth_words: int = 600
  passage_words: int = 120


def make_rows(
  articles: Iterable[Sequence[str]],
  num_classes: int,
  counts: Sequence[int],
  shape: Shape,
  seed: int = 0,
) -> list[list[tuple[str, str]]]:
  """Returns the rows of the training and of the validation file.

  Args:
    articles: words of every article.
    num_classes: articles that are labels; the longest are taken.
    counts: rows of each file.
    shape: lengths of a text.
    seed: all that is drawn follows from it.

  Returns:
    For each file its rows of text and label.

  Raises:
    errors.DataError: if there are too few articles that are long enough.
  """
  passage = shape.passage_words
  articles = sorted(articles, key=len, reverse=True)
  deciding = articles[:num_classes]
  # Both parts of an article have passages to draw.
  shortest = int(passage / (1.0 - _TRAIN_SHARE)) + 1
  others = [a for a in articles[num_classes:] if len(a) >= passage]
  if len(deciding[-1]) < shortest or len(others) < 10:
    raise errors.DataError(
      f'--input_path must have {num_classes} articles of {shortest} words and '
      f'10 others of {passage}. Received: {len(articles)} articles, the '
      f'{num_classes}th longest of {len(deciding[-1])} words, and '
      f'{len(others)} others. Set --num_classes or --passage_words.'
    )
  draw = random.Random(seed)
  draw.shuffle(others)
  drawn = []
  for is_training, count in zip((True, False), counts):
    parts = [_part(article, is_training) for article in deciding]
    fillers = _part(others, is_training)
    drawn.append(
      [
        _row(draw, row % num_classes, parts, fillers, shape)
        for row in range(count)
      ]
    )
    draw.shuffle(drawn[-1])
  return drawn


def _part(items, is_training):
  cut = int(_TRAIN_SHARE * len(items))
  return items[:cut] if is_training else items[cut:]


def _row(draw, label, parts, fillers, shape):
  """Returns (text, label): fillers, the passage that decides, fillers."""
  size = shape.passage_words
  before = -(-shape.depth_words // size)
  places = max(shape.num_words // size, before + 1)
  place = draw.randrange(before, places)
  words = []
  for number in range(places):
    article = parts[label] if number == place else draw.choice(fillers)
    start = draw.randrange(len(article) - size + 1)
    words += article[start : start + size]
  return ' '.join(words), f'article_{label}'


def read_articles(input_path: str) -> list[list[str]]:
  """Returns the words of every document of text files.

  Args:
    input_path: comma-separated files or globs; see `data.read.documents`.
  """
  return [
    document.decode().replace('\0', ' ').split()
    for path in text_files.match_files(input_path, '--input_path')
    for batch in documents.read_documents(path)
    for document in batch
  ]


def write_rows(path: str, rows: Sequence[tuple[str, str]]) -> None:
  """Writes a TSV file with a header."""
  lines = ('\t'.join(row) + '\n' for row in [(TEXT, LABEL), *rows])
  files.write_whole_file(path, ''.join(lines))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line of `tools/make_long_documents.py`."""
  parser = command_line.ArgumentParser(
    prog='tools/make_long_documents.py', description=__doc__
  )
  parser.add_argument('--input_path', required=True, help='Text of articles.')
  parser.add_argument('--output_dir', required=True, help='A folder.')
  parser.add_number('--num_classes', 8, 'Labels.', least=2)
  parser.add_number('--num_train', 4000, 'Texts for training.', least=1)
  parser.add_number('--num_valid', 400, 'Texts for validation.', least=1)
  for field in dataclasses.fields(Shape):
    text = f'{_LENGTHS[field.name]}, in words.'
    parser.add_number(f'--{field.name}', field.default, text, least=1)
  parser.add_number('--seed', 0, 'All that is drawn follows from it.', least=0)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  """Writes both files."""
  flags = parse_arguments(argv)
  shape = Shape(
    **{
      field.name: getattr(flags, field.name)
      for field in dataclasses.fields(Shape)
    }
  )
  drawn = make_rows(
    read_articles(flags.input_path),
    flags.num_classes,
    (flags.num_train, flags.num_valid),
    shape,
    flags.seed,
  )
  tf.io.gfile.makedirs(flags.output_dir)
  for name, rows in zip(('train.tsv', 'valid.tsv'), drawn):
    path = os.path.join(flags.output_dir, name)
    write_rows(path, rows)
    print(f'{path}: {len(rows):,} texts of {flags.num_classes} labels')


def console_main() -> None:
  """Entry point of the tool."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
