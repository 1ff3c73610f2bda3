"""Trains an exported training on the device that JAX finds.

Needs JAX and the folder that `tools/export_training.py` wrote. Losses go to
its `metrics.jsonl`, in the fields of a run's; states to `state-*.npz`.
"""

import json
import sys
import time

import jax
import numpy as np

from tools.tpu import compiler, device_programs, training_folder


class Program:
  """A program of an exported training, compiled for a device.

  Args:
    folder: of the program.
    device: a JAX device.
  """

  def __init__(self, folder, device):
    text = compiler.write_stablehlo(folder)
    manifest = json.loads((folder / compiler.MANIFEST_FILE).read_text())
    self._arguments, self._results = manifest['arguments'], manifest['results']
    self._executable = device_programs.load(text, device)
    self._device = device
    with np.load(folder / 'constants.npz') as arrays:
      self._constants = [
        jax.device_put(arrays[f'arr_{n}'], device) for n in range(len(arrays))
      ]

  def run(self, batch, variables):
    """Runs once.

    Args:
      batch: features, numpy arrays by name.
      variables: of the train program, on the device; those that the program
        replaces are given away to it.

    Returns:
      The results that replace nothing, and the variables afterwards.
    """
    constants = iter(self._constants)
    arguments = [
      self._input(entry, batch)
      if entry['role'] == 'input'
      else next(constants)
      if entry['place'] is None
      else variables[entry['place']]
      for entry in self._arguments
    ]
    found, variables = [], list(variables)
    results = device_programs.execute(self._executable, arguments)
    for result, described in zip(results, self._results):
      replaced = described['replaces_argument']
      if replaced is None:
        found.append(result)
      else:
        variables[self._arguments[replaced]['place']] = result
    return found, variables

  def _input(self, entry, batch):
    value = batch[entry['name']].astype(entry['dtype'])
    return jax.device_put(value, self._device)


def train(path: str) -> None:
  """Trains to the last step, from the newest state on.

  Raises:
    SystemExit: for a loss that is not finite; the last state is kept.
  """
  folder = training_folder.TrainingFolder(path)
  plan, step = folder.plan, folder.newest_step()
  device = jax.devices()[0]
  programs = {
    name: Program(folder.program(name), device)
    for name in (training_folder.TRAIN, training_folder.VALIDATION)
  }
  variables = [jax.device_put(v, device) for v in folder.read_state(step)]
  log = _Log(folder.path / training_folder.METRICS_FILE, step, plan)
  losses, began = [], time.monotonic()
  for batch in folder.batches(step - plan['first_step']):
    [loss], variables = programs[training_folder.TRAIN].run(batch, variables)
    losses.append(loss)
    step += 1
    is_last = step == plan['train_steps']
    if is_last or step % plan['steps_per_loop'] == 0:
      mean = float(np.mean([np.asarray(loss) for loss in losses]))
      if not np.isfinite(mean):
        sys.exit(f'The training loss must be finite. Received: {mean}.')
      log.loop(step, mean, len(losses), time.monotonic() - began)
      losses, began = [], time.monotonic()
    if is_last or step % plan['validation_interval'] == 0:
      sums = _validate(programs[training_folder.VALIDATION], folder, variables)
      log.validation(step, sums, time.monotonic() - began)
      began = time.monotonic()
    if is_last or step % plan['checkpoint_interval'] == 0:
      folder.write_state(step, [np.asarray(v) for v in variables])
      began = time.monotonic()


def _validate(program, folder, variables):
  """Returns sums over all label slots: losses, hits, weights."""
  sums = np.zeros(3)
  for batch in folder.validation_batches():
    [found], variables = program.run(batch, variables)
    sums += np.asarray(found)
  return sums


class _Log:
  """Appends to `metrics.jsonl`, without what came after the resumed step."""

  def __init__(self, path, step, plan):
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)['step'] <= step]
    path.write_text(''.join(f'{line}\n' for line in kept))
    last = json.loads(kept[-1]) if kept else {}
    self._path, self._plan = path, plan
    self._seconds = last.get('train_seconds', 0.0)
    self._began = time.monotonic() - last.get('seconds', 0.0)
    self._is_first = True

  def loop(self, step, loss, num_steps, seconds):
    """Adds a line about some steps."""
    self._seconds += seconds
    tokens = num_steps * self._plan['tokens_per_step']
    self._append(
      kind='train',
      step=step,
      training_loss=loss,
      seconds_per_step=seconds / num_steps,
      tokens_per_second=tokens / seconds,
      includes_compilation=self._is_first,
    )
    self._is_first = False

  def validation(self, step, sums, seconds):
    """Adds a line about a validation."""
    loss, accuracy = sums[:2] / sums[2]
    self._append(
      kind='validation',
      step=step,
      validation_loss=loss,
      lm_example_loss=loss,
      masked_lm_accuracy=accuracy,
      context_gain=self._plan['context_free_loss'] - loss,
      validation_seconds=seconds,
    )

  def _append(self, *, step, **fields):
    record = {
      'step': step,
      'tokens': step * self._plan['tokens_per_step'],
      'seconds': time.monotonic() - self._began,
      'train_seconds': self._seconds,
      **fields,
    }
    line = json.dumps(record)
    print(line, flush=True)
    with open(self._path, 'a') as file:
      file.write(line + '\n')
