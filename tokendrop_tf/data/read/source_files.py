"""The files that a run began with, noted in its folder and compared later."""

import os
import zlib
from collections.abc import Iterable

import tensorflow as tf

from tokendrop_tf import errors, files

SOURCES_FILE = 'data_files.json'
_PROBE_BYTES = 1 << 16


def save(paths: Iterable[str], folder: str) -> None:
  """Notes the files that a run begins with.

  Args:
    paths: the files.
    folder: folder of the run.
  """
  files.write_json(
    os.path.join(folder, SOURCES_FILE),
    {path: fingerprint(path) for path in paths},
    indent=1,
  )


def check(paths: Iterable[str], folder: str, setting: str) -> None:
  """Refuses to resume with files other than those that a run began with.

  Names, sizes and a checksum of both ends are compared.

  Args:
    paths: the files.
    folder: folder of the run.
    setting: the setting that names them, for the message.

  Raises:
    DataError: naming the first file that differs.
  """
  then = files.read_json_if_valid(os.path.join(folder, SOURCES_FILE))
  if not isinstance(then, dict):
    return
  now = {path: fingerprint(path) for path in paths}
  for path in sorted(then.keys() | now.keys()):
    if then.get(path) != now.get(path):
      raise errors.DataError(
        'A run resumes only with the data it began with. Received: '
        f'{path}, which {_change(path, then, now)} since. Restore the files '
        f'of {setting}, or start in another --model_dir.'
      )


def _change(path, then, now) -> str:
  if path not in now:
    return 'has been removed'
  return 'has changed' if path in then else 'has been added'


def fingerprint(path: str) -> list[int]:
  """Returns the size and a checksum of the first and last bytes."""
  size = tf.io.gfile.stat(path).length
  with tf.io.gfile.GFile(path, 'rb') as file:
    checksum = zlib.crc32(file.read(_PROBE_BYTES))
    if size > _PROBE_BYTES:
      file.seek(max(size - _PROBE_BYTES, _PROBE_BYTES))
      checksum = zlib.crc32(file.read(_PROBE_BYTES), checksum)
  return [size, checksum]
