"""Measures train steps of growing sequences: seconds and peak memory.

  python tools/benchmark_long.py --model=bert_tiny --output_json=long.json

Attention at once against attention in blocks, each without dropping and with
it, at every sequence length. Each case runs in processes of its own, so one
that needs more memory than there is leaves the others alone; its row says so.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import tabulate

from tokendrop_tf import errors, files
from tools.measure import step_benchmark

_MASK_RATE = 0.15
# Flags of `step_benchmark` that are passed on where they are given.
_PASSED = ('model', 'num_layers', 'precision', 'vocab_size')
_SWITCHES = ('xla', 'recompute_layers')
_STEP_TOOL = pathlib.Path(__file__).parents[1] / 'benchmark_step.py'
_FAILED = 'out of memory'


def cases(arguments: argparse.Namespace) -> list[tuple[int, int, str]]:
  """Returns S, queries of attention at a time, and arm of every case."""
  return list(
    itertools.product(
      arguments.seq_lengths, (0, arguments.attention_block), ('none', 'loss')
    )
  )


def case_flags(
  arguments: argparse.Namespace, seq_length: int, block: int, arm: str
) -> list[str]:
  """Returns the flags of `step_benchmark` for one case.

  Args:
    arguments: what `parse_arguments` gives.
    seq_length: S.
    block: queries of attention at a time; 0 is all.
    arm: of `step_arms`.
  """
  return [
    f'--arms={arm}',
    '--memory',
    f'--batch_size={arguments.batch_size}',
    f'--seq_length={seq_length}',
    f'--max_predictions_per_seq={int(_MASK_RATE * (seq_length - 2))}',
    f'--token_keep_k={int(arguments.keep_share * seq_length)}',
    f'--crossing_layer={arguments.crossing_layer}',
    f'--attention_block={block}',
    f'--steps={arguments.steps}',
    *(f'--{name}={value}' for name, value in _passed(arguments).items()),
    *(f'--{name}' for name in _SWITCHES if getattr(arguments, name)),
  ]


def _passed(arguments):
  values = {name: getattr(arguments, name) for name in _PASSED}
  return {name: value for name, value in values.items() if value is not None}


def measure(flags: Sequence[str]) -> dict | None:
  """Returns the row of a case, or `None` where its memory did not suffice.

  Raises:
    errors.UserError: if the case fails for another reason.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'results.json')
    result = subprocess.run(
      [sys.executable, str(_STEP_TOOL), *flags, f'--output_json={path}'],
      capture_output=True,
      text=True,
      check=False,
    )
    if not result.returncode:
      [row] = json.loads(pathlib.Path(path).read_text())['arms']
      return row
  last = (result.stderr.strip().splitlines() or ['no message'])[-1]
  # Killed, or refused by the allocator; a case within is 'no message'.
  if result.returncode < 0 or any(
    word in result.stderr for word in ('OOM', 'no message', 'alloc')
  ):
    return None
  raise errors.UserError(f'A case must run by itself. Received: {last}')


def run(arguments: argparse.Namespace) -> list[dict]:
  """Measures every case, printing the table as it grows.

  Returns:
    One dict a case: `seq_length`, `attention_block`, `arm`, and, `None` where
    memory did not suffice, `seconds` and `peak_bytes`.
  """
  rows = []
  for seq_length, block, arm in cases(arguments):
    row = measure(case_flags(arguments, seq_length, block, arm)) or {}
    rows.append(
      {
        'seq_length': seq_length,
        'attention_block': block,
        'arm': arm,
        'seconds': row.get('median_seconds'),
        'peak_bytes': row.get('peak_bytes'),
      }
    )
    print(_line(rows[-1]), flush=True)
  return rows


def format_table(rows: Sequence[dict]) -> str:
  """Returns the rows as a table for the terminal."""
  return tabulate.tabulate(
    [
      {
        'S': row['seq_length'],
        'attention': _attention_text(row),
        'dropping': row['arm'],
        'seconds/step': row['seconds'],
        'peak GiB': row['peak_bytes'] and row['peak_bytes'] / 2**30,
      }
      for row in rows
    ],
    headers='keys',
    floatfmt=('', '', '', '.3f', '.2f'),
    missingval=_FAILED,
  )


def _attention_text(row):
  block = row['attention_block']
  return f'blocks of {block}' if block else 'at once'


def _line(row):
  done = f'{row["seconds"]:.3f} s' if row['seconds'] else _FAILED
  return f'S {row["seq_length"]}, {_attention_text(row)}, {row["arm"]}: {done}'


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line of `tools/benchmark_long.py`."""
  parser = command_line.ArgumentParser(description=__doc__)
  parser.add_argument('--seq_lengths', default='1024,2048,4096,8192')
  parser.add_argument(
    '--keep_share', type=float, default=0.25, help='K as a share of S'
  )
  parser.add_number('--crossing_layer', 2, 'Where tokens are dropped.', least=1)
  parser.add_number('--attention_block', 512, 'Queries in a block.', least=1)
  parser.add_number('--batch_size', 1, 'Sequences of a step.', least=1)
  parser.add_number('--steps', 3, 'Timed steps of a case.', least=1)
  for name in _PASSED:
    parser.add_argument(f'--{name}', help='as tools/benchmark_step.py')
  for name in _SWITCHES:
    parser.add_argument(
      f'--{name}', action='store_true', help='as tools/benchmark_step.py'
    )
  parser.add_argument('--output_json', default='')
  arguments = parser.parse_args(argv)
  arguments.seq_lengths = [int(s) for s in arguments.seq_lengths.split(',')]
  # Refuses what the cases would refuse, before the first of them.
  step_benchmark.parse_arguments(
    case_flags(arguments, arguments.seq_lengths[0], 0, 'none')
  )
  return arguments


def main(argv: Sequence[str] | None = None) -> None:
  """Measures all cases and prints the table."""
  arguments = parse_arguments(argv)
  rows = run(arguments)
  print(format_table(rows))
  if arguments.output_json:
    files.write_json(
      arguments.output_json, {'cases': rows, 'arguments': vars(arguments)}
    )


def console_main() -> None:
  """Entry point of the tool."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
