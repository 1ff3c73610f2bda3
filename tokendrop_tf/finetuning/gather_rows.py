"""Puts together what all devices and workers found for their rows."""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tokendrop_tf.run import collectives


def gather(
  parts: Iterable[tuple[np.ndarray, np.ndarray]],
  shape: tuple[int, ...],
  strategy: tf.distribute.Strategy,
  fill: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the logits of every row, whichever worker computed them.

  All workers must call it at the same time, each with its own parts.

  Args:
    parts: numbers of rows, int [n], below 0 for none, and their logits, float32
      [n, ...], whose last dimension may be shorter than that of `shape`.
    shape: [N, ...] of the result, N the number of all rows.
    strategy: the strategy that the workers share.
    fill: stands where nothing was computed.

  Returns:
    Logits, float32 of `shape`, and whether each row has any, bool [N].

  Example:
    gather([(np.array([1]), np.ones([1, 2]))], (3, 2), strategy)[1]
    # [False, True, False]
  """
  # A row is with one worker; in a sum over all, zeros leave it as it is.
  logits = np.zeros(shape, np.float32)
  counts = np.zeros(shape[:1], np.float32)
  for numbers, some in parts:
    is_row = numbers >= 0
    rows = numbers[is_row]
    logits[rows] = fill
    logits[rows, ..., : some.shape[-1]] = some[is_row]
    counts[rows] = 1.0
  is_there = collectives.total(strategy, counts) > 0
  logits = collectives.total(strategy, logits)
  logits[~is_there] = fill
  return logits, is_there
