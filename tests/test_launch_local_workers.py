"""The launcher of local workers: their addresses, their ends, signals."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tokendrop_tf import errors
from tools import launch_local_workers as workers


def test_every_worker_gets_the_same_cluster_and_its_own_number():
  ports = workers.free_ports(3)
  assert len(set(ports)) == 3
  trees = [json.loads(text) for text in workers.tf_configs(ports)]
  assert [tree['task']['index'] for tree in trees] == [0, 1, 2]
  assert len({json.dumps(tree['cluster']) for tree in trees}) == 1


def test_a_failed_worker_ends_the_others():
  children = [
    subprocess.Popen([sys.executable, '-c', f'import sys; sys.exit({code})'])
    for code in (0, 3)
  ]
  assert workers.wait_for(children) == 3


_COUNTS_SIGNALS = """
import signal, sys, time
counts = []
for number in (signal.SIGINT, signal.SIGTERM):
  signal.signal(number, lambda number, frame: counts.append(number))
sys.stdout.write('ready' + chr(10))
sys.stdout.flush()
end = time.monotonic() + 30
while not counts and time.monotonic() < end:
  time.sleep(0.01)
time.sleep(0.5)
sys.stdout.write(f'got {[int(number) for number in counts]}' + chr(10))
"""
_LAUNCHES = """
import signal, sys
from tools import launch_local_workers as workers
# What runs the tests may have hung up on its terminal.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
workers.wait_for(workers.start([sys.executable, '-c', sys.argv[1]], 2))
"""


@pytest.mark.parametrize(
  ('sent', 'received'),
  [(signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_signal_of_the_terminal_reaches_each_worker_once(sent, received):
  """It goes to all processes of the launcher's group."""
  launcher = subprocess.Popen(
    [sys.executable, '-c', _LAUNCHES, _COUNTS_SIGNALS],
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  try:
    lines = [launcher.stdout.readline() for _ in range(2)]
    assert lines == ['ready\n'] * 2
    os.killpg(launcher.pid, sent)
    output, _ = launcher.communicate(timeout=60)
  finally:
    launcher.kill()
  assert output.splitlines() == [f'got [{int(received)}]'] * 2


def test_a_killed_worker_is_told_from_a_failed_one():
  assert workers.is_lost(errors.WorkerLostError.code)
  assert workers.is_lost(128 + signal.SIGKILL)
  assert not workers.is_lost(0)
  assert not workers.is_lost(2)
  assert not workers.is_lost(128 + signal.SIGTERM)


@pytest.mark.parametrize(
  ('flag', 'rule'),
  [
    ('--num_workers=0', '--num_workers must be at least 1'),
    ('--restarts=-1', '--restarts must be at least 0'),
  ],
)
def test_flags_of_the_launcher_are_checked(flag, rule):
  with pytest.raises(errors.ConfigurationError, match=rule):
    workers.parse_flags([flag])
