"""Dropping as a run has it configured."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors, layers, schedules
from tokendrop_tf.dropping import consistency, registry, steps
from tokendrop_tf.dropping.importance import Importance
from tokendrop_tf.dropping.plan import Plan
from tokendrop_tf.dropping.rows import LayerRows, Rows
from tokendrop_tf.dropping.step import Step


class Dropping:
  """All that other rooms ask about dropping, from a run's settings.

  Attributes:
    importance: in which order rows stand.
    plan: which rows each layer computes.
    kinds: which kind of step each step is.

  Args:
    token_drop: a `TokenDropConfig`.
    num_layers: L.
    seq_length: S.
    objective: as `steps.StepKinds`.
    objective_schedule: as `steps.StepKinds`.
    num_slots: P, where the plan has to know it.

  Example:

      dropping = Dropping(TokenDropConfig(token_keep_k=64), 12, 128)
      dropping.rows(64)[5]  # LayerRows(queries=64, keys=128)
      dropping.describe()
      # 'by running loss, ranked: 64 of 128 tokens (50%) in layers 6-11 of 12'
  """

  def __init__(
    self,
    token_drop,
    num_layers: int,
    seq_length: int,
    objective: str = schedules.MASKED_LM,
    objective_schedule: Sequence[str] = (),
    num_slots: int | None = None,
  ):
    self._settings = token_drop
    self._num_layers = num_layers
    self._seq_length = seq_length
    self.importance = registry.importance_of(token_drop)
    self.plan = registry.plan_of(token_drop, num_slots=num_slots)
    self.kinds = steps.StepKinds(
      token_drop, self.drops, objective, objective_schedule
    )

  @classmethod
  def of(cls, task) -> 'Dropping':
    """Returns the dropping of a `configs.PretrainingTaskConfig`."""
    data = task.train_data
    return cls(
      task.token_drop,
      task.model.num_layers,
      data.seq_length,
      task.objective,
      task.objective_schedule,
      data.max_predictions_per_seq,
    )

  @property
  def drops(self) -> bool:
    """Whether the run drops tokens."""
    return self.importance.drops

  @property
  def delays_masks(self) -> bool:
    """Whether [MASK] joins the other tokens at a later layer."""
    return self.drops and self.plan.delays_masks

  @property
  def trains_full_passes(self) -> bool:
    """Whether [MASK] passes all layers in some steps, as it does in use."""
    kinds = self.kinds.kinds
    return not self.delays_masks or any(None in kind.passes for kind in kinds)

  @property
  def head_note(self) -> str:
    """Says what does not hold of the run's masked-LM head; '' if all does."""
    if self.trains_full_passes:
      return ''
    return (
      'In training [MASK] never passed the first layers, as it does in use: '
      'predictions of the masked-LM head are worse than in training '
      '(mask_late_gap of the validations). The encoder, for fine-tuning on '
      'text without [MASK], is not concerned; token_drop.full_step_every '
      'trains the head, too.'
    )

  @property
  def keep_k(self) -> int | None:
    """K of validation with dropping; `None` where nothing is dropped."""
    return self._settings.token_keep_k if self.drops else None

  def rows(self, keep_k: int | None) -> list[LayerRows]:
    """Returns the rows of every layer in a step that keeps `keep_k` tokens."""
    keep_k = self.plan.acting_keep_k(keep_k, self._seq_length)
    return self.plan.rows(self._num_layers, self._seq_length, keep_k)

  def layer_tokens(self, ordinary: Step) -> float:
    """Returns the tokens that the mean layer computes in the mean step.

    Args:
      ordinary: the kind of the steps that are not periodic.
    """
    return sum(
      share * queries / self._num_layers
      for share, kind in self.kinds.mixture(ordinary)
      for pass_k in kind.passes
      for queries, _ in self.rows(pass_k)
    )

  def computed(
    self, scores, seed: tf.Tensor, ranked: bool = False
  ) -> np.ndarray:
    """Returns which positions each layer computes where K tokens are kept.

    Args:
      scores: float [B, S], importances of the tokens, in nats.
      seed: int32 [2], decides whatever is random.
      ranked: whether to rank where the run samples.

    Returns:
      bool [L, B, S].
    """
    positions = np.arange(np.shape(scores)[1])
    return np.stack(
      [
        (places[:, : sizes.queries, np.newaxis] == positions).any(axis=1)
        for places, sizes in self.arranged(scores, seed, ranked)
      ]
    )

  def arranged(
    self, scores, seed: tf.Tensor, ranked: bool = False
  ) -> list[tuple[np.ndarray, LayerRows]]:
    """Returns how the rows of each layer stand, and how many it reads.

    Args:
      scores: as of `computed`.
      seed: as of `computed`.
      ranked: as of `computed`.

    Returns:
      For every layer: the positions of its rows, int32 [B, N], from S on those
      of rows that a plan has added; and its `LayerRows`.
    """
    temperature = 0.0 if ranked else self._settings.temperature
    order = layers.TokenOrder(temperature)(scores, seed=tf.constant(seed))
    keep_k = self.plan.acting_keep_k(self.keep_k, self._seq_length)
    plan = Plan() if keep_k is None else self.plan
    order = plan.arrange(order, self.keep_k)
    rows = Rows(
      states=(tf.zeros([*order.shape, 1]),),
      positions=order,
      mask=tf.ones_like(order),
      scores=tf.gather(scores, order, batch_dims=1),
      temperature=temperature,
    )
    arranged, sizes = [], self.rows(self.keep_k)
    for layer, own_sizes in enumerate(sizes, start=1):
      rows = plan.select(layer, rows, sizes, seed)
      arranged.append((rows.positions.numpy(), own_sizes))
      rows = plan.merge(layer, rows, sizes)
    return arranged

  def check(self) -> None:
    """Checks all rules of dropping that span more than one setting.

    Raises:
      errors.ConfigurationError: for the first rule that is broken.
    """
    _check_pins(self._settings)
    if not self.drops:
      return
    _check_periods(self._settings)
    self.importance.check()
    self._check_causal_steps()
    self.plan.check(self._num_layers)
    self.plan.check_order(self._settings, self.importance.has_scores)
    seq_length = self._seq_length
    if self.keep_k > seq_length:
      raise errors.ConfigurationError(
        'token_drop.token_keep_k must be at most train_data.seq_length. '
        f'Received: token_keep_k={self.keep_k}, seq_length={seq_length}. Set '
        'token_drop.token_keep_k.'
      )
    most = max(keep_k or 0 for keep_k in self.kinds.keeps.values)
    if most > seq_length:
      raise errors.ConfigurationError(
        'token_drop.keep_schedule must keep at most train_data.seq_length '
        f'tokens. Received: {most}, seq_length={seq_length}. Set '
        'token_drop.keep_schedule.'
      )
    for keep_k in {self.keep_k, *self.kinds.keeps.values}:
      self.rows(keep_k)

  def _check_causal_steps(self):
    """What a causal step keeps must not depend on tokens to come."""
    causal = {kind.causal for kind in self.kinds.schedule.values}
    if True not in causal:
      return
    if self.importance.has_scores and not self._settings.allow_lookahead:
      raise errors.ConfigurationError(
        'Causal steps must not rank tokens over the whole row: whether one is '
        'kept would depend on later ones. Received: token_drop.policy='
        f"{self._settings.policy!r}. Set token_drop.policy = 'random', or "
        'token_drop.allow_lookahead = True.'
      )
    if self.plan.mixes_tokens:
      raise errors.ConfigurationError(
        'Causal steps must not pool tokens: earlier ones would learn of later '
        f'ones. Received: token_drop.plan={self._settings.plan!r}. Set '
        'token_drop.plan.'
      )
    if self.delays_masks:
      raise errors.ConfigurationError(
        "token_drop.plan = 'mask_later' needs [MASK], which causal steps do "
        'not have. Received: an objective with causal steps. Set '
        "token_drop.plan, or pretraining.objective = 'masked_lm' throughout."
      )
    if self._settings.consistency_every and (
      len(causal) > 1 or self._settings.consistency_rows == consistency.CLS
    ):
      raise errors.ConfigurationError(
        'Consistency steps go with one objective, and in causal ones position '
        '0 sees no other token. Received: token_drop.consistency_every='
        f'{self._settings.consistency_every}, token_drop.consistency_rows='
        f'{self._settings.consistency_rows!r}. Set token_drop.consistency_rows '
        "= 'mean' without an objective schedule, or leave "
        'token_drop.consistency_every unset.'
      )

  def describe_kept(self) -> str:
    """Returns how many tokens are kept, e.g. '64 of 128 tokens (50%)'."""
    return self.kinds.describe(self._seq_length)

  def describe(self) -> str:
    """Returns in one line what is dropped, and where."""
    if not self.drops:
      return 'none: every layer runs on all tokens'
    how = self.importance.text
    if self.importance.has_scores:
      how += f', {self.describe_choice()}'
    if self._settings.consistency_every:
      how += (
        f', one step in {self._settings.consistency_every} with and without '
        'dropping'
      )
    if self._settings.full_step_every:
      how += f', one step in {self._settings.full_step_every} in full'
    where = self.plan.describe(self._num_layers)
    return f'{how}: {self.describe_kept()} in {where}'

  def describe_choice(self) -> str:
    """Returns how scores choose: 'ranked' or 'sampled at temperature 1'."""
    temperature = self._settings.temperature
    return (
      f'sampled at temperature {temperature:g}' if temperature else 'ranked'
    )


def masking_importance(task) -> Importance | None:
  """Returns by which importance labels are chosen; `None` by none.

  Where it equals that of the run's `Dropping`, they share one table.

  Args:
    task: a `configs.PretrainingTaskConfig`.
  """
  data = task.train_data
  if data.masking != 'importance':
    return None
  return registry.importance_of(task.token_drop, data.masking_scores)


def _check_periods(token_drop):
  consistency, full = token_drop.consistency_every, token_drop.full_step_every
  if consistency and full and full % consistency == 0:
    raise errors.ConfigurationError(
      'token_drop.full_step_every must not be a multiple of '
      'token_drop.consistency_every, whose steps go first: no step in full '
      f'would be left. Received: {full} and {consistency}. Set one of the two.'
    )


def _check_pins(token_drop):
  both = sorted(
    set(token_drop.always_keep_tokens) & set(token_drop.always_drop_tokens)
  )
  if both:
    raise errors.ConfigurationError(
      'A token must not be in both token_drop.always_keep_tokens and '
      f'token_drop.always_drop_tokens. Received in both: {", ".join(both)}. '
      'Remove it from one.'
    )
