"""Several processes that train together: how they meet, and a lost one.

Start the same command on each machine with a TF_CONFIG of its own; see
docs/reliability.md. `tools/launch_local_workers.py` does so on one machine.
"""

import contextlib
import faulthandler
import json
import os
import re
import socket
import time

import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.run import checkpoints

_TASK = re.compile(r'/job:(\w+)/(?:replica:0/)?task:(\d+)')
_EXAMPLE = (
  '{"cluster": {"worker": ["host0:1234", "host1:1234"]}, '
  '"task": {"type": "worker", "index": 0}}'
)


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
      f'Received: TF_CONFIG={text!r}. Set it, e.g. to {_EXAMPLE}'
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
def named_losses(model_dir: str):
  """Within it, the loss of another worker ends in a `WorkerLostError`.

  Args:
    model_dir: folder of the run, for the message.

  Raises:
    errors.WorkerLostError: naming the worker, where TensorFlow does.
  """
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
      f'{_lost(what)}. {checkpoints.kept_text(model_dir)} Start the same '
      'command again on all workers.'
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
