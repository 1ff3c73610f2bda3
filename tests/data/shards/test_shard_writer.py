import collections
import errno
import hashlib
import math
import os

import numpy as np
import pytest

from tokendrop_tf import errors
from tokendrop_tf.data import checks, loader
from tokendrop_tf.data.examples import example_pipeline
from tokendrop_tf.data.shards import (
  shard_job,
  shard_writer,
  token_index,
  work_folder,
)


def job(numbered_text, tmp_path, name='shards', num_shards=3, **settings):
  return shard_job.ShardJob(
    numbered_text.config(**settings),
    numbered_text.vocabulary,
    str(tmp_path / name / 'part'),
    num_shards,
  )


def work_of(job):
  return work_folder.WorkFolder.next_to(job.output)


def rows_of(job):
  """Returns the rows of all shards, in order."""
  rows = token_index.TokenRows(job.paths())
  chunks = [rows.read(chunk) for chunk in range(len(rows.chunk_sizes))]
  return np.concatenate(chunks)


def live_rows(numbered_text, **settings):
  """Returns the rows that training packs while it runs."""
  config = numbered_text.config(**settings)
  maker = example_pipeline.ExampleMaker(
    shard_writer.corpus_lib.open_corpus(config), numbered_text.words, config
  )
  return np.concatenate([rows for _, _, rows in maker.blocks(0, 1)])


@pytest.mark.parametrize(
  'settings',
  [
    {'seed': 7},
    {'packing': 'best_fit'},
    {'packing': 'within_documents', 'held_out_documents': 5},
    {'packing': 'one_document'},
    {'held_out_documents': 5, 'is_training': False},
  ],
)
def test_rows_are_those_that_training_packs(numbered_text, tmp_path, settings):
  a_job = job(numbered_text, tmp_path, **settings)
  written = shard_writer.write_shards(a_job)
  found = rows_of(a_job)
  assert len(found) == written.rows > 0
  live = live_rows(numbered_text, **settings)
  count = collections.Counter
  assert count(map(bytes, found)) == count(map(bytes, live))
  pad = numbered_text.words.pad_id
  assert written.tokens == (live[:, :16] != pad).sum()


def test_validation_on_shards_is_validation_on_text(numbered_text, tmp_path):
  """The same rows with the same masks, whatever the batch."""
  settings = {'is_training': False, 'held_out_documents': 5}
  a_job = job(numbered_text, tmp_path, num_shards=1, **settings)
  shard_writer.write_shards(a_job)
  shards = numbered_text.config(input_path=a_job.path(0), **settings)
  text = numbered_text.config(**settings)
  found, live = (
    list(loader.load_dataset(config, numbered_text.vocabulary))
    for config in (shards, text)
  )
  assert len(found) == len(live) > 10
  for batch, expected in zip(found, live, strict=True):
    for name, value in expected.items():
      np.testing.assert_array_equal(batch[name], value, err_msg=name)


@pytest.fixture
def small_windows(monkeypatch):
  """Several windows and chunks in every shard."""
  monkeypatch.setattr(shard_writer, 'WINDOW_BYTES', 2000)
  monkeypatch.setattr(token_index, 'CHUNK_BYTES', 256)


def digests(job):
  return [
    hashlib.sha256(open(path, 'rb').read()).hexdigest()
    for path in (*job.paths(), job.index)
  ]


def test_processes_write_the_same_files(numbered_text, tmp_path):
  found = []
  for processes in (1, 2):
    a_job = job(numbered_text, tmp_path, f'by-{processes}')
    counts = []
    shard_writer.write_shards(a_job, processes, counts.append)
    assert sum(counts) == len(rows_of(a_job))
    found.append(digests(a_job))
  assert found[0] == found[1]


def test_only_whole_shards_are_ever_visible(
  numbered_text, tmp_path, monkeypatch
):
  a_job = job(numbered_text, tmp_path)
  folder = os.path.dirname(a_job.output)
  seen = []
  finish = shard_writer.RowWriter.finish

  def look(writer, shard):
    finish(writer, shard)
    seen.append(sorted(os.listdir(folder)))

  monkeypatch.setattr(shard_writer.RowWriter, 'finish', look)
  shard_writer.write_shards(a_job)
  names = [os.path.basename(path) for path in a_job.paths()]
  work = '.part.unfinished'
  assert seen == [[work, *names[:1]], [work, *names[:2]], [work, *names]]
  assert sorted(os.listdir(folder)) == [*names, 'part.index.json']


def _stop_at(patch, name, number):
  """Stops the writer at its `number`-th call of a method, like Ctrl-C."""
  calls = []
  whole = getattr(shard_writer.RowWriter, name)

  def stop(*arguments):
    calls.append(1)
    if len(calls) > number:
      raise KeyboardInterrupt
    return whole(*arguments)

  patch.setattr(shard_writer.RowWriter, name, stop)


@pytest.mark.parametrize(
  ('name', 'number', 'processes'),
  [('deal', 3, 1), ('finish', 1, 1), ('finish', 1, 2)],
)
def test_an_interrupted_call_is_resumed(
  numbered_text, tmp_path, request, monkeypatch, name, number, processes
):
  """Killed while it deals or while it writes, it ends in the same files."""
  if processes == 1:  # Other processes have windows of the usual size.
    request.getfixturevalue('small_windows')
  whole = job(numbered_text, tmp_path, 'whole', seed=5)
  shard_writer.write_shards(whole)
  cut = job(numbered_text, tmp_path, 'cut', seed=5)
  with monkeypatch.context() as patch:
    _stop_at(patch, name, number)
    with pytest.raises(KeyboardInterrupt):
      shard_writer.write_shards(cut)
  assert work_of(cut).belongs_to(cut.fingerprint())
  made = []
  if name == 'deal':
    done = len(work_of(cut).dealt())
    assert done == 3
    dealt = []
    deal = shard_writer.RowWriter.deal
    monkeypatch.setattr(
      shard_writer.RowWriter,
      'deal',
      lambda *args: dealt.append(args[2]) or deal(*args),
    )
  shard_writer.write_shards(cut, processes, on_progress=made.append)
  if name == 'deal':
    assert made[0] > 0  # What had been dealt is told at once,
    assert dealt == list(range(3, max(dealt) + 1))  # and not done again.
  assert digests(cut) == digests(whole)
  assert not os.path.exists(work_of(cut).path)


def test_another_job_is_not_resumed(numbered_text, tmp_path, monkeypatch):
  first = job(numbered_text, tmp_path)
  with monkeypatch.context() as patch:
    _stop_at(patch, 'finish', 1)
    with pytest.raises(KeyboardInterrupt):
      shard_writer.write_shards(first)
  other = job(numbered_text, tmp_path, seed=1)
  assert not work_of(other).belongs_to(other.fingerprint())
  written = shard_writer.write_shards(other)
  assert len(rows_of(other)) == written.rows
  assert len(np.unique(rows_of(other), axis=0)) == written.rows


def test_a_full_disk_leaves_nothing_half_written(
  numbered_text, tmp_path, small_windows, monkeypatch
):
  a_job = job(numbered_text, tmp_path)
  write_rows = shard_writer.write_rows

  def fill_disk(path, rows):
    write_rows(path, rows[: len(rows) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(shard_writer, 'write_rows', fill_disk)
    with pytest.raises(errors.DataError, match='No space left') as caught:
      shard_writer.write_shards(a_job)
  assert 'start the same command again' in str(caught.value)
  assert os.listdir(tmp_path / 'shards') == ['.part.unfinished']
  shard_writer.write_shards(a_job)
  assert len(os.listdir(tmp_path / 'shards')) == 4


def test_the_order_is_uniform_over_the_corpus(
  numbered_text, tmp_path, small_windows
):
  """Every part of the text is equally likely at every place of the files.

  The chi-square statistic of a table of counts with independent rows and
  columns has the mean and twice the variance of its degrees of freedom.
  """
  parts = 4
  table = np.zeros([parts, parts])
  a_job = job(numbered_text, tmp_path, packing='within_documents')
  shard_writer.write_shards(a_job)
  words = numbered_text.words
  place = {
    word_id: number
    for number, document in enumerate(numbered_text.documents)
    for word_id in words.ids_of(document)
  }
  order = [place[int(row[1])] for row in rows_of(a_job)]
  columns = np.arange(len(order)) * parts // len(order)
  rows = np.array(order) * parts // len(numbered_text.documents)
  np.add.at(table, (rows, columns), 1)
  expected = table.sum() / parts**2
  freedom = (parts - 1) ** 2
  statistic = ((table - expected) ** 2 / expected).sum()
  assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_an_output_that_cannot_be_written_is_named(numbered_text, tmp_path):
  (tmp_path / 'file').write_text('')
  a_job = job(numbered_text, tmp_path, 'file/folder')
  with pytest.raises(errors.DataError, match='Shards must be writable') as info:
    shard_writer.write_shards(a_job)
  assert a_job.output in str(info.value)


def test_the_number_of_rows_is_estimated(numbered_text, tmp_path):
  a_job = job(numbered_text, tmp_path)
  head = checks.check_heads(a_job.config, a_job.vocabulary)
  estimate = shard_job.estimate_rows(a_job, head)
  assert 0.9 <= estimate / shard_writer.write_shards(a_job).rows <= 1.1
