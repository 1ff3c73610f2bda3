import hashlib

import numpy as np
import tensorflow as tf

from tokendrop_tf.data.shards import record_writer, shard_job, shard_writer


def job(numbered_text, tmp_path, name='records', gzip=False, **settings):
  return shard_job.ShardJob(
    numbered_text.config(**settings),
    numbered_text.vocabulary,
    str(tmp_path / name / 'part'),
    num_shards=2,
    format='tfrecord',
    gzip=gzip,
  )


def written(job):
  compression = 'GZIP' if job.gzip else ''
  records = tf.data.TFRecordDataset(job.paths(), compression)
  return [record.numpy() for record in records]


def unmasked(record):
  """Returns the ids of an example before it was masked."""
  features = tf.train.Example.FromString(record).features.feature

  def values(name):
    return np.array(features[name].int64_list.value)

  ids = values('input_word_ids')
  filled = np.array(features['masked_lm_weights'].float_list.value) > 0
  ids[values('masked_lm_positions')[filled]] = values('masked_lm_ids')[filled]
  return tuple(ids.tolist())


def test_examples_are_the_rows_masked(numbered_text, tmp_path):
  """As often as there are epochs, each time with other masks."""
  records = job(numbered_text, tmp_path, num_epochs=2, packing='one_document')
  total = shard_writer.write_shards(records)
  found = written(records)
  assert len(found) == total.rows
  rows = [unmasked(record) for record in found]
  # A document of a word or two has hardly other masks.
  long = [record for record, row in zip(found, rows) if row.index(3) > 10]
  assert len(long) > 50
  assert len(set(long)) > 0.95 * len(long)
  documents = [document[:14] for document in numbered_text.documents]
  assert sorted(row[1 : row.index(3)] for row in rows) == sorted(
    2 * [tuple(numbered_text.words.ids_of(document)) for document in documents]
  )


def test_compressed_files_hold_the_same_examples(numbered_text, tmp_path):
  plain = job(numbered_text, tmp_path, 'plain')
  packed = job(numbered_text, tmp_path, 'packed', gzip=True)
  shard_writer.write_shards(plain)
  shard_writer.write_shards(packed)
  assert written(plain) == written(packed)
  assert packed.path(1).endswith('part-00001-of-00002.tfrecord.gz')


def test_processes_write_the_same_files(numbered_text, tmp_path):
  digests = []
  for processes in (1, 2):
    records = job(numbered_text, tmp_path, f'by-{processes}', gzip=True)
    shard_writer.write_shards(records, processes)
    digests.append(
      [
        hashlib.sha256(open(path, 'rb').read()).hexdigest()
        for path in records.paths()
      ]
    )
  assert digests[0] == digests[1]


def test_records_are_ordinary_examples():
  features = {
    'ids': np.array([[1, 300], [2, -1]]),
    'weights': np.float32([[0.5], [1]]),
    'nothing': np.zeros([2, 0], np.int32),
  }
  first, second = record_writer.serialized(features)
  example = tf.train.Example.FromString(second).features.feature
  assert list(example['ids'].int64_list.value) == [2, -1]
  assert list(example['weights'].float_list.value) == [1.0]
  assert list(example['nothing'].int64_list.value) == []
  assert tf.train.Example.FromString(first) != tf.train.Example.FromString(
    second
  )
