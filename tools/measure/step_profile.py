"""Where the time of a train step goes, by TensorFlow's profiler."""

import collections
import dataclasses
import glob
import json
import os
import tempfile
from collections.abc import Callable, Sequence

import tabulate
import tensorflow as tf
from tensorflow.python.profiler.internal import (
  _pywrap_profiler_plugin as profiler_plugin,
)

from tokendrop_tf import command_line

# Kinds of operations, by the words of their types; the first that fits.
_KINDS = {
  'matrix products within attention': ('BatchMatMul',),
  'matrix products': ('MatMul',),
  'compiled functions, and waiting': ('IDLE',),
  'random bits': ('Stateless', 'Bitcast'),
  'softmax': ('Softmax',),
  'casts': ('Cast',),
  'optimizer': ('Apply', 'AssignSub'),
  'norms for clipping': ('L2Loss',),
  'transposes': ('Transpose',),
  'gradients of biases': ('BiasAddGrad',),
  'adding up gradients': ('AddN',),
}


@dataclasses.dataclass(frozen=True)
class OperationTime:
  """What operations of one type, or kind, took.

  Attributes:
    name: the type, e.g. 'MatMul'.
    seconds: summed over threads, a step.
  """

  name: str
  seconds: float


def profile(
  step: Callable[[], object], num_steps: int = 2
) -> list[OperationTime]:
  """Runs a step under the profiler.

  Args:
    step: takes one step and waits for its end; it has been compiled before.
    num_steps: how many to run.

  Returns:
    Types of operations with their own time a step, longest first. 'IDLE' is
    what the threads spent outside TensorFlow's kernels: in functions that XLA
    has compiled, or waiting.
  """
  with tempfile.TemporaryDirectory() as folder:
    with tf.profiler.experimental.Profile(folder):
      for _ in range(num_steps):
        step()
    [path] = glob.glob(os.path.join(folder, 'plugins/profile/*/*.xplane.pb'))
    with command_line.stderr_shut():
      content, _ = profiler_plugin.xspace_to_tools_data(
        [path], 'framework_op_stats', {}
      )
  return _own_times(json.loads(content)[0], num_steps)


def _own_times(table, num_steps):
  columns = [column['id'] for column in table['cols']]
  microseconds = collections.Counter()
  for row in table['rows']:
    values = dict(zip(columns, (cell['v'] for cell in row['c'])))
    microseconds[values['type']] += values['total_self_time']
  return [
    OperationTime(name, total / 1e6 / num_steps)
    for name, total in microseconds.most_common()
  ]


def kinds(times: Sequence[OperationTime]) -> list[OperationTime]:
  """Returns the times added up by kind, longest first."""
  seconds = collections.Counter()
  for time in times:
    seconds[_kind(time.name)] += time.seconds
  return [OperationTime(name, total) for name, total in seconds.most_common()]


def _kind(operation):
  for name, words in _KINDS.items():
    if any(word in operation for word in words):
      return name
  return operation


def format_table(times: Sequence[OperationTime], most: int = 14) -> str:
  """Returns the times, and their shares, as a table for the terminal."""
  total = sum(time.seconds for time in times)
  rest = sum(time.seconds for time in times[most:])
  shown = [(time.name, time.seconds) for time in times[:most]]
  shown += [('all others', rest)] if rest else []
  return tabulate.tabulate(
    [(name, seconds, f'{seconds / total:.1%}') for name, seconds in shown],
    headers=('operations', 'seconds/step', 'share'),
    floatfmt='.4f',
    colalign=('left', 'right', 'right'),
  )
