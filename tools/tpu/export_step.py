"""Writes a train step as HLO, with a manifest of its arguments and results."""

import json
import pathlib
import re

import numpy as np
import tensorflow as tf
import tf_keras

from tools.measure import step_arms
from tools.tpu import compiler

_ALIAS = re.compile(r'\{(\d*)\}: \((\d+), \{\}')
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')
_DTYPES = {
  'f32': 'float32',
  'bf16': 'bfloat16',
  's32': 'int32',
  's64': 'int64',
  'u32': 'uint32',
  'pred': 'bool',
}


def export_step(
  step: step_arms.TrainStep, batch_size: int, folder: pathlib.Path
) -> None:
  """Writes the step on a batch of `batch_size` into `folder`.

  `step.hlo` is the whole step, variables as arguments and results.
  `manifest.json` tells, in order, every argument (name, shape, dtype, and which
  random values stand for it) and every result (which argument it replaces).

  Args:
    step: what to write.
    batch_size: B.
    folder: is made; an earlier step in it is replaced.
  """
  batch = step_arms.make_batch(step.config, batch_size, step.arm)
  function = step.function(jit_compile=True)
  concrete = function.get_concrete_function(batch)
  # For the CPU: with the TPU's name TensorFlow refuses variables. The program
  # at this stage is the same.
  compiler_ir = function.experimental_get_compiler_ir(batch)
  header = compiler_ir(stage='hlo').split('\n', 1)[0]
  manifest = {
    'arm': step.arm,
    'batch_size': batch_size,
    'seq_length': step.config.train_data.seq_length,
    'operations': batch_size * step_arms.operations(step.arm, step.config),
    'compute_dtype': tf_keras.mixed_precision.global_policy().compute_dtype,
    'arguments': _arguments(concrete, batch, step),
    'results': described_results(header),
  }
  folder.mkdir(parents=True, exist_ok=True)
  # Else the compiler takes it, and not the new step.
  (folder / compiler.STEP_FILE).unlink(missing_ok=True)
  (folder / compiler.HLO_FILE).write_bytes(compiler_ir(stage='hlo_serialized'))
  (folder / compiler.MANIFEST_FILE).write_text(json.dumps(manifest, indent=2))


def _arguments(concrete, batch, step):
  # Structured inputs are flattened in the order of their names.
  inputs = [_input(name, batch[name], step) for name in sorted(batch)]
  known = [
    *step.model.variables,
    *step.optimizer.variables(),
    *(variable for metric in step.metrics for variable in metric.variables),
  ]
  return inputs + [
    _captured(value, f'captured_{index}')
    for index, value in enumerate(captured_values(concrete, known))
  ]


def captured_values(concrete, variables) -> list:
  """Returns the variables and constants that a function captures, in order.

  Args:
    concrete: a concrete function.
    variables: of its model and optimizer: the function itself does not know
      those that only its branches read, or that it only writes.
  """
  known = {
    id(variable.handle): variable
    for variable in (*concrete.variables, *variables)
  }
  return [known.get(id(handle), handle) for handle in concrete.captured_inputs]


def _input(name, value, step):
  """Describes a feature: integers from `low` to below `high`, or ones."""
  highest = {
    'input_word_ids': step.config.model.vocab_size,
    'masked_lm_ids': step.config.model.vocab_size,
    'masked_lm_positions': step.config.train_data.seq_length,
    'position_ids': step.config.train_data.seq_length,
    'segment_ids': 5,
  }
  values = {'low': 0, 'high': 1}
  if name in highest:
    values = {'low': 0, 'high': highest[name]}
  elif name in ('input_mask', 'masked_lm_weights'):
    values = {'mean': 1.0, 'stddev': 0.0}
  return {'role': 'input', **described(name, value), **values}


def _captured(value, name):
  """Describes a variable, or a constant, by its mean and spread."""
  if isinstance(value, tf.Variable):
    name = value.name.split(':')[0]
  values = value.numpy().astype(np.float32)
  return {
    'role': 'variable',
    **described(name, value),
    'mean': float(values.mean()),
    'stddev': float(values.std()),
  }


def described(name: str, value) -> dict:
  """Returns name, shape and dtype of a tensor or variable."""
  return {
    'name': name,
    'shape': [int(side) for side in value.shape],
    'dtype': tf.as_dtype(value.dtype).name,
  }


def described_results(header: str) -> list[dict]:
  """Returns shape, dtype and replaced argument of every result of a program.

  Args:
    header: the first line of its HLO as text.
  """
  replaced = {
    int(result or 0): int(argument)
    for result, argument in _ALIAS.findall(header)
  }
  layout = re.search(r'entry_computation_layout=\{(.*)\}', header).group(1)
  shapes = _SHAPE.findall(re.sub(r'\{[\d,]*\}', '', layout.split(')->')[1]))
  return [
    {
      'shape': [int(side) for side in sides.split(',') if side],
      'dtype': _DTYPES.get(dtype, dtype),
      'replaces_argument': replaced.get(index),
    }
    for index, (dtype, sides) in enumerate(shapes)
  ]
