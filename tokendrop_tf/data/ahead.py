"""What an iterator yields, taken from it before it is asked for."""

import queue
import threading
from collections.abc import Iterable, Iterator

_END = object()


class Ahead:
  """Takes items from an iterable in a thread of its own, at once.

  Args:
    items: yields the items; an exception is raised where it occurred.
    most: how many items wait at most.

  Example:
    lines = Ahead(open('text.txt'), most=1000)
    ...                                          # Something that takes long.
    for line in lines:
      print(line)
  """

  def __init__(self, items: Iterable, most: int):
    self._waiting = queue.Queue(most)
    self._error = None
    # A daemon: nobody may ask for the items in the end.
    threading.Thread(target=self._take, args=(items,), daemon=True).start()

  def _take(self, items):
    try:
      for item in items:
        self._waiting.put(item)
    except Exception as error:  # pylint: disable=broad-except
      self._error = error
    self._waiting.put(_END)

  def __iter__(self) -> Iterator:
    """Yields the items, to one reader, once."""
    while (item := self._waiting.get()) is not _END:
      yield item
    if self._error:
      raise self._error
