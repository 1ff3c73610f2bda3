"""A lock on a run's folder: one training run at a time."""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator

import filelock

from tokendrop_tf import errors, files

LOCK_FILE = 'training.lock'
# Errors of file systems that lock no files: some of NFS, Lustre, FUSE.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def open_lock(model_dir: str) -> Iterator[None]:
  """Holds the lock of a folder.

  The operating system's lock ends with its process, however that ends. Where
  files cannot be locked, the existence of `training.lock` is the lock; it is
  taken over once its process has ended, if that was on this host. A bucket
  (`gs://...`) has no lock.

  Args:
    model_dir: folder of the run, which exists.

  Raises:
    errors.ConfigurationError: if another process holds it.

  Example:
    with open_lock('runs/a'):
      train()
  """
  if '://' in model_dir:
    yield
    return
  path = os.path.join(model_dir, LOCK_FILE)
  lock = _acquire(path, model_dir)
  try:
    if isinstance(lock, filelock.FileLock):
      with open(path, 'w', encoding='utf-8') as file:
        file.write(json.dumps(_owner()))
    yield
  finally:
    if isinstance(lock, filelock.FileLock):
      with contextlib.suppress(OSError):
        os.remove(path)
    lock.release()


def _acquire(path, model_dir) -> filelock.BaseFileLock:
  try:
    try:
      lock = filelock.FileLock(path, timeout=0, fallback_to_soft=False)
      lock.acquire()
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      if not os.path.getsize(path):  # What the attempt left.
        os.remove(path)
      lock = filelock.SoftFileLock(path, timeout=0)
      lock.acquire()
  except filelock.Timeout as error:
    raise errors.ConfigurationError(
      f'A --model_dir takes one training at a time. Received: {model_dir}, in '
      f'which {_who(path)} trains. Wait for it, or pass another --model_dir; '
      f'if nothing trains there any more, remove {path}.'
    ) from error
  return lock


def _owner() -> dict:
  return {
    'host': socket.gethostname(),
    'pid': os.getpid(),
    'since': time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime()) + ' UTC',
  }


def _who(path) -> str:
  """Returns who holds the lock, as far as its file says."""
  owner = files.read_json_if_valid(path)
  if isinstance(owner, dict) and owner.keys() >= _owner().keys():
    return 'process {pid} on {host} since {since}'.format(**owner)
  if pid := filelock.SoftFileLock(path).pid:
    return f'process {pid}'
  return 'another process'
