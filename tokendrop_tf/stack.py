"""The stack of layers: runs the rows that a plan gives each of them.

Letters: B batch, S sequence length, N rows, T query rows, H hidden size.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tokendrop_tf import dropping
from tokendrop_tf.dropping.rows import LayerRows, Rows

# The Model Garden's attention logit of padding.
_PADDING_BIAS = -1e9


def run_layers(
  blocks: Sequence,
  rows: Rows,
  plan: dropping.Plan,
  sizes: Sequence[LayerRows],
  bias: 'AttentionBias',
  training: bool,
  seeds: Sequence[tf.Tensor | None],
  selection_seed: tf.Tensor | None,
  return_all_outputs: bool = False,
) -> tuple[Rows, list[tf.Tensor]]:
  """Runs all layers but the last.

  Dropping is a slice, and restoring a concatenation: the tokens that matter
  come first.

  Args:
    blocks: all layers but the last.
    rows: the embedded rows.
    plan: arranges the rows before and after each layer.
    sizes: queries and keys of each layer.
    bias: of the attention logits.
    training: whether to drop out.
    seeds: what each layer's dropout follows from.
    selection_seed: what a plan draws follows from.
    return_all_outputs: whether to keep what every layer gives.

  Returns:
    the rows for the last layer, and what every layer gave, [B, S, H] in reading
    order, if asked for.
  """
  outputs, seq_length = [], rows.mask.shape[1]
  for layer, (block, (queries, keys), seed) in enumerate(
    zip(blocks, sizes, seeds), start=1
  ):
    rows = plan.select(layer, rows, sizes, selection_seed)
    seen = rows.first(keys)
    computed = block(
      seen if queries == keys else rows.first(queries),
      key_value=None if queries == keys else seen,
      attention_bias=bias.of_first(rows, queries, keys),
      training=training,
      seed=seed,
    )
    rows = plan.merge(layer, rows.with_first(computed, queries), sizes)
    if return_all_outputs:
      # Rows that a plan has added stand for no position.
      outputs.append(rows.in_reading_order()[:, :seq_length])
  return rows, outputs


def run_at(
  block,
  rows: Rows,
  places: tf.Tensor | None,
  bias: 'AttentionBias',
  training: bool,
  seed: tf.Tensor | None,
) -> tf.Tensor:
  """Runs the last layer on all rows, for the rows that are asked for.

  Args:
    block: the layer.
    rows: as the layer before left them.
    places: int32 [B, T], which rows query; `None` is all, as they stand.
    bias: of the attention logits.
    training: whether to drop out.
    seed: what the layer's dropout follows from.

  Returns:
    [B, T, H].
  """
  states = rows.first(None)
  return block(
    states if places is None else tf.gather(states, places, batch_dims=1),
    key_value=None if places is None else states,
    attention_bias=bias.at(rows, places),
    training=training,
    seed=seed,
  )


def recomputed(block: Callable) -> Callable:
  """Returns a layer that is computed again for its gradient.

  It remembers the rows that it is given and nothing in between. Dropout follows
  from the seed, so it is the same both times.

  Args:
    block: a `layers.TransformerBlock`.
  """

  def run(
    inputs, key_value=None, attention_bias=None, training=False, seed=None
  ):
    @tf.recompute_grad
    def of_rows(*rows):
      return block(
        rows[0],
        key_value=None if key_value is None else rows[1],
        attention_bias=attention_bias,
        training=training,
        seed=seed,
      )

    return of_rows(*(r for r in (inputs, key_value) if r is not None))

  return run


def lowest_bias(dtype) -> float:
  """Returns the bias of a key that is not seen."""
  return max(_PADDING_BIAS, float(tf.as_dtype(dtype).min) / 2)


class AttentionBias:
  """The summand of attention logits: 0 where a query may look, else -1e9.

  In float16, which ends before, it is half the lowest number.

  With one document a row it is one number a key. With several, and where a
  query sees nothing after it, it compares rows of integers, made for the
  queries and keys at hand, not for all heads.

  Args:
    dtype: of the bias.
    in_blocks: whether to return, where queries differ in what they see, a
      function that makes the bias of a block of them; see `layers.Attention`.
    causal: whether a query sees the rows up to its own position only.
  """

  def __init__(self, dtype, in_blocks: bool = False, causal: bool = False):
    self._dtype = tf.as_dtype(dtype)
    self._unseen = lowest_bias(dtype)
    self._in_blocks = in_blocks
    self._causal = causal
    self._made = {}

  def of_first(
    self, rows: Rows, queries: int | None, keys: int | None
  ) -> tf.Tensor | Callable:
    """Returns the bias of the first rows, [B, 1, 1 or queries, keys]."""
    # Layers whose rows are arranged alike share one bias.
    key = (rows.mask.ref(), queries, keys)
    if key not in self._made:
      self._made[key] = self._make(rows, lambda t: t[:, :queries], keys)
    return self._made[key]

  def at(self, rows: Rows, places: tf.Tensor | None) -> tf.Tensor | Callable:
    """Returns the bias of the rows at `places` to all, [B, 1, 1 or T, N]."""
    if places is None or not self._compared(rows):
      return self.of_first(rows, None, None)
    return self._make(rows, lambda t: tf.gather(t, places, batch_dims=1), None)

  def _make(self, rows, of_queries, keys):
    is_padding = 1.0 - tf.cast(rows.mask[:, :keys], self._dtype)
    padding = (is_padding * self._unseen)[:, tf.newaxis, tf.newaxis, :]
    compared = self._compared(rows)
    if not compared:
      return padding
    queries = [of_queries(values) for values, _ in compared]

    def bias_of(queries):
      unseen = tf.constant(self._unseen, self._dtype)
      bias = padding
      for (values, may_see), query in zip(compared, queries):
        key = values[:, tf.newaxis, tf.newaxis, :keys]
        query = query[:, tf.newaxis, :, tf.newaxis]
        bias = tf.where(may_see(query, key), bias, unseen)
      return bias

    if self._in_blocks:
      return lambda places: bias_of(
        [tf.gather(query, places, axis=1) for query in queries]
      )
    return bias_of(queries)

  def _compared(self, rows):
    """Returns integers of every row, [B, N], and which keys a query sees."""
    compared = []
    if rows.segments is not None:
      compared.append((rows.segments, tf.equal))
    if self._causal:
      positions = rows.positions
      if positions is None:
        positions = tf.broadcast_to(
          tf.range(tf.shape(rows.mask)[1]), tf.shape(rows.mask)
        )
      compared.append((positions, tf.greater_equal))
    return compared


def bias_after(place: tf.Tensor, count: tf.Tensor, length: int, dtype):
  """Returns the causal bias of rows that follow others, [1, 1, T, M].

  Args:
    place: position of the first row.
    count: T, number of rows.
    length: M, rows of the cache, of which those after a row are not filled yet.
    dtype: of the bias.
  """
  is_seen = tf.range(length) <= (place + tf.range(count))[:, tf.newaxis]
  unseen = tf.constant(lowest_bias(dtype), dtype)
  bias = tf.where(is_seen, tf.zeros([], dtype), unseen)
  return bias[tf.newaxis, tf.newaxis]
