"""The report of the TPU compiler as text."""

from collections.abc import Sequence

_COLUMNS = (
  ('arm', 12, lambda row: row['name']),
  ('fits', 6, lambda row: 'yes' if row['fits'] else 'no'),
  ('TFLOP', 9, lambda row: _scaled(row, 'flops', 1e12, 3)),
  ('GB moved', 10, lambda row: _scaled(row, 'bytes_accessed', 1e9, 1)),
  ('arguments', 11, lambda row: _scaled(row, 'argument_bytes', 2**30, 2)),
  ('temporary', 11, lambda row: _scaled(row, 'temporary_bytes', 2**30, 2)),
  ('total GiB', 11, lambda row: _scaled(row, 'total_bytes', 2**30, 2)),
  ('M cycles', 10, lambda row: _scaled(row, 'estimated_cycles', 1e6, 1)),
  ('ms', 8, lambda row: _scaled(row, 'estimated_seconds', 1e-3, 1)),
)
_RATIOS = (
  ('cycles', 'estimated_cycles'),
  ('temporaries', 'temporary_bytes'),
  ('operations', 'flops'),
)


def format_table(rows: Sequence[dict]) -> str:
  """Returns the arms of one topology as a table, and ratios to the last."""
  head = ''.join(f'{name:>{width}}' for name, width, _ in _COLUMNS)
  lines = [head]
  for row in rows:
    lines.append(
      ''.join(f'{value(row):>{width}}' for _, width, value in _COLUMNS)
    )
  return '\n'.join([*lines, *_ratio_lines(rows)])


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
  last = rows[-1]
  lines = []
  for row in rows[:-1]:
    ratios = [
      f'{name} {row[key] / last[key]:.3f}'
      for name, key in _RATIOS
      if row.get(key) and last.get(key)
    ]
    if ratios:
      lines.append(f'{row["name"]} / {last["name"]}: {", ".join(ratios)}')
  return lines


def _scaled(row, key, unit, digits):
  return f'{row[key] / unit:,.{digits}f}' if row.get(key) is not None else '-'
