"""Importances: in which order rows stand, and where their scores come from.

Letters: B batch of a replica, S sequence length, P prediction slots, V
vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Protocol

import tensorflow as tf

from tokendrop_tf import layers


class Sources(Protocol):
  """The files that an importance may ask for when a run begins."""

  def token_counts(self) -> Sequence[int]:
    """Returns how often every token occurs in the corpus, [V]."""

  def token_scores(self, path: str) -> Sequence[float]:
    """Returns the scores in a file of `text.token_scores`, [V]."""

  def learnt_table(self, path: str) -> Sequence[float]:
    """Returns the importance table of another run, [V], in nats."""


@dataclasses.dataclass(frozen=True)
class Importance:
  """An order of the tokens by a table of one score an entry of the vocabulary.

  The table is a `layers.TokenImportance`, in the model and its checkpoints. An
  importance says what the table starts from and how it moves. Its settings are
  its fields, declared by `settings.setting`.

  Attributes:
    text: completes 'tokens are dropped ...'.
    drops: whether tokens are dropped at all.
    has_scores: whether entries differ, so that the table means something.
    learns: whether training moves the table.
    needs_counts: whether the vocabulary's token counts are read.
    table_class: the layer that holds the table.
  """

  text: ClassVar[str] = ''
  drops: ClassVar[bool] = True
  has_scores: ClassVar[bool] = True
  learns: ClassVar[bool] = False
  needs_counts: ClassVar[bool] = False
  table_class: ClassVar[type] = layers.TokenImportance

  def create_table(
    self,
    vocab_size: int,
    always_keep_ids: Sequence[int],
    always_drop_ids: Sequence[int],
  ) -> layers.TokenImportance:
    """Returns the layer that holds the table and gives the scores of ids."""
    return self.table_class(
      vocab_size=vocab_size,
      always_keep_ids=always_keep_ids,
      always_drop_ids=always_drop_ids,
      name='token_importance',
      **self._table_arguments(),
    )

  def _table_arguments(self) -> dict:
    return {}

  def check(self) -> None:
    """Checks the settings, without looking at files.

    Raises:
      errors.ConfigurationError: if they do not fit together.
    """

  def check_files(self, sources: Sources) -> None:
    """Reads what `start` will read, before anything is built.

    Raises:
      errors.UserError: if a file cannot be used.
    """
    del sources

  def start(self, table: layers.TokenImportance, sources: Sources) -> None:
    """Gives the table its first values, where they come from files.

    Called once, when a run begins: a run that resumes has them in its
    checkpoint.
    """

  def trained_weights(
    self, table: layers.TokenImportance, batch: dict[str, tf.Tensor]
  ) -> tf.Tensor | None:
    """Returns weights of the losses that are trained on, float32 [B, P].

    Called on every replica, before the step. `None`: those of the labels.

    Args:
      table: what `create_table` made.
      batch: as of `update`.
    """
    del table, batch

  def update(
    self,
    table: layers.TokenImportance,
    batch: dict[str, tf.Tensor],
    slots: dict[str, tf.Tensor],
  ) -> None:
    """Moves the table after a train step; called on every replica.

    Args:
      table: what `create_table` made.
      batch: this replica's features, with `masked_lm_ids` int32 [B, P] and
        `masked_lm_weights` float32 [B, P].
      slots: what the step has computed for every slot, with `losses` and
        `hits`, float32 [B, P].
    """
    del table, batch, slots  # AutoGraph warns of a docstring alone.


class NoDropping(Importance):
  """Plain BERT: no token is dropped, and there is no table."""

  text = 'never'
  drops = False
  has_scores = False
