"""Importance by the running loss of each token in excess of a reference."""

import dataclasses

import tensorflow as tf

from tokendrop_tf import errors, layers, settings
from tokendrop_tf.dropping import by_loss


@dataclasses.dataclass(frozen=True)
class ByExcess(by_loss.ByLoss):
  """Tokens that a finished run has learnt better are kept.

  The reference is that run's importance table. Labels may be selected by the
  same excess; the table learns from all of them, or those left out would stay
  left out. See `layers.ExcessImportance`.
  """

  text = 'by running loss above that of a reference'
  table_class = layers.ExcessImportance

  reference_checkpoint: str = settings.setting(
    '',
    "Of policy 'excess': `model_dir` of a finished run of the same vocabulary, "
    'or a checkpoint in it, whose table is the reference. Read once, when a '
    'run begins.',
  )
  label_keep_share: float = settings.setting(
    1.0,
    "Of policy 'excess': share of the labels of a batch, those whose tokens "
    'have the highest excess, whose loss is trained on; 1 is all.',
    settings.above_and_at_most(0, 1),
  )

  def check(self):
    if not self.reference_checkpoint:
      raise errors.ConfigurationError(
        "token_drop.policy = 'excess' needs the table of a finished run. "
        "Received: token_drop.reference_checkpoint=''. Set "
        'token_drop.reference_checkpoint.'
      )

  def check_files(self, sources):
    sources.learnt_table(self.reference_checkpoint)

  def start(self, table, sources):
    table.reference.assign(sources.learnt_table(self.reference_checkpoint))

  def trained_weights(self, table, batch):
    """Keeps the weight of the labels of highest excess, to `label_keep_share`.

    Tokens are taken in the order of their excess until the share of the global
    batch is full, the last one in part. So the choice needs no exchange but the
    sums of the labels, and N replicas choose what one device would choose.
    """
    if self.label_keep_share == 1.0:
      return super().trained_weights(table, batch)
    ids, weights = batch['masked_lm_ids'], batch['masked_lm_weights']
    totals = table.label_weights(ids, weights)
    order = tf.argsort(
      table.table - table.reference, direction='DESCENDING', stable=True
    )
    sorted_totals = tf.gather(totals, order)
    room = self.label_keep_share * tf.reduce_sum(totals) - tf.cumsum(
      sorted_totals, exclusive=True
    )
    kept = tf.math.divide_no_nan(
      tf.clip_by_value(room, 0.0, sorted_totals), sorted_totals
    )
    of_token = tf.gather(kept, tf.argsort(order))
    return tf.cast(weights, tf.float32) * tf.gather(of_token, ids)
