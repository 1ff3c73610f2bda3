"""Turns a disk that is full, or that denies a file, into one message."""

import contextlib
import errno
import os

import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.run import checkpoints

# TensorFlow passes the system's words on, under several of its own codes. The
# first are of writing alone, the others of reading as well.
_WRITING = tuple(
  map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))
)
_EITHER = tuple(map(os.strerror, (errno.EACCES, errno.EPERM, errno.EIO)))


@contextlib.contextmanager
def named_failures(model_dir: str):
  """Within it, a failure to write or read files ends in one message.

  Args:
    model_dir: folder of the run; other files are only read.

  Raises:
    errors.TrainingError: if it cannot be written, saying what the system said,
      and where the run resumes once there is room.
    errors.DataError: if another file cannot be read.

  Example:
    with named_failures('runs/a'):
      manager.save()
  """
  try:
    yield
  except (tf.errors.OpError, OSError) as error:
    what = getattr(error, 'message', None) or str(error)
    if not any(word in what for word in _WRITING + _EITHER):
      raise
    if not _is_of_writing(what, model_dir):
      raise errors.DataError(
        f'Data files must be readable. Received: {_last_part(what)} '
        f'{_kept(model_dir)} Make the file readable, or its disk whole, and '
        'start the same command again.'
      ) from error
    with contextlib.suppress(tf.errors.OpError, OSError):
      checkpoints.remove_unfinished(model_dir)
    raise errors.TrainingError(
      'Checkpoints and metrics must be written to --model_dir. Received: '
      f'{_last_part(what)} {_kept(model_dir)} Make room for them, or the '
      'folder writable, and start the same command again.'
    ) from error


def _is_of_writing(what: str, model_dir: str) -> bool:
  return model_dir.rstrip('/') in what or any(word in what for word in _WRITING)


def _last_part(what: str) -> str:
  """Returns a message of TensorFlow without the names of its functions."""
  line = what.split('\n')[0].split('}} ')[-1].split(' [Op:')[0].strip()
  return line if line.endswith('.') else f'{line}.'


def _kept(model_dir: str) -> str:
  found = checkpoints.prefixes(model_dir)
  if not found:
    return 'No checkpoint had been written yet.'
  return f'The last good checkpoint is kept: {found[0]}.'
