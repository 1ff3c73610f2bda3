"""Every token of every document is used once in every epoch.

Through shuffling, packing, masking, several pipelines, and a run that is cut
and resumes, with another number of pipelines.
"""

import collections
import functools
import gzip

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data import loader
from tokendrop_tf.data.examples import example_pipeline
from tokendrop_tf.data.read import documents
from tokendrop_tf.data.shards import (
  record_writer,
  shard_job,
  shard_writer,
  token_index,
)

PIPELINES = (2, 1)
BATCH_SIZE = 6


@pytest.fixture(autouse=True)
def many_windows(monkeypatch):
  """Several windows of documents and of rows, and blocks, in every epoch."""
  monkeypatch.setattr(example_pipeline, '_WINDOW_BYTES', 6000)
  monkeypatch.setattr(example_pipeline, '_BEST_FIT_WINDOW_BYTES', 6000)
  monkeypatch.setattr(example_pipeline, 'BLOCK_ROWS', 16)
  monkeypatch.setattr(documents, '_BATCH_DOCUMENTS', 7)
  monkeypatch.setattr(shard_writer, 'WINDOW_BYTES', 6000)
  monkeypatch.setattr(token_index, 'CHUNK_BYTES', 256)


@pytest.fixture(scope='module', name='text')
def fixture_text(numbered_text):
  """The numbered text in five files, every other one compressed."""
  folder = numbered_text.folder / 'exactly_once'
  folder.mkdir()
  texts = (numbered_text.folder / 'text.txt').read_text().split('\n\n')
  for file in range(5):
    content = '\n\n'.join(texts[file::5]).encode()
    path = folder / f'{file}.txt{".gz" if file % 2 else ""}'
    path.write_bytes(gzip.compress(content) if file % 2 else content)
  return functools.partial(
    numbered_text.config,
    input_path=str(folder / '*'),
    num_epochs=2,
    global_batch_size=BATCH_SIZE,
    seed=3,
  )


def pipelines(config, vocabulary, number, **start):
  return [
    iter(
      loader.load_dataset(
        config,
        vocabulary,
        tf.distribute.InputContext(number, index, number),
        **start,
      )
    )
    for index in range(number)
  ]


def global_batches(shares):
  """Yields the parts of every global batch, put together."""
  for parts in zip(*shares, strict=True):
    yield {
      name: np.concatenate([part[name].numpy() for part in parts])
      for name in parts[0]
    }


def tokens_before_masking(batch):
  """Returns the tokens of a batch that are not padding, as they were."""
  ids = batch['input_word_ids'].copy()
  filled = batch['masked_lm_weights'] > 0
  rows = np.nonzero(filled)[0]
  ids[rows, batch['masked_lm_positions'][filled]] = batch['masked_lm_ids'][
    filled
  ]
  return ids[batch['input_mask'] > 0].tolist()


def expected_counts(numbered_text, epochs):
  ordinary = numbered_text.words.ordinary_ids.tolist()
  return dict.fromkeys(ordinary, epochs)


def without_special(numbered_text, counts):
  return {
    token: count
    for token, count in counts.items()
    if token not in numbered_text.words.special_ids
  }


def on_shards(config, vocabulary, folder):
  """Returns the section that reads the rows of a section from shards."""
  job = shard_job.ShardJob(
    config.replace(num_epochs=1), vocabulary, f'{folder}/part', num_shards=3
  )
  shard_writer.write_shards(job)
  return config.replace(input_path=f'{folder}/part-*')


@pytest.mark.parametrize(
  ('packing', 'masking', 'is_on_shards'),
  [
    ('across_documents', 'token', False),
    ('across_documents', 'token', True),
    ('within_documents', 'span', False),
    ('best_fit', 'whole_word', False),
    ('best_fit', 'whole_word', True),
  ],
)
def test_a_run_that_is_cut_uses_every_token_once_an_epoch(
  numbered_text, text, packing, masking, is_on_shards, tmp_path
):
  config = text(packing=packing, masking=masking)
  vocabulary = numbered_text.vocabulary
  if is_on_shards:
    config = on_shards(config, vocabulary, tmp_path)
  counts = loader.count_rows(config, vocabulary)
  assert is_on_shards or len(counts.rows) > 1
  num_batches = -(-2 * counts.num_rows // BATCH_SIZE)
  stops = [num_batches // 2 + 7, num_batches]
  used, first = collections.Counter(), 0
  for number, last in zip(PIPELINES, stops, strict=True):
    start = {'first_batch': first, 'counts': counts} if first else {}
    batches = global_batches(pipelines(config, vocabulary, number, **start))
    for _ in range(last - first):
      used.update(tokens_before_masking(next(batches)))
    first = last
  assert next(batches, None) is None
  assert without_special(numbered_text, used) == expected_counts(
    numbered_text, epochs=2
  )


def test_one_document_uses_the_beginning_of_each_once(numbered_text, text):
  config = text(packing='one_document', num_epochs=1)
  used = collections.Counter()
  for batch in global_batches(pipelines(config, numbered_text.vocabulary, 1)):
    used.update(tokens_before_masking(batch))
  heads = [
    word
    for document in numbered_text.documents
    for word in document[: config.seq_length - 2]
  ]
  ids = [numbered_text.words.id_of(word) for word in heads]
  assert without_special(numbered_text, used) == dict.fromkeys(ids, 1)


WITH_SEGMENTS = {
  'packing': 'best_fit',
  'masking': 'span',
  'max_predictions_per_seq': 8,
  'mask_rate_schedule': ('0:0.5', '0.4:0.1'),
  'mask_schedule_steps': 100,
}


@pytest.mark.parametrize(
  ('settings', 'is_on_shards'),
  [
    (WITH_SEGMENTS, False),
    (WITH_SEGMENTS, True),
    ({'packing': 'within_documents', 'held_out_documents': 5}, False),
    ({'shuffle_buffer_size': 7, 'seed': 9}, False),
  ],
)
def test_reading_begins_at_any_batch(
  numbered_text, text, settings, is_on_shards, tmp_path
):
  """Segments and masks, too, are a function of the seed and the batch."""
  vocabulary = numbered_text.vocabulary
  config = text(**settings)
  if is_on_shards:
    config = on_shards(config, vocabulary, tmp_path)
  counts = loader.count_rows(config, vocabulary)
  everything = list(loader.load_dataset(config, vocabulary))
  num_batches = len(everything)
  assert num_batches > 50
  for first in (2, num_batches // 2 + 3, num_batches):
    batches = list(
      loader.load_dataset(config, vocabulary, first_batch=first, counts=counts)
    )
    assert len(batches) == num_batches - first
    for found, batch in zip(batches, everything[first:], strict=True):
      for name, value in batch.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize('is_on_shards', [False, True])
def test_mask_rates_change_with_the_step(
  numbered_text, text, is_on_shards, tmp_path
):
  """From batch 40 of 100 on, a fifth as many labels."""
  config = text(
    max_predictions_per_seq=10,
    mask_rate_schedule=('0:0.5', '0.4:0.1'),
    mask_schedule_steps=100,
  )
  if is_on_shards:
    config = on_shards(config, numbered_text.vocabulary, tmp_path)
  shares = [
    batch['masked_lm_weights'].numpy().sum() / batch['input_mask'].numpy().sum()
    for batch in loader.load_dataset(config, numbered_text.vocabulary).take(60)
  ]
  before, after = shares[:40], shares[40:]
  # Of 14 ordinary tokens, 16 with the special ones.
  assert abs(np.mean(before) - 0.5 * 14 / 16) < 0.03
  assert abs(np.mean(after) - 0.1 * 14 / 16) < 0.03
  assert min(before) > max(after)


def test_records_keep_segments(numbered_text, text, tmp_path):
  """Examples that are written and read again are those of the text."""
  config = text(packing='best_fit', num_epochs=1, is_training=False)
  live = list(loader.load_dataset(config, numbered_text.vocabulary))
  path = str(tmp_path / 'rows.tfrecord')
  with tf.io.TFRecordWriter(path) as writer:
    for batch in live:
      has_text = tf.reduce_max(batch['input_mask'], axis=1) > 0
      batch = {k: tf.boolean_mask(v, has_text) for k, v in batch.items()}
      for record in record_writer.serialized(batch):
        writer.write(record)
  config = config.replace(input_path=path)
  loader.check_dataset(config, numbered_text.vocabulary)
  read = list(loader.load_dataset(config, numbered_text.vocabulary))
  for found, batch in zip(read, live, strict=True):
    assert found.keys() == batch.keys()
    for name, value in batch.items():
      assert found[name].shape == value.shape
      np.testing.assert_array_equal(found[name], value, err_msg=name)
  with pytest.raises(Exception, match="Set validation_data.packing = 'best_"):
    loader.check_dataset(
      config.replace(packing='across_documents'), numbered_text.vocabulary
    )
