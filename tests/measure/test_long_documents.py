"""Texts whose label stands deep inside."""

import collections

import pytest

from tokendrop_tf import errors
from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.finetuning import sentence_data
from tools.measure import long_documents

CLASSES, DEPTH, PASSAGE, WORDS = 3, 50, 10, 120
# Every word names its article and its place there.
ARTICLES = [
  [f'{number}_{place}' for place in range(400 if number < CLASSES else 40)]
  for number in range(40)
]
SHAPE = long_documents.Shape(WORDS, DEPTH, PASSAGE)


@pytest.fixture(scope='module')
def files():
  return long_documents.make_rows(ARTICLES, CLASSES, (60, 30), SHAPE, seed=1)


def deciding_words(text):
  """Returns (place, article, place there) of words of articles that decide."""
  found = []
  for place, word in enumerate(text.split()):
    article, there = map(int, word.split('_'))
    if article < CLASSES:
      found.append((place, article, there))
  return found


def test_one_passage_decides_and_stands_deep(files):
  for rows in files:
    names = collections.defaultdict(set)
    for text, label in rows:
      assert len(text.split()) == WORDS
      places, articles, _ = zip(*deciding_words(text))
      assert len(places) == PASSAGE
      assert min(places) >= DEPTH
      [article] = set(articles)
      names[label].add(article)
    # One article a label, and labels are equally frequent.
    assert sorted(map(len, names.values())) == [1] * CLASSES
    labels = collections.Counter(label for _, label in rows)
    assert set(labels.values()) == {len(rows) // CLASSES}


def test_no_word_is_drawn_for_both_files(files):
  train, valid = (
    {word for text, _ in rows for word in text.split()} for rows in files
  )
  assert not train & valid


def test_the_seed_decides_all(files):
  again = long_documents.make_rows(ARTICLES, CLASSES, (60, 30), SHAPE, seed=1)
  other = long_documents.make_rows(ARTICLES, CLASSES, (60, 30), SHAPE, seed=2)
  assert again == files != other


def test_the_files_are_read_by_fine_tuning(tmp_path):
  text = tmp_path / 'articles.txt'
  text.write_text('\n\n'.join(' '.join(article) for article in ARTICLES))
  long_documents.main(
    [
      f'--input_path={text}',
      f'--output_dir={tmp_path}',
      f'--num_classes={CLASSES}',
      '--num_train=6',
      '--num_valid=3',
      f'--num_words={WORDS}',
      f'--depth_words={DEPTH}',
      f'--passage_words={PASSAGE}',
    ]
  )
  data = finetuning_configs.TextDataConfig(
    input_path=str(tmp_path / 'train.tsv')
  )
  glue = finetuning_configs.GlueConfig(
    task='custom',
    text_column='text',
    label_column='label',
    label_names=[f'article_{n}' for n in range(CLASSES)],
  )
  assert sentence_data.read_texts(data, glue, 'glue.train_data').num_rows == 6


def test_too_few_articles_are_refused():
  with pytest.raises(errors.DataError, match='Received: 5 articles'):
    long_documents.make_rows(ARTICLES[:5], CLASSES, (6, 3), SHAPE)
