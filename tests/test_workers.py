import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from tokendrop_tf import errors, workers


def test_every_worker_gets_the_same_cluster_and_its_own_number():
  ports = workers.free_ports(3)
  assert len(set(ports)) == 3
  trees = [json.loads(text) for text in workers.tf_configs(ports)]
  assert [tree['task']['index'] for tree in trees] == [0, 1, 2]
  assert len({json.dumps(tree['cluster']) for tree in trees}) == 1


def test_addresses_are_read_from_tf_config(monkeypatch):
  monkeypatch.setenv('TF_CONFIG', workers.tf_configs([7, 8])[1])
  assert workers.check_tf_config() == (
    ['127.0.0.1:7', '127.0.0.1:8'],
    '127.0.0.1:8',
  )


@pytest.mark.parametrize(
  'text',
  [
    '',
    '{',
    '[]',
    '{"cluster": {"worker": []}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
  ],
)
def test_a_tf_config_that_names_no_worker_is_refused(monkeypatch, text):
  monkeypatch.setenv('TF_CONFIG', text)
  with pytest.raises(errors.ConfigurationError, match='needs TF_CONFIG') as e:
    workers.check_tf_config()
  assert f'TF_CONFIG={text!r}' in str(e.value)


def addresses_of(number):
  return [f'127.0.0.1:{port}' for port in workers.free_ports(number)]


def test_workers_meet_whenever_they_start():
  addresses = addresses_of(3)
  with concurrent.futures.ThreadPoolExecutor() as threads:

    def come_late(index):
      time.sleep(0.3 * index)
      workers.wait_for_others(addresses, addresses[index], 30)
      # TensorFlow's server takes the port over.
      with workers._listener(addresses[index]):
        all_met.wait(30)

    all_met = threading.Barrier(3)
    list(threads.map(come_late, range(3)))


def test_a_worker_that_never_starts_is_named():
  here, present, absent = addresses_of(3)
  with (
    socket.create_server(('127.0.0.1', int(present.split(':')[1]))),
    pytest.raises(errors.ConfigurationError) as caught,
    workers.meeting([here, present, absent], here, 0.5),
  ):
    pass
  assert f'within 0.5 seconds. Received: no answer from {absent}.' in str(
    caught.value
  )


def test_a_port_in_use_is_named():
  here = addresses_of(1)[0]
  with (
    workers._listener(here),
    pytest.raises(errors.ConfigurationError, match='must be free') as caught,
  ):
    workers.wait_for_others([here], here, 1)
  assert here in str(caught.value)


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
from tokendrop_tf import workers
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


def test_a_lost_worker_is_named_by_its_address(monkeypatch):
  monkeypatch.setenv('TF_CONFIG', workers.tf_configs([7, 8])[0])
  what = (
    'Collective ops is aborted by: the following tasks are unhealthy: '
    '/job:worker/replica:0/task:1'
  )
  with (
    pytest.raises(errors.WorkerLostError) as caught,
    workers.named_losses(lambda: 'The last checkpoint is a.'),
  ):
    raise tf.errors.UnavailableError(None, None, what)
  assert 'no more answer from worker 1 (127.0.0.1:8). The last' in str(
    caught.value
  )


def test_other_errors_are_not_taken_for_a_loss():
  with (
    pytest.raises(tf.errors.InvalidArgumentError),
    workers.named_losses(str),
  ):
    raise tf.errors.InvalidArgumentError(None, None, 'shapes')
