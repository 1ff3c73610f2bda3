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

  def test_the_owner_renews_it(self, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, 'RENEWAL_SECONDS', 0.01)
    path = tmp_path / run_lock.LOCK_FILE
    with self.lock(tmp_path) as lock:
      path.unlink()
      while not path.exists():
        time.sleep(0.01)
      assert lock._owner_now()['pid'] == os.getpid()
