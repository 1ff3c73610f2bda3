import numpy as np
import pytest

from tokendrop_tf.data.examples import row_places


def test_a_place_in_a_queue_is_found_in_its_file():
  sizes = [3, 0, 5]
  places = [row_places.seek(sizes, skip) for skip in range(10)]
  assert places[:3] == [(0, 0), (0, 1), (0, 2)]
  assert places[3:8] == [(2, number) for number in range(5)]
  assert places[8:] == [(3, 0)] * 2


def test_counts_are_kept(tmp_path):
  counts = row_places.RowCounts((3, 4), (10, 20))
  assert row_places.load_counts(str(tmp_path)) is None
  row_places.save_counts(counts, str(tmp_path))
  assert row_places.load_counts(str(tmp_path)) == counts
  assert counts.num_rows == 30


@pytest.mark.parametrize('content', ['', '[]', '{"rows": 3}', '\x00'])
def test_damaged_counts_are_made_again(tmp_path, content):
  (tmp_path / row_places.COUNTS_FILE).write_text(content)
  assert row_places.load_counts(str(tmp_path)) is None


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
      assert row_places.seek(sizes, skip) == item
