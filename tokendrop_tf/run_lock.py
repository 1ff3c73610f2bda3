"""One training at a time in a folder."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import tensorflow as tf

from tokendrop_tf import errors

LOCK_FILE = 'training.lock'
# Where files cannot be locked, e.g. in a bucket, the file is written anew this
# often, and one that has not been for `STALE_SECONDS` is no lock any more.
RENEWAL_SECONDS = 60.0
STALE_SECONDS = 600.0
# What file systems answer that lock no files: Lustre, some of NFS, FUSE.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# Locks of this process that are renewed, by their numbers.
_held: dict[str, '_RemoteLock'] = {}


@contextlib.contextmanager
def open_lock(model_dir: str) -> Iterator[None]:
  """Holds the lock of a folder.

  Args:
    model_dir: folder of the run, which exists.

  Raises:
    errors.ConfigurationError: if another process has it.

  Example:
    with open_lock('runs/a'):
      train()
  """
  with contextlib.ExitStack() as stack:
    if '://' in model_dir:
      stack.enter_context(_RemoteLock(model_dir))
    else:
      try:
        stack.enter_context(_FileLock(model_dir))
      except _NoFileLocksError:
        stack.enter_context(_RemoteLock(model_dir))
    yield


def require_held() -> None:
  """Looks whether the locks of this process still are its own.

  A process that slept for long finds that another one has taken over.

  Raises:
    errors.TrainingError: if so; nothing more may be written.
  """
  for lock in list(_held.values()):
    lock.require_held()


class _NoFileLocksError(Exception):
  """The file system locks no files."""


def _owner(number: str = '') -> dict:
  return {
    'number': number,
    'host': socket.gethostname(),
    'pid': os.getpid(),
    'time': time.time(),
    'since': time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime()) + ' UTC',
  }


def _refusal(model_dir, owner, hint) -> errors.ConfigurationError:
  who = (
    f'process {owner["pid"]} on {owner["host"]} since {owner["since"]}'
    if owner
    else 'another process'
  )
  return errors.ConfigurationError(
    f'A --model_dir takes one training at a time. Received: {model_dir}, in '
    f'which {who} trains. {hint}'
  )


class _FileLock(contextlib.AbstractContextManager):
  """A lock of the operating system: it ends with its process, however that."""

  def __init__(self, model_dir):
    self._model_dir = model_dir
    self._path = os.path.join(model_dir, LOCK_FILE)
    self._file = None

  def __enter__(self):
    while True:
      file = open(self._path, 'a+')
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        owner = _parse(self._read(file))
        file.close()
        raise _refusal(
          self._model_dir, owner, 'Wait for it, or pass another --model_dir.'
        ) from None
      except OSError as error:
        file.close()
        if error.errno in _NO_LOCKS:
          raise _NoFileLocksError from error
        raise
      # Its last owner may have removed it between the two calls above.
      if self._is_in_place(file):
        break
      file.close()
    file.truncate(0)
    file.write(json.dumps(_owner()))
    file.flush()
    self._file = file
    return self

  def __exit__(self, *error):
    with contextlib.suppress(OSError):
      os.remove(self._path)
    self._file.close()

  def _read(self, file):
    file.seek(0)
    return file.read()

  def _is_in_place(self, file):
    with contextlib.suppress(FileNotFoundError):
      return os.stat(self._path).st_ino == os.fstat(file.fileno()).st_ino
    return False


class _RemoteLock(contextlib.AbstractContextManager):
  """A file that its owner keeps renewing.

  Two processes that start within the same second may both get it.
  """

  def __init__(self, model_dir):
    self._model_dir = model_dir
    self._path = os.path.join(model_dir, LOCK_FILE)
    self._number = uuid.uuid4().hex
    self._renewed = 0.0
    self._new_owner = None
    self._is_over = threading.Event()
    self._thread = threading.Thread(target=self._keep_renewing, daemon=True)

  def __enter__(self):
    owner = self._owner_now()
    if owner and not self._is_stale(owner):
      raise _refusal(
        self._model_dir,
        owner,
        f'Wait for it, pass another --model_dir, or, if it runs no more, wait '
        f'{STALE_SECONDS / 60:.0f} minutes or remove {self._path}.',
      )
    self._write()
    _held[self._number] = self
    self._thread.start()
    return self

  def __exit__(self, *error):
    self._is_over.set()
    # What it is writing would outlive the removal.
    self._thread.join(timeout=10)
    del _held[self._number]
    with contextlib.suppress(tf.errors.OpError):
      if not self._other_owner():
        tf.io.gfile.remove(self._path)

  def require_held(self):
    """Raises `TrainingError` if another process has the lock."""
    if time.time() - self._renewed > STALE_SECONDS:
      self._renew()  # Others may have held it for left behind.
    if owner := self._new_owner:
      raise errors.TrainingError(
        f'A --model_dir takes one training at a time. Received: '
        f'{self._model_dir}, which process {owner["pid"]} on {owner["host"]} '
        f'has taken over since {owner["since"]}, as this one gave no sign of '
        f'life for {STALE_SECONDS / 60:.0f} minutes. Let it go on, or start '
        'the same command again after it.'
      )

  def _keep_renewing(self):
    while not self._is_over.wait(RENEWAL_SECONDS):
      self._renew()

  def _renew(self):
    # A bucket that is out of reach for a while is no reason to stop.
    with contextlib.suppress(tf.errors.OpError):
      self._new_owner = self._new_owner or self._other_owner()
      if not self._new_owner:
        self._write()

  def _other_owner(self):
    owner = self._owner_now()
    return owner if owner and owner['number'] != self._number else None

  def _write(self):
    with tf.io.gfile.GFile(self._path, 'w') as file:
      file.write(json.dumps(_owner(self._number)))
    self._renewed = time.time()

  def _owner_now(self):
    try:
      with tf.io.gfile.GFile(self._path, 'r') as file:
        return _parse(file.read())
    except tf.errors.NotFoundError:
      return None

  def _is_stale(self, owner):
    if owner['number'] in _held:
      return False
    if owner['host'] == socket.gethostname():
      # In a container that was started again, this process has the number that
      # the last one had.
      if owner['pid'] == os.getpid() or not _is_alive(owner['pid']):
        return True
    return time.time() - owner['time'] > STALE_SECONDS


def _parse(text) -> dict | None:
  try:
    owner = json.loads(text)
    needed = {name: owner[name] for name in ('host', 'pid', 'time', 'since')}
    return {'number': owner.get('number', ''), **needed}
  except (ValueError, KeyError, TypeError, AttributeError):
    return None


def _is_alive(pid) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True
  return True
