import concurrent.futures
import socket
import threading
import time

import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.run import workers
from tools import launch_local_workers


def test_addresses_are_read_from_tf_config(monkeypatch):
  monkeypatch.setenv('TF_CONFIG', launch_local_workers.tf_configs([7, 8])[1])
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
  return [
    f'127.0.0.1:{port}' for port in launch_local_workers.free_ports(number)
  ]


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


def test_a_lost_worker_is_named_by_its_address(monkeypatch, tmp_path):
  monkeypatch.setenv('TF_CONFIG', launch_local_workers.tf_configs([7, 8])[0])
  what = (
    'Collective ops is aborted by: the following tasks are unhealthy: '
    '/job:worker/replica:0/task:1'
  )
  with (
    pytest.raises(errors.WorkerLostError) as caught,
    workers.named_losses(str(tmp_path)),
  ):
    raise tf.errors.UnavailableError(None, None, what)
  assert 'no more answer from worker 1 (127.0.0.1:8). No checkpoint' in (
    str(caught.value)
  )


def test_other_errors_are_not_taken_for_a_loss():
  with (
    pytest.raises(tf.errors.InvalidArgumentError),
    workers.named_losses('runs/a'),
  ):
    raise tf.errors.InvalidArgumentError(None, None, 'shapes')
