"""One training run at a time in a folder."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest
import refusals

from tokendrop_tf import errors
from tokendrop_tf.run import run_lock

HOLDS_A_LOCK = """
import os, sys
from tokendrop_tf.run import run_lock
with run_lock.open_lock(sys.argv[1]):
  print('in', flush=True)
  sys.stdin.read()
  os.kill(os.getpid(), 9)
"""


def message_of(folder):
  lock = run_lock.open_lock(str(folder))
  return refusals.message_of(lock.__enter__, raises=errors.ConfigurationError)


@pytest.fixture
def no_file_locks(monkeypatch):
  def flock(*arguments):
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

  monkeypatch.setattr(fcntl, 'flock', flock)


def test_a_second_training_is_refused_with_the_first_named(tmp_path):
  with run_lock.open_lock(str(tmp_path)):
    message = message_of(tmp_path)
    assert f'process {os.getpid()} on {socket.gethostname()} since' in message
    assert 'another --model_dir' in message
  with run_lock.open_lock(str(tmp_path)):
    pass
  assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_process(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDS_A_LOCK, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  process.stdout.readline()
  assert f'process {process.pid} on' in message_of(tmp_path)
  process.communicate()
  assert (tmp_path / run_lock.LOCK_FILE).exists()
  with run_lock.open_lock(str(tmp_path)):
    pass
  assert not list(tmp_path.iterdir())


def test_without_file_locks_the_file_itself_is_the_lock(
  tmp_path, no_file_locks
):
  with run_lock.open_lock(str(tmp_path)):
    message = message_of(tmp_path)
    assert f'process {os.getpid()} trains' in message
    assert f'remove {tmp_path / run_lock.LOCK_FILE}' in message
  assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_locked_is_not_held_by_another(
  tmp_path, monkeypatch
):
  def flock(*arguments):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(fcntl, 'flock', flock)
  with pytest.raises(OSError, match=os.strerror(errno.EIO)):
    with run_lock.open_lock(str(tmp_path)):
      pass


def test_a_bucket_has_no_lock():
  with run_lock.open_lock('gs://bucket/run'):
    with run_lock.open_lock('gs://bucket/run'):
      pass
