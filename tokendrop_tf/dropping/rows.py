"""Rows: what layers compute on, in the order in which they are sliced.

Letters: B batch, S sequence length, N rows of a sequence, H hidden size.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

# What belongs to every row in addition to its states.
_OF_ROWS = ('positions', 'mask', 'segments', 'scores')


class LayerRows(NamedTuple):
  """The rows of one layer; `None` is all of them.

  Attributes:
    queries: the first so many rows are computed; all others stay as they are.
    keys: they attend to the first so many rows.
  """

  queries: int | None
  keys: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """The rows of a batch, and the integers that belong to each of them.

  Attributes:
    states: hidden states, [B, n, H] each, one below the other. Rows that were
      computed apart stay apart until a layer needs them together.
    positions: int32 [B, N], place of every row in the sequence; `None` where
      rows stand in reading order.
    mask: int32 [B, N], 1 for a token, 0 for padding.
    segments: int32 [B, N], number of the document; `None` for one document.
    scores: float32 [B, N], importance of every row; `None` where unknown.
    temperature: by which rows were sorted, as of `layers.TokenOrder`.
  """

  states: tuple[tf.Tensor, ...]
  positions: tf.Tensor | None
  mask: tf.Tensor
  segments: tf.Tensor | None = None
  scores: tf.Tensor | None = None
  temperature: float = 0.0

  def first(self, count: int | None) -> tf.Tensor:
    """Returns the states of the first `count` rows, [B, count, H]."""
    if count is None:
      return _joined(self.states)
    before, _ = self._split(count)
    return _joined(before)

  def with_first(self, computed: tf.Tensor, count: int | None) -> 'Rows':
    """Returns the rows with other states of the first `count` ones."""
    _, after = ((), ()) if count is None else self._split(count)
    return dataclasses.replace(self, states=(computed, *after))

  def map(self, function: Callable[[tf.Tensor], tf.Tensor]) -> 'Rows':
    """Returns the rows with a function applied to all that belongs to them.

    Args:
      function: of [B, N, ...] to [B, M, ...], e.g. a gather, a roll, a slice.

    Example:

        rows.map(lambda tensor: tf.roll(tensor, 3, axis=1))
    """
    states = (function(self.first(None)),)
    return dataclasses.replace(self, states=states, **self._each(function))

  def permuted(self, order: tf.Tensor) -> 'Rows':
    """Returns the rows in another order, int32 [B, N]; each occurs once."""
    return self.map(lambda tensor: _permute(tensor, order))

  def split(self, count: int) -> tuple['Rows', 'Rows']:
    """Returns the first `count` rows, and the others."""
    before, after = self._split(count)
    return (
      dataclasses.replace(
        self, states=tuple(before), **self._each(lambda t: t[:, :count])
      ),
      dataclasses.replace(
        self, states=tuple(after), **self._each(lambda t: t[:, count:])
      ),
    )

  def followed_by(self, *others: 'Rows') -> 'Rows':
    """Returns these rows and others, which have the same fields, after them."""
    parts = (self, *others)
    by_name = {
      name: tf.concat([getattr(part, name) for part in parts], axis=1)
      for name in _OF_ROWS
      if getattr(self, name) is not None
    }
    states = sum((part.states for part in parts), ())
    return dataclasses.replace(self, states=states, **by_name)

  def in_reading_order(self) -> tf.Tensor:
    """Returns the states by position, [B, N, H]."""
    states = self.first(None)
    if self.positions is None:
      return states
    return tf.gather(states, tf.argsort(self.positions), batch_dims=1)

  def at_first_position(self) -> tf.Tensor:
    """Returns the states of position 0, [B, H]."""
    states = self.first(None)
    if self.positions is None:
      return states[:, 0]
    place = tf.argmin(self.positions, axis=1)[:, tf.newaxis]
    return tf.gather(states, place, batch_dims=1)[:, 0]

  def mean_of_tokens(self, states: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the mean over all rows but padding, float32 [B, H].

    Args:
      states: [B, N, H], as the rows stand; `None` is the rows' own.
    """
    states = self.first(None) if states is None else states
    is_token = tf.cast(self.mask, tf.float32)[:, :, tf.newaxis]
    return tf.math.divide_no_nan(
      tf.reduce_sum(is_token * tf.cast(states, tf.float32), axis=1),
      tf.reduce_sum(is_token, axis=1),
    )

  def _each(self, function):
    """Applies a function to the fields that are known."""
    return {
      name: function(value)
      for name in _OF_ROWS
      if (value := getattr(self, name)) is not None
    }

  def _split(self, count):
    before, after = [], []
    for states in self.states:
      size = states.shape[1]
      if count >= size:
        before.append(states)
      elif count <= 0:
        after.append(states)
      else:
        before.append(states[:, :count])
        after.append(states[:, count:])
      count -= size
    return before, after


def _joined(states):
  if len(states) == 1:
    return states[0]
  dtype = states[0].dtype
  return tf.concat([tf.cast(part, dtype) for part in states], axis=1)


@tf.custom_gradient
def _permute(tensor, order):
  """Gathers [B, N, ...] by permutations [B, N].

  The gradient gathers by the inverse; that of `tf.gather` would scatter.
  """

  def gradient(upstream):
    inverse = tf.argsort(order)
    return tf.gather(upstream, inverse, batch_dims=1), None

  return tf.gather(tensor, order, batch_dims=1), gradient
