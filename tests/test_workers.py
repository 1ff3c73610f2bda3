import json
import socket
import subprocess
import sys

import pytest

from tokendrop_tf import errors, workers


def test_every_worker_gets_the_same_cluster_and_its_own_number():
  ports = workers.free_ports(3)
  assert len(set(ports)) == 3
  trees = [json.loads(text) for text in workers.tf_configs(ports)]
  assert [tree['task']['index'] for tree in trees] == [0, 1, 2]
  assert len({json.dumps(tree['cluster']) for tree in trees}) == 1


def test_addresses_are_read_from_tf_config(monkeypatch):
  monkeypatch.setenv('TF_CONFIG', workers.tf_configs([7, 8])[1])
  assert workers.check_tf_config() == ['127.0.0.1:7', '127.0.0.1:8']


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


def test_a_worker_that_never_starts_is_named():
  """In a process of its own, because it ends the process."""
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    here = f'127.0.0.1:{listener.getsockname()[1]}'
    absent = f'127.0.0.1:{workers.free_ports(1)[0]}'
    code = (
      'import time; from tokendrop_tf import workers\n'
      f'with workers.time_limit([{here!r}, {absent!r}], 0.5): time.sleep(60)'
    )
    ended = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True
    )
  assert ended.returncode == 2
  assert f'no answer from {absent}.' in ended.stderr
  assert here not in ended.stderr


def test_a_failed_worker_ends_the_others():
  children = [
    subprocess.Popen([sys.executable, '-c', f'import sys; sys.exit({code})'])
    for code in (0, 3)
  ]
  assert workers.wait_for(children) == 3
