import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data import positions, streams


def flat(dataset):
  return [item for batch in dataset for item in batch.numpy().tolist()]


@pytest.mark.parametrize('skip', [0, 1, 3, 4, 9, 10, 50])
def test_rows_are_skipped_across_batches(skip):
  numbers = tf.data.Dataset.range(10).batch(4)
  assert flat(streams.skip_rows(numbers, skip)) == list(range(10))[skip:]
  skip = tf.constant(skip)
  assert flat(streams.skip_rows(numbers, skip)) == list(range(10))[skip:]


def test_rows_of_structures_are_skipped_alike():
  pairs = tf.data.Dataset.range(6).map(lambda n: (n, -n)).batch(4)
  found = list(streams.skip_rows(pairs, 5).as_numpy_iterator())
  assert [part.tolist() for part in found[-1]] == [[5], [-5]]


def lanes(lengths):
  """Opens lanes of strings 'LANE.NUMBER'."""
  return lambda lane: (
    tf.data.Dataset.range(tf.gather(tf.constant(lengths, tf.int64), lane))
    .map(lambda n: tf.strings.join([tf.as_string(lane), tf.as_string(n)], '.'))
    .batch(4)
  )


def test_a_window_has_its_rows_of_every_lane():
  windows = streams.side_by_side(lanes([5, 0, 3]), 3, 2)
  assert [window.tolist() for window in windows.as_numpy_iterator()] == [
    [b'0.0', b'0.1', b'2.0', b'2.1'],
    [b'0.2', b'0.3', b'2.2'],
    [b'0.4'],
  ]


def test_one_lane_is_cut_into_windows():
  windows = list(streams.side_by_side(lanes([5]), 1, 2).as_numpy_iterator())
  assert [len(window) for window in windows] == [2, 2, 1]


def test_a_place_in_a_lane_is_found_in_its_file():
  sizes = [3, 0, 5]
  places = [positions.seek(sizes, skip) for skip in range(10)]
  assert places[:3] == [(0, 0), (0, 1), (0, 2)]
  assert places[3:8] == [(2, number) for number in range(5)]
  assert places[8:] == [(3, 0)] * 2


def test_counts_are_kept(tmp_path):
  counts = positions.RowCounts((3, 4), (10, 20))
  assert positions.load_counts(str(tmp_path)) is None
  positions.save_counts(counts, str(tmp_path))
  assert positions.load_counts(str(tmp_path)) == counts
  assert counts.num_rows == 30


@pytest.mark.parametrize('content', ['', '[]', '{"rows": 3}', '\x00'])
def test_damaged_counts_are_made_again(tmp_path, content):
  (tmp_path / positions.COUNTS_FILE).write_text(content)
  assert positions.load_counts(str(tmp_path)) is None


def test_seeking_agrees_with_reading():
  draw = np.random.default_rng(0)
  for _ in range(20):
    sizes = draw.integers(0, 4, 6).tolist()
    items = [
      (file, number)
      for file, size in enumerate(sizes)
      for number in range(size)
    ]
    for skip, item in enumerate(items):
      assert positions.seek(sizes, skip) == item


@pytest.mark.parametrize('rows', [1, 2, 5, 7])
def test_parts_of_a_batch_are_the_batch(rows):
  batch = (tf.range(5), 10 * tf.reshape(tf.range(10), [5, 2]))
  parts = list(streams.in_parts(batch, rows))
  assert [len(part[0]) for part in parts[:-1]] == [rows] * (len(parts) - 1)
  for index, whole in enumerate(batch):
    np.testing.assert_array_equal(
      tf.concat([part[index] for part in parts], axis=0), whole
    )
  assert not list(streams.in_parts(tf.zeros([0, 3]), rows))
