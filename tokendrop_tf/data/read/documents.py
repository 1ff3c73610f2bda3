"""Documents of text, JSON lines and Parquet files, read in bounded memory.

The name of a file tells its form:

    .jsonl, .ndjson, .json    one JSON object a line; one field is a document
    .parquet                  one column is read; a row is a document
    anything else             UTF-8 text; a blank line ends a document

All but Parquet may also be `.gz`. A file of another name that begins with a
JSON object, such as WikiExtractor's `wiki_00`, is read as JSON lines, too.

The readers are plain Python and need no TensorFlow graph, so that the tools,
training and Apache Beam's workers read the same documents.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator

import orjson
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data.read import text_files

# A batch of documents is handed on when it has this much text, or so many.
_BATCH_BYTES = 1 << 20
_BATCH_DOCUMENTS = 1024
_PARQUET_ROWS = 256
_BYTE_ORDER_MARK = b'\xef\xbb\xbf'
_BLANK_LINE = re.compile(rb'\n[ \t\v\f]+(?=\n)')
_HEAD_BYTES = 1 << 12
# An object, or a list of objects, which is refused with its line.
_JSON = re.compile(rb'\s*\[?\s*\{\s*"(?:[^"\\\n]|\\.){1,99}"\s*:')
# Where a passage may end, the best first.
_PASSAGE_ENDS = (b'\n', b'. ', b' ')


@dataclasses.dataclass(frozen=True)
class Reading:
  """Settings of the reader.

  Attributes:
    text_field: field of JSON lines, or column of Parquet, that is the text.
    skip_bad_text: omits lines and rows that are not text instead of
      refusing their file; `skipped` counts them.
    document_per_line: whether every line of a text file is a document.
    passage_bytes: cuts longer documents into passages of about this size, which
      are then documents; 0 cuts none.
    section: section of the settings, for messages.
  """

  text_field: str = 'text'
  skip_bad_text: bool = False
  document_per_line: bool = False
  passage_bytes: int = 0
  section: str = 'train_data'

  def setting(self, name: str) -> str:
    """Returns a setting's name with its section."""
    return f'{self.section}.{name}'


# Lines and rows that the readers of this process omitted, by file.
_skipped: dict[str, int] = {}


def skipped() -> dict[str, int]:
  """Returns how many lines or rows were omitted of each file read so far.

  A file that is read again counts once.
  """
  return {path: count for path, count in _skipped.items() if count}


def note_skipped(counts: dict[str, int]) -> None:
  """Adds the lines and rows that another process omitted."""
  for path, count in counts.items():
    _skipped[path] = max(count, _skipped.get(path, 0))


def form(path: str) -> str:
  """Returns 'jsonl', 'parquet' or 'text', by a file's name and beginning."""
  if path.endswith('.parquet'):
    return 'parquet'
  name = path.removesuffix('.gz')
  if name.endswith(('.jsonl', '.ndjson', '.json')):
    return 'jsonl'
  head = b''
  with contextlib.suppress(errors.DataError):  # Raised when the file is read.
    head = next(text_files.chunks(path, _HEAD_BYTES), b'')
  is_json = _JSON.match(head.removeprefix(_BYTE_ORDER_MARK))
  return 'jsonl' if is_json else 'text'


def read_documents(
  path: str, reading: Reading = Reading(), most: int | None = None
) -> Iterator[list[bytes]]:
  """Yields the documents of a file in batches of about a megabyte.

  Line ends are `\\n`; a byte order mark and documents without text are
  omitted.

  Args:
    path: the file, local or anything that `tf.io.gfile` opens.
    reading: how it is read.
    most: ends after about this many bytes.

  Raises:
    DataError: naming the file and the line, row or offset, for what is not
      text or is damaged.

  Example:
    for documents in read_documents('wiki.jsonl.gz', Reading('body')):
      print(documents[0].decode())
  """
  bad = _BadText(path, reading)
  documents = {
    'jsonl': _json_documents,
    'parquet': _parquet_documents,
    'text': _text_documents,
  }[form(path)](path, reading, bad, most)
  if reading.passage_bytes:
    documents = _in_passages(documents, reading.passage_bytes)
  yield from _batched(documents)


def _in_passages(documents, size) -> Iterator[bytes]:
  """Cuts documents into passages of up to `size` bytes, at good places."""
  for document in documents:
    begin = 0
    while len(document) - begin > size:
      ends = (document.rfind(end, begin, begin + size) for end in _PASSAGE_ENDS)
      end = next((1 + end for end in ends if end > begin), 0)
      if not end:  # Within a word: not within a character.
        end = begin + size
        while end > begin + 1 and document[end] & 0xC0 == 0x80:
          end -= 1
      if passage := document[begin:end].strip():
        yield passage
      begin = end
    if passage := document[begin:].strip():
      yield passage


def check_file(
  path: str, reading: Reading = Reading(), most: int | None = None
) -> None:
  """Reads a file, or its first `most` bytes, and keeps nothing.

  Raises:
    DataError: as `read_documents` does.
  """
  for _ in read_documents(path, reading, most):
    pass


def num_bytes(path: str, reading: Reading = Reading()) -> int:
  """Returns about how much text a file has, in bytes, without reading it."""
  if form(path) != 'parquet':
    return text_files.num_bytes(path)
  with _parquet_file(path) as (file, _):
    metadata = file.metadata
    column = metadata.schema.to_arrow_schema().get_field_index(
      reading.text_field
    )
    groups = range(metadata.num_row_groups)
    if column < 0 or metadata.num_columns != len(file.schema_arrow):
      return sum(metadata.row_group(group).total_byte_size for group in groups)
    return sum(
      metadata.row_group(group).column(column).total_uncompressed_size
      for group in groups
    )


class _BadText:
  """Refuses, or counts, what is not text in one file."""

  def __init__(self, path, reading):
    self._path = path
    self._reading = reading
    self._count = 0

  def found(self, where: str, what: str) -> None:
    """Reports one line or row, e.g. found('line 3', 'which is not UTF-8')."""
    if not self._reading.skip_bad_text:
      raise errors.DataError(
        f'A corpus must be text in UTF-8. Received: {self._path}, {where}, '
        f'{what}. Correct or convert it, e.g. with iconv -f latin1 -t utf-8, '
        f'or set {self._reading.setting("skip_bad_text")} to leave such '
        'lines out.'
      )
    self._count += 1
    note_skipped({self._path: self._count})


def _batched(documents) -> Iterator[list[bytes]]:
  batch, size = [], 0
  for document in documents:
    batch.append(document)
    size += len(document)
    if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def _whole_lines(path, most) -> Iterator[tuple[int, bytes]]:
  """Yields (number of the first line, lines that end in a line end)."""
  number, pending = 1, []
  for chunk in text_files.chunks(path, most):
    cut = chunk.rfind(b'\n') + 1
    if not cut:
      pending.append(chunk)
      continue
    lines = b''.join((*pending, chunk[:cut]))
    pending = [chunk[cut:]]
    yield number, lines
    number += lines.count(b'\n')
  # The head of a file may end within a line, even within a character.
  rest = b''.join(pending)
  if rest and most is None:
    yield number, rest + b'\n'


def _text_documents(path, reading, bad, most) -> Iterator[bytes]:
  unfinished = []
  for number, lines in _whole_lines(path, most):
    if reading.document_per_line:
      lines = _clean(lines, number, bad).split(b'\n')
      yield from (line for line in lines if line.strip())
      continue
    first, *others = _split_at_blank_lines(_clean(lines, number, bad))
    unfinished.append(first)
    for other in others:
      yield from _joined(unfinished)
      unfinished = [other]
  yield from _joined(unfinished)


def _split_at_blank_lines(lines: bytes) -> list[bytes]:
  """Returns the parts of whole lines that a blank line separates."""
  # The line end before these lines: their first one may be blank.
  lines = b'\n' + lines
  return _BLANK_LINE.sub(b'\n', lines).split(b'\n\n')


def _joined(parts: list[bytes]) -> Iterator[bytes]:
  """Yields the document of these parts, if it has text."""
  stripped = (part.strip(b'\n') for part in parts)
  if document := b'\n'.join(part for part in stripped if part.strip()):
    yield document


def _clean(lines: bytes, number: int, bad: _BadText) -> bytes:
  """Returns lines with line ends `\\n`, without those that are not text."""
  if b'\r' in lines:
    lines = lines.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
  lines = lines.removeprefix(_BYTE_ORDER_MARK)
  if b'\n' + _BYTE_ORDER_MARK in lines:  # Files that were joined.
    lines = lines.replace(b'\n' + _BYTE_ORDER_MARK, b'\n')
  if _what_is_wrong(lines) is None:
    return lines
  good = []
  for line in lines.splitlines(keepends=True):
    if what := _what_is_wrong(line):
      bad.found(f'line {number}', what)
    else:
      good.append(line)
    number += 1
  return b''.join(good)


def _what_is_wrong(text: bytes) -> str | None:
  """Returns why bytes are not text; `None` where they are."""
  if b'\0' in text:
    return 'which has a zero byte'
  try:
    text.decode('utf-8')
  except UnicodeDecodeError:
    return 'which is not UTF-8'
  return None


def _json_documents(path, reading, bad, most) -> Iterator[bytes]:
  for number, lines in _whole_lines(path, most):
    lines = lines.removeprefix(_BYTE_ORDER_MARK)
    for offset, line in enumerate(lines.split(b'\n')):
      if not line.strip():
        continue
      try:
        text = _text_of_json(line, reading)
      except ValueError as error:
        bad.found(f'line {number + offset}', str(error))
        continue
      if text.strip():
        yield text


def _text_of_json(line: bytes, reading: Reading) -> bytes:
  try:
    record = orjson.loads(line)
  except orjson.JSONDecodeError as error:
    raise ValueError(f'which is not JSON ({error})') from error
  if not isinstance(record, dict):
    raise ValueError('which is not a JSON object')
  text = record.get(reading.text_field)
  if not isinstance(text, str):
    known = ', '.join(map(repr, record)) or 'none'
    raise ValueError(
      f'whose field {reading.text_field!r} is not text (its fields are '
      f'{known}; {reading.setting("text_field")} names the one to read)'
    )
  return _normalised(text)


def _normalised(text: str) -> bytes:
  """Returns text as UTF-8 with line ends `\\n`, without a mark or zeros."""
  text = text.removeprefix('\ufeff').replace('\0', ' ')
  if '\r' in text:
    text = text.replace('\r\n', '\n').replace('\r', '\n')
  return text.encode('utf-8')  # A lone surrogate is a ValueError.


class _RemoteFile(tf.io.gfile.GFile):
  """A file of `tf.io.gfile` as pyarrow wants it."""

  closed = False


@contextlib.contextmanager
def _parquet_file(path):
  """Opens a file; the second value is to count the rows that were read."""
  # Imported here because most corpora are text.
  import pyarrow
  from pyarrow import parquet

  source = _RemoteFile(path, 'rb') if text_files.is_remote(path) else path
  rows = [0]
  try:
    with parquet.ParquetFile(
      source, buffer_size=1 << 20, page_checksum_verification=True
    ) as file:
      yield file, rows
  except (pyarrow.ArrowException, OSError, tf.errors.OpError) as error:
    reason = str(error).split('\n')[0].rstrip('.')
    raise errors.DataError(
      f'A .parquet file must be whole. Received: {path}, damaged in or after '
      f'row {rows[0] + 1} ({reason}). Write or copy the file again.'
    ) from error


def _parquet_documents(path, reading, bad, most) -> Iterator[bytes]:
  with _parquet_file(path) as (file, rows):
    _check_column(path, file.schema_arrow, reading)
    done = 0
    batches = file.iter_batches(_PARQUET_ROWS, columns=[reading.text_field])
    for batch in batches:
      for document in _texts_of_column(batch.column(0), rows[0], bad):
        done += len(document)
        yield document
      rows[0] += len(batch)
      if most is not None and done >= most:
        return


def _check_column(path, schema, reading):
  index = schema.get_field_index(reading.text_field)
  is_text = index >= 0 and _is_text(schema.types[index])
  if not is_text:
    known = ', '.join(
      f'{name!r} ({kind})'
      for name, kind in zip(schema.names, schema.types, strict=True)
    )
    setting = reading.setting('text_field')
    raise errors.DataError(
      f'{setting} must name a text column. Received: {reading.text_field!r}; '
      f'the columns of {path} are {known}. Set {setting}.'
    )


def _is_text(kind) -> bool:
  from pyarrow import types

  if types.is_dictionary(kind):
    return _is_text(kind.value_type)
  # A column of a file without rows may have no type at all.
  return (
    types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
  )


def _texts_of_column(column, first_row, bad) -> Iterator[bytes]:
  for offset, value in enumerate(column):
    try:
      text = value.as_py()
      if text is None:
        raise ValueError('which is null')
      document = _normalised(text)
    except UnicodeDecodeError:
      bad.found(f'row {first_row + offset + 1}', 'which is not UTF-8')
    except ValueError as error:
      bad.found(f'row {first_row + offset + 1}', str(error))
    else:
      if document.strip():
        yield document
