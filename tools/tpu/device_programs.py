"""StableHLO programs on a JAX device."""

import numpy as np
from jax._src.interpreters import mlir as jax_mlir
from jax._src.lib import xla_client
from jaxlib.mlir import ir


def load(text: str, device):
  """Compiles StableHLO text for one device, to run there."""
  return _compile(text, device, device.client.compile_and_load)


def compile_ahead(text: str, device):
  """Compiles StableHLO text for a device that need not be there."""
  return _compile(text, device, device.client.compile)


def _compile(text, device, compile_module):
  options = xla_client.CompileOptions()
  options.num_replicas = options.num_partitions = 1
  options.device_assignment = xla_client.DeviceAssignment.create(
    np.array([[device.id]])
  )
  with jax_mlir.make_ir_context():
    module = ir.Module.parse(text)
    return compile_module(module, xla_client.DeviceList((device,)), options)


def execute(executable, arguments) -> list:
  """Runs once; arguments that are replaced are given away."""
  outputs = executable.execute_sharded(arguments)
  return [
    arrays[0] for arrays in outputs.disassemble_into_single_device_arrays()
  ]
