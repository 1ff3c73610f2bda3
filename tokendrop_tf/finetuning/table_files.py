"""Labelled texts from TSV as GLUE distributes it, JSONL and TFDS.

TSV is split at tabs and line feeds and nothing else: quotes mean nothing, a
byte order mark and carriage returns are dropped. `.gz` is unpacked.
"""

import dataclasses
import functools
import json
import math
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from tokendrop_tf import errors
from tokendrop_tf.config import finetuning_configs, glue_tasks
from tokendrop_tf.data.read import text_files, tfds_builder

_MAX_LABELS = 200
_NO_LABEL = ('', 'nan', 'NaN')
_WHOLE_NUMBER = re.compile(r'-?\d+(\.0+)?')


@dataclasses.dataclass(frozen=True)
class Layout:
  """The columns to read, and the labels that may occur.

  Attributes:
    task: columns and their alternatives.
    is_regression: whether labels are numbers.
    skip_malformed: whether rows that cannot be used are omitted and counted
      instead of refused: with another number of columns, without a label, with
      half a character.
  """

  task: glue_tasks.GlueTask
  is_regression: bool = False
  skip_malformed: bool = False


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
  """Rows of one source.

  Attributes:
    texts: UTF-8 strings, list of bytes [N].
    pair_texts: the second texts, or `None`.
    labels: int32 [N] ids, or float32 [N] numbers; `None` without labels.
    indices: what names a row in a prediction file, list of str [N].
    num_skipped: malformed rows that were omitted.
  """

  texts: list[bytes]
  pair_texts: list[bytes] | None
  labels: np.ndarray | None
  indices: list[str]
  num_skipped: int = 0

  @property
  def num_rows(self) -> int:
    return len(self.texts)


class Source(NamedTuple):
  """A place that rows come from.

  Attributes:
    input_path: comma-separated files and globs: `.tsv`, `.txt`, `.jsonl`, each
      also with `.gz`; '' where `tfds_name` is set.
    tfds_name: name of a TFDS data set.
    tfds_split: split of it.
    tfds_data_dir: folder of TFDS data sets; '' is TFDS's own default.
  """

  input_path: str = ''
  tfds_name: str = ''
  tfds_split: str = ''
  tfds_data_dir: str = ''

  @classmethod
  def of(cls, data: finetuning_configs.TextDataConfig) -> 'Source':
    """Returns the source that a data section names."""
    values = {name: getattr(data, name) for name in cls._fields}
    return cls(**(values | {'input_path': str(data.input_path)}))


def read(
  source: Source, layout: Layout, setting: str, needs_labels: bool = True
) -> LabelledTexts:
  """Reads all rows of a source.

  Args:
    source: where they come from.
    layout: columns and labels.
    setting: name of the setting that gave the source, for messages.
    needs_labels: whether a source without labels is refused.

  Raises:
    errors.DataError: naming file and line, for what cannot be used.

  Example:
    layout = Layout(glue_tasks.TASKS['rte'])
    read(Source('rte/dev.tsv'), layout, 'glue.validation_data').num_rows  # 277
  """
  table, num_skipped = _read_table(source, layout, setting, needs_labels)

  def encoded(role):
    return [text.encode() for text in table[role]] if role in table else None

  return LabelledTexts(
    texts=encoded('text'),
    pair_texts=encoded('pair'),
    labels=_label_ids(table['label'], layout, setting)
    if needs_labels
    else None,
    indices=list(table['index']),
    num_skipped=num_skipped,
  )


def concatenate(first: LabelledTexts, second: LabelledTexts) -> LabelledTexts:
  """Returns the rows of both, those of `first` first."""
  pairs = None
  if first.pair_texts is not None:
    pairs = first.pair_texts + second.pair_texts
  return LabelledTexts(
    first.texts + second.texts,
    pairs,
    np.concatenate([first.labels, second.labels]),
    first.indices + second.indices,
    first.num_skipped + second.num_skipped,
  )


def distinct_labels(
  source: Source, layout: Layout, setting: str
) -> tuple[str, ...]:
  """Returns the labels that occur in a source, sorted (numbers by value).

  A number is one label however it is spelt, as 1 or 1.0; the shortest spelling
  that occurs names it.

  Raises:
    errors.DataError: as `read`, or for one label or too many.
  """
  table, _ = _read_table(source, layout, setting, True)
  spellings = {}
  for text in sorted(table['label'].unique(), key=len):
    spellings.setdefault(_label_key(text), text)
  names = sorted(spellings.values(), key=_label_order)
  if not 2 <= len(names) <= _MAX_LABELS:
    raise errors.DataError(
      f'A classification needs 2 to {_MAX_LABELS} different labels. Received: '
      f'{len(names)} in {source.input_path or source.tfds_name}. Set '
      'glue.label_column, glue.label_names, or glue.is_regression.'
    )
  return tuple(names)


def _label_order(name):
  try:
    return (0, float(name), name)
  except ValueError:
    return (1, 0.0, name)


def _label_key(text: str) -> str:
  """Returns '1' for '1.0' and '1', and any other text as it is."""
  is_whole = _WHOLE_NUMBER.fullmatch(text)
  return text.split('.')[0] if is_whole else text


@functools.lru_cache(maxsize=16)
def _read_table(
  source, layout, setting, needs_labels
) -> tuple[pd.DataFrame, int]:
  """Reads a source once, however often it is asked for.

  Returns:
    The rows, with the columns 'text', 'index' and, where the task has them,
    'pair' and 'label', all of str, under their places, e.g. 'a.tsv, line 3';
    and how many rows were omitted.
  """
  if source.tfds_name:
    tables = [(_read_tfds(source, layout, setting, needs_labels), 0)]
  else:
    tables = [
      _read_file(path, layout, setting, needs_labels)
      for path in text_files.match_files(source.input_path, setting)
    ]
  table = pd.concat([table for table, _ in tables], join='inner')
  if 'index' not in table:
    table['index'] = [str(number) for number in range(len(table))]
  return table, sum(num_skipped for _, num_skipped in tables)


def _read_file(path, layout, setting, needs_labels):
  stem = path.removesuffix('.gz')
  if stem.endswith('.csv'):
    raise errors.DataError(
      f'{setting} must name TSV (columns between tabs) or JSONL files. '
      f'Received: {path}. Convert the file, or set {setting}.'
    )
  lines = pd.Series(text_files.read_text(path).split('\n'), dtype=object)
  lines.index = [f'{path}, line {n}' for n in range(1, len(lines) + 1)]
  lines = lines.str.rstrip('\r')
  lines = lines[lines.str.strip() != '']
  if lines.empty:
    raise errors.DataError(
      f'{setting} must name files with rows. Received: {path}, which is '
      f'empty. Set {setting}.'
    )
  is_json = stem.endswith(('.jsonl', '.json', '.ndjson'))
  split = _split_json if is_json else _split_tsv
  rows, columns, num_rows = split(lines, layout, needs_labels)
  names = _names(path, columns, layout.task, setting, needs_labels)
  if not num_rows:
    raise errors.DataError(
      f'{setting} must name files with rows. Received: {path}, which has only '
      f'a header. Set {setting}.'
    )
  # Objects: pandas would make 1.0 of a 1 in a column with a gap.
  table = pd.DataFrame(
    {
      role: [
        row.get(name) if is_json else row[columns.index(name)] for row in rows
      ]
      for role, name in names.items()
    },
    index=rows.index,
    dtype=object,
  )
  table = _checked(table, names, layout)
  return table, num_rows - len(table)


def _split_tsv(lines, layout, needs_labels):
  """Returns rows as lists of cells, their columns, and how many there were."""
  rows = lines.str.split('\t')
  columns = [name.strip() for name in rows.iloc[0]]
  if _find(columns, layout.task.text_columns):
    rows = rows.iloc[1:]
  else:
    columns = (
      _headerless_columns(len(columns), layout.task, needs_labels) or columns
    )
  width = len(columns)
  rows = rows.map(lambda row: _without_empty_cells(row, width))
  good = _keep(
    rows,
    rows.map(len) == width,
    layout,
    lambda place, row: (
      f'Every row must have as many columns as the first, {width}. Received: '
      f'{len(row)} in {place}.'
    ),
  )
  return good, columns, len(rows)


def _without_empty_cells(row, width):
  """Drops empty cells behind the last column."""
  while len(row) > width and not row[-1].strip():
    row = row[:-1]
  return row


def _split_json(lines, layout, needs_labels):
  """Returns rows as dicts, the first one's columns, and how many there were."""
  del needs_labels
  rows = lines.map(_parsed)
  good = _keep(
    rows,
    rows.map(lambda row: isinstance(row, dict)),
    layout,
    lambda place, row: (
      f'A line of JSONL must be one JSON object. Received: {place}, which is '
      f'{row if isinstance(row, ValueError) else type(row).__name__}.'
    ),
  )
  columns = list(good.iloc[0]) if len(good) else []
  return good, columns, len(rows)


def _parsed(line):
  try:
    return json.loads(line)
  except ValueError as error:
    return error


def _keep(rows, is_good, layout, describe):
  """Returns the good rows.

  Raises:
    errors.DataError: for the first other one, unless they are omitted.
  """
  bad = rows[~is_good]
  if len(bad) and not layout.skip_malformed:
    raise errors.DataError(
      f'{describe(bad.index[0], bad.iloc[0])} Correct the row, or set '
      "glue.malformed_rows = 'skip'."
    )
  return rows[is_good]


def _checked(table, names, layout):
  """Returns the rows that have texts and a label, all values as str."""
  for role in table:
    if role in ('text', 'pair'):
      is_good = table[role].map(_is_text)
      rule = f'The column {names[role]!r} must hold text'
    else:
      is_good = table[role].map(lambda value: _has_value(value, layout))
      rule = f'Every row must have a value under {names[role]!r}'
    _keep(
      table[role],
      is_good,
      layout,
      lambda place, value, rule=rule: (
        f'{rule}. Received: {_shown(value)} in {place}.'
      ),
    )
    table = table[is_good]
  return table.map(_as_text)


def _is_text(value) -> bool:
  return isinstance(value, str) and text_files.is_text(value)


def _has_value(value, layout) -> bool:
  if isinstance(value, str):
    is_known = value in layout.task.label_names
    return text_files.is_text(value) and (is_known or value not in _NO_LABEL)
  return value is not None and value == value


def _shown(value) -> str:
  return repr(value) if isinstance(value, str) else json.dumps(value)


def _as_text(value) -> str:
  return value if isinstance(value, str) else json.dumps(value)


def _find(columns, alternatives) -> str | None:
  return next((name for name in alternatives if name in columns), None)


def _headerless_columns(num_columns, task, needs_labels):
  """Returns the columns of a file without a header, or `None`."""
  for columns in task.headerless:
    has_label = bool(_find(columns, task.label_columns))
    if len(columns) == num_columns and has_label == needs_labels:
      return list(columns)
  for columns in task.headerless:
    if len(columns) == num_columns and not needs_labels:
      return list(columns)
  return None


def _names(path, columns, task, setting, needs_labels) -> dict[str, str]:
  """Returns the columns to read, by 'text', 'pair', 'label' and 'index'.

  Raises:
    errors.DataError: naming the file, the missing column and those there are.
  """
  wanted = {
    'text': (task.text_columns, 'glue.text_column'),
    'pair': (task.pair_columns, 'glue.text_pair_column'),
    'label': (task.label_columns if needs_labels else (), 'glue.label_column'),
    'index': (task.index_columns, ''),
  }
  found = {}
  for role, (names, name_setting) in wanted.items():
    if name := _find(columns, names):
      found[role] = name
    elif names and name_setting:
      raise errors.DataError(
        f'{setting} must have the column {" or ".join(map(repr, names))}. '
        f'Received: {path}, whose columns are '
        f'{", ".join(_shortened(name) for name in columns)}. Set '
        f'{name_setting}, or, for a file without a header, glue.column_names.'
      )
  return found


def _shortened(name):
  return repr(name if len(name) <= 40 else name[:37] + '...')


def _read_tfds(source, layout, setting, needs_labels):
  _, name, split, data_dir = source
  builder = tfds_builder.open_builder(
    name, split, data_dir, setting, setting, 'glue.tfds_data_dir'
  )
  features = builder.info.features
  columns = list(features)
  where = f'TFDS {name}'
  names = _names(where, columns, layout.task, setting, needs_labels)
  values = {role: [] for role in names}
  dataset = builder.as_dataset(split=split, shuffle_files=False)
  dataset = dataset.map(
    lambda row: {role: row[column] for role, column in names.items()}
  )
  for batch in dataset.batch(1024).as_numpy_iterator():
    for role, items in batch.items():
      values[role].extend(_tfds_texts(items, features[names[role]], layout))
  table = pd.DataFrame(values, dtype=object)
  table.index = [f'{where}, split {split}, row {row}' for row in table.index]
  return table


def _tfds_texts(items, feature, layout):
  """Returns TFDS values as a file would spell them."""
  if not hasattr(feature, 'int2str'):
    return [
      item.decode() if isinstance(item, bytes) else str(item) for item in items
    ]
  # A class label is a number: of the name that the task has for it, if it
  # has, else of the same place in the task's order.
  texts = []
  for item in map(int, items):
    name = feature.int2str(item) if item >= 0 else str(item)
    known = layout.task.label_names
    is_place = bool(known) and name not in known and 0 <= item < len(known)
    texts.append(known[item] if is_place else name)
  return texts


def _label_ids(labels: pd.Series, layout, setting):
  if layout.is_regression:
    numbers = [_number(text, place, setting) for place, text in labels.items()]
    return np.array(numbers, np.float32)
  names = layout.task.label_names
  by_key = {_label_key(name): index for index, name in enumerate(names)}
  # As it is spelt, before what the number stands for.
  ids = by_key | {name: index for index, name in enumerate(names)}
  found = labels.map(lambda text: ids.get(text, by_key.get(_label_key(text))))
  if found.isna().any():
    place = found.isna().idxmax()
    raise errors.DataError(
      f'A label must be one of {", ".join(map(repr, names))}. Received: '
      f'{labels[place]!r} in {place}. Correct the row, or set glue.label_names '
      'or glue.label_column.'
    )
  return found.to_numpy(np.int32)


def _number(text, place, setting):
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not math.isfinite(number):
    raise errors.DataError(
      f'The label of a regression must be a number. Received: {text!r} in '
      f'{place}. Correct the row, or set glue.label_column or {setting}.'
    )
  return number


def clear_cache():
  """Forgets what has been read."""
  _read_table.cache_clear()
