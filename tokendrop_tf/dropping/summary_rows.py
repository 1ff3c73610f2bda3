"""Pooled rows in place of the dropped ones."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tokendrop_tf import errors, settings
from tokendrop_tf.dropping.crossing import Crossing
from tokendrop_tf.dropping.rows import LayerRows, Rows


@dataclasses.dataclass(frozen=True)
class SummaryRows(Crossing):
  """The crossing plan, with G more rows that stand for the dropped tokens.

  The S - K dropped rows, in reading order, are cut into G groups of equal size,
  and the mean of each group is a summary row. From the crossing layer to the
  last but one, layers compute the summaries and the K rows; in the crossing
  layer these attend to the S rows, later to each other. Before the last layer
  the change of a summary is added to each member of its group:

      x[i] <- x[i] + (summary[g] - mean of x over group g)   for i in group g

  So with groups of one token this is the encoder without dropping. Padding
  belongs to no group. Where a group reaches into another document, only the
  members of the first one count: attention stays within documents.

  The Funnel Transformer (Dai et al., 2020, arXiv 2006.03236) pools rows in this
  way, FCA (Zhao et al., 2022, arXiv 2203.09055) the unimportant ones; both
  change the architecture. Here training alone pools.
  """

  mixes_tokens: ClassVar[bool] = True

  summary_rows: int = settings.setting(
    16,
    'G, pooled rows that stand for the dropped tokens; divides their number.',
    settings.at_least(1),
  )

  def rows(self, num_layers, seq_length, keep_k):
    layers = super().rows(num_layers, seq_length, keep_k)
    if keep_k is None:
      return layers
    count = self.summary_rows
    if (seq_length - keep_k) % count:
      raise errors.ConfigurationError(
        'token_drop.summary_rows must divide the number of dropped tokens. '
        f'Received: summary_rows={count}, {keep_k} of {seq_length} tokens '
        'kept. Set token_drop.summary_rows.'
      )
    first = self._crossing(num_layers) - 1
    return [
      *layers[:first],
      *(LayerRows(q + count, k + count) for q, k in layers[first:-1]),
      layers[-1],
    ]

  def arrange(self, order, keep_k, word_ids=None):
    kept, dropped = order[:, :keep_k], order[:, keep_k:]
    return tf.concat([kept, tf.sort(dropped)], axis=1)

  def select(self, layer, rows, sizes, seed):
    if layer != self._crossing(len(sizes)):
      return rows
    _, dropped = rows.split(self._num_kept(sizes))
    summaries = self._summaries(dropped, seq_length=sizes[-1].queries)
    # In this layer they query, but the rows that they stand for are the keys.
    unseen = tf.zeros_like(summaries.mask)
    return dataclasses.replace(summaries, mask=unseen).followed_by(rows)

  def merge(self, layer, rows, sizes):
    crossing, last = self._crossing(len(sizes)), len(sizes) - 1
    if layer not in (crossing, last):
      return rows
    summaries, others = rows.split(self.summary_rows)
    kept, dropped = others.split(self._num_kept(sizes))
    before = self._summaries(dropped, seq_length=sizes[-1].queries)
    if layer < last:
      seen = dataclasses.replace(summaries, mask=before.mask)
      return seen.followed_by(others)
    states = summaries.first(None)
    change = states - tf.cast(before.first(None), states.dtype)
    return kept.followed_by(self._changed(dropped, change))

  def describe(self, num_layers):
    where = super().describe(num_layers)
    return f'{where}, {self.summary_rows} pooled rows for the others'

  def _num_kept(self, sizes):
    return sizes[self._crossing(len(sizes)) - 1].queries - self.summary_rows

  def _summaries(self, dropped: Rows, seq_length: int) -> Rows:
    """Returns the G rows that stand for dropped ones, beyond position S - 1."""
    groups = dropped.map(self._in_groups)  # [B, G, n, ...]
    states, members = groups.first(None), _members(groups)
    weights = tf.cast(members, states.dtype)[..., tf.newaxis]
    mean = tf.math.divide_no_nan(
      tf.reduce_sum(weights * states, axis=2), tf.reduce_sum(weights, axis=2)
    )
    first = groups.map(lambda tensor: tensor[:, :, 0])
    return dataclasses.replace(
      first,
      states=(mean,),
      positions=tf.zeros_like(first.positions)
      + tf.range(seq_length, seq_length + self.summary_rows),
      mask=tf.reduce_max(members, axis=2),
    )

  def _changed(self, dropped: Rows, change: tf.Tensor) -> Rows:
    """Returns rows with the change of their group, [B, G, H], added."""
    states, groups = dropped.first(None), dropped.map(self._in_groups)
    members = tf.cast(_members(groups), change.dtype)[..., tf.newaxis]
    change = tf.reshape(
      members * change[:, :, tf.newaxis], [-1, *states.shape[1:]]
    )
    return dropped.with_first(tf.cast(states, change.dtype) + change, None)

  def _in_groups(self, tensor):
    """Returns [B, G n, ...] as [B, G, n, ...]."""
    _, size, *others = tensor.shape
    shape = [-1, self.summary_rows, size // self.summary_rows, *others]
    return tf.reshape(tensor, shape)


def _members(groups: Rows) -> tf.Tensor:
  """Returns 1 for each row that counts in its group, int32 [B, G, n]."""
  if groups.segments is None:
    return groups.mask
  in_first = groups.segments == groups.segments[:, :, :1]
  return groups.mask * tf.cast(in_first, tf.int32)
