"""Every row once an epoch, whatever the devices; padding that all share."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.finetuning import batches


def numbers(dataset, count=None):
  dataset = dataset if count is None else dataset.take(count)
  return [row for batch in dataset for row in batch['row'].numpy().tolist()]


def training(num_rows, batch_size, seed, *args):
  data = finetuning_configs.TextDataConfig(
    global_batch_size=batch_size,
    seed=seed,
    is_training=True,
    trim_padding=False,
  )
  return batches.make_batches(data, num_rows, as_row, *args)


def as_row(rows):
  return {'row': rows}


def test_an_epoch_has_every_row_once_and_no_two_are_alike():
  rows = numbers(training(12, 4, 7), 9)
  epochs = [rows[start : start + 12] for start in (0, 12, 24)]
  assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_batches_cross_the_end_of_an_epoch():
  rows = numbers(training(5, 4, 0), 5)
  assert sorted(rows[:5]) == sorted(rows[15:20]) == [0, 1, 2, 3, 4]


def test_the_seed_decides_the_order():
  first, same, other = (numbers(training(50, 10, s), 5) for s in (1, 1, 2))
  assert first == same != other


def test_one_row_is_enough():
  assert numbers(training(1, 2, 0), 2) == [0] * 4


def test_validation_reads_in_order_and_fills_up():
  data = finetuning_configs.TextDataConfig(
    global_batch_size=4, is_training=False, trim_padding=False
  )
  found = list(batches.make_batches(data, 5, as_row))
  assert numbers(found) == [0, 1, 2, 3, 4, 0, 0, 0]
  assert found[1]['example_id'].numpy().tolist() == [4, -1, -1, -1]


@pytest.mark.parametrize(('pipelines', 'replicas'), [(1, 4), (2, 4), (4, 4)])
def test_pipelines_share_every_global_batch(pipelines, replicas):
  alone = numbers(training(20, 8, 3), 5)
  parts = []
  for pipeline in range(pipelines):
    context = tf.distribute.InputContext(pipelines, pipeline, replicas)
    per_step = replicas // pipelines
    dataset = training(20, 8, 3, context)
    rows = np.array(numbers(dataset, 5 * per_step)).reshape(5, -1)
    parts.append(rows)
  assert np.concatenate(parts, axis=1).ravel().tolist() == alone


@pytest.mark.parametrize('pipelines', [1, 2])
def test_a_resumed_run_begins_with_the_batch_that_comes_next(pipelines):
  for pipeline in range(pipelines):
    context = tf.distribute.InputContext(pipelines, pipeline, 4)
    per_step = 4 // pipelines
    whole = training(20, 8, 3, context)
    resumed = training(20, 8, 3, context, 3)
    expected = numbers(whole, 5 * per_step)[3 * per_step * 2 :]
    assert numbers(resumed, 2 * per_step) == expected


@pytest.mark.parametrize(
  ('lengths', 'multiple', 'kept'),
  [
    ((3, 5), 8, 8),
    ((9, 2), 8, 16),
    ((20, 1), 8, 20),
    ((0, 0), 8, 1),
    ((3, 5), 1, 5),
  ],
)
def test_padding_that_all_rows_share_is_cut(lengths, multiple, kept):
  mask = tf.sequence_mask(lengths, 20, dtype=tf.int32)
  batch = {
    'input_word_ids': mask * 7,
    'input_mask': mask,
    'input_type_ids': tf.zeros_like(mask),
    'label_ids': tf.constant([1, 0]),
  }
  trimmed = batches.trim_padding(batch, multiple)
  for name in ('input_word_ids', 'input_mask', 'input_type_ids'):
    np.testing.assert_array_equal(trimmed[name], batch[name][:, :kept])
    assert int(tf.reduce_sum(trimmed[name])) == int(tf.reduce_sum(batch[name]))
  np.testing.assert_array_equal(trimmed['label_ids'], [1, 0])
