"""An exported training: its programs, batches and states as files.

Needs neither TensorFlow nor JAX. A folder holds:

    training.json             steps, intervals, tokens of a step
    train/, validation/       a program each, with a manifest of its arguments
    state-00000000.npz        the variables of the train program after so many
                              steps, in its order
    batches/00000.npz         consecutive train batches, by feature
    validation.npz            all validation batches
    metrics.jsonl             losses, as in the folder of a run
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

TRAIN, VALIDATION = 'train', 'validation'
METRICS_FILE = 'metrics.jsonl'
_PLAN_FILE = 'training.json'
_BATCHES, _VALIDATION_FILE = 'batches', 'validation.npz'
_STATE = 'state-{:08d}.npz'
BATCHES_PER_FILE = 256


class TrainingFolder:
  """The files of an exported training.

  Args:
    path: the folder.
  """

  def __init__(self, path: str | pathlib.Path):
    self.path = pathlib.Path(path)

  @property
  def plan(self) -> dict:
    """The content of `training.json`."""
    return json.loads((self.path / _PLAN_FILE).read_text())

  def write_plan(self, plan: Mapping) -> None:
    """Writes `training.json`: last, so that it stands for a whole export."""
    (self.path / _PLAN_FILE).write_text(json.dumps(plan, indent=2) + '\n')

  def program(self, name: str) -> pathlib.Path:
    """Returns the folder of a program, `TRAIN` or `VALIDATION`."""
    return self.path / name

  # States.

  def newest_step(self) -> int:
    """Returns the step of the newest state."""
    return max(
      int(path.stem.split('-')[1]) for path in self.path.glob('state-*.npz')
    )

  def read_state(self, step: int) -> list[np.ndarray]:
    """Returns the variables of the train program after so many steps."""
    with np.load(self.path / _STATE.format(step)) as arrays:
      return [arrays[f'variable_{n}'] for n in range(len(arrays))]

  def write_state(self, step: int, values: Sequence[np.ndarray]) -> None:
    """Writes the variables of the train program, at once."""
    path = self.path / _STATE.format(step)
    beside = path.with_suffix('.writing')
    with open(beside, 'wb') as file:
      np.savez(file, **{f'variable_{n}': v for n, v in enumerate(values)})
    beside.replace(path)

  # Batches.

  def write_batches(self, batches: Iterable[Mapping[str, np.ndarray]]) -> int:
    """Writes train batches, `BATCHES_PER_FILE` to a file; returns how many."""
    (self.path / _BATCHES).mkdir(exist_ok=True)
    pending, number = [], 0
    for batch in batches:
      pending.append(batch)
      number += 1
      if number % BATCHES_PER_FILE == 0:
        _write_stacked(self._batch_file(number - 1), pending)
        pending = []
    if pending:
      _write_stacked(self._batch_file(number - 1), pending)
    return number

  def _batch_file(self, number):
    """Returns the file of a batch."""
    return self.path / _BATCHES / f'{number // BATCHES_PER_FILE:05d}.npz'

  def batches(self, first: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields train batches from number `first` on, counted from 0."""
    while (path := self._batch_file(first)).exists():
      found = _read_stacked(path)[first % BATCHES_PER_FILE :]
      if not found:  # The last file has fewer.
        return
      yield from found
      first += len(found)

  def write_validation(
    self, batches: Iterable[Mapping[str, np.ndarray]]
  ) -> None:
    """Writes all validation batches into one file."""
    _write_stacked(self.path / _VALIDATION_FILE, list(batches))

  def validation_batches(self) -> list[dict[str, np.ndarray]]:
    """Returns all validation batches."""
    return _read_stacked(self.path / _VALIDATION_FILE)


def _write_stacked(path, batches):
  stacked = {
    name: _compact(np.stack([batch[name] for batch in batches]))
    for name in batches[0]
  }
  np.savez_compressed(path, **stacked)


def _compact(values):
  """Returns integers in the smallest type that holds them."""
  if values.dtype.kind != 'i' or values.min() < 0:
    return values
  return values.astype(np.min_scalar_type(values.max()))


def _read_stacked(path) -> list[dict[str, np.ndarray]]:
  with np.load(path) as arrays:
    stacked = {name: arrays[name] for name in arrays}
  number = len(next(iter(stacked.values())))
  return [
    {name: values[n] for name, values in stacked.items()} for n in range(number)
  ]
