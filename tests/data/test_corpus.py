import gzip
import itertools

import pytest
import tensorflow as tf

from tokendrop_tf import configs, errors
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import documents, loader
from tokendrop_tf.data import vocabulary as vocabulary_lib

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


@pytest.mark.parametrize('name', ['a.txt', 'a.txt.gz'])
@pytest.mark.parametrize('end', ['', '\n', '\n\n\n \n'])
def test_a_blank_line_ends_a_document(tmp_path, name, end):
  path = write(tmp_path / name, end=end)
  assert read(corpus_lib.TextCorpus((path,))) == TEXTS


@pytest.mark.parametrize('chunk', [1, 2, 3, 5, 1000])
def test_documents_do_not_depend_on_the_step_of_reading(
  tmp_path, monkeypatch, chunk
):
  monkeypatch.setattr(corpus_lib.text_files, '_CHUNK_BYTES', chunk)
  monkeypatch.setattr(documents, '_BATCH_DOCUMENTS', chunk)
  path = write(tmp_path / 'a.txt', separator='\n \t\n\n')
  assert read(corpus_lib.TextCorpus((path,))) == TEXTS


def test_carriage_returns_and_a_byte_order_mark_are_no_text(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes('\ufeffone\r\ntwo\r\n\r\nthree\r\n'.encode())
  assert read(corpus_lib.TextCorpus((str(path),))) == ['one\ntwo', 'three']


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


def test_what_was_read_ahead_is_used_once(tmp_path, monkeypatch):
  corpus = corpus_lib.TextCorpus((write(tmp_path / 'a.txt'),))
  corpus.read_ahead(0)
  with monkeypatch.context() as patch:
    patch.setattr(documents, 'read_documents', None)  # No second reading.
    assert read(corpus) == TEXTS
  assert read(corpus) == TEXTS


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


def test_the_mean_length_is_of_documents(tmp_path):
  path = write(tmp_path / 'a.txt', ['x' * 98] * 300, separator='\n\n\n')
  mean = corpus_lib.TextCorpus((path,)).mean_document_bytes()
  assert 98 <= mean <= 102


def test_two_sources_are_refused(tmp_path):
  with pytest.raises(errors.DataError) as caught:
    corpus_lib.open_corpus(
      config(input_path=write(tmp_path / 'a.txt'), tfds_name='wiki40b')
    )
  assert 'must have one source' in str(caught.value)
  assert "train_data.tfds_name='wiki40b'" in str(caught.value)


def test_without_a_source_the_embedded_corpus_is_read(tmp_path, monkeypatch):
  path = write(tmp_path / 'docstrings.txt')
  monkeypatch.setattr(corpus_lib.docstrings, 'corpus_path', lambda: path)
  assert read(corpus_lib.open_corpus(config())) == TEXTS


@pytest.fixture(scope='module')
def tfds_folder(tmp_path_factory):
  """A data set that TensorFlow Datasets itself builds."""
  import tensorflow_datasets as tfds

  class TinyTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = tfds.features.FeaturesDict(
        {
          'text': tfds.features.Text(),
          'body': tfds.features.Text(),
          'label': tfds.features.ClassLabel(num_classes=2),
        }
      )
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {
        'train': self._generate_examples(),
        'test': self._generate_examples(),
      }

    def _generate_examples(self):
      for number, text in enumerate(TEXTS):
        yield number, {'text': text, 'body': text.upper(), 'label': 0}

  folder = tmp_path_factory.mktemp('tfds')
  builder = TinyTexts(data_dir=folder)
  builder.download_and_prepare()
  yield str(folder)
  tfds.core.registered._DATASET_REGISTRY.pop('tiny_texts', None)


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
    mask_rate=1.0,
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
