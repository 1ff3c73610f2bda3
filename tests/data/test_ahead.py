import threading

import pytest

from tokendrop_tf.data import ahead


def test_items_come_in_their_order():
  assert list(ahead.Ahead(range(1000), most=3)) == list(range(1000))


def test_items_are_taken_before_they_are_asked_for():
  taken = threading.Event()

  def items():
    yield 1
    taken.set()
    yield 2

  found = ahead.Ahead(items(), most=2)
  assert taken.wait(timeout=60)
  assert list(found) == [1, 2]


def test_no_more_are_taken_than_are_allowed():
  numbers = iter(range(1000))
  found = iter(ahead.Ahead(numbers, most=3))
  assert [next(found) for _ in range(3)] == [0, 1, 2]
  assert next(numbers) == 3
  assert list(found) == list(range(4, 1000))


def test_an_error_comes_after_what_was_before_it():
  def items():
    yield 1
    raise ValueError('damaged')

  found = iter(ahead.Ahead(items(), most=5))
  assert next(found) == 1
  with pytest.raises(ValueError, match='damaged'):
    next(found)
