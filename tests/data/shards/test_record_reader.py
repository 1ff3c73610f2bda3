import numpy as np
import tensorflow as tf
from official.nlp.data import pretrain_dataloader

from tokendrop_tf.config import configs
from tokendrop_tf.data.shards import record_reader, record_writer

CONFIG = configs.PretrainingDataConfig(
  is_training=True,
  seq_length=8,
  max_predictions_per_seq=2,
  seed=1,
  shuffle_buffer_size=16,
)


def features(rows=3, with_labels=False):
  draw = np.random.default_rng(rows)
  ints = {
    name: draw.integers(0, 1 << 20, [rows, size]).astype(np.int32)
    for name, size in (
      ('input_word_ids', 8),
      ('input_mask', 8),
      ('input_type_ids', 8),
      ('masked_lm_ids', 2),
      ('masked_lm_positions', 2),
    )
  }
  if with_labels:
    ints['next_sentence_labels'] = draw.integers(0, 2, [rows, 1], np.int32)
  weights = draw.random([rows, 2]).astype(np.float32)
  return {
    name: tf.constant(value)
    for name, value in (ints | {'masked_lm_weights': weights}).items()
  }


def serialized(written):
  return list(record_writer.serialized(written))


def assert_equal(first, second):
  assert set(first) == set(second)
  for name in first:
    assert first[name].dtype == second[name].dtype
    np.testing.assert_array_equal(first[name], second[name])


def write(path, serialized, compression=''):
  with tf.io.TFRecordWriter(str(path), compression) as writer:
    for record in serialized:
      writer.write(record)
  return str(path)


def test_what_is_serialized_is_parsed_again():
  written = features()
  assert_equal(written, record_reader.parse(serialized(written), CONFIG))


def test_next_sentence_labels_are_parsed_when_asked_for():
  written = features(with_labels=True)
  examples = serialized(written)
  config = CONFIG.replace(use_next_sentence_label=True)
  assert_equal(written, record_reader.parse(examples, config))
  assert 'next_sentence_labels' not in record_reader.parse(examples, CONFIG)


def test_the_older_names_are_read(tmp_path):
  """Those of google-research/bert, the Model Garden's default."""
  written = features(with_labels=True)
  renamed = dict(written)
  renamed['input_ids'] = renamed.pop('input_word_ids')
  renamed['segment_ids'] = renamed.pop('input_type_ids')
  config = CONFIG.replace(use_next_sentence_label=True, is_training=False)
  for names, is_old in ((written, False), (renamed, True)):
    path = write(tmp_path / f'{is_old}.tfrecord', serialized(names))
    assert record_reader.has_old_names(record_reader.first_record(path)) == (
      is_old
    )
    [block] = record_reader.RecordReader((path,), config).blocks(0, 1)
    assert_equal(written, block)


def test_the_model_garden_reads_what_is_written(tmp_path):
  written = features(rows=5)
  path = write(tmp_path / 'a.tfrecord', serialized(written))
  loader = pretrain_dataloader.BertPretrainDataLoader(
    pretrain_dataloader.BertPretrainDataConfig(
      input_path=path,
      is_training=False,
      global_batch_size=5,
      seq_length=8,
      max_predictions_per_seq=2,
      use_v2_feature_names=True,
      use_next_sentence_label=False,
    )
  )
  assert_equal(written, next(iter(loader.load())))


def test_gzip_is_recognised_by_content(tmp_path):
  data = serialized(features())
  # The Model Garden's tool compresses without a name that says so.
  assert record_reader.is_gzip_file(
    write(tmp_path / 'a.tfrecord', data, 'GZIP')
  )
  assert not record_reader.is_gzip_file(write(tmp_path / 'b.tfrecord.gz', data))


def numbered_files(tmp_path, num_files, rows=50):
  """Files in which the first id of every record is another one."""
  paths = []
  for file in range(num_files):
    written = features(rows)
    numbers = np.arange(file * rows, (file + 1) * rows, dtype=np.int32)
    written['input_word_ids'] = tf.constant(
      np.repeat(numbers[:, np.newaxis], 8, 1)
    )
    paths.append(
      write(
        tmp_path / f'{file}.tfrecord',
        serialized(written),
        'GZIP' if file % 2 else '',
      )
    )
  return tuple(paths)


def read(paths, config=CONFIG, num_epochs=1, first=(0, 0)):
  epoch, row = first
  reader = record_reader.RecordReader(paths, config)
  return [
    number
    for block in reader.blocks(epoch, num_epochs, row)
    for number in block['input_word_ids'][:, 0].numpy().tolist()
  ]


def test_every_record_is_read_once_an_epoch(tmp_path):
  paths = numbered_files(tmp_path, 3)
  numbers = read(paths, num_epochs=2)
  assert sorted(numbers[:150]) == sorted(numbers[150:]) == list(range(150))


def test_training_shuffles_each_epoch_afresh_and_repeats_with_its_seed(
  tmp_path,
):
  paths = numbered_files(tmp_path, 3)
  numbers = read(paths, num_epochs=2)
  assert numbers[:150] != numbers[150:]
  assert numbers[:150] != list(range(150))
  assert numbers == read(paths, num_epochs=2)
  assert numbers != read(paths, CONFIG.replace(seed=2), num_epochs=2)


def test_validation_keeps_the_order_of_the_files(tmp_path):
  paths = numbered_files(tmp_path, 3)
  assert read(paths, CONFIG.replace(is_training=False)) == list(range(150))


def test_reading_begins_at_any_record_of_any_epoch(tmp_path):
  paths = numbered_files(tmp_path, 3)
  counts = record_reader.RecordReader(paths, CONFIG).count()
  assert counts.num_rows == 150
  everything = read(paths, num_epochs=2)
  for row in (1, 16, 149, 151, 299):
    first = divmod(row, 150)
    assert read(paths, num_epochs=2 - first[0], first=first) == everything[row:]
