"""One training at a time in a folder."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time

import tensorflow as tf

from tokendrop_tf import errors

LOCK_FILE = 'training.lock'
# Where files cannot be locked, e.g. in a bucket, the file is written anew this
# often, and one that has not been for `STALE_SECONDS` is no lock any more.
RENEWAL_SECONDS = 60.0
STALE_SECONDS = 600.0


def open_lock(model_dir: str):
  """Returns the lock of a folder, a context manager.

  Args:
    model_dir: folder of the run, which exists.

  Example:
    with open_lock('runs/a'):
      train()
  """
  return _RemoteLock(model_dir) if '://' in model_dir else _FileLock(model_dir)


def _owner() -> dict:
  return {
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
      except OSError:
        owner = _parse(self._read(file))
        file.close()
        raise _refusal(
          self._model_dir, owner, 'Wait for it, or pass another --model_dir.'
        ) from None
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
    self._is_over = threading.Event()

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
    threading.Thread(target=self._renew, daemon=True).start()
    return self

  def __exit__(self, *error):
    self._is_over.set()
    with contextlib.suppress(tf.errors.OpError):
      tf.io.gfile.remove(self._path)

  def _renew(self):
    while not self._is_over.wait(RENEWAL_SECONDS):
      # A bucket that is out of reach for a while is no reason to stop.
      with contextlib.suppress(tf.errors.OpError):
        self._write()

  def _write(self):
    with tf.io.gfile.GFile(self._path, 'w') as file:
      file.write(json.dumps(_owner()))

  def _owner_now(self):
    try:
      with tf.io.gfile.GFile(self._path, 'r') as file:
        return _parse(file.read())
    except tf.errors.NotFoundError:
      return None

  def _is_stale(self, owner):
    if owner['host'] == socket.gethostname() and not _is_alive(owner['pid']):
      return True
    return time.time() - owner['time'] > STALE_SECONDS


def _parse(text) -> dict | None:
  try:
    owner = json.loads(text)
    return {name: owner[name] for name in ('host', 'pid', 'time', 'since')}
  except (ValueError, KeyError, TypeError):
    return None


def _is_alive(pid) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True
  return True
