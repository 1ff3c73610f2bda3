"""Timing of alternatives in turns: what slows the machine slows all of them."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping

# Above this share of the cores in use by others, or above this spread relative
# to the median, times say more about the machine than about what was timed.
_MOST_OTHERS = 0.15
_MOST_SPREAD = 0.10


@dataclasses.dataclass(frozen=True)
class Turns:
  """Times of several alternatives that took turns.

  Attributes:
    seconds: of every timed turn, by the name of the alternative.
    others_share: share of this process's cores that other processes used
      meanwhile; 0.0 where the system does not tell.
  """

  seconds: Mapping[str, list[float]]
  others_share: float = 0.0

  def median(self, name: str) -> float:
    """Returns the median seconds of an alternative."""
    return statistics.median(self.seconds[name])

  def spread(self, name: str) -> float:
    """Returns half the distance between the quartiles, in seconds."""
    return half_quartile_distance(self.seconds[name])

  @property
  def is_quiet(self) -> bool:
    """Whether the machine did little else, so that the times compare."""
    return self.others_share <= _MOST_OTHERS and all(
      self.spread(name) <= _MOST_SPREAD * self.median(name)
      for name in self.seconds
    )


def time_in_turns(
  alternatives: Mapping[str, Callable[[], object]],
  turns: int,
  warm_up: int = 1,
) -> Turns:
  """Calls every alternative once per turn and times the calls.

  Args:
    alternatives: functions by name; each returns when its work is done.
    turns: timed turns.
    warm_up: turns before these.

  Example:
    time_in_turns({'plain': plain_step, 'dropping': dropping_step}, turns=20)
  """
  for _ in range(warm_up):
    for run in alternatives.values():
      run()
  seconds = {name: [] for name in alternatives}
  began, before = time.perf_counter(), _busy_seconds()
  own_before = time.process_time()
  for _ in range(turns):
    for name, run in alternatives.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  own = time.process_time() - own_before
  others = max(_busy_seconds() - before - own, 0.0)
  wall = max(time.perf_counter() - began, 1e-9)
  return Turns(seconds, others / (wall * len(_cores())))


def half_quartile_distance(values: Iterable[float]) -> float:
  """Returns half the distance between the quartiles; 0.0 of one value.

  Example:
    half_quartile_distance([1.0, 2.0, 3.0, 4.0, 5.0])  # 1.5
  """
  values = list(values)
  if len(values) < 2:
    return 0.0
  low, _, high = statistics.quantiles(values, n=4)
  return (high - low) / 2


def _cores() -> set[int]:
  """Returns the numbers of the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return os.sched_getaffinity(0)
  return set(range(os.cpu_count() or 1))


def _busy_seconds() -> float:
  """Returns the seconds that all processes have used this process's cores."""
  try:
    with open('/proc/stat', encoding='ascii') as file:
      lines = [line.split() for line in file if line.startswith('cpu')]
  except OSError:  # Not Linux.
    return 0.0
  names = {f'cpu{core}' for core in _cores()}
  # user nice system idle iowait irq softirq steal
  ticks = sum(
    sum(map(int, numbers[:3])) + sum(map(int, numbers[5:8]))
    for name, *numbers in lines
    if name in names
  )
  return ticks / os.sysconf('SC_CLK_TCK')
