import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data.read import row_batches


def flat(dataset):
  return [item for batch in dataset for item in batch.numpy().tolist()]


@pytest.mark.parametrize('skip', [0, 1, 3, 4, 9, 10, 50])
def test_rows_are_skipped_across_batches(skip):
  numbers = tf.data.Dataset.range(10).batch(4)
  assert flat(row_batches.skip_rows(numbers, skip)) == list(range(10))[skip:]
  skip = tf.constant(skip)
  assert flat(row_batches.skip_rows(numbers, skip)) == list(range(10))[skip:]


def test_rows_of_structures_are_skipped_alike():
  pairs = tf.data.Dataset.range(6).map(lambda n: (n, -n)).batch(4)
  found = list(row_batches.skip_rows(pairs, 5).as_numpy_iterator())
  assert [part.tolist() for part in found[-1]] == [[5], [-5]]


def queues(lengths):
  """Opens queues of strings 'QUEUE.NUMBER'."""
  return lambda queue: (
    tf.data.Dataset.range(tf.gather(tf.constant(lengths, tf.int64), queue))
    .map(lambda n: tf.strings.join([tf.as_string(queue), tf.as_string(n)], '.'))
    .batch(4)
  )


def test_a_window_has_its_rows_of_every_queue():
  windows = row_batches.side_by_side(queues([5, 0, 3]), 3, 2)
  assert [window.tolist() for window in windows.as_numpy_iterator()] == [
    [b'0.0', b'0.1', b'2.0', b'2.1'],
    [b'0.2', b'0.3', b'2.2'],
    [b'0.4'],
  ]


def test_one_queue_is_cut_into_windows():
  windows = list(
    row_batches.side_by_side(queues([5]), 1, 2).as_numpy_iterator()
  )
  assert [len(window) for window in windows] == [2, 2, 1]


@pytest.mark.parametrize('rows', [1, 2, 5, 7])
def test_parts_of_a_batch_are_the_batch(rows):
  batch = (tf.range(5), 10 * tf.reshape(tf.range(10), [5, 2]))
  parts = list(row_batches.in_parts(batch, rows))
  assert [len(part[0]) for part in parts[:-1]] == [rows] * (len(parts) - 1)
  for index, whole in enumerate(batch):
    np.testing.assert_array_equal(
      tf.concat([part[index] for part in parts], axis=0), whole
    )
  assert not list(row_batches.in_parts(tf.zeros([0, 3]), rows))
