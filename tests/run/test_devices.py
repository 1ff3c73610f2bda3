"""Devices in words."""

import tensorflow as tf

from tokendrop_tf.config import configs
from tokendrop_tf.run import devices


def test_a_gpu_that_is_not_used_is_mentioned(monkeypatch):
  runtime = configs.RuntimeConfig(distribution_strategy='one_device')
  assert 'not used' not in devices.describe(runtime, 1)
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind])
  assert devices.describe(runtime, 1).endswith(
    '; 1 GPU not used: set runtime.num_gpus'
  )
