"""Compiles a configured train step for TPUs, on a machine without one.

  python tools/compile_for_tpu.py --gin_file=base_512_tpu.gin \\
    --topology=v5e:2x2 --topology=v4:2x2x1 --output_json=tpu.json

For every topology: whether the step compiles and fits, its operations, bytes
and memory, and the compiler's estimate of its cycles; next to it the same step
without dropping and the Model Garden's. The figures are of one chip with its
share of the global batch; they leave out adding up gradients among chips.

Needs an environment with JAX and libtpu: make install-tpu-compiler.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
from official.modeling import performance

from tokendrop_tf import errors, files
from tokendrop_tf.config import experiments, gin_reader, gin_sections, rules
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tools.measure import step_arms
from tools.tpu import chips, compiler, cost_table, export_step

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / '.venv-tpu'
ARMS = ('configured', 'none', step_arms.STOCK)
_LARGEST = 65536
# Stands for what a gin file leaves open and compilation does not read.
_PLACEHOLDERS = {
  'TPU': 'local',
  'TRAIN_DATA': 'any.tfrecord',
  'VALIDATION_DATA': 'any.tfrecord',
}


def main(arguments):
  """Runs the command; see the module."""
  flags = parse_flags(arguments)
  python = find_python(flags.python)
  with tempfile.TemporaryDirectory() as scratch:
    params = read_configuration(flags, scratch)
    steps = Steps(params, pathlib.Path(flags.output_dir or scratch), python)
    if flags.export_only:
      return _export(flags, steps)
    topologies = [
      _compile_topology(topology, flags, steps) for topology in flags.topology
    ]
  results = {'gin_file': flags.gin_file, 'topologies': topologies}
  if flags.output_json:
    pathlib.Path(flags.output_json).parent.mkdir(parents=True, exist_ok=True)
    files.write_json(flags.output_json, results)
  # The other arms are there to compare.
  fits = all(topology['arms'][0]['fits'] for topology in topologies)
  return None if fits else 1


def _export(flags, steps):
  batch_size = flags.batch_size or _share(steps.params, flags.topology[0])
  for arm in flags.arms:
    print(steps.write(arm, batch_size), flush=True)


def parse_flags(arguments):
  parser = command_line.ArgumentParser(
    prog='tools/compile_for_tpu.py', description=__doc__
  )
  parser.add_argument(
    '--gin_file', action='append', default=[], metavar='FILE', required=True
  )
  parser.add_argument(
    '--gin_params', action='append', default=[], metavar='"A.B = C"'
  )
  parser.add_argument(
    '--topology',
    action='append',
    metavar='NAME',
    help='generation:extent, of ' + ', '.join(chips.CHIPS) + '; may be '
    'repeated (default: v5e:2x2).',
  )
  parser.add_argument(
    '--batch_size',
    type=int,
    help='Sequences of one chip (default: train_data.global_batch_size '
    'divided by the chips of the topology).',
  )
  parser.add_argument(
    '--find_largest_batch',
    action='store_true',
    help='Also search the largest number of sequences that fits on one chip.',
  )
  parser.add_argument(
    '--arms',
    default=','.join(ARMS),
    help='What to compile, of ' + ', '.join(step_arms.ARMS) + ' (default: '
    '%(default)s).',
  )
  parser.add_argument(
    '--vocab_size',
    type=int,
    default=30522,
    help='Entries of the vocabulary, unless gin names one (default: '
    '%(default)s).',
  )
  parser.add_argument(
    '--python',
    default='',
    help='Python with JAX and libtpu (default: .venv-tpu/bin/python).',
  )
  parser.add_argument(
    '--output_dir',
    default='',
    metavar='DIR',
    help='Keeps the steps as StableHLO; tools/run_stablehlo.py runs them.',
  )
  parser.add_argument(
    '--export_only',
    action='store_true',
    help='Write the steps into --output_dir and compile nothing.',
  )
  parser.add_argument('--output_json', default='', metavar='FILE')
  flags = parser.parse_args(arguments)
  flags.topology = flags.topology or ['v5e:2x2']
  flags.arms = flags.arms.split(',')
  _check_flags(flags)
  return flags


def _check_flags(flags):
  try:
    for topology in flags.topology:
      chips.parse_topology(topology)
  except ValueError as error:
    raise errors.ConfigurationError(f'{error} Set --topology.') from error
  unknown = [arm for arm in flags.arms if arm not in step_arms.ARMS]
  if unknown:
    raise errors.ConfigurationError(
      f'--arms must name arms of {", ".join(step_arms.ARMS)}. Received: '
      f'{", ".join(unknown)}.'
    )
  if flags.batch_size is not None and flags.batch_size < 1:
    raise errors.ConfigurationError(
      f'--batch_size must be at least 1. Received: {flags.batch_size}.'
    )
  if flags.export_only and not flags.output_dir:
    raise errors.ConfigurationError(
      '--export_only writes into --output_dir. Received: none. Set '
      '--output_dir.'
    )


def find_python(named: str = '') -> str:
  """Returns a Python that has JAX and libtpu.

  Raises:
    errors.ConfigurationError: if there is none.
  """
  candidate = named or str(ENVIRONMENT / 'bin' / 'python')
  try:
    found = subprocess.run(
      [candidate, '-c', 'import jax, libtpu'], capture_output=True, check=False
    )
    if found.returncode == 0:
      return candidate
  except OSError:
    pass
  raise errors.ConfigurationError(
    'Compiling for TPUs needs a Python with JAX and libtpu. Received: '
    f'{candidate}, which has not both. Make one with: make '
    'install-tpu-compiler, or set --python.'
  )


def read_configuration(flags, scratch: str):
  """Returns the experiment's tree; what only training reads may be missing."""
  bindings = list(flags.gin_params)
  gin_reader.parse(flags.gin_file, bindings)
  for name in gin_reader.required():
    if name == 'VOCABULARY':
      path = step_arms.write_vocabulary(scratch, flags.vocab_size)
      bindings.append(f'VOCABULARY = {path!r}')
    elif name in _PLACEHOLDERS:
      bindings.append(f'{name} = {_PLACEHOLDERS[name]!r}')
  parsed = gin_reader.parse(flags.gin_file, bindings)
  gin_reader.check_macros(parsed)
  params = experiments.build(experiments.PRETRAINING, gin_sections.GinValues())
  gin_reader.check_all_used(parsed)
  if not params.task.vocabulary.path:
    params.task.vocabulary.path = step_arms.write_vocabulary(
      scratch, flags.vocab_size
    )
  rules.validate_experiment(params)
  vocabulary = params.task.vocabulary
  rules.resolve_vocabulary(
    params,
    vocabulary_lib.Vocabulary.of(vocabulary),
  )
  return params


class Steps:
  """Train steps of a configuration, exported and compiled on demand.

  What an earlier process exported is not used: the code or the configuration
  may have changed since.

  Args:
    params: the experiment's tree.
    folder: where exported steps lie, one folder for each arm and batch.
    python: Python with JAX and libtpu.
  """

  def __init__(self, params, folder: pathlib.Path, python: str):
    self.params = params
    self._folder = folder
    self._python = python
    self._step = None
    self._written = set()

  def compile(self, arm: str, batch_size: int, topology: str) -> dict:
    """Returns what `compiler.compile_step` says, after exporting the step."""
    folder = self._exported(arm, batch_size)
    output = folder / f'{topology.replace(":", "_")}.json'
    run = self._call(
      f'--step={folder}', f'--topology={topology}', f'--output_json={output}'
    )
    if run.returncode:
      return _crashed(run)
    return json.loads(output.read_text())

  def write(self, arm: str, batch_size: int) -> pathlib.Path:
    """Writes a step as StableHLO and returns its folder."""
    folder = self._exported(arm, batch_size)
    run = self._call(f'--step={folder}')
    if run.returncode:
      raise errors.UserError(
        f'The step of {arm} must have a StableHLO form. Received: '
        f'{_crashed(run)["message"]}'
      )
    return folder

  def _exported(self, arm, batch_size):
    folder = self._folder / f'{arm}_batch_{batch_size}'
    if folder not in self._written:
      export_step.export_step(self._train_step(arm), batch_size, folder)
      self._written.add(folder)
    return folder

  def _call(self, *arguments):
    """Runs the compiler's module where JAX is."""
    return subprocess.run(
      [self._python, '-m', compiler.__name__, *arguments],
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
      check=False,
    )

  def _train_step(self, arm):
    if self._step is None or self._step.arm != arm:
      self._step = None  # Frees the last arm's variables.
      performance.set_mixed_precision_policy(
        self.params.runtime.mixed_precision_dtype
      )
      self._step = step_arms.TrainStep(
        arm, self.params.task, self.params.trainer.optimizer_config
      )
    return self._step


def _crashed(run):
  lines = run.stderr.strip().splitlines() or [f'exit code {run.returncode}']
  return {'compiles': False, 'message': lines[-1], 'compile_seconds': None}


def _compile_topology(topology, flags, steps):
  chip, num_chips = chips.parse_topology(topology)
  batch_size = flags.batch_size or _share(steps.params, topology)
  print(
    f'{topology}: {batch_size} sequences on each of {num_chips} chips of '
    f'{chip.hbm_bytes / 2**30:.0f} GiB'
  )
  rows = []
  for arm in flags.arms:
    compiled = steps.compile(arm, batch_size, topology)
    row = {'name': arm, **compiled, **_of_chip(compiled, chip)}
    if flags.find_largest_batch:
      row['largest_batch'] = largest_batch(
        lambda batch, arm=arm: _fits(
          steps.compile(arm, batch, topology), chip, arm, batch
        ),
        batch_size if row['fits'] else 1,
      )
    rows.append(row)
    print(cost_table.one_line(row), flush=True)
  print(cost_table.format_table(rows), flush=True)
  return {
    'topology': topology,
    'num_chips': num_chips,
    'batch_size': batch_size,
    'hbm_bytes': chip.hbm_bytes,
    'arms': rows,
  }


def _share(params, topology):
  _, num_chips = chips.parse_topology(topology)
  global_batch_size = params.task.train_data.global_batch_size
  if global_batch_size % num_chips:
    raise errors.ConfigurationError(
      'train_data.global_batch_size must be a multiple of the chips. Received: '
      f'{global_batch_size}, {num_chips} chips in {topology}. Set '
      'train_data.global_batch_size, or --batch_size for one chip.'
    )
  return global_batch_size // num_chips


def _of_chip(compiled, chip):
  """Returns what follows from the chip: whether it fits, and time."""
  if not compiled['compiles']:
    return {'fits': False, **_memory_of_message(compiled['message'])}
  seconds = compiled['estimated_cycles'] / chip.cycles_per_second
  return {
    'fits': compiled['total_bytes'] <= chip.hbm_bytes,
    'estimated_seconds': seconds,
    'estimated_utilisation': compiled['flops'] / seconds / chip.peak_flops,
  }


def _memory_of_message(message):
  """Returns the bytes that a program would need that was too large."""
  match = re.search(r'Used ([\d.]+)([GM]) of', message)
  if not match:
    return {}
  unit = {'G': 2**30, 'M': 2**20}[match.group(2)]
  return {'total_bytes': int(float(match.group(1)) * unit)}


def _fits(compiled, chip, arm, batch_size):
  fits = _of_chip(compiled, chip)['fits']
  print(f'  {arm}: {batch_size} {"fit" if fits else "do not fit"}', flush=True)
  if not compiled['compiles'] and 'memory' not in compiled['message']:
    raise errors.UserError(
      f'The compiler must take the step. Received: {compiled["message"]}'
    )
  return fits


def largest_batch(fits: Callable[[int], bool], known: int = 1) -> int:
  """Returns the largest batch that fits, to within 1/16 of it; 0 is none.

  Doubles until one does not fit, then bisects.

  Args:
    fits: whether a batch fits; true up to some number.
    known: where to begin.
  """
  low, high = 0, known
  while high <= _LARGEST and fits(high):
    low, high = high, 2 * high
  while high - low > max(1, high // 16):
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return low


def console_main():
  """Entry point of the tool."""
  command_line.run_main(main, sys.argv[1:])
