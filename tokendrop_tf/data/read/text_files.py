"""Text files as bytes, plain or gzip, local or remote; globs; checks."""

import glob
import gzip
import os
import zlib
from collections.abc import Iterator

import tensorflow as tf

from tokendrop_tf import errors, files

_CHUNK_BYTES = 1 << 22
_HEAD_BYTES = 1 << 18


def match_files(input_path, setting: str = 'input_path') -> tuple[str, ...]:
  """Expands comma-separated globs to sorted file names.

  Args:
    input_path: str, or a sequence of str; each a comma-separated list of
      globs, local or anything that `tf.io.gfile` lists.
    setting: name of the setting, for messages.

  Returns:
    The files, each once, sorted.

  Raises:
    DataError: if a glob matches no file.

  Example:
    match_files('wiki/*.txt.gz, books/*.txt')
  """
  texts = [input_path] if isinstance(input_path, str) else list(input_path)
  patterns = [name.strip() for text in texts for name in text.split(',')]
  paths = set()
  for pattern in filter(None, patterns):
    found = [path for path in _glob(pattern) if not tf.io.gfile.isdir(path)]
    if not found:
      raise errors.DataError(
        f'{setting} must name existing files. Received: {pattern!r}, which '
        f'matches no file.{files.did_you_mean(pattern)} Set {setting}.'
      )
    paths.update(found)
  if not paths:
    raise errors.DataError(
      f'{setting} must name files. Received: {input_path!r}. Set {setting}.'
    )
  return tuple(sorted(paths))


def is_remote(path: str) -> bool:
  """Whether the path names another file system, e.g. gs://."""
  return '://' in path


def is_gzip(path: str) -> bool:
  """Whether text of this name is compressed."""
  return path.endswith('.gz')


def num_bytes(path: str) -> int:
  """Returns the size of a text file; of a gzip file, when unpacked.

  A gzip file ends with the unpacked size of its last member, modulo 4 GB. Where
  this is less than its beginning lets expect, there are more members or more
  gigabytes, and the result is an estimate by that beginning.
  """
  stored = tf.io.gfile.stat(path).length
  if not is_gzip(path) or is_remote(path) or stored < 18:
    return stored
  with open(path, 'rb') as file:
    expected = stored * _expansion(file.read(_HEAD_BYTES))
    file.seek(-4, os.SEEK_END)
    noted = int.from_bytes(file.read(4), 'little')
  return noted if noted > 0.75 * expected else int(expected)


def _expansion(data: bytes) -> float:
  """Returns how much longer the beginning of a gzip file is when unpacked."""
  unpacked, rest = 0, data
  try:
    while rest:
      member = zlib.decompressobj(wbits=31)
      unpacked += len(member.decompress(rest))
      rest = member.unused_data
  except zlib.error:
    pass  # The reader says where the file is damaged.
  return max(unpacked / len(data), 1.0)


def chunks(path: str, most: int | None = None) -> Iterator[bytes]:
  """Yields the unpacked bytes of a text file, a few megabytes at a time.

  Args:
    path: the file.
    most: ends after this many bytes.

  Raises:
    DataError: if the file cannot be read, or its compression is damaged.
  """
  done = 0
  try:
    with _open(path) as file:
      while most is None or done < most:
        size = _CHUNK_BYTES if most is None else min(_CHUNK_BYTES, most - done)
        chunk = file.read(size)
        if not chunk:
          return
        done += len(chunk)
        yield chunk
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise errors.DataError(
      f'A .gz file must be whole gzip data. Received: {path}, damaged after '
      f'{done} unpacked bytes ({error}). Write or copy the file again.'
    ) from error
  except (OSError, tf.errors.OpError) as error:
    raise errors.DataError(
      f'A corpus file must be readable. Received: {path}: {error}. Check '
      'its permissions.'
    ) from error


def read_text(path: str) -> str:
  """Returns the text of a whole file, without a byte order mark.

  Raises:
    DataError: if it is not readable text in UTF-8.
  """
  return files.decoded(
    b''.join(chunks(path)),
    path,
    'Convert the file, e.g. with iconv -f latin1 -t utf-8, or leave it out.',
  )


def is_text(text: str) -> bool:
  """Whether a string has whole characters only.

  JSON can hold half of a character beyond the first 65,536, a lone surrogate,
  where it was cut within an emoji.
  """
  try:
    text.encode('utf-8')
  except UnicodeEncodeError:
    return False
  return True


def _open(path: str):
  if not is_remote(path):
    return gzip.open(path, 'rb') if is_gzip(path) else open(path, 'rb')
  file = tf.io.gfile.GFile(path, 'rb')
  return gzip.GzipFile(fileobj=file) if is_gzip(path) else file


def _glob(pattern: str) -> list[str]:
  if is_remote(pattern):
    return tf.io.gfile.glob(pattern)
  pattern = os.path.expanduser(pattern)
  # A file whose name has brackets or stars is meant as it is.
  return (
    [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
  )
