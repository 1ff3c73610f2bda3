"""Compiles one exported step for one TPU topology, without a TPU.

Run in the environment that has JAX and libtpu; `tools/compile_for_tpu.py` does:

  python -m tools.tpu.compiler --step=FOLDER --topology=v5e:2x2 \\
    --output_json=FILE

FOLDER holds what `export.export_step` wrote. The StableHLO is written into it
unless it is there.
"""

import argparse
import json
import os
import pathlib
import time

from tools.tpu import chips, cycles

STEP_FILE = 'step.stablehlo'
HLO_FILE = 'step.hlo'
MANIFEST_FILE = 'manifest.json'


def main(arguments=None):
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--step', required=True)
  parser.add_argument('--topology', default='', help="'' only converts")
  parser.add_argument('--output_json')
  parser.add_argument('--hlo_text', default='')
  flags = parser.parse_args(arguments)
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  folder = pathlib.Path(flags.step)
  if not flags.topology:
    write_stablehlo(folder)
    return
  # libtpu reads these when it is loaded.
  os.environ.update(chips.environment(flags.topology))
  text = write_stablehlo(folder)
  results = compile_step(text, flags.topology, flags.hlo_text)
  pathlib.Path(flags.output_json).write_text(json.dumps(results, indent=2))


def write_stablehlo(folder: pathlib.Path) -> str:
  """Converts the HLO of a folder, once, and returns StableHLO text."""
  from tools.tpu import stablehlo

  path = folder / STEP_FILE
  if not path.exists():
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    replaced = {
      index: result['replaces_argument']
      for index, result in enumerate(manifest['results'])
      if result['replaces_argument'] is not None
    }
    module = stablehlo.from_hlo((folder / HLO_FILE).read_bytes(), replaced)
    # What a killed conversion leaves must not be taken for the step.
    beside = path.with_name(f'{path.name}.part')
    beside.write_text(stablehlo.text_of(module))
    beside.replace(path)
    (folder / HLO_FILE).unlink()
  return path.read_text()


def compile_step(text: str, topology: str, hlo_text: str = '') -> dict:
  """Compiles StableHLO for a single device of `topology`.

  Args:
    text: a StableHLO module.
    topology: for instance 'v5e:2x2'.
    hlo_text: where the optimized program is written; '' is nowhere.

  Returns:
    A dict of `compiles`, `message` (of the compiler, if it refused),
    `compile_seconds`, and unless it refused `flops`, `bytes_accessed`,
    `argument_bytes`, `temporary_bytes`, `total_bytes`, `estimated_cycles`.
  """
  began = time.monotonic()
  try:
    executable = _compile(text, topology)
  except Exception as error:  # Whatever the compiler says is the result.
    return {
      'compiles': False,
      'message': str(error),
      'compile_seconds': time.monotonic() - began,
    }
  optimized = '\n'.join(m.to_string() for m in executable.hlo_modules())
  if hlo_text:
    pathlib.Path(hlo_text).write_text(optimized)
  return {
    'compiles': True,
    'message': '',
    'compile_seconds': time.monotonic() - began,
    **_costs(executable),
    **_memory(executable),
    'estimated_cycles': cycles.estimated_cycles(optimized),
  }


def _compile(text, topology):
  from jax.experimental import topologies

  from tools.tpu import device_programs

  device = topologies.get_topology_desc(
    platform='tpu', topology_name=topology
  ).devices[0]
  return device_programs.compile_ahead(text, device)


def _costs(executable):
  costs = executable.cost_analysis()
  costs = costs[0] if isinstance(costs, list) else costs
  return {'flops': costs['flops'], 'bytes_accessed': costs['bytes accessed']}


def _memory(executable):
  stats = executable.get_compiled_memory_stats()
  # Results that take over an argument's memory need none of their own.
  new_results = stats.output_size_in_bytes - stats.alias_size_in_bytes
  return {
    'argument_bytes': stats.argument_size_in_bytes,
    'temporary_bytes': stats.temp_size_in_bytes,
    'total_bytes': stats.argument_size_in_bytes
    + stats.temp_size_in_bytes
    + stats.generated_code_size_in_bytes
    + new_results,
  }


if __name__ == '__main__':
  main()
