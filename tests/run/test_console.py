"""Blocks and the progress line, on a terminal and elsewhere."""

import io
import types

import pytest

from tokendrop_tf.run import console


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_line_is_rewritten_below_what_is_printed():
  stream = Terminal()
  output = console.Console(stream)
  output.wait('compiling ...')
  for step in (100, 200, 300):
    output.progress(step, 400, f'loss {step}.0')
  assert '\n' not in stream.getvalue()
  assert 'step 300/400  loss 300.0' in stream.getvalue().split('\r')[-1]
  output.show('a block')
  *_, block, last = stream.getvalue().split('\n')[-2:]
  assert block.split('\r')[-1].strip() == 'a block'
  assert 'step 300/400' in last
  output.leave()
  assert stream.getvalue().endswith('\n')


def test_the_bar_says_how_far_a_run_is():
  stream = Terminal()
  output = console.Console(stream)
  output.progress(200, 400, 'loss 1.0')
  line = stream.getvalue().split('\r')[-1]
  assert line.count('#') == 6  # Half of 12.


def test_elsewhere_lines_come_at_a_reasonable_pace(monkeypatch):
  now, stream = [1000.0], io.StringIO()
  monkeypatch.setattr(
    console, 'time', types.SimpleNamespace(monotonic=lambda: now[0])
  )
  output = console.Console(stream)
  for step in range(10, 400, 10):
    now[0] += 1.0
    output.progress(step, 400, '', force=step == 10)
  lines = stream.getvalue().splitlines()
  assert len(lines) == 4  # The first, then one each 10 seconds.


def test_other_workers_are_silent():
  for stream in (io.StringIO(), Terminal()):
    output = console.Console(stream, is_chief=False)
    output.wait('compiling ...')
    output.progress(1, 2, '', force=True)
    output.show('a block')
    output.leave()
    assert stream.getvalue() == ''


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0 s'),
    (59.4, '59 s'),
    (61, '1 min 1 s'),
    (3725, '1 h 2 min'),
    (90000, '1 d 1 h'),
  ],
)
def test_durations_have_two_units(seconds, text):
  assert console.duration_text(seconds) == text
