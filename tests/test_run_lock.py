import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from tokendrop_tf import errors, run_lock


def write_owner(folder, **changes):
  owner = run_lock._owner() | changes
  (folder / run_lock.LOCK_FILE).write_text(json.dumps(owner))


def test_a_second_training_is_refused_with_the_first_named(tmp_path):
  with run_lock.open_lock(str(tmp_path)):
    with pytest.raises(errors.ConfigurationError) as caught:
      run_lock.open_lock(str(tmp_path)).__enter__()
    message = str(caught.value)
    assert f'process {os.getpid()} on {socket.gethostname()}' in message
    assert 'another --model_dir' in message
  with run_lock.open_lock(str(tmp_path)):
    pass
  assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_process(tmp_path):
  code = (
    'import os, sys; from tokendrop_tf import run_lock; '
    'lock = run_lock.open_lock(sys.argv[1]); lock.__enter__(); '
    'print("in", flush=True); '
    'sys.stdin.read(); os.kill(os.getpid(), 9)'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', code, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  process.stdout.readline()
  with pytest.raises(errors.ConfigurationError, match=str(process.pid)):
    run_lock.open_lock(str(tmp_path)).__enter__()
  process.communicate()
  assert (tmp_path / run_lock.LOCK_FILE).exists()
  with run_lock.open_lock(str(tmp_path)):
    pass


@pytest.mark.parametrize('code', [errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_file_locks_the_file_is_renewed(tmp_path, monkeypatch, code):
  def flock(*arguments):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(fcntl, 'flock', flock)
  with run_lock.open_lock(str(tmp_path)):
    with pytest.raises(errors.ConfigurationError, match='or remove'):
      run_lock.open_lock(str(tmp_path)).__enter__()
  assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_locked_is_not_held_by_another(
  tmp_path, monkeypatch
):
  def flock(*arguments):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(fcntl, 'flock', flock)
  with pytest.raises(OSError, match=os.strerror(errno.EIO)):
    run_lock.open_lock(str(tmp_path)).__enter__()


class TestRemote:
  """What holds in a bucket, tried on a folder."""

  def lock(self, folder):
    return run_lock._RemoteLock(str(folder))

  def test_a_second_training_is_refused(self, tmp_path):
    with self.lock(tmp_path):
      with pytest.raises(errors.ConfigurationError, match='or remove'):
        self.lock(tmp_path).__enter__()
    assert not list(tmp_path.iterdir())

  @pytest.mark.parametrize(
    'changes',
    [
      {'time': time.time() - run_lock.STALE_SECONDS - 1, 'host': 'other'},
      {'pid': 2**22 + 1},  # Above the largest there can be.
      {},  # As in a container that was started again.
    ],
  )
  def test_a_stale_lock_is_none(self, tmp_path, changes):
    write_owner(tmp_path, **changes)
    with self.lock(tmp_path):
      pass

  def test_a_living_owner_elsewhere_holds_its_lock(self, tmp_path):
    write_owner(tmp_path, host='other', pid=2**22 + 1)
    with pytest.raises(errors.ConfigurationError, match='on other'):
      self.lock(tmp_path).__enter__()

  def test_a_damaged_lock_is_none(self, tmp_path):
    (tmp_path / run_lock.LOCK_FILE).write_text('{')
    with self.lock(tmp_path):
      pass

  def test_a_lock_that_another_took_over_stops_the_training(
    self, tmp_path, monkeypatch
  ):
    with self.lock(tmp_path) as lock:
      run_lock.require_held()
      # It sleeps for long, and another one finds its lock left behind.
      write_owner(tmp_path, number='2', host='other', pid=7)
      monkeypatch.setattr(lock, '_renewed', 0.0)
      with pytest.raises(errors.TrainingError, match='process 7 on other'):
        run_lock.require_held()
    run_lock.require_held()
    assert json.loads((tmp_path / run_lock.LOCK_FILE).read_text())['pid'] == 7

  def test_its_thread_has_ended_before_it_is_removed(
    self, tmp_path, monkeypatch
  ):
    monkeypatch.setattr(run_lock, 'RENEWAL_SECONDS', 0.001)
    for _ in range(20):
      with self.lock(tmp_path) as lock:
        time.sleep(0.002)
      assert not lock._thread.is_alive()
      assert not list(tmp_path.iterdir())

  def test_the_owner_renews_it(self, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, 'RENEWAL_SECONDS', 0.01)
    path = tmp_path / run_lock.LOCK_FILE
    with self.lock(tmp_path) as lock:
      path.unlink()
      while not path.exists():
        time.sleep(0.01)
      assert lock._owner_now()['pid'] == os.getpid()
