"""How many tokens are kept, as a function of the progress of the training.

A schedule is a few buckets, written 'SHARE:K' in `token_drop.keep_schedule`:
from this share of `trainer.train_steps` on, K tokens are kept; 'SHARE:all'
keeps all of them, which is a plain step. The bucket follows from the step
alone, so a run resumes in the bucket where it stopped. K is static within a
bucket: each number of tokens is compiled once.
"""

import dataclasses

from tokendrop_tf import errors, share_schedule

ALL = 'all'
_FORM = "token_drop.keep_schedule must be a list like ('0:128', '0.5:256')"


@dataclasses.dataclass(frozen=True)
class Bucket:
  """A stretch of the training.

  Attributes:
    share: where it begins, in [0, 1), of the training.
    keep_k: tokens kept in it; `None` is all.
  """

  share: float
  keep_k: int | None


def parse(token_drop) -> tuple[Bucket, ...]:
  """Returns the buckets of a configuration, one where there is no schedule.

  Args:
    token_drop: a `configs.TokenDropConfig` with a dropping policy.

  Raises:
    errors.ConfigurationError: for an entry that is not 'SHARE:K', or shares
      that do not rise from 0.

  Example:

      parse(TokenDropConfig(keep_schedule=('0:128', '0.9:all')))
      # (Bucket(share=0.0, keep_k=128), Bucket(share=0.9, keep_k=None))
  """
  if not token_drop.keep_schedule:
    return (Bucket(0.0, token_drop.token_keep_k),)
  buckets = tuple(_parse_entry(entry) for entry in token_drop.keep_schedule)
  share_schedule.check_shares(
    [bucket.share for bucket in buckets],
    token_drop.keep_schedule,
    _FORM,
    'Set token_drop.keep_schedule.',
  )
  return buckets


def _parse_entry(entry):
  share, separator, keep_k = entry.partition(':')
  try:
    if not separator or (keep_k != ALL and int(keep_k) < 1):
      raise ValueError(entry)
    return Bucket(float(share), None if keep_k == ALL else int(keep_k))
  except ValueError:
    raise errors.ConfigurationError(
      f"{_FORM}, or ':all' for all tokens. Received: {entry!r}. Set "
      'token_drop.keep_schedule.'
    ) from None


def validate(token_drop, seq_length: int) -> None:
  """Checks the schedule against the sequence length.

  Raises:
    errors.ConfigurationError: as `parse`, or if more tokens are kept than there
      are.
  """
  for bucket in parse(token_drop):
    if bucket.keep_k is not None and bucket.keep_k > seq_length:
      raise errors.ConfigurationError(
        'token_drop.keep_schedule must keep at most train_data.seq_length '
        f'tokens. Received: {bucket.keep_k}, seq_length={seq_length}. Set '
        'token_drop.keep_schedule.'
      )


def first_steps(token_drop) -> list[int]:
  """Returns the step, from 0, with which every bucket begins.

  Args:
    token_drop: with `schedule_steps`, the length of the training.
  """
  return share_schedule.first_steps(
    [bucket.share for bucket in parse(token_drop)], token_drop.schedule_steps
  )


def describe(token_drop, seq_length: int) -> str:
  """Says how many tokens are kept, and from when on.

  Args:
    token_drop: with a dropping policy and `schedule_steps`.
    seq_length: S.

  Example:
    '64 of 128 tokens (50%)', or
    'all 128 tokens to step 1,200, then 64 (50%)'
  """
  buckets = parse(token_drop)
  if len(buckets) == 1 and buckets[0].keep_k is not None:
    keep_k = buckets[0].keep_k
    return f'{keep_k} of {seq_length} tokens ({keep_k / seq_length:.0%})'
  parts = [
    f'{bucket.keep_k} ({bucket.keep_k / seq_length:.0%})'
    if bucket.keep_k is not None
    else 'all'
    for bucket in buckets
  ]
  # "all 128 tokens", "64 (50%) of 128 tokens".
  of = ' ' if buckets[0].keep_k is None else ' of '
  text = f'{parts[0]}{of}{seq_length} tokens'
  for part, step in zip(parts[1:], first_steps(token_drop)[1:]):
    text += f' to step {step:,}, then {part}'
  return text


def shares(token_drop) -> list[tuple[float, int | None]]:
  """Returns (share of the steps, tokens kept) of every bucket."""
  buckets = parse(token_drop)
  ends = [bucket.share for bucket in buckets[1:]] + [1.0]
  return [
    (end - bucket.share, bucket.keep_k) for bucket, end in zip(buckets, ends)
  ]
