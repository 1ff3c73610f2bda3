"""Writes a train step as HLO, with a manifest of its arguments and results."""

import json
import pathlib
import re

import numpy as np
import tensorflow as tf
import tf_keras

from tokendrop_tf import step_arms
from tokendrop_tf.tpu import compiler

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
    'results': _results(header),
  }
  folder.mkdir(parents=True, exist_ok=True)
  # Else the compiler takes it, and not the new step.
  (folder / compiler.STEP_FILE).unlink(missing_ok=True)
  (folder / compiler.HLO_FILE).write_bytes(compiler_ir(stage='hlo_serialized'))
  (folder / compiler.MANIFEST_FILE).write_text(json.dumps(manifest, indent=2))


def _arguments(concrete, batch, step):
  # Structured inputs are flattened in the order of their names.
  inputs = [_input(name, batch[name], step) for name in sorted(batch)]
  variables = [*step.model.variables, *step.optimizer.variables()]
  for metric in step.metrics:
    variables += metric.variables
  names = {id(v.handle): v.name.split(':')[0] for v in variables}
  return inputs + [
    _variable(names.get(id(handle), f'variable_{index}'), handle)
    for index, handle in enumerate(concrete.captured_inputs)
  ]


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
  return {'role': 'input', **_described(name, value), **values}


def _variable(name, handle):
  """Describes a variable by the mean and spread of its first values."""
  value = handle
  if handle.dtype == tf.resource:
    [content] = handle._handle_data.shape_and_type
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=content.dtype)
  values = value.numpy().astype(np.float32)
  return {
    'role': 'variable',
    **_described(name, value),
    'mean': float(values.mean()),
    'stddev': float(values.std()),
  }


def _described(name, value):
  return {
    'name': name,
    'shape': [int(side) for side in value.shape],
    'dtype': tf.as_dtype(value.dtype).name,
  }


def _results(header):
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
