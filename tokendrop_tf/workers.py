"""Several processes that train together: their addresses, and a local launch.

  python tools/launch_local_workers.py --num_workers=2 -- \\
    --gin_file=wikipedia.gin --model_dir=runs/two ...

runs `python -m tokendrop_tf.train` with everything after `--`, once for each
worker, with `runtime.distribution_strategy = 'multi_worker_mirrored'`, the CPU
and the loopback interface. On several machines, start the same command on each
with a TF_CONFIG of its own; see docs/reliability.md.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from tokendrop_tf import command_line, errors

_SECONDS_TO_END = 60


def main(arguments):
  """Runs the command; returns the exit code of the first worker that failed."""
  split = arguments.index('--') if '--' in arguments else len(arguments)
  flags = parse_flags(arguments[:split])
  ports = free_ports(flags.num_workers)
  command = [
    sys.executable,
    '-m',
    'tokendrop_tf.train',
    *arguments[split + 1 :],
    "--gin_params=runtime.distribution_strategy = 'multi_worker_mirrored'",
  ]
  workers = [
    subprocess.Popen(command, env={**os.environ, 'TF_CONFIG': config})
    for config in tf_configs(ports)
  ]
  return wait_for(workers)


def parse_flags(arguments):
  parser = command_line.ArgumentParser(
    prog='python tools/launch_local_workers.py', description=__doc__
  )
  parser.add_argument(
    '--num_workers',
    type=int,
    default=2,
    help='Processes (default: %(default)s).',
  )
  flags = parser.parse_args(arguments)
  if flags.num_workers < 1:
    raise errors.ConfigurationError(
      '--num_workers must be at least 1. Received: '
      f'{flags.num_workers}. Set --num_workers.'
    )
  return flags


def free_ports(number: int) -> list[int]:
  """Returns ports of the loopback interface that nobody uses now."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
    for one in sockets:
      one.bind(('127.0.0.1', 0))
    return [one.getsockname()[1] for one in sockets]


def tf_configs(ports) -> list[str]:
  """Returns the TF_CONFIG of every worker on this machine."""
  cluster = {'worker': [f'127.0.0.1:{port}' for port in ports]}
  return [
    json.dumps({'cluster': cluster, 'task': {'type': 'worker', 'index': index}})
    for index in range(len(ports))
  ]


def wait_for(workers) -> int:
  """Waits for processes; one that fails ends the others.

  SIGTERM and SIGINT are handed on, so that all write the checkpoint together.

  Args:
    workers: list of `subprocess.Popen`.

  Returns:
    The exit code of the first that failed, or 0.
  """

  def hand_on(number, frame):
    del frame
    for worker in workers:
      if worker.poll() is None:
        worker.send_signal(number)

  before = {
    number: signal.signal(number, hand_on)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  failed = 0
  while any(worker.poll() is None for worker in workers) and not failed:
    failed = next((w.returncode for w in workers if w.returncode), 0)
    time.sleep(0.1)
  failed = failed or next((w.returncode for w in workers if w.returncode), 0)
  _end(workers)
  for number, handler in before.items():
    signal.signal(number, handler)
  return failed if failed >= 0 else 128 - failed


def _end(workers):
  """Gives processes time to end by themselves, then ends them."""
  last = time.monotonic() + _SECONDS_TO_END
  for worker in workers:
    try:
      worker.wait(max(last - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
      worker.kill()
      worker.wait()


def check_tf_config() -> list[str]:
  """Returns the addresses of all workers from TF_CONFIG.

  Raises:
    errors.ConfigurationError: if it does not name them and this one.
  """
  text = os.environ.get('TF_CONFIG', '')
  try:
    tree = json.loads(text)
    addresses = [
      address
      for job in ('chief', 'worker')
      for address in tree['cluster'].get(job, [])
    ]
    index, job = int(tree['task']['index']), tree['task']['type']
    _ = tree['cluster'][job][index]
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    raise errors.ConfigurationError(
      "runtime.distribution_strategy = 'multi_worker_mirrored' needs "
      'TF_CONFIG, with the addresses of all workers and which of them this is. '
      f'Received: TF_CONFIG={text!r}. Set it, e.g. to '
      f'{tf_configs([1234, 1235])[0]}'
    ) from error
  return addresses


@contextlib.contextmanager
def time_limit(addresses, seconds: float):
  """Ends the process if the workers do not find together in time.

  TensorFlow waits in C++ for all of them, so nothing gentler gets through.

  Args:
    addresses: 'host:port' of all workers.
    seconds: the limit.
  """
  timer = threading.Timer(seconds, _give_up, (addresses, seconds))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _give_up(addresses, seconds):
  silent = [address for address in addresses if not _answers(address)]
  print(
    f'Error: All workers of TF_CONFIG must start within {seconds:g} seconds. '
    f'Received: no answer from {", ".join(silent) or "none that listens"}. '
    'Start it, with the same TF_CONFIG cluster, or set '
    'runtime.worker_timeout_seconds.',
    file=sys.stderr,
    flush=True,
  )
  os._exit(command_line.USER_ERROR_CODE)


def _answers(address) -> bool:
  host, _, port = address.rpartition(':')
  try:
    with socket.create_connection((host, int(port)), timeout=2):
      return True
  except (OSError, ValueError):
    return False


def console_main():
  """Entry point of the command."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
