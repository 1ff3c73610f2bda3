"""The rule of settings that change over a training: 'SHARE:VALUE' entries."""

import math
from collections.abc import Sequence

from tokendrop_tf import errors


def check_shares(
  shares: Sequence[float], entries: Sequence[str], form: str, remedy: str
) -> None:
  """Checks that the shares begin with 0, rise, and stay below 1.

  Args:
    shares: where each entry begins, as a share of the training.
    entries: as they were set.
    form: begins the message: which setting holds entries of which form.
    remedy: ends it: what to set.

  Raises:
    errors.ConfigurationError: if they do not.

  Example:
    check_shares([0.0, 0.5], ('0:128', '0.5:all'), 'K is set by ...', 'Set ...')
  """
  rises = all(a < b for a, b in zip(shares, shares[1:]))
  if shares[0] != 0.0 or not rises or shares[-1] >= 1.0:
    raise errors.ConfigurationError(
      f'{form}: shares of the training that begin with 0, rise, and stay '
      f'below 1. Received: {", ".join(entries)}. {remedy}'
    )


def first_steps(shares: Sequence[float], num_steps: int) -> list[int]:
  """Returns the step, from 0, with which every entry begins.

  Example:
    first_steps([0.0, 0.55], 100)  # [0, 55]
  """
  # In binary 0.55 * 100 is a little above 55.
  return [math.ceil(round(share * num_steps, 6)) for share in shares]
