import gzip
import itertools

import pytest
import tensorflow as tf
import tiny_runs

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data import loader
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.text import vocabulary as vocabulary_lib

TEXTS = [f'title {number}\nfirst line\nsecond line' for number in range(25)]


def write(path, texts=tuple(TEXTS), separator='\n\n', end='\n'):
  content = (separator.join(texts) + end).encode()
  path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)
  return str(path)


def config(**settings):
  return configs.PretrainingDataConfig(**({'is_training': True} | settings))


def read(corpus, files=None, skip=0):
  batches = corpus.documents(files, skip).as_numpy_iterator()
  return [text.decode() for text in itertools.chain.from_iterable(batches)]


def test_a_document_ends_with_its_file(tmp_path):
  paths = [
    write(tmp_path / f'{name}.txt', [name], end='') for name in ('one', 'two')
  ]
  assert read(corpus_lib.TextCorpus(tuple(paths))) == ['one', 'two']


def test_empty_files_are_passed_over(tmp_path):
  paths = [
    write(tmp_path / 'a.txt', [''], end=''),
    write(tmp_path / 'b.txt', ['text']),
    write(tmp_path / 'c.txt', ['\n \n']),
  ]
  assert read(corpus_lib.TextCorpus(tuple(paths))) == ['text']


def test_files_in_another_order_have_the_same_documents(tmp_path):
  paths = tuple(
    write(tmp_path / f'{index}.txt', [f'{index} {text}' for text in TEXTS])
    for index in range(10)
  )
  corpus = corpus_lib.TextCorpus(paths)
  order = tf.constant([9, 3, 5, -1, 7, 1, 0, 2, 4, 6, 8], tf.int64)
  assert read(corpus, order)[:25] == [f'9 {text}' for text in TEXTS]
  assert sorted(read(corpus)) == sorted(read(corpus, order))


@pytest.mark.parametrize('skip', [0, 1, 24, 25, 30, 75])
def test_documents_can_be_skipped(tmp_path, skip):
  paths = tuple(write(tmp_path / f'{index}.txt') for index in range(3))
  corpus = corpus_lib.TextCorpus(paths, corpus_lib.HeldOut(4))
  assert read(corpus, skip=skip) == read(corpus)[skip:]


@pytest.mark.parametrize('every', [2, 7, 100])
def test_held_out_documents_are_disjoint_and_complete(tmp_path, every):
  paths = tuple(
    write(tmp_path / f'{index}.txt', [f'{index} {text}' for text in TEXTS])
    for index in range(3)
  )
  train = read(corpus_lib.TextCorpus(paths, corpus_lib.HeldOut(every, False)))
  valid = read(corpus_lib.TextCorpus(paths, corpus_lib.HeldOut(every, True)))
  everything = read(corpus_lib.TextCorpus(paths))
  assert not set(train) & set(valid)
  assert sorted(train + valid) == sorted(everything)


@pytest.mark.parametrize('every', [0, 3])
def test_documents_are_read_without_a_graph_too(tmp_path, every):
  paths = tuple(write(tmp_path / f'{index}.txt') for index in range(2))
  corpus = corpus_lib.TextCorpus(paths, corpus_lib.HeldOut(every, False))
  found = itertools.chain.from_iterable(corpus.read())
  assert [text.decode() for text in found] == read(corpus)


def test_every_nth_document_of_a_file_is_held_out(tmp_path):
  path = write(tmp_path / 'a.txt')
  valid = read(corpus_lib.TextCorpus((path,), corpus_lib.HeldOut(10, True)))
  assert valid == [TEXTS[9], TEXTS[19]]


def test_files_of_one_document_are_held_out_too(tmp_path):
  paths = tuple(
    write(tmp_path / f'{index}.txt', [f'text {index}']) for index in range(6)
  )
  valid = read(corpus_lib.TextCorpus(paths, corpus_lib.HeldOut(3, True)))
  assert valid == ['text 2', 'text 5']


def test_the_side_follows_from_training(tmp_path):
  path = write(tmp_path / 'a.txt')
  settings = {'input_path': path, 'held_out_documents': 5}
  train = read(corpus_lib.open_corpus(config(**settings)))
  valid = read(
    corpus_lib.open_corpus(config(**(settings | {'is_training': False})))
  )
  assert (len(train), len(valid)) == (20, 5)


@pytest.mark.parametrize('num_books', [1, 14])
def test_of_few_documents_passages_are_held_out(tmp_path, num_books):
  """Together both sides have the whole text, each in its order."""
  books = [
    '\n'.join(f'book {book} line {line}' for line in range(3000))
    for book in range(num_books)
  ]
  path = write(tmp_path / 'a.txt', books)
  train, valid = (
    read(
      corpus_lib.open_corpus(
        config(input_path=path, held_out_documents=50, is_training=training)
      )
    )
    for training in (True, False)
  )
  assert 0.01 < len(valid) / len(train + valid) < 0.03
  lines = [line for text in train + valid for line in text.split('\n')]
  assert sorted(lines) == sorted('\n'.join(books).split('\n'))


def test_of_a_book_in_one_line_passages_are_held_out(tmp_path):
  path = tmp_path / 'book.txt'
  path.write_text(' '.join(f'word{number}' for number in range(10_000)))
  held_out = config(
    input_path=str(path), held_out_documents=50, is_training=False
  )
  passages = read(corpus_lib.open_corpus(held_out))
  assert 0.01 < sum(map(len, passages)) / path.stat().st_size < 0.03


def test_many_documents_are_held_out_whole(tmp_path):
  texts = [f'{text}\n{"more " * 200}'.strip() for text in TEXTS] * 3
  path = write(tmp_path / 'a.txt', texts)
  corpus = corpus_lib.open_corpus(config(input_path=path, held_out_documents=5))
  assert set(read(corpus)) <= set(texts)


def test_the_mean_length_is_of_documents(tmp_path):
  path = write(tmp_path / 'a.txt', ['x' * 98] * 300, separator='\n\n\n')
  mean = corpus_lib.TextCorpus((path,)).mean_document_bytes()
  assert 98 <= mean <= 102


def test_without_a_source_the_embedded_corpus_is_read(tmp_path, monkeypatch):
  path = write(tmp_path / 'docstrings.txt')
  monkeypatch.setattr(corpus_lib.builtin_corpus, 'corpus_path', lambda: path)
  assert read(corpus_lib.open_corpus(config())) == TEXTS


@pytest.fixture(scope='module')
def tfds_folder(tmp_path_factory):
  import tensorflow_datasets as tfds

  examples = [
    {'text': text, 'body': text.upper(), 'label': 0} for text in TEXTS
  ]
  return tiny_runs.build_tfds(
    tmp_path_factory.mktemp('tfds'),
    {
      'text': tfds.features.Text(),
      'body': tfds.features.Text(),
      'label': tfds.features.ClassLabel(num_classes=2),
    },
    {'train': examples, 'test': examples},
  )


def tfds_config(folder, **settings):
  return config(
    **(
      {
        'tfds_name': 'tiny_texts',
        'tfds_split': 'train',
        'tfds_data_dir': folder,
      }
      | settings
    )
  )


def test_examples_of_tfds_are_documents(tfds_folder):
  corpus = corpus_lib.open_corpus(tfds_config(tfds_folder))
  assert sorted(read(corpus)) == sorted(TEXTS)
  assert corpus.name == 'TFDS tiny_texts, split train'


def test_another_feature_and_part_of_a_split_can_be_read(tfds_folder):
  corpus = corpus_lib.open_corpus(
    tfds_config(tfds_folder, tfds_text_feature='body', tfds_split='test[:8]')
  )
  texts = read(corpus)
  assert len(texts) == 8
  assert set(texts) < {text.upper() for text in TEXTS}


@pytest.mark.parametrize('split', ['train', 'train[3:9]+test[50%:]'])
@pytest.mark.parametrize('held_out', [0, 4])
def test_tfds_documents_can_be_skipped(tfds_folder, split, held_out):
  for is_training in (True, False):
    corpus = corpus_lib.open_corpus(
      tfds_config(
        tfds_folder,
        tfds_split=split,
        held_out_documents=held_out,
        is_training=is_training,
      )
    )
    for skip in (1, 5, 13, 40):
      assert read(corpus, skip=skip) == read(corpus)[skip:]


def test_tfds_documents_are_held_out_too(tfds_folder):
  train, valid = (
    read(
      corpus_lib.open_corpus(
        tfds_config(tfds_folder, held_out_documents=5, is_training=is_training)
      )
    )
    for is_training in (True, False)
  )
  assert (len(train), len(valid)) == (20, 5)
  assert sorted(train + valid) == sorted(TEXTS)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'tfds_name': 'no_such_data_set'}, "Received: 'no_such_data_set'"),
    ({'tfds_split': 'dev'}, "Received: 'dev'; there are 'test', 'train'"),
    ({'tfds_text_feature': 'label'}, "text features are 'body', 'text'"),
  ],
)
def test_what_tfds_lacks_is_named(tfds_folder, settings, message):
  with pytest.raises(errors.DataError, match=message):
    corpus_lib.open_corpus(tfds_config(tfds_folder, **settings))


def test_tfds_makes_training_examples(tfds_folder, tmp_path):
  words = ['title', 'first', 'second', 'line', *map(str, range(25))]
  path = tmp_path / 'vocab.txt'
  path.write_text('\n'.join([*vocabulary_lib.SPECIAL_TOKENS, *words]))
  vocabulary = configs.VocabularyConfig(path=str(path))
  section = tfds_config(
    tfds_folder,
    seq_length=8,
    max_predictions_per_seq=6,
    mask_rate=1.0 - 1e-9,
    global_batch_size=3,
    num_epochs=1,
    drop_remainder=False,
    packing='within_documents',
  )
  loader.check_dataset(section, vocabulary)
  labels = []
  for batch in loader.load_dataset(section, vocabulary):
    is_label = batch['masked_lm_weights'] > 0
    labels += batch['masked_lm_ids'][is_label].numpy().tolist()
  known = vocabulary_lib.Vocabulary.from_file(str(path))
  expected = ' '.join(TEXTS).split()
  assert sorted(labels) == sorted(known.ids_of(expected))
  whole = [
    batch['masked_lm_ids'].numpy()
    for batch in loader.load_dataset(section.replace(num_epochs=2), vocabulary)
  ]
  resumed = loader.load_dataset(
    section.replace(num_epochs=2), vocabulary, first_batch=20
  )
  for batch, expected in zip(resumed, whole[20:], strict=True):
    assert (batch['masked_lm_ids'].numpy() == expected).all()
