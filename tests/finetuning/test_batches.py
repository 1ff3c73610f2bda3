"""Every row once an epoch, whatever the devices; padding that all share."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.finetuning import batches


def numbers(dataset, count=None):
  dataset = dataset if count is None else dataset.take(count)
  return [row for batch in dataset for row in batch['row'].numpy().tolist()]


def as_row(rows):
  return {'row': rows}


def test_an_epoch_has_every_row_once_and_no_two_are_alike():
  rows = numbers(batches.training_batches(12, 4, 7, as_row), 9)
  epochs = [rows[start : start + 12] for start in (0, 12, 24)]
  assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_batches_cross_the_end_of_an_epoch():
  rows = numbers(batches.training_batches(5, 4, 0, as_row), 5)
  assert sorted(rows[:5]) == sorted(rows[15:20]) == [0, 1, 2, 3, 4]


def test_the_seed_decides_the_order():
  first, same, other = (
    numbers(batches.training_batches(50, 10, seed, as_row), 5)
    for seed in (1, 1, 2)
  )
  assert first == same != other


def test_one_row_is_enough():
  assert numbers(batches.training_batches(1, 2, 0, as_row), 2) == [0] * 4


def test_validation_reads_in_order_and_fills_up():
  rows = numbers(batches.evaluation_batches(5, 4, as_row))
  assert rows == [0, 1, 2, 3, 4, -1, -1, -1]


@pytest.mark.parametrize(('pipelines', 'replicas'), [(1, 4), (2, 4), (4, 4)])
def test_pipelines_share_every_global_batch(pipelines, replicas):
  alone = numbers(batches.training_batches(20, 8, 3, as_row), 5)
  parts = []
  for pipeline in range(pipelines):
    context = tf.distribute.InputContext(pipelines, pipeline, replicas)
    dataset = batches.training_batches(20, 8, 3, as_row, context)
    per_step = replicas // pipelines
    rows = np.array(numbers(dataset, 5 * per_step)).reshape(5, -1)
    parts.append(rows)
  assert np.concatenate(parts, axis=1).ravel().tolist() == alone


@pytest.mark.parametrize(
  ('lengths', 'kept'), [((3, 5), 8), ((9, 2), 16), ((20, 1), 20), ((0, 0), 1)]
)
def test_padding_that_all_rows_share_is_cut(lengths, kept):
  mask = tf.sequence_mask(lengths, 20, dtype=tf.int32)
  batch = {
    'input_word_ids': mask * 7,
    'input_mask': mask,
    'input_type_ids': tf.zeros_like(mask),
    'label_ids': tf.constant([1, 0]),
  }
  trimmed = batches.trim_padding(batch)
  for name in ('input_word_ids', 'input_mask', 'input_type_ids'):
    np.testing.assert_array_equal(trimmed[name], batch[name][:, :kept])
    assert int(tf.reduce_sum(trimmed[name])) == int(tf.reduce_sum(batch[name]))
  np.testing.assert_array_equal(trimmed['label_ids'], [1, 0])
