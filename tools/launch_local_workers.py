"""Runs one training in several local processes.

  python tools/launch_local_workers.py --num_workers=2 -- \\
    --gin_file=wikipedia.gin --model_dir=runs/two ...

runs `python -m tokendrop_tf.train` with everything after `--`, once for each
worker, with `runtime.distribution_strategy = 'multi_worker_mirrored'`, the CPU
and the loopback interface. With `--restarts=3` all start again from the newest
checkpoint when one of them is lost. On several machines, start the same command
on each with a TF_CONFIG of its own; see docs/reliability.md.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

from tokendrop_tf import command_line, errors

_SECONDS_TO_END = 60
_LOST_SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)


def main(arguments):
  """Runs the command; returns the exit code of the first worker that failed."""
  split = arguments.index('--') if '--' in arguments else len(arguments)
  flags = parse_flags(arguments[:split])
  command = [
    *(sys.executable, '-m', 'tokendrop_tf.train'),
    *arguments[split + 1 :],
    "--gin_params=runtime.distribution_strategy = 'multi_worker_mirrored'",
  ]
  for left in reversed(range(flags.restarts + 1)):
    code = wait_for(start(command, flags.num_workers))
    if not left or not is_lost(code):
      break
    print(f'A worker was lost: all start again, {left - 1} restarts are left.')
  return code


def parse_flags(arguments):
  parser = command_line.ArgumentParser(
    prog='python tools/launch_local_workers.py', description=__doc__
  )
  parser.add_number('--num_workers', 2, 'Processes.', least=1)
  parser.add_number(
    '--restarts', 0, 'How often all start again after one was lost.', least=0
  )
  return parser.parse_args(arguments)


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
  codes = [None]
  while None in codes and not any(codes):
    time.sleep(0.1)
    codes = [worker.poll() for worker in workers]
  failed = next(filter(None, codes), 0)
  _end(workers)
  for number, handler in before.items():
    signal.signal(number, handler)
  return failed if failed >= 0 else 128 - failed


def is_lost(code: int) -> bool:
  """Returns whether an exit code says that a worker was lost, not at fault."""
  return code == errors.WorkerLostError.code or code - 128 in _LOST_SIGNALS


def _end(workers):
  """Gives processes time to end by themselves, then ends them."""
  last = time.monotonic() + _SECONDS_TO_END
  for worker in workers:
    try:
      worker.wait(max(last - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
      worker.kill()
      worker.wait()


if __name__ == '__main__':
  command_line.run_main(main)
