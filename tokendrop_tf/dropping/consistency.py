"""Consistency steps: what dropping changes in the last layers is a loss.

Letters: B batch of a replica, P prediction slots, K tokens kept, H hidden size.
"""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tokendrop_tf import settings
from tokendrop_tf.dropping.step import Step

# What stands for a sequence: its row of position 0, or the mean of its tokens.
SUMMARIES = CLS, MEAN = ('cls', 'mean')
_TARGETS = ('full', 'both')


@dataclasses.dataclass(frozen=True)
class Consistency:
  """Every n-th step computes both passes, and their difference is a loss.

  After Zhong et al. (2023, arXiv 2305.15273). With the summaries f and d of a
  sequence after a layer, in the full and in the dropping pass,

      loss = (1 - w) L_drop + w L_full
             + weight / P * mean over sequences and sum over the last two layers
               of KL(softmax(f) || softmax(d))

  P is the mean number of labels of a sequence: the weight is then relative to
  the sum of a sequence's losses, as in the authors' code. In that code L_full
  is computed from the dropping pass; here it is the loss of the full pass.
  """

  consistency_every: int = settings.setting(
    0,
    'Every n-th step computes the batch with and without dropping, and draws '
    'the last two layers together; 0 is never, 10 as published.',
    settings.at_least(0),
  )
  consistency_weight: float = settings.setting(
    0.05,
    'Of these steps: weight of the divergence of a sequence, where the losses '
    'of its labels are summed.',
    settings.at_least(0),
  )
  consistency_rows: str = settings.setting(
    CLS,
    "Of these steps: what is compared, 'cls', the row of position 0, or "
    "'mean', the mean of all tokens.",
    settings.one_of(SUMMARIES),
  )
  consistency_target: str = settings.setting(
    'full',
    "Of these steps: 'full' moves the dropping pass towards the full one, "
    "'both' each towards the other.",
    settings.one_of(_TARGETS),
  )
  full_loss_weight: float = settings.setting(
    0.5,
    'Of these steps: share of the full pass in the masked-LM loss.',
    settings.between(0, 1),
  )

  @property
  def every(self) -> int:
    """The period; 0 is never."""
    return self.consistency_every

  def kind(self, ordinary: Step) -> Step:
    """Returns the kind of its steps among ordinary ones."""
    if ordinary.keep_k is None:
      return ordinary
    return ConsistencyStep(ordinary.keep_k, self, causal=ordinary.causal)


@dataclasses.dataclass(frozen=True)
class ConsistencyStep(Step):
  """A step of two passes; see `Consistency`.

  Its results have, in addition to those of other steps, the `RESULTS`:
    pass_losses: float32 [B, P], of the dropping pass, as in other steps; the
      importance table and the metrics read them.
    consistency: float32 [B, P], weighted divergence of the sequence, spread
      over its labels; the step differentiates its weighted mean, too.
    divergences: float32 [B, 2], of the last two layers, in nats.
    has_divergences: float32 [B, 1], 1 in these steps.
  """

  RESULTS: ClassVar = (
    'pass_losses',
    'consistency',
    'divergences',
    'has_divergences',
  )

  settings: Consistency

  @property
  def passes(self):
    return (self.keep_k, None)

  def last_layer_rows(self, num_rows, seq_length):
    is_mean = self.settings.consistency_rows == MEAN
    return seq_length if is_mean else num_rows + 1

  def forward(self, forward_pass, weights):
    summary = self.settings.consistency_rows
    dropping, full = (
      dict(forward_pass(keep_k, summary=summary)) for keep_k in self.passes
    )
    divergences = divergence(
      full.pop('summaries'),
      dropping.pop('summaries'),
      self.settings.consistency_target == 'both',
    )
    of_sequence = tf.reduce_sum(divergences, axis=1, keepdims=True)
    spread = tf.math.divide_no_nan(
      self.settings.consistency_weight * of_sequence,
      tf.reduce_sum(weights, axis=1, keepdims=True),
    )
    share = self.settings.full_loss_weight
    mixed = {
      name: (1.0 - share) * losses + share * full[name]
      for name, losses in dropping.items()
      if name.endswith('losses')
    }
    return {
      **dropping,
      **mixed,
      'pass_losses': dropping['losses'],
      'consistency': spread * tf.ones_like(weights),
      'divergences': divergences,
      'has_divergences': tf.ones_like(of_sequence),
    }


def without_divergences(
  results: dict[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
  """Returns the results of another step with those of a consistency step."""
  losses = results['losses']
  return {
    'pass_losses': losses,
    'consistency': tf.zeros_like(losses),
    'divergences': tf.tile(tf.zeros_like(losses[:, :1]), [1, 2]),
    'has_divergences': tf.zeros_like(losses[:, :1]),
    **results,
  }


def divergence(
  full: tf.Tensor, dropping: tf.Tensor, moves_both: bool
) -> tf.Tensor:
  """Returns KL(softmax(full) || softmax(dropping)), over the last axis.

  Args:
    full: float [..., H], of the full pass.
    dropping: float [..., H], of the dropping pass.
    moves_both: whether `full` gets a gradient, too.

  Returns:
    float32 [...], in nats.
  """
  full = tf.cast(full if moves_both else tf.stop_gradient(full), tf.float32)
  log_full = tf.nn.log_softmax(full)
  log_dropping = tf.nn.log_softmax(tf.cast(dropping, tf.float32))
  return tf.reduce_sum(tf.exp(log_full) * (log_full - log_dropping), axis=-1)
