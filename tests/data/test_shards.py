import errno
import gzip
import hashlib
import math
import os

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import (
  buckets,
  checks,
  example_bytes,
  examples,
  loader,
  shard_index,
  shard_writer,
  shards,
)


def job(
  numbered_text,
  tmp_path,
  name='shards',
  num_shards=3,
  is_gzip=False,
  **settings,
):
  return shards.ShardJob(
    numbered_text.config(**settings),
    numbered_text.vocabulary,
    str(tmp_path / name / 'part'),
    num_shards,
    is_gzip,
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
    rows += example_bytes.serialize(batch)
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
  index = shards.write_shards(a_job)
  found = written(a_job)
  assert len(found) == index.examples > 0
  assert sorted(found) == sorted(live(numbered_text, **settings))


def test_epochs_are_written_with_other_masks(numbered_text, tmp_path):
  a_job = job(numbered_text, tmp_path, num_epochs=2)
  shards.write_shards(a_job)
  found = written(a_job)
  assert len(set(found)) == len(found)


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
  packed = job(numbered_text, tmp_path, 'packed', is_gzip=True)
  shards.write_shards(plain)
  shards.write_shards(packed)
  assert written(plain) == written(packed)
  assert packed.path(2).endswith('part-00002-of-00003.tfrecord.gz')


def test_only_whole_shards_are_ever_visible(
  numbered_text, tmp_path, monkeypatch
):
  a_job = job(numbered_text, tmp_path)
  folder = os.path.dirname(a_job.output)
  seen = []
  finish = buckets.WorkFolder.finish_shard

  def look(work, shard, entry):
    finish(work, shard, entry)
    seen.append(sorted(os.listdir(folder)))

  monkeypatch.setattr(buckets.WorkFolder, 'finish_shard', look)
  index = shards.write_shards(a_job)
  names = [os.path.basename(path) for path in a_job.paths()]
  work = '.part.unfinished'
  assert seen == [[work, *names[:1]], [work, *names[:2]], [work, *names]]
  assert sorted(os.listdir(folder)) == [*names, 'part.index.json']
  assert index == shard_index.ShardIndex.load(a_job.index)


@pytest.fixture
def small_blocks(monkeypatch):
  monkeypatch.setattr(examples, 'BLOCK_ROWS', 16)
  monkeypatch.setattr(examples, '_WINDOW_BYTES', 3000)
  monkeypatch.setattr(shard_writer, 'BLOCK_EXAMPLES', 8)


@pytest.mark.parametrize('stop', ['note 13', 'shard 1'])
def test_an_interrupted_call_is_gone_on_with(
  numbered_text, tmp_path, small_blocks, monkeypatch, stop
):
  """Killed while it deals or while it writes, it ends in the same files."""
  settings = {'num_epochs': 2, 'seed': 5}
  whole = job(numbered_text, tmp_path, 'whole', **settings)
  shards.write_shards(whole)
  cut = job(numbered_text, tmp_path, 'cut', **settings)
  monkeypatch.setattr(buckets, '_NOTE_BYTES', 1)
  what, number = stop.split()
  with monkeypatch.context() as patch:
    _stop_at(patch, what, int(number))
    with pytest.raises(KeyboardInterrupt):
      shards.write_shards(cut)
  work = shards.work_folder(cut)
  assert work.belongs_to(shards.fingerprint(cut, 1))
  assert len(work.entries()) == (1 if what == 'shard' else 0)
  made = []
  shards.write_shards(cut, on_progress=made.append)
  # What lay in the buckets is told at once.
  assert made[0] >= 16 * 13
  assert [_digest(path) for path in cut.paths()] == [
    _digest(path) for path in whole.paths()
  ]
  assert not os.path.exists(work.path)


def _stop_at(patch, what, number):
  calls = []
  owner, name = {
    'note': (buckets.Scatter, '_write'),
    'shard': (shard_writer, 'write_shard'),
  }[what]
  whole = getattr(owner, name)

  def stop(*arguments):
    calls.append(1)
    if len(calls) > number:
      raise KeyboardInterrupt
    return whole(*arguments)

  patch.setattr(owner, name, stop)


def test_another_job_does_not_go_on(numbered_text, tmp_path, monkeypatch):
  first = job(numbered_text, tmp_path)
  with monkeypatch.context() as patch:
    _stop_at(patch, 'shard', 1)
    with pytest.raises(KeyboardInterrupt):
      shards.write_shards(first)
  other = job(numbered_text, tmp_path, seed=1)
  assert not shards.work_folder(other).belongs_to(shards.fingerprint(other, 1))
  index = shards.write_shards(other)
  assert len(written(other)) == index.examples == len(set(written(other)))


def test_a_full_disk_leaves_nothing_half_written(
  numbered_text, tmp_path, small_blocks, monkeypatch
):
  a_job = job(numbered_text, tmp_path, is_gzip=True)
  with monkeypatch.context() as patch:
    _fill_disk(patch)
    with pytest.raises(errors.DataError, match='No space left') as caught:
      shards.write_shards(a_job)
  assert 'start the same command again' in str(caught.value)
  assert os.listdir(tmp_path / 'shards') == ['.part.unfinished']
  shards.write_shards(a_job)
  assert len(os.listdir(tmp_path / 'shards')) == 4


def _fill_disk(patch):
  """Lets the second block of a shard meet a full disk."""
  compress, calls = gzip.compress, []

  def compress_once(*arguments, **settings):
    calls.append(1)
    if len(calls) > 1:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return compress(*arguments, **settings)

  patch.setattr(gzip, 'compress', compress_once)


def test_the_order_is_uniform_over_the_corpus(numbered_text, tmp_path):
  """Every part of the text is equally likely at every place of the files.

  The chi-square statistic of a table of counts with independent rows and
  columns has the mean and twice the variance of its degrees of freedom.
  """
  parts = 4
  table = np.zeros([parts, parts])
  place = _places(numbered_text)
  a_job = job(numbered_text, tmp_path, packing='within_documents')
  shards.write_shards(a_job)
  order = [place[_a_word(record)] for record in written(a_job)]
  columns = np.arange(len(order)) * parts // len(order)
  rows = np.array(order) * parts // len(numbered_text.documents)
  np.add.at(table, (rows, columns), 1)
  expected = table.sum() / parts**2
  freedom = (parts - 1) ** 2
  statistic = ((table - expected) ** 2 / expected).sum()
  assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def _places(numbered_text):
  """Returns which document an id belongs to."""
  words = numbered_text.words
  return {
    word_id: number
    for number, document in enumerate(numbered_text.documents)
    for word_id in words.ids_of(document)
  }


def _a_word(record):
  """Returns the id of a label, which was not replaced."""
  features = tf.train.Example.FromString(record).features.feature
  return features['masked_lm_ids'].int64_list.value[0]


def test_an_output_that_cannot_be_written_is_named(numbered_text, tmp_path):
  (tmp_path / 'file').write_text('')
  a_job = job(numbered_text, tmp_path, 'file/folder')
  with pytest.raises(errors.DataError, match='Shards must be writable') as info:
    shards.write_shards(a_job)
  assert a_job.output in str(info.value)


def test_the_number_of_examples_is_estimated(numbered_text, tmp_path):
  a_job = job(numbered_text, tmp_path, num_epochs=3)
  head = checks.check_heads(a_job.config, a_job.vocabulary)
  estimate = shards.estimate_examples(a_job, head)
  assert 0.9 <= estimate / shards.write_shards(a_job).examples <= 1.1
