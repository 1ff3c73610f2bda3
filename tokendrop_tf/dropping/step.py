"""A kind of train step.

Letters: B batch of a replica, P prediction slots, H hidden size.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Step:
  """A kind of train step; steps of one kind are compiled once.

  Attributes:
    keep_k: tokens kept; `None` is all of them.
    causal: whether every token predicts the next one, from those up to it.
  """

  # Names of results that only steps of this kind have.
  RESULTS: ClassVar[tuple[str, ...]] = ()

  keep_k: int | None
  causal: bool = dataclasses.field(default=False, kw_only=True)

  @property
  def passes(self) -> tuple[int | None, ...]:
    """Tokens kept in each pass of the model; `None` is all of them."""
    return (self.keep_k,)

  def last_layer_rows(self, num_rows: int, seq_length: int) -> int:
    """Returns the query rows of the last layer where `num_rows` are needed."""
    del seq_length
    return num_rows

  def forward(
    self,
    forward_pass: Callable[..., dict[str, tf.Tensor]],
    weights: tf.Tensor,
  ) -> dict[str, tf.Tensor]:
    """Computes the step by one or more passes of the model.

    Args:
      forward_pass: function of K (`None` is all) to the results of every label
        slot, float32 [B, P], by name; with `summary=`, a name of
        `dropping.consistency.SUMMARIES`, also to `summaries`, float32
        [B, 2, H], of the last two layers.
      weights: of the label slots, float32 [B, P].

    Returns:
      results of every label slot: the weighted mean of `losses` is what the
      step differentiates; metrics and the importance table read them too.
    """
    del weights
    return forward_pass(self.keep_k)


FULL = Step(None)
