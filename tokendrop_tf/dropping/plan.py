"""Plans: which rows each layer computes."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from tokendrop_tf.dropping.rows import LayerRows, Rows


@dataclasses.dataclass(frozen=True)
class Plan:
  """Every layer on all rows: the plan of a step without dropping.

  Other plans derive from it. Rows come sorted, most important first, so a plan
  that drops the least important ones needs `rows` alone. A plan's settings are
  its fields, declared by `settings.setting`. Layers count from 1.

  Attributes:
    mixes_tokens: whether rows hold something of several tokens, so that earlier
      ones would learn of later ones.
    delays_masks: whether [MASK] joins the other tokens at a later layer; then
      the plan does something where all tokens are kept, too.
  """

  mixes_tokens: ClassVar[bool] = False
  delays_masks: ClassVar[bool] = False

  def rows(
    self, num_layers: int, seq_length: int | None, keep_k: int | None
  ) -> list[LayerRows]:
    """Returns the rows of every layer; the cost, checks and texts read it.

    Args:
      num_layers: L.
      seq_length: S; `None` where it is not known.
      keep_k: K, below S; `None` is all.

    Returns:
      L entries; the last is all rows, since the output is asked for anywhere.

    Raises:
      errors.ConfigurationError: if the settings do not fit S or K.
    """
    del keep_k
    return [LayerRows(seq_length, seq_length)] * num_layers

  def acting_keep_k(self, keep_k: int | None, seq_length: int) -> int | None:
    """Returns K; `None` where the plan is that of a step without dropping."""
    if keep_k == seq_length and not self.delays_masks:
      return None
    return keep_k

  def arrange(
    self, order: tf.Tensor, keep_k: int, word_ids: tf.Tensor | None = None
  ) -> tf.Tensor:
    """Returns the order in which rows are embedded.

    Args:
      order: int32 [B, S], positions, most important first.
      keep_k: K.
      word_ids: int32 [B, S], in reading order; `None` where unknown.
    """
    del keep_k, word_ids
    return order

  def select(
    self,
    layer: int,
    rows: Rows,
    sizes: Sequence[LayerRows],
    seed: tf.Tensor | None,
  ) -> Rows:
    """Returns the rows as `layer` shall slice them, before it runs.

    Args:
      layer: its number, below L; the last layer takes the rows as they are.
      rows: as the layer before left them.
      sizes: what `rows` returned.
      seed: int32 [2], the same in all layers and on every replica; `None`
        where nothing may be random.
    """
    del layer, sizes, seed
    return rows

  def merge(self, layer: int, rows: Rows, sizes: Sequence[LayerRows]) -> Rows:
    """Returns the rows for the next layer, after `layer` has run."""
    del layer, sizes
    return rows

  def describe(self, num_layers: int) -> str:
    """Returns where tokens are dropped, e.g. 'layers 6-11 of 12'."""
    return f'no layer of {num_layers}'

  def check(self, num_layers: int) -> None:
    """Checks the settings against the number of layers.

    Raises:
      errors.ConfigurationError: if they do not fit.
    """
    del num_layers

  def check_order(self, section, has_scores: bool) -> None:
    """Checks the settings against those that say in which order rows stand.

    Args:
      section: a `TokenDropConfig`.
      has_scores: whether the importance tells tokens apart.

    Raises:
      errors.ConfigurationError: if they do not fit.
    """
    del section, has_scores
