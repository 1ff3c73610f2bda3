"""Reads labelled texts: TSV as GLUE distributes it, JSONL, and TFDS.

TSV is split at tabs and line feeds and nothing else: quotes mean nothing, a
byte order mark and carriage returns are dropped. `.gz` is unpacked.
"""

import dataclasses
import functools
import json
import math

import numpy as np

from tokendrop_tf import errors
from tokendrop_tf.data import text_files
from tokendrop_tf.finetuning import glue_tasks

_MAX_LABELS = 200
_BYTE_ORDER_MARK = '\ufeff'


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which columns to read, and what a label may be.

  Attributes:
    task: columns and their alternatives.
    is_regression: whether labels are numbers.
    skip_malformed: whether rows with another number of columns are left out
      instead of refused.
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
    num_skipped: malformed rows that were left out.
  """

  texts: list[bytes]
  pair_texts: list[bytes] | None
  labels: np.ndarray | None
  indices: list[str]
  num_skipped: int = 0

  @property
  def num_rows(self) -> int:
    return len(self.texts)


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Texts of the wanted columns, with the place of every row for messages."""

  texts: list[str]
  pairs: list[str] | None
  labels: list[str] | None
  indices: list[str] | None
  places: list[str]
  num_skipped: int = 0


def read(
  source: str,
  layout: Layout,
  setting: str,
  needs_labels: bool = True,
  tfds_name: str = '',
  tfds_split: str = '',
  tfds_data_dir: str = '',
) -> LabelledTexts:
  """Reads all rows of a source.

  Args:
    source: comma-separated files and globs: `.tsv`, `.txt`, `.jsonl`, each also
      with `.gz`; '' where `tfds_name` is set.
    layout: columns and labels.
    setting: name of the setting that gave the source, for messages.
    needs_labels: whether a source without labels is refused.
    tfds_name: name of a TFDS data set.
    tfds_split: split of it.
    tfds_data_dir: folder of TFDS data sets; '' is TFDS's own default.

  Raises:
    errors.DataError: naming file and line, for what cannot be used.

  Example:
    layout = Layout(glue_tasks.TASKS['rte'])
    read('rte/dev.tsv', layout, 'glue.validation_data').num_rows  # 277
  """
  rows = _read_rows(
    source, layout, setting, needs_labels, tfds_name, tfds_split, tfds_data_dir
  )
  labels = None
  if needs_labels:
    labels = _label_ids(rows, layout, setting)
  return LabelledTexts(
    texts=[text.encode() for text in rows.texts],
    pair_texts=rows.pairs and [text.encode() for text in rows.pairs],
    labels=labels,
    indices=rows.indices or [str(n) for n in range(len(rows.texts))],
    num_skipped=rows.num_skipped,
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


def distinct_labels(source, layout, setting, **tfds) -> tuple[str, ...]:
  """Returns the labels that occur in a source, sorted (numbers by value).

  Raises:
    errors.DataError: as `read`, or for one label or too many.
  """
  rows = _read_rows(source, layout, setting, True, **_tfds(**tfds))
  names = sorted(set(rows.labels), key=_label_order)
  if not 2 <= len(names) <= _MAX_LABELS:
    raise errors.DataError(
      f'A classification needs 2 to {_MAX_LABELS} different labels. Received: '
      f'{len(names)} in {source or tfds["tfds_name"]}. Set glue.label_column, '
      'glue.label_names, or glue.is_regression.'
    )
  return tuple(names)


def _tfds(tfds_name='', tfds_split='', tfds_data_dir=''):
  return dict(
    tfds_name=tfds_name, tfds_split=tfds_split, tfds_data_dir=tfds_data_dir
  )


def _label_order(name):
  try:
    return (0, float(name), name)
  except ValueError:
    return (1, 0.0, name)


@functools.lru_cache(maxsize=16)
def _read_rows(
  source, layout, setting, needs_labels, tfds_name, tfds_split, tfds_data_dir
) -> _Rows:
  """Reads a source once, however often it is asked for."""
  if tfds_name:
    tables = [
      _read_tfds(
        tfds_name, tfds_split, tfds_data_dir, layout, setting, needs_labels
      )
    ]
  else:
    tables = [
      _read_file(path, layout, setting, needs_labels)
      for path in text_files.match_files(source, setting)
    ]
  return _concatenate(tables)


def _concatenate(tables) -> _Rows:
  def joined(name):
    columns = [getattr(table, name) for table in tables]
    if any(column is None for column in columns):
      return None
    return [value for column in columns for value in column]

  names = ('texts', 'pairs', 'labels', 'indices', 'places')
  return _Rows(
    **{name: joined(name) for name in names},
    num_skipped=sum(table.num_skipped for table in tables),
  )


def _read_file(path, layout, setting, needs_labels) -> _Rows:
  stem = path.removesuffix('.gz')
  if stem.endswith('.csv'):
    raise errors.DataError(
      f'{setting} must name TSV (columns between tabs) or JSONL files. '
      f'Received: {path}. Convert the file, or set {setting}.'
    )
  lines = _lines(path)
  if not lines:
    raise errors.DataError(
      f'{setting} must name files with rows. Received: {path}, which is '
      f'empty. Set {setting}.'
    )
  if stem.endswith(('.jsonl', '.json', '.ndjson')):
    return _read_jsonl(path, lines, layout, setting, needs_labels)
  return _read_tsv(path, lines, layout, setting, needs_labels)


def _lines(path) -> list[tuple[int, str]]:
  """Returns the lines that are not blank, with their numbers from 1."""
  text_files.check_utf8(path)
  text = b''.join(text_files.chunks(path)).decode('utf-8')
  lines = text.removeprefix(_BYTE_ORDER_MARK).split('\n')
  return [
    (number, line.rstrip('\r'))
    for number, line in enumerate(lines, start=1)
    if line.strip()
  ]


def _read_tsv(path, lines, layout, setting, needs_labels) -> _Rows:
  first = lines[0][1].split('\t')
  columns = [name.strip() for name in first]
  if _find(columns, layout.task.text_columns) is not None:
    lines = lines[1:]
  else:
    columns = _headerless_columns(len(first), layout.task, needs_labels)
  if columns is None:
    columns = [name.strip() for name in first]
  places = _places(path, columns, layout.task, setting, needs_labels)
  if not lines:
    raise errors.DataError(
      f'{setting} must name files with rows. Received: {path}, which has only '
      f'a header. Set {setting}.'
    )
  rows, numbers, num_skipped = _split(path, lines, len(columns), layout)

  def column(role):
    index = places[role]
    return None if index is None else [row[index] for row in rows]

  return _Rows(
    texts=column('text'),
    pairs=column('pair'),
    labels=column('label'),
    indices=column('index'),
    places=[f'{path}, line {number}' for number in numbers],
    num_skipped=num_skipped,
  )


def _split(path, lines, num_columns, layout):
  rows, numbers, num_skipped = [], [], 0
  for number, line in lines:
    row = line.split('\t')
    while len(row) > num_columns and not row[-1].strip():
      row.pop()
    if len(row) == num_columns:
      rows.append(row)
      numbers.append(number)
    elif layout.skip_malformed:
      num_skipped += 1
    else:
      raise errors.DataError(
        f'Every row must have as many columns as the first, {num_columns}. '
        f'Received: {len(row)} in {path}, line {number}. Correct the row, or '
        "set glue.malformed_rows = 'skip'."
      )
  return rows, numbers, num_skipped


def _find(columns, alternatives):
  for name in alternatives:
    if name in columns:
      return columns.index(name)
  return None


def _headerless_columns(num_columns, task, needs_labels):
  """Returns the columns of a file without a header, or `None`."""
  for columns in task.headerless:
    has_label = _find(columns, task.label_columns) is not None
    if len(columns) == num_columns and has_label == needs_labels:
      return list(columns)
  for columns in task.headerless:
    if len(columns) == num_columns and not needs_labels:
      return list(columns)
  return None


def _places(path, columns, task, setting, needs_labels):
  """Returns the index of every wanted column; `None` for those without one.

  Raises:
    errors.DataError: naming the file, the missing column and those there are.
  """
  wanted = {
    'text': (task.text_columns, 'glue.text_column', True),
    'pair': (
      task.pair_columns,
      'glue.text_pair_column',
      bool(task.pair_columns),
    ),
    'label': (task.label_columns, 'glue.label_column', needs_labels),
    'index': (task.index_columns, 'glue.index_column', False),
  }
  places = {}
  for role, (names, name_setting, is_needed) in wanted.items():
    places[role] = _find(columns, names)
    if is_needed and places[role] is None:
      raise errors.DataError(
        f'{setting} must have the column {" or ".join(map(repr, names))}. '
        f'Received: {path}, whose columns are '
        f'{", ".join(_shortened(name) for name in columns)}. Set '
        f'{name_setting}, or, for a file without a header, glue.column_names.'
      )
  return places


def _shortened(name):
  return repr(name if len(name) <= 40 else name[:37] + '...')


def _read_jsonl(path, lines, layout, setting, needs_labels) -> _Rows:
  records = [(number, _record(path, number, line)) for number, line in lines]
  columns = list(records[0][1])
  places = _places(path, columns, layout.task, setting, needs_labels)

  def column(role, convert):
    if places[role] is None:
      return None
    name = columns[places[role]]
    return [convert(path, number, name, record) for number, record in records]

  return _Rows(
    texts=column('text', _json_text),
    pairs=column('pair', _json_text),
    labels=column('label', _json_value) if needs_labels else None,
    indices=column('index', _json_value),
    places=[f'{path}, line {number}' for number, _ in records],
  )


def _record(path, number, line):
  try:
    record = json.loads(line)
  except ValueError as error:
    raise errors.DataError(
      f'A line of JSONL must be one JSON object. Received: {path}, line '
      f'{number}: {error}. Correct the line.'
    ) from error
  if not isinstance(record, dict):
    raise errors.DataError(
      f'A line of JSONL must be one JSON object. Received: {path}, line '
      f'{number}, which is {type(record).__name__}. Correct the line.'
    )
  return record


def _json_value(path, number, name, record) -> str:
  if name not in record:
    raise errors.DataError(
      f'Every line must have the column {name!r}. Received: {path}, line '
      f'{number}, whose columns are {", ".join(map(repr, record))}. Correct '
      'the line.'
    )
  value = record[name]
  return value if isinstance(value, str) else json.dumps(value)


def _json_text(path, number, name, record) -> str:
  text = _json_value(path, number, name, record)
  if not isinstance(record[name], str):
    raise errors.DataError(
      f'The column {name!r} must hold text. Received: {text} in {path}, line '
      f'{number}. Set another column, or correct the line.'
    )
  return text


def _read_tfds(name, split, data_dir, layout, setting, needs_labels) -> _Rows:
  builder = _tfds_builder(name, data_dir, setting)
  _check_split(builder, name, split, setting)
  features = builder.info.features
  columns = list(features)
  where = f'TFDS {name}'
  places = _places(where, columns, layout.task, setting, needs_labels)
  names = {
    role: columns[place]
    for role, place in places.items()
    if place is not None and (role != 'label' or needs_labels)
  }
  values = {role: [] for role in names}
  dataset = builder.as_dataset(split=split, shuffle_files=False)
  dataset = dataset.map(
    lambda row: {role: row[column] for role, column in names.items()}
  )
  for batch in dataset.batch(1024).as_numpy_iterator():
    for role, items in batch.items():
      values[role].extend(_tfds_texts(items, features[names[role]], layout))
  return _Rows(
    texts=values['text'],
    pairs=values.get('pair'),
    labels=values.get('label'),
    indices=values.get('index'),
    places=[
      f'{where}, split {split}, row {row}' for row in range(len(values['text']))
    ],
  )


def _tfds_builder(name, data_dir, setting):
  # Imported here because it takes seconds, which files need not pay.
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=data_dir or None)
    builder.download_and_prepare()
  except Exception as error:  # pylint: disable=broad-except
    # Unknown names, no network, full disks: TFDS has no common base class.
    message = str(error).strip().split('\n')[0]
    raise errors.DataError(
      f'{setting} must name a data set that TensorFlow Datasets can load. '
      f'Received: {name!r} in {data_dir or "the default folder"}: '
      f'{type(error).__name__}: {message} Set {setting} or '
      'glue.tfds_data_dir.'
    ) from error
  return builder


def _check_split(builder, name, split, setting):
  try:
    builder.info.splits[split]
  except (KeyError, ValueError) as error:
    known = ', '.join(map(repr, sorted(builder.info.splits)))
    raise errors.DataError(
      f'{setting} must name a split of {name}. Received: {split!r}; there are '
      f'{known}. Set {setting}.'
    ) from error


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


def _label_ids(rows, layout, setting):
  if layout.is_regression:
    return np.array(
      [
        _number(text, place, setting)
        for text, place in zip(rows.labels, rows.places)
      ],
      np.float32,
    )
  ids = {name: index for index, name in enumerate(layout.task.label_names)}
  for text, place in zip(rows.labels, rows.places):
    if text not in ids:
      raise errors.DataError(
        'A label must be one of '
        f'{", ".join(map(repr, layout.task.label_names))}. Received: {text!r} '
        f'in {place}. Correct the row, or set glue.label_names or '
        'glue.label_column.'
      )
  return np.array([ids[text] for text in rows.labels], np.int32)


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
  _read_rows.cache_clear()
