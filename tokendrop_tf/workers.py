"""Several processes that train together: their addresses, and a local launch.

  python tools/launch_local_workers.py --num_workers=2 -- \\
    --gin_file=wikipedia.gin --model_dir=runs/two ...

runs `python -m tokendrop_tf.train` with everything after `--`, once for each
worker, with `runtime.distribution_strategy = 'multi_worker_mirrored'`, the CPU
and the loopback interface. With `--restarts=3` all begin again from the newest
checkpoint when one of them is lost. On several machines, start the same command
on each with a TF_CONFIG of its own; see docs/reliability.md.
"""

import contextlib
import faulthandler
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

from tokendrop_tf import command_line, errors

_SECONDS_TO_END = 60
_LOST_SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
_TASK = re.compile(r'/job:(\w+)/(?:replica:0/)?task:(\d+)')


def main(arguments):
  """Runs the command; returns the exit code of the first worker that failed."""
  split = arguments.index('--') if '--' in arguments else len(arguments)
  flags = parse_flags(arguments[:split])
  command = [
    sys.executable,
    '-m',
    'tokendrop_tf.train',
    *arguments[split + 1 :],
    "--gin_params=runtime.distribution_strategy = 'multi_worker_mirrored'",
  ]
  for left in reversed(range(flags.restarts + 1)):
    code = wait_for(start(command, flags.num_workers))
    if not left or not is_lost(code):
      break
    print(f'A worker was lost: all start again, {left - 1} restarts are left.')
  return code


def start(command, number: int) -> list[subprocess.Popen]:
  """Starts a command in `number` processes with a TF_CONFIG each."""
  return [
    # Ctrl-C in a terminal reaches the launcher alone, which hands it on: twice
    # would say not to wait for a checkpoint.
    subprocess.Popen(
      command, env={**os.environ, 'TF_CONFIG': config}, start_new_session=True
    )
    for config in tf_configs(free_ports(number))
  ]


def is_lost(code: int) -> bool:
  """Returns whether an exit code says that a worker was lost, not at fault."""
  return code == errors.WorkerLostError.code or code - 128 in _LOST_SIGNALS


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
  parser.add_argument(
    '--restarts',
    type=int,
    default=0,
    help='How often all start again after one was lost (default: %(default)s).',
  )
  flags = parser.parse_args(arguments)
  for name, least in (('num_workers', 1), ('restarts', 0)):
    value = getattr(flags, name)
    if value < least:
      raise errors.ConfigurationError(
        f'--{name} must be at least {least}. Received: {value}. Set --{name}.'
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

  SIGTERM and SIGINT are handed on, so that all write the checkpoint together; a
  terminal that is closed ends them as SIGTERM does.

  Args:
    workers: list of `subprocess.Popen`.

  Returns:
    The exit code of the first that failed, or 0.
  """

  def hand_on(number, frame):
    del frame
    for worker in workers:
      if worker.poll() is None:
        worker.send_signal(
          signal.SIGTERM if number == signal.SIGHUP else number
        )

  numbers = [signal.SIGTERM, signal.SIGINT]
  if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # As under nohup.
    numbers.append(signal.SIGHUP)
  before = {number: signal.signal(number, hand_on) for number in numbers}
  failed, running = 0, True
  while running and not failed:
    time.sleep(0.1)
    codes = [worker.poll() for worker in workers]
    failed = next(filter(None, codes), 0)
    running = None in codes
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


def check_tf_config() -> tuple[list[str], str]:
  """Returns the addresses of all workers, and of this one, from TF_CONFIG.

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
    here = tree['cluster'][job][index]
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    raise errors.ConfigurationError(
      "runtime.distribution_strategy = 'multi_worker_mirrored' needs "
      'TF_CONFIG, with the addresses of all workers and which of them this is. '
      f'Received: TF_CONFIG={text!r}. Set it, e.g. to '
      f'{tf_configs([1234, 1235])[0]}'
    ) from error
  return addresses, here


@contextlib.contextmanager
def meeting(addresses: list[str], here: str, seconds: float):
  """Waits for the other workers, and limits how long TensorFlow does.

  TensorFlow waits for them in C++, and holds Python's lock meanwhile. So they
  find each other here first: each listens at its address until all do.

  Args:
    addresses: 'host:port' of all workers.
    here: which of them this is.
    seconds: the limit.

  Raises:
    errors.ConfigurationError: naming the workers that have not started in time.

  Example:
    with meeting(addresses, addresses[0], 300):
      strategy = tf.distribute.MultiWorkerMirroredStrategy()
  """
  wait_for_others(addresses, here, seconds)
  # One may end between here and there.
  faulthandler.dump_traceback_later(seconds, exit=True)
  try:
    yield
  finally:
    faulthandler.cancel_dump_traceback_later()


def wait_for_others(addresses: list[str], here: str, seconds: float) -> None:
  """Listens at an address until all others answer; see `meeting`."""
  silent = [address for address in addresses if address != here]
  last = time.monotonic() + seconds
  with _listener(here):
    while silent := [address for address in silent if not _answers(address)]:
      if time.monotonic() > last:
        raise errors.ConfigurationError(
          f'All workers of TF_CONFIG must start within {seconds:g} seconds. '
          f'Received: no answer from {", ".join(silent)}. Start it, with the '
          'same TF_CONFIG cluster, or set runtime.worker_timeout_seconds.'
        )
      time.sleep(0.1)


def _listener(here: str) -> socket.socket:
  try:
    return socket.create_server(('', int(here.rpartition(':')[2])))
  except (OSError, ValueError, OverflowError) as error:
    raise errors.ConfigurationError(
      'The port of this worker in TF_CONFIG must be free. Received: '
      f'{here}: {error}. Set TF_CONFIG to another port, on all workers.'
    ) from error


@contextlib.contextmanager
def named_losses(kept):
  """Within it, the loss of another worker ends in a `WorkerLostError`.

  Args:
    kept: function without arguments; says where the run goes on.

  Raises:
    errors.WorkerLostError: naming the worker, where TensorFlow does.
  """
  import tensorflow as tf  # The launcher needs none.

  try:
    yield
  except (tf.errors.OpError, RuntimeError) as error:
    what = getattr(error, 'message', None) or str(error)
    if 'Collective ops is aborted' not in what and not isinstance(
      error, (tf.errors.UnavailableError, tf.errors.CancelledError)
    ):
      raise
    raise errors.WorkerLostError(
      'All workers must train to the end. Received: no more answer from '
      f'{_lost(what)}. {kept()} Start the same command again on all workers.'
    ) from error


def _lost(what: str) -> str:
  """Returns the workers that a message of TensorFlow speaks of."""
  try:
    tree = json.loads(os.environ.get('TF_CONFIG', ''))
    here = (tree['task']['type'], int(tree['task']['index']))
    tasks = {(job, int(index)) for job, index in _TASK.findall(what)} - {here}
    return ', '.join(
      f'{job} {index} ({tree["cluster"][job][index]})'
      for job, index in sorted(tasks)
    ) or ('another worker')
  except (ValueError, LookupError, TypeError):
    return 'another worker'


def _answers(address) -> bool:
  host, _, port = address.rpartition(':')
  try:
    with socket.create_connection((host, int(port)), timeout=2):
      return True
  except (OSError, ValueError, OverflowError):
    return False


def console_main():
  """Entry point of the command."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
