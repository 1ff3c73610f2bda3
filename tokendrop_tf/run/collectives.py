"""Collective operations, by which several workers decide alike.

Workers step together: where one trains and another validates, both are lost.
Whatever depends on files or rows that only one of them has is shared by these
functions. A process without others agrees with itself, at no cost.
"""

import numpy as np
import tensorflow as tf


def has_others(strategy: tf.distribute.Strategy) -> bool:
  """Returns whether other processes take the same steps."""
  num_replicas = strategy.num_replicas_in_sync
  # `worker_devices` are those of this process.
  return num_replicas > 1 and len(strategy.extended.worker_devices) < (
    num_replicas
  )


def total(strategy: tf.distribute.Strategy, array) -> np.ndarray:
  """Returns the sum of what all workers pass, on each of them.

  All must call it at the same time, with arrays of one shape and dtype.

  Args:
    strategy: the strategy that the workers share.
    array: numbers of this worker, of any shape.

  Example:
    total(strategy, [1.0])  # array([2.]) with two workers
  """
  array = np.asarray(array)
  if not has_others(strategy):
    return array
  devices_here = len(strategy.extended.worker_devices)

  def of_device(context):
    # Each worker counts once, however many devices it has.
    is_first = context.replica_id_in_sync_group % devices_here == 0
    return tf.constant(array if is_first else np.zeros_like(array))

  values = strategy.experimental_distribute_values_from_function(of_device)
  return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()


def of_each(strategy: tf.distribute.Strategy, number: float) -> list[float]:
  """Returns what every worker passes, in the order of their numbers.

  Example:
    of_each(strategy, step)  # [10.0, 0.0]
  """
  resolver = strategy.cluster_resolver
  if not has_others(strategy):
    return [float(number)]
  spec = resolver.cluster_spec()
  own = np.zeros(sum(map(spec.num_tasks, spec.jobs)))
  chiefs = spec.num_tasks('chief') if 'chief' in spec.jobs else 0
  own[resolver.task_id + chiefs * (resolver.task_type != 'chief')] = number
  return total(strategy, own).tolist()


def of_chief(strategy: tf.distribute.Strategy, flag: bool) -> bool:
  """Returns what the chief passes, on all workers."""
  is_chief = strategy.extended.should_save_summary
  return bool(total(strategy, np.float32(flag and is_chief)))
