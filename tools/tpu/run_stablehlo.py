"""Runs exported train steps on the device that JAX finds: times, or trains.

  python tools/run_stablehlo.py --step=steps/stock_batch_32 \\
    --step=steps/loss_batch_32 --steps=50

Needs JAX (with CUDA for a GPU) and nothing else. Weights and ids are random,
after the manifest; arguments that the step replaces are given away to it, as in
training. `tools/compile_for_tpu.py --export_only --output_dir=steps` writes
such folders.

  python tools/run_stablehlo.py --train=steps/plain

trains what `tools/export_training.py` wrote, to its last step; the same command
resumes.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from tools.tpu import device_programs, train_stablehlo

STEP_FILE = 'step.stablehlo'
MANIFEST_FILE = 'manifest.json'
_PEAK_SIDE = {'cpu': 2048}  # Elsewhere 8192: side of the peak's product.
_COLUMNS = '{:<10} {:>6} {:>10} {:>8} {:>12} {:>6} {:>9} {:>7}'
_HEADER = (
  'step',
  'batch',
  'median ms',
  'spread',
  'tokens/s',
  'util.',
  'GiB',
  'ratio',
)


def main(arguments=None) -> None:
  flags = parse_flags(arguments)
  jax.config.update('jax_enable_x64', True)  # The step counter has 64 bits.
  if flags.train:
    train_stablehlo.train(flags.train)
    return
  folders = [pathlib.Path(step) for step in flags.step]
  for folder in folders:
    _check(folder)
  device = jax.devices()[0]
  rows = []
  for folder in folders:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    rows.append(
      time_step((folder / STEP_FILE).read_text(), manifest, device, flags)
    )
    rows[-1]['ratio_to_first'] = (
      rows[-1]['median_seconds'] / rows[0]['median_seconds']
    )
  print(format_table(rows))
  if flags.output_json:
    pathlib.Path(flags.output_json).write_text(json.dumps(rows, indent=2))


def _check(folder):
  for name in (STEP_FILE, MANIFEST_FILE):
    if not (folder / name).exists():
      print(
        f'Error: --step must be a folder with {name}. Received: {folder}. '
        'tools/compile_for_tpu.py --export_only --output_dir=DIR writes such '
        'folders.',
        file=sys.stderr,
      )
      sys.exit(2)


def format_table(rows) -> str:
  """Returns the times as a table; the first line names the device."""
  peak = max(row['peak_operations'] for row in rows) / 1e12
  lines = [
    f'{rows[0]["device"]}; utilisation is of a matrix product timed beside '
    f'each step, {peak:,.1f} TFLOP/s at most',
    _COLUMNS.format(*_HEADER),
  ]
  for row in rows:
    low, high = row['quartiles']
    lines.append(
      _COLUMNS.format(
        row['arm'],
        row['batch_size'],
        f'{1e3 * row["median_seconds"]:.2f}',
        f'{1e3 * (high - low) / 2:.2f}',
        f'{row["tokens_per_second"]:,.0f}',
        f'{row["utilisation"]:.2f}',
        f'{row["memory_bytes"] / 2**30:.2f}',
        f'{row["ratio_to_first"]:.3f}',
      )
    )
  return '\n'.join(lines)


def parse_flags(arguments):
  parser = argparse.ArgumentParser(
    prog='tools/run_stablehlo.py',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--step',
    default=[],
    action='append',
    metavar='DIR',
    help='an exported step; repeat it to compare several',
  )
  parser.add_argument(
    '--train', default='', metavar='DIR', help='an exported training'
  )
  parser.add_argument('--steps', type=int, default=20, help='timed steps')
  parser.add_argument('--warm_up_steps', type=int, default=3)
  parser.add_argument('--output_json', default='', metavar='FILE')
  flags = parser.parse_args(arguments)
  if flags.steps < 2 or flags.warm_up_steps < 1:
    parser.error('--steps must be at least 2, --warm_up_steps at least 1.')
  if bool(flags.step) == bool(flags.train):
    parser.error('Either --step or --train must be given.')
  return flags


def time_step(text, manifest, device, flags) -> dict:
  """Compiles the step, runs it over and over, and returns its times.

  Args:
    text: the StableHLO.
    manifest: its arguments and results.
    device: a JAX device.
    flags: with `steps` and `warm_up_steps`.

  Returns:
    A dict of `arm`, `batch_size`, `device`, `compile_seconds`,
    `median_seconds`, `quartiles`, `tokens_per_second`, `peak_operations` (of
    a matrix product, a second), `utilisation`, `memory_bytes` (weights,
    inputs and temporaries, as the compiler assigned them) and `loss`.
  """
  began = time.perf_counter()
  executable = device_programs.load(text, device)
  compile_seconds = time.perf_counter() - began
  peak = peak_operations(manifest['compute_dtype'], device)
  seconds, loss = _run(executable, manifest, device, flags)
  median = statistics.median(seconds)
  quartiles = statistics.quantiles(seconds, n=4)
  return {
    'arm': manifest['arm'],
    'batch_size': manifest['batch_size'],
    'device': device.device_kind,
    'compile_seconds': compile_seconds,
    'median_seconds': median,
    'quartiles': [quartiles[0], quartiles[2]],
    'tokens_per_second': manifest['batch_size']
    * manifest['seq_length']
    / median,
    'peak_operations': peak,
    'utilisation': manifest['operations'] / median / peak,
    'memory_bytes': _memory(executable),
    'loss': loss,
  }


def _run(executable, manifest, device, flags):
  """Returns the seconds of the timed steps, and the last loss."""
  arguments = random_arguments(manifest['arguments'], device)
  seconds = []
  for _ in range(flags.warm_up_steps + flags.steps):
    began = time.perf_counter()
    results = device_programs.execute(executable, arguments)
    arguments = following(arguments, results, manifest['results'])
    jax.block_until_ready(results)
    seconds.append(time.perf_counter() - began)
  return seconds[flags.warm_up_steps :], loss_of(results, manifest['results'])


def peak_operations(dtype: str, device, repeats: int = 10) -> float:
  """Returns the operations a second of a large matrix product, the best seen.

  Args:
    dtype: of the matrices.
    device: a JAX device.
    repeats: products that are timed.
  """
  side = _PEAK_SIDE.get(device.platform, 8192)
  key = jax.random.key(0)
  matrix = jax.device_put(
    jax.random.normal(key, [side, side], dtype=jnp.dtype(dtype)), device
  )
  multiply = jax.jit(jnp.matmul)
  multiply(matrix, matrix).block_until_ready()
  best = float('inf')
  for _ in range(repeats):
    began = time.perf_counter()
    multiply(matrix, matrix).block_until_ready()
    best = min(best, time.perf_counter() - began)
  return 2 * side**3 / best


def _memory(executable) -> int:
  stats = executable.get_compiled_memory_stats()
  return (
    stats.argument_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
    + stats.temp_size_in_bytes
  )


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
