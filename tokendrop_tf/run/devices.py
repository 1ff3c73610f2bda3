"""The devices of a run: how they are set up, shared out and described."""

import contextlib
import os

import tensorflow as tf
from official.common import distribute_utils

from tokendrop_tf import errors
from tokendrop_tf.run import workers


def configure(runtime):
  """Splits the CPU as configured; must run before TensorFlow computes.

  Raises:
    errors.ConfigurationError: when there are fewer GPUs than configured.
  """
  gpus = tf.config.list_physical_devices('GPU')
  if len(gpus) < runtime.num_gpus:
    raise errors.ConfigurationError(
      'runtime.num_gpus must be at most the number of GPUs that TensorFlow '
      f'sees. Received: num_gpus={runtime.num_gpus}, seen: {len(gpus)}. Set '
      'runtime.num_gpus.'
    )
  wanted = runtime.num_logical_cpu_devices
  if wanted > 1:
    cpu = tf.config.list_physical_devices('CPU')[0]
    # TensorFlow that has already started may be split finely enough.
    with contextlib.suppress(RuntimeError):
      tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
      )
    if len(tf.config.list_logical_devices('CPU')) < wanted:
      raise RuntimeError('TensorFlow had started before the CPU was split.')


def create_strategy(runtime):
  """Returns the configured `tf.distribute.Strategy`.

  Raises:
    errors.ConfigurationError: if no TPU answers under `runtime.tpu`.
  """
  num_cpus = runtime.num_logical_cpu_devices
  if runtime.distribution_strategy == 'mirrored' and num_cpus > 1:
    return tf.distribute.MirroredStrategy(
      [f'CPU:{index}' for index in range(num_cpus)]
    )
  waiting = contextlib.nullcontext()
  if runtime.distribution_strategy == 'multi_worker_mirrored':
    waiting = workers.meeting(
      *workers.check_tf_config(), runtime.worker_timeout_seconds
    )
  try:
    with waiting:
      return distribute_utils.get_distribution_strategy(
        distribution_strategy=runtime.distribution_strategy,
        all_reduce_alg=runtime.all_reduce_alg,
        num_gpus=runtime.num_gpus,
        num_packs=runtime.num_packs,
        tpu_address=runtime.tpu,
      )
  except (ValueError, tf.errors.OpError) as error:
    if runtime.distribution_strategy != 'tpu':
      raise
    raise errors.ConfigurationError(
      'runtime.tpu must name a TPU that answers. Received: '
      f"{runtime.tpu!r}: {error}. Set runtime.tpu, to 'local' on a TPU VM."
    ) from error


def describe(runtime, num_replicas):
  """Returns the devices, how they share the work, and the precision."""
  kind = 'CPU'
  gpus = tf.config.list_physical_devices('GPU')
  if runtime.distribution_strategy == 'tpu':
    kind = f'TPU {runtime.tpu}'
  elif runtime.num_gpus:
    details = tf.config.experimental.get_device_details(gpus[0])
    kind = details.get('device_name', 'GPU')
  else:
    kind = f'CPU, {os.cpu_count()} cores'
  replicas = 'replica' if num_replicas == 1 else 'replicas'
  xla = ', XLA' if runtime.enable_xla else ''
  unused = len(gpus) - runtime.num_gpus
  hint = (
    f'; {unused} GPU not used: set runtime.num_gpus'
    if unused > 0 and runtime.distribution_strategy != 'tpu'
    else ''
  )
  return (
    f'{num_replicas} {replicas} ({runtime.distribution_strategy}, {kind})'
    f', {runtime.mixed_precision_dtype}{xla}{hint}'
  )
