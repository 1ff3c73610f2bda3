"""The TPU compiler's own estimate of a step, read from its optimized HLO.

The compiler writes `estimated_cycles` beside every fusion and copy it has
scheduled. The sum over the entry computation is its estimate of the step; loops
count as often as they turn, of a conditional the longest branch counts.
"""

import functools
import re

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BODY = re.compile(r' while\(.*body=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRUE_FALSE = re.compile(r'(?:true|false)_computation=%?([\w.\-]+)')
_CALLED = re.compile(
  r' (?:call|async-start)\(.*(?:to_apply|calls)=%?([\w.\-]+)'
)


def estimated_cycles(text: str) -> int:
  """Returns the estimated cycles of one execution of an HLO module.

  Args:
    text: the optimized module in HLO's text form.
  """
  computations, entry = _split(text)

  @functools.cache
  def total(name):
    return sum(_line_cycles(line, total) for line in computations[name])

  return total(entry)


def _split(text):
  """Returns the lines of every computation, and the entry's name."""
  computations, entry, lines = {}, '', []
  for line in text.splitlines():
    match = _COMPUTATION.match(line)
    if match:
      lines = computations.setdefault(match.group(2), [])
      entry = match.group(2) if match.group(1) else entry
    else:
      lines.append(line)
  return computations, entry


def _line_cycles(line, total):
  body = _BODY.search(line)
  if body:
    trips = _TRIP_COUNT.search(line)
    return total(body.group(1)) * (int(trips.group(1)) if trips else 1)
  branches = _branches(line)
  if branches:
    return max(total(name) for name in branches)
  called = _CALLED.search(line)
  if called:
    return total(called.group(1))
  own = _CYCLES.search(line)
  return int(own.group(1)) if own else 0


def _branches(line):
  listed = _BRANCHES.search(line)
  if listed:
    return [name.strip().lstrip('%') for name in listed.group(1).split(',')]
  return _TRUE_FALSE.findall(line)
