"""Times an exported train step on the device that JAX finds.

  python tools/run_stablehlo.py --step=steps/loss_batch_32 --steps=50

Needs JAX (with CUDA for a GPU) and nothing else. Weights and ids are random,
after the manifest; arguments that the step replaces are given away to it, as in
training. `tools/compile_for_tpu.py --output_dir=steps` writes such folders.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import jax
import numpy as np
from jax._src.interpreters import mlir as jax_mlir
from jax._src.lib import xla_client
from jaxlib.mlir import ir

STEP_FILE = 'step.stablehlo'
MANIFEST_FILE = 'manifest.json'


def main(arguments=None) -> None:
  flags = parse_flags(arguments)
  folder = pathlib.Path(flags.step)
  for name in (STEP_FILE, MANIFEST_FILE):
    if not (folder / name).exists():
      print(
        f'Error: --step must be a folder with {name}. Received: {folder}. '
        'tools/compile_for_tpu.py --output_dir=DIR writes such folders.',
        file=sys.stderr,
      )
      sys.exit(2)
  jax.config.update('jax_enable_x64', True)  # The step counter has 64 bits.
  manifest = json.loads((folder / MANIFEST_FILE).read_text())
  device = jax.devices()[0]
  results = time_step((folder / STEP_FILE).read_text(), manifest, device, flags)
  print(
    f'{manifest["arm"]}, batch {manifest["batch_size"]}, on '
    f'{results["device"]}: median {1e3 * results["median_seconds"]:.2f} ms of '
    f'{flags.steps} steps (quartiles {1e3 * results["quartiles"][0]:.2f} and '
    f'{1e3 * results["quartiles"][1]:.2f}), '
    f'{results["tokens_per_second"]:,.0f} tokens/s'
  )
  if flags.output_json:
    pathlib.Path(flags.output_json).write_text(json.dumps(results, indent=2))


def parse_flags(arguments):
  parser = argparse.ArgumentParser(
    prog='tools/run_stablehlo.py',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--step', required=True, metavar='DIR')
  parser.add_argument('--steps', type=int, default=20, help='timed steps')
  parser.add_argument('--warm_up_steps', type=int, default=3)
  parser.add_argument('--output_json', default='', metavar='FILE')
  flags = parser.parse_args(arguments)
  if flags.steps < 2 or flags.warm_up_steps < 1:
    parser.error('--steps must be at least 2, --warm_up_steps at least 1.')
  return flags


def time_step(text, manifest, device, flags) -> dict:
  """Compiles the step, runs it over and over, and returns its times.

  Args:
    text: the StableHLO.
    manifest: its arguments and results.
    device: a JAX device.
    flags: with `steps` and `warm_up_steps`.
  """
  began = time.perf_counter()
  executable = load(text, device)
  compile_seconds = time.perf_counter() - began
  arguments = random_arguments(manifest['arguments'], device)
  seconds = []
  for _ in range(flags.warm_up_steps + flags.steps):
    began = time.perf_counter()
    results = execute(executable, arguments)
    arguments = following(arguments, results, manifest['results'])
    jax.block_until_ready(results)
    seconds.append(time.perf_counter() - began)
  seconds = seconds[flags.warm_up_steps :]
  median = statistics.median(seconds)
  quartiles = statistics.quantiles(seconds, n=4)
  tokens = manifest['batch_size'] * manifest['seq_length']
  return {
    'arm': manifest['arm'],
    'batch_size': manifest['batch_size'],
    'device': device.device_kind,
    'compile_seconds': compile_seconds,
    'median_seconds': median,
    'quartiles': [quartiles[0], quartiles[2]],
    'tokens_per_second': tokens / median,
    'peak_bytes': (device.memory_stats() or {}).get('peak_bytes_in_use'),
    'loss': loss_of(results, manifest['results']),
  }


def load(text: str, device):
  """Compiles StableHLO text for one device."""
  options = xla_client.CompileOptions()
  options.num_replicas = options.num_partitions = 1
  options.device_assignment = xla_client.DeviceAssignment.create(
    np.array([[device.id]])
  )
  with jax_mlir.make_ir_context():
    module = ir.Module.parse(text)
    return device.client.compile_and_load(
      module, xla_client.DeviceList((device,)), options
    )


def execute(executable, arguments) -> list:
  """Runs once; arguments that are replaced are given away."""
  outputs = executable.execute_sharded(arguments)
  return [
    arrays[0] for arrays in outputs.disassemble_into_single_device_arrays()
  ]


def random_arguments(described, device) -> list:
  """Draws every argument as the manifest describes it."""
  generator = np.random.default_rng(0)
  return [
    jax.device_put(_draw(generator, entry), device) for entry in described
  ]


def _draw(generator, entry):
  shape, dtype = entry['shape'], np.dtype(entry['dtype'])
  if 'high' in entry:
    return generator.integers(entry['low'], entry['high'], shape).astype(dtype)
  if entry['stddev'] == 0.0:
    return np.full(shape, entry['mean'], dtype)
  normal = generator.standard_normal(shape, dtype=np.float32)
  return (entry['mean'] + entry['stddev'] * normal).astype(dtype)


def following(arguments, results, described) -> list:
  """Returns the arguments of the next step: what was replaced is new."""
  arguments = list(arguments)
  for result, entry in zip(results, described):
    if entry['replaces_argument'] is not None:
      arguments[entry['replaces_argument']] = result
  return arguments


def loss_of(results, described) -> float:
  """Returns the first result that replaces nothing: the loss."""
  for result, entry in zip(results, described):
    if entry['replaces_argument'] is None:
      return float(np.asarray(result).ravel()[0])
  return float('nan')


if __name__ == '__main__':
  main()
