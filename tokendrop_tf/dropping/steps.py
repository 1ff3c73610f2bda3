"""Which kind of train step each step of a run is."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tokendrop_tf import schedules
from tokendrop_tf.dropping import registry
from tokendrop_tf.dropping.step import Step

# More changes of K than these are told by their ends.
_MOST_NAMED = 3


class StepKinds:
  """Which kind of step each step of a run is.

  The kind follows from the number of the step alone, so a resumed run takes
  the steps that it would have taken.

  Args:
    token_drop: a `TokenDropConfig`.
    drops: whether tokens are dropped at all.
    objective: a value of `schedules.OBJECTIVES`.
    objective_schedule: entries that change it over the run.

  Attributes:
    keeps: the `Schedule` of the tokens kept.
    schedule: that of the kinds of ordinary steps.

  Raises:
    errors.ConfigurationError: for a schedule of another form.
  """

  def __init__(
    self,
    token_drop,
    drops: bool,
    objective: str = schedules.MASKED_LM,
    objective_schedule: Sequence[str] = (),
  ):
    keep_k, entries = token_drop.token_keep_k, token_drop.keep_schedule
    self.keeps = schedules.KEEP.parse(
      entries if drops else (),
      keep_k if drops else None,
      token_drop.schedule_steps,
    )
    objectives = schedules.OBJECTIVE.parse(
      objective_schedule, objective, token_drop.schedule_steps
    )
    self.schedule = schedules.combined(
      lambda keep_k, name: Step(keep_k, causal=name == schedules.CAUSAL_LM),
      self.keeps,
      objectives,
    )
    consistency = registry.consistency_of(token_drop)
    # Every n-th step is of another kind; the first that applies decides.
    periods = (
      (consistency.every, consistency.kind),
      (token_drop.full_step_every, _in_full),
    )
    self._periodic = [
      (every, kind_of) for every, kind_of in periods if drops and every
    ]

  @property
  def kinds(self) -> list[Step]:
    """The kinds that occur, each once."""
    scheduled = self.schedule.values
    periodic = []
    for every, kind_of in self._periodic:
      periodic += map(kind_of, self.schedule.values)
      if every == 1:
        scheduled = []
        break
    return list(dict.fromkeys([*scheduled, *periodic]))

  @property
  def result_names(self) -> tuple[str, ...]:
    """Names of results that steps of some kinds have in addition."""
    return tuple(
      dict.fromkeys(name for kind in self.kinds for name in kind.RESULTS)
    )

  def mixture(self, ordinary: Step) -> list[tuple[float, Step]]:
    """The share of each kind in a stretch of the schedule.

    The last is that of the ordinary steps.
    """
    shares, earlier = [], []
    for every, kind_of in self._periodic:
      share = 1.0 / every - sum(1.0 / math.lcm(every, n) for n in earlier)
      shares.append((share, kind_of(ordinary)))
      earlier.append(every)
    left = 1.0 - sum(share for share, _ in shares)
    return [*shares, (left, ordinary)]

  @property
  def shares(self) -> list[tuple[float, Step]]:
    """The share of all steps that each kind has.

    Those of the stretches of the schedule come last, in their order.
    """
    periodic, regular = {}, []
    for length, ordinary in zip(self.schedule.lengths, self.schedule.values):
      *others, (left, step) = self.mixture(ordinary)
      regular.append((left * length, step))
      for share, kind in others:
        periodic[kind] = periodic.get(kind, 0.0) + share * length
    return [*((share, kind) for kind, share in periodic.items()), *regular]

  def is_causal(self, step: tf.Tensor) -> tf.Tensor:
    """Returns whether a step is a causal one, a bool scalar.

    Args:
      step: integer scalar, steps taken before.
    """
    causal = [kind.causal for kind in self.schedule.values]
    return tf.gather(causal, self.schedule.index_at(step))

  def switch(self, step: tf.Tensor, run: Callable):
    """Calls `run` with the kind of a step, one branch for each kind.

    Args:
      step: integer scalar, steps taken before.
      run: function of a `Step` to tensors.
    """
    kinds = self.kinds
    if len(kinds) == 1:
      return run(kinds[0])
    stretch = self.schedule.index_at(step)

    def index_of(kind_of):
      """In the present stretch; 0 of a kind that never has its turn."""
      found = map(kind_of, self.schedule.values)
      return tf.gather(
        [kinds.index(kind) if kind in kinds else 0 for kind in found], stretch
      )

    index = index_of(lambda ordinary: ordinary)
    for every, kind_of in reversed(self._periodic):
      is_due = tf.equal((step + 1) % every, 0)
      index = tf.where(is_due, index_of(kind_of), index)
    return tf.switch_case(
      index, [functools.partial(run, kind) for kind in kinds]
    )

  def describe(self, seq_length: int) -> str:
    """Returns how many tokens are kept, and from which step on.

    Args:
      seq_length: S.

    Example:
      '64 of 128 tokens (50%)', or
      'all 128 tokens to step 1,200, then 64 (50%)', or
      'from 32 (25%) to all of 128 tokens over 8 stretches'
    """
    first, *others = self.keeps.values
    if first is not None and not others:
      return f'{first} of {seq_length} tokens ({first / seq_length:.0%})'
    if len(others) > _MOST_NAMED:
      ends = ' to '.join(
        _share_text(keep_k, seq_length) for keep_k in (first, others[-1])
      )
      count = len(self.keeps.values)
      return f'from {ends} of {seq_length} tokens over {count} stretches'
    # "all 128 tokens", "64 (50%) of 128 tokens".
    of = ' ' if first is None else ' of '
    text = f'{_share_text(first, seq_length)}{of}{seq_length} tokens'
    for keep_k, step in zip(others, self.keeps.first_steps[1:]):
      text += f' to step {step:,}, then {_share_text(keep_k, seq_length)}'
    return text


def _in_full(ordinary):
  return dataclasses.replace(ordinary, keep_k=None)


def _share_text(keep_k, seq_length):
  return 'all' if keep_k is None else f'{keep_k} ({keep_k / seq_length:.0%})'
