"""Position tables made longer, so that a model reads longer sequences.

Letters: M positions that a table has, S positions that are wanted.
"""

from collections.abc import Iterator, Mapping

import numpy as np

NAME = 'encoder/_position_embedding_layer/embeddings'


def tile(table: np.ndarray, length: int) -> np.ndarray:
  """Returns the table repeated: row p is row p mod M of the old one.

  Args:
    table: [M, H].
    length: S, at least M.
  """
  return table[np.arange(length) % len(table)]


def interpolate(table: np.ndarray, length: int) -> np.ndarray:
  """Returns the table stretched: row p lies at place p M / S of the old one.

  Between two rows it is linear; beyond the last one the last step continues.
  Where S is a multiple of M, every (S / M)-th row is an old one.

  Args:
    table: [M, H], of at least two rows.
    length: S, at least M.
  """
  places = np.arange(length) * (len(table) / length)
  rows = np.minimum(places.astype(int), len(table) - 2)
  share = (places - rows)[:, np.newaxis]
  stretched = (1.0 - share) * table[rows] + share * table[rows + 1]
  return stretched.astype(table.dtype)


# Values of `pretraining.position_extension`; `refuse` lets the sizes differ.
EXTENSIONS = {'tile': tile, 'interpolate': interpolate}


class LongerPositions(Mapping):
  """Weights with a position table of more rows; all others as they are.

  Args:
    weights: what `load_weights.read_weights` returned.
    length: S.
    extend: function of a table [M, H] and S to one of [S, H].
  """

  def __init__(self, weights, length: int, extend):
    self._weights = weights
    self._length = length
    self._extend = extend

  @property
  def num_layers(self) -> int:
    return self._weights.num_layers

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a weight."""
    shape = tuple(self._weights.shape(name))
    return (self._length, *shape[1:]) if name == NAME else shape

  def __getitem__(self, name: str) -> np.ndarray:
    value = self._weights[name]
    return self._extend(value, self._length) if name == NAME else value

  def __contains__(self, name) -> bool:
    return name in self._weights

  def __iter__(self) -> Iterator[str]:
    return iter(self._weights)

  def __len__(self) -> int:
    return len(self._weights)


def extended(weights, length: int, extension: str):
  """Returns the weights, their position table extended where it is shorter.

  Args:
    weights: what `load_weights.read_weights` returned.
    length: S, positions of the model that they are for.
    extension: 'refuse', which changes nothing, or one of `EXTENSIONS`.
  """
  if extension not in EXTENSIONS or NAME not in weights:
    return weights
  if weights.shape(NAME)[0] >= length:
    return weights
  return LongerPositions(weights, length, EXTENSIONS[extension])
