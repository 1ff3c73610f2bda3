"""Workers as threads of this process: what one passes on reaches the others."""

import concurrent.futures
import threading
import types

import numpy as np
from tensorflow.python.distribute.cluster_resolver import (
  SimpleClusterResolver,
)
from tensorflow.python.training.server_lib import ClusterSpec

from tokendrop_tf.run import collectives


def run(monkeypatch, function, number=2):
  """Calls `function(index, strategy)` in `number` workers.

  Returns:
    The list of what they return.
  """
  barrier, passed = threading.Barrier(number, timeout=20), [None] * number
  here = threading.local()

  def total(strategy, array):
    del strategy
    passed[here.index] = np.asarray(array)
    barrier.wait()
    result = np.sum(passed, axis=0)
    barrier.wait()
    return result

  def worker(index):
    here.index = index
    return function(index, strategy_of(index, number))

  with monkeypatch.context() as patch:
    patch.setattr(collectives, 'total', total)
    with concurrent.futures.ThreadPoolExecutor(number) as threads:
      return list(threads.map(worker, range(number)))


def strategy_of(index, number):
  """Returns what `collectives` looks at in the strategy of a worker."""
  spec = ClusterSpec({'worker': [f'host{place}:1' for place in range(number)]})
  return types.SimpleNamespace(
    num_replicas_in_sync=number,
    extended=types.SimpleNamespace(
      worker_devices=['CPU:0'],
      should_save_summary=index == 0,
      should_checkpoint=index == 0,
    ),
    cluster_resolver=SimpleClusterResolver(
      spec, task_type='worker', task_id=index
    ),
  )
