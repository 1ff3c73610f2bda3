import numpy as np
import tensorflow as tf
from official.nlp.data import pretrain_dataloader

from tokendrop_tf import configs
from tokendrop_tf.data import example_bytes, records

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
  assert_equal(written, records.parse(example_bytes.serialize(written), CONFIG))


def test_next_sentence_labels_are_parsed_when_asked_for():
  written = features(with_labels=True)
  serialized = example_bytes.serialize(written)
  config = CONFIG.replace(use_next_sentence_label=True)
  assert_equal(written, records.parse(serialized, config))
  assert 'next_sentence_labels' not in records.parse(serialized, CONFIG)


def test_records_are_ordinary_examples():
  written = features(rows=1)
  example = tf.train.Example.FromString(
    example_bytes.serialize(written)[0]
  ).features.feature
  assert set(example) == set(written)
  for name, value in written.items():
    kind = 'float_list' if name == 'masked_lm_weights' else 'int64_list'
    assert list(getattr(example[name], kind).value) == value[0].numpy().tolist()


def test_the_model_garden_reads_what_is_written(tmp_path):
  written = features(rows=5)
  path = write(tmp_path / 'a.tfrecord', example_bytes.serialize(written))
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
  data = example_bytes.serialize(features())
  # The Model Garden's tool compresses without a name that says so.
  assert records.is_gzip_file(write(tmp_path / 'a.tfrecord', data, 'GZIP'))
  assert not records.is_gzip_file(write(tmp_path / 'b.tfrecord.gz', data))


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
        example_bytes.serialize(written),
        'GZIP' if file % 2 else '',
      )
    )
  return tuple(paths)


def read(paths, config=CONFIG, num_epochs=1):
  blocks = records.RecordReader(paths, config).blocks(0, num_epochs)
  return [
    number
    for block in blocks
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


def test_any_record_of_any_epoch_is_gone_to_at_once(tmp_path):
  paths = numbered_files(tmp_path, 3)
  reader = records.RecordReader(paths, CONFIG)
  counts = reader.count()
  assert counts.documents == (50, 50, 50)
  assert counts.num_rows == 150
  everything = read(paths, num_epochs=2)
  for row in (1, 15, 16, 97, 149, 151, 299):
    start = reader.start(row // 150, row % 150, counts)
    blocks = reader.blocks(row // 150, 2 - row // 150, start)
    found = [
      number
      for block in blocks
      for number in block['input_word_ids'][:, 0].numpy().tolist()
    ]
    assert found == everything[row:]
