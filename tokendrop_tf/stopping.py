"""Ends a training on SIGTERM or Ctrl-C with a checkpoint, not in the middle."""

import contextlib
import signal
import threading


class Stopped(Exception):
  """The training was told to end; `signal_number` says by which signal."""

  def __init__(self, signal_number):
    super().__init__(signal.Signals(signal_number).name)
    self.signal_number = signal_number


class StopRequest(contextlib.AbstractContextManager):
  """Takes SIGTERM and SIGINT while it is entered.

  The first signal is remembered for `check`, which the train loop calls between
  steps; where nothing is lost by it (`at_once`), the signal ends what runs. A
  second Ctrl-C ends the process as without this class.

  Example:
    with StopRequest() as request:
      for step in range(1000):
        train(step)
        request.check()
  """

  def __init__(self):
    self.signal_number = None
    self._handlers = {}
    self._at_once = False

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._handlers[number] = signal.signal(number, self._remember)
    return self

  def __exit__(self, *error):
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    self._handlers = {}

  def check(self):
    """Raises `Stopped` if a signal has come."""
    if self.signal_number is not None:
      raise Stopped(self.signal_number)

  @contextlib.contextmanager
  def at_once(self):
    """Within it a signal raises `Stopped` wherever the program is."""
    self.check()
    self._at_once = True
    try:
      yield
    finally:
      self._at_once = False

  def _remember(self, number, frame):
    del frame
    if self.signal_number is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal_number = number
    if self._at_once:
      self._at_once = False
      raise Stopped(number)
