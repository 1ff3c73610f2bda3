"""Whole small files, local or remote: written at once, read with a user error.

Paths are whatever `tf.io.gfile` opens.
"""

import codecs
import difflib
import json
import os
from typing import Any

import tensorflow as tf

from tokendrop_tf import errors


def did_you_mean(path: str) -> str:
  """Returns ' Did you mean X?' for the existing path closest to one, or ''.

  The first part of the path that does not exist is compared with the names
  that are in its place.

  Example:
    did_you_mean('text/trian.txt')  # ' Did you mean text/train.txt?'
  """
  try:
    return _did_you_mean(path.split('/'), 3 if '://' in path else 0)
  except tf.errors.OpError:  # No right to look, or no such bucket.
    return ''


def _did_you_mean(parts, first):
  for number in range(first, len(parts)):
    if tf.io.gfile.exists('/'.join(parts[: number + 1]) or '/'):
      continue
    folder = '/'.join(parts[:number])
    names = tf.io.gfile.listdir(folder or ('/' if number else '.'))
    # Names of folders end with a slash in buckets.
    names = [name.rstrip('/') for name in names]
    close = difflib.get_close_matches(parts[number], names, n=1)
    if not close:
      break
    found = '/'.join([*parts[:number], close[0]])
    whole = '/'.join([found, *parts[number + 1 :]])
    return f' Did you mean {whole if tf.io.gfile.exists(whole) else found}?'
  return ''


def write_whole_file(path: str, content: str | bytes) -> None:
  """Writes under a temporary name and renames, so no half file is seen.

  Args:
    path: the file; its folder exists.
    content: text is written as UTF-8.
  """
  data = content.encode('utf-8') if isinstance(content, str) else content
  temporary = f'{path}.writing-{os.getpid()}'
  with tf.io.gfile.GFile(temporary, 'wb') as file:
    file.write(data)
  tf.io.gfile.rename(temporary, path, overwrite=True)


def write_json(path: str, content: Any, indent: int | None = 2) -> None:
  """Writes `content` as a JSON file with a final line break."""
  write_whole_file(path, json.dumps(content, indent=indent) + '\n')


def read_bytes(path: str) -> bytes:
  """Returns the content of a file."""
  with tf.io.gfile.GFile(path, 'rb') as file:
    return file.read()


def decoded(data: bytes, path: str, remedy: str) -> str:
  """Returns UTF-8 as text, without a byte order mark.

  Args:
    data: the content of a file.
    path: the file.
    remedy: what to do about it, a sentence.

  Raises:
    errors.DataError: naming the line that is not UTF-8.
  """
  try:
    return data.removeprefix(codecs.BOM_UTF8).decode()
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise errors.DataError(
      f'Text must be UTF-8. Received: {path}, line {line}, which is not. '
      f'{remedy}'
    ) from error


def read_json_object(path: str) -> dict:
  """Returns the object in a JSON file.

  Raises:
    errors.ConfigurationError: if the file holds anything else.
    tf.errors.NotFoundError: if it is absent.
  """
  try:
    content = json.loads(read_bytes(path))
    if not isinstance(content, dict):
      raise ValueError(f'it holds a {type(content).__name__}')
    return content
  except ValueError as error:
    raise errors.ConfigurationError(
      f'{os.path.basename(path)} must be a JSON object, as it was written. '
      f'Received: {path}: {error}. Restore the file.'
    ) from error


def read_json_if_valid(path: str) -> Any:
  """Returns the content of a JSON file; `None` if absent or not JSON."""
  try:
    return json.loads(read_bytes(path))
  except (tf.errors.NotFoundError, ValueError):
    return None
