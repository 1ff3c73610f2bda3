import hashlib
import os

import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import loader, records, shards


def job(
  numbered_text, tmp_path, name='shards', num_shards=3, gzip=False, **settings
):
  return shards.ShardJob(
    numbered_text.config(**settings),
    numbered_text.vocabulary,
    str(tmp_path / name / 'part'),
    num_shards,
    gzip,
  )


def written(job):
  compression = 'GZIP' if job.gzip else ''
  return [
    record.numpy()
    for record in tf.data.TFRecordDataset(job.paths(), compression)
  ]


def live(numbered_text, **settings):
  """Serialized examples of the live path, padded rows left out."""
  config = numbered_text.config(**settings)
  rows = []
  for batch in loader.load_dataset(config, numbered_text.vocabulary):
    whole = tf.reduce_any(batch['input_mask'] > 0, axis=1)
    batch = {
      name: tf.boolean_mask(value, whole) for name, value in batch.items()
    }
    rows += list(records.serialize(batch).numpy())
  return rows


@pytest.mark.parametrize(
  'settings',
  [
    {'num_epochs': 2, 'seed': 7},
    {'packing': 'within_documents'},
    {'held_out_documents': 5, 'is_training': False},
  ],
)
def test_written_and_live_examples_are_the_same(
  numbered_text, tmp_path, settings
):
  a_job = job(numbered_text, tmp_path, **settings)
  total = shards.write_shards(a_job)
  examples = written(a_job)
  assert len(examples) == total > 0
  assert sorted(examples) == sorted(live(numbered_text, **settings))


def test_epochs_are_written_with_other_masks(numbered_text, tmp_path):
  a_job = job(numbered_text, tmp_path, num_epochs=2)
  shards.write_shards(a_job)
  examples = written(a_job)
  assert len(set(examples)) == len(examples)


def test_processes_write_the_same_files(numbered_text, tmp_path):
  digests = []
  for processes in (1, 2):
    a_job = job(numbered_text, tmp_path, f'by-{processes}', num_epochs=2)
    counts = []
    shards.write_shards(a_job, processes, counts.append)
    assert sum(counts) == len(written(a_job))
    digests.append([_digest(path) for path in a_job.paths()])
  assert digests[0] == digests[1]


def _digest(path):
  with open(path, 'rb') as file:
    return hashlib.sha256(file.read()).hexdigest()


def test_compressed_shards_hold_the_same_examples(numbered_text, tmp_path):
  plain = job(numbered_text, tmp_path, 'plain')
  packed = job(numbered_text, tmp_path, 'packed', gzip=True)
  shards.write_shards(plain)
  shards.write_shards(packed)
  assert written(plain) == written(packed)
  assert packed.path(2).endswith('part-00002-of-00003.tfrecord.gz')


def test_only_whole_shards_are_ever_visible(numbered_text, tmp_path):
  a_job = job(numbered_text, tmp_path)
  folder = os.path.dirname(a_job.output)
  seen = []
  shards.write_shards(
    a_job,
    on_progress=lambda count: seen.append(shards.existing_shards(a_job.output)),
  )
  assert seen
  assert not any(seen)
  assert sorted(os.listdir(folder)) == [
    os.path.basename(path) for path in a_job.paths()
  ]


def test_a_failure_leaves_nothing_behind(numbered_text, tmp_path):
  a_job = job(numbered_text, tmp_path)

  def fail(count):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    shards.write_shards(a_job, on_progress=fail)
  assert os.listdir(os.path.dirname(a_job.output)) == []


def test_an_output_that_cannot_be_written_is_named(numbered_text, tmp_path):
  (tmp_path / 'file').write_text('')
  a_job = job(numbered_text, tmp_path, 'file/folder')
  with pytest.raises(errors.DataError, match='Shards must be writable') as info:
    shards.write_shards(a_job)
  assert a_job.output in str(info.value)


def test_the_number_of_examples_is_estimated(numbered_text, tmp_path):
  a_job = job(numbered_text, tmp_path, num_epochs=3)
  estimate = shards.estimate_examples(a_job)
  assert 0.9 <= estimate / shards.write_shards(a_job) <= 1.1
