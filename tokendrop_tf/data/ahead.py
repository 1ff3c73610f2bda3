"""What an iterator yields first, taken from it before it is asked for."""

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator

_END = object()


class Ahead:
  """Takes the first items from an iterable in a thread of its own, at once.

  Args:
    items: yields the items; an exception is raised where it occurred.
    most: how many are taken; the others as they are asked for.

  Example:
    lines = Ahead(open('text.txt'), most=1000)
    ...                                          # Something that takes long.
    for line in lines:
      print(line)
  """

  def __init__(self, items: Iterable, most: int):
    self._items = iter(items)
    self._taken = queue.SimpleQueue()
    self._error = None
    # A daemon: nobody may ask for the items in the end.
    threading.Thread(target=self._take, args=(most,), daemon=True).start()

  def _take(self, most):
    try:
      for item in itertools.islice(self._items, most):
        self._taken.put(item)
    except Exception as error:  # pylint: disable=broad-except
      self._error = error
    self._taken.put(_END)

  def __iter__(self) -> Iterator:
    """Yields the items, to one reader, once."""
    while (item := self._taken.get()) is not _END:
      yield item
    if self._error:
      raise self._error
    yield from self._items
