"""SIGTERM and Ctrl-C, which end a run with a checkpoint between two steps."""

import contextlib
import os
import signal
import socket
import sys
import threading

from tokendrop_tf import command_line
from tokendrop_tf.run import checkpoints

# How long Python may take to answer a signal before the first step.
_SECONDS_TO_ANSWER = 1.0


class Stopped(Exception):
  """The run was told to end; `signal_number` says by which signal."""

  def __init__(self, signal_number):
    super().__init__(signal.Signals(signal_number).name)
    self.signal_number = signal_number


@contextlib.contextmanager
def named_ends(model_dir: str):
  """Within it, a signal that ends the run becomes the end of the command.

  Args:
    model_dir: folder of the run.

  Raises:
    command_line.Interrupted: on Ctrl-C, naming the last checkpoint.
    command_line.Terminated: on SIGTERM.
  """
  try:
    yield
  except KeyboardInterrupt:
    raise command_line.Interrupted(checkpoints.kept_text(model_dir)) from None
  except Stopped as stop:
    end = _end_of(stop.signal_number)
    raise end(checkpoints.kept_text(model_dir)) from None


def _end_of(signal_number) -> type[command_line.Interrupted]:
  if signal_number == signal.SIGTERM:
    return command_line.Terminated
  return command_line.Interrupted


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

  @contextlib.contextmanager
  def before_first_step(self, model_dir: str):
    """Within it a signal ends the process, even while TensorFlow compiles.

    Python answers no signal while it is inside TensorFlow; a thread does then.
    Nothing may be worth a checkpoint yet.

    Args:
      model_dir: folder of the run, for the message.
    """
    if not self._handlers:
      yield
      return
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    before = signal.set_wakeup_fd(pythons.fileno())
    is_over = threading.Event()
    thread = threading.Thread(
      target=_end_process, args=(ours, is_over, model_dir), daemon=True
    )
    thread.start()
    try:
      with self.at_once():
        yield
    finally:
      is_over.set()
      signal.set_wakeup_fd(before)
      pythons.close()
      thread.join()
      ours.close()

  def _remember(self, number, frame):
    del frame
    if self.signal_number is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal_number = number
    if self._at_once:
      self._at_once = False
      raise Stopped(number)


def _end_process(signals, is_over, model_dir):
  """Ends the process on a signal that Python does not answer by itself."""
  while number := signals.recv(1):
    if number[0] not in (signal.SIGINT, signal.SIGTERM):
      continue
    if is_over.wait(_SECONDS_TO_ANSWER):
      return
    end = _end_of(number[0])(checkpoints.kept_text(model_dir))
    sys.stdout.flush()
    print(f'\n{end.what}. {end}', file=sys.stderr, flush=True)
    os._exit(end.code)
