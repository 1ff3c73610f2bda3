"""The server's command line, and the server as a process."""

import functools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import refusals

from tokendrop_tf.serving import serve_command

message_of = functools.partial(refusals.message_of, serve_command.main)


def test_limits_must_allow_something(tmp_path):
  for flag in ('--max_batch_size', '--max_instances', '--max_request_bytes'):
    message = message_of([f'--model_dir={tmp_path}', f'{flag}=0'])
    assert message.startswith(f'{flag} must be at least 1.')


def test_a_port_in_use_is_refused_before_models_are_loaded(tmp_path):
  (tmp_path / 'm' / '1').mkdir(parents=True)
  (tmp_path / 'm' / '1' / 'saved_model.pb').touch()
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    message = message_of([f'--model_dir={tmp_path}', f'--port={port}'])
  assert f'127.0.0.1, port {port}' in message
  assert 'Set another --port' in message


def test_ports_and_hosts_that_cannot_be_are_refused(tmp_path):
  (tmp_path / 'm' / '1').mkdir(parents=True)
  (tmp_path / 'm' / '1' / 'saved_model.pb').touch()
  for flag in ('--port=70000', '--host=no.such.host.invalid'):
    message = message_of([f'--model_dir={tmp_path}', '--port=0', flag])
    assert message.startswith('--host and --port must be an address')


def test_a_server_answers_until_ctrl_c_and_what_has_come_in(exports):
  model_dir = exports.path('pretraining') / 'embeddings'
  arguments = [f'--model_dir={model_dir}', '--port=0', '--max_batch_size=2']
  server = subprocess.Popen(
    [sys.executable, '-m', 'tokendrop_tf.serving.serve_command', *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'},
    # Tests that run in the background have it ignored, and so would the server.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  try:
    loaded, serving, example = (server.stdout.readline() for _ in range(3))
    assert loaded == 'Loaded embeddings, version 1; 4 warm-up requests.\n'
    assert serving.startswith('Serving embeddings at http://127.0.0.1:')
    url = serving.split(' at ')[1].split('. ')[0] + '/embeddings:predict'
    command = shlex.split(example.removeprefix('Try: '))
    assert [*command[:2], command[3]] == ['curl', '-d', url]
    with urllib.request.urlopen(url, command[2].encode(), timeout=60) as found:
      assert len(json.load(found)['predictions']) == 1
    # Some time of work, in batches of 2.
    body = json.dumps({'instances': ['the river bank ' * 9] * 400}).encode()
    answers = []

    def ask():
      with urllib.request.urlopen(url, body, timeout=60) as response:
        answers.append(len(json.loads(response.read())['predictions']))

    client = threading.Thread(target=ask)
    client.start()
    threading.Timer(0.3, server.send_signal, [signal.SIGINT]).start()
    client.join()
    _, err = server.communicate(timeout=60)
  finally:
    server.kill()
  assert answers == [400]
  assert server.returncode == 130
  assert err.strip() == 'Interrupted. What had come in has been answered.'
