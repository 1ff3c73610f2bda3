"""The report of the TPU compiler as text."""

from collections.abc import Sequence

import tabulate

# Header, key of a row, unit, digits.
_COLUMNS = (
  ('TFLOP', 'flops', 1e12, 3),
  ('GB moved', 'bytes_accessed', 1e9, 1),
  ('arguments', 'argument_bytes', 2**30, 2),
  ('temporary', 'temporary_bytes', 2**30, 2),
  ('total GiB', 'total_bytes', 2**30, 2),
  ('M cycles', 'estimated_cycles', 1e6, 1),
  ('ms', 'estimated_seconds', 1e-3, 1),
)
_RATIOS = {
  'cycles': 'estimated_cycles',
  'temporaries': 'temporary_bytes',
  'operations': 'flops',
}


def format_table(rows: Sequence[dict]) -> str:
  """Returns the arms of one topology as a table, and ratios to the last."""
  table = tabulate.tabulate(
    [
      [row['name'], 'yes' if row['fits'] else 'no']
      + [
        None if row.get(key) is None else row[key] / unit
        for _, key, unit, _ in _COLUMNS
      ]
      for row in rows
    ],
    headers=['arm', 'fits'] + [header for header, *_ in _COLUMNS],
    floatfmt=['', ''] + [f',.{digits}f' for *_, digits in _COLUMNS],
    missingval='-',
  )
  return '\n'.join([table, *_ratio_lines(rows)])


def one_line(row: dict) -> str:
  """Returns what happened to one arm."""
  text = f'  {row["name"]}: '
  if not row['compiles']:
    return text + f'does not compile: {row["message"]}'
  text += f'compiled in {row["compile_seconds"]:.0f} s'
  if 'largest_batch' in row:
    text += f'; {row["largest_batch"]} sequences fit on one chip'
  return text


def _ratio_lines(rows):
  *others, last = rows
  for row in others:
    ratios = [
      f'{name} {row[key] / last[key]:.3f}'
      for name, key in _RATIOS.items()
      if row.get(key) and last.get(key)
    ]
    if ratios:
      yield f'{row["name"]} / {last["name"]}: {", ".join(ratios)}'
