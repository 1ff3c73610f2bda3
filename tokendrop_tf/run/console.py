"""Console output of a run: blocks of text, and a progress line."""

import sys
import textwrap
import time

import tqdm

SECONDS_BETWEEN_LINES = 10.0
LABEL_WIDTH = 12
MAX_LINE = 80


class Console:
  """Prints blocks, and one progress line below them.

  On a terminal the line is rewritten, with a bar; elsewhere a line is printed
  now and then.

  Args:
    stream: where to print; `None` is stdout.
    is_chief: whether this process prints.
  """

  def __init__(self, stream=None, is_chief=True):
    self._stream = stream or sys.stdout
    self._is_chief = is_chief
    self._rewrites = is_chief and self._stream.isatty()
    self._bar = None
    self._last = -float('inf')

  def show(self, text):
    """Prints `text` for good, above the progress line."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    elif self._is_chief:
      print(text, file=self._stream, flush=True)

  def progress(self, step, num_steps, text, force=False):
    """Shows how far a run is, in place of the last progress line.

    Args:
      step: the step reached.
      num_steps: the last step.
      text: one line of more.
      force: prints it even soon after another, where lines are not rewritten.
    """
    text = f'step {step:,}/{num_steps:,}  {text}'
    if self._rewrites:
      self._rewrite(step, num_steps, text)
      return
    now = time.monotonic()
    if force or now - self._last >= SECONDS_BETWEEN_LINES:
      self.show(text)
      self._last = now

  def wait(self, text):
    """Shows what the run does while no step is taken."""
    if self._rewrites:
      self._rewrite(0, None, text)
    else:
      self.show(text)

  def leave(self):
    """Ends the progress line, so that what follows starts on a new one."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def _rewrite(self, step, num_steps, text):
    if self._bar is None:
      self._bar = _Bar(file=self._stream, dynamic_ncols=True, bar_format=_TEXT)
    self._bar.n, self._bar.total = step, num_steps
    self._bar.bar_format = _TEXT_AND_BAR if num_steps else _TEXT
    self._bar.set_description_str(text)


_TEXT = '{desc}'
# A terminal that is too narrow cuts off the bar first.
_TEXT_AND_BAR = '{desc}  |{bar:12}|'


class _Bar(tqdm.tqdm):
  """A bar that is drawn when told to, without a thread that looks after it."""

  monitor_interval = 0


def block(title, rows):
  """Returns a title with (name, text) rows below it."""
  lines = [title] + [f'  {name:<{LABEL_WIDTH}}{text}' for name, text in rows]
  return '\n'.join(lines)


def wrap_text(text):
  """Breaks prose at the end of a line; paths and numbers stay whole."""
  return textwrap.fill(
    text,
    MAX_LINE - LABEL_WIDTH - 2,
    break_long_words=False,
    break_on_hyphens=False,
  ).replace('\n', '\n' + ' ' * (LABEL_WIDTH + 2))


def duration_text(seconds):
  """Returns a duration to two units.

  Example:
    duration_text(3725)  # '1 h 2 min'
  """
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60} s'
  if seconds < 86400:
    return f'{seconds // 3600} h {seconds % 3600 // 60} min'
  return f'{seconds // 86400} d {seconds % 86400 // 3600} h'
