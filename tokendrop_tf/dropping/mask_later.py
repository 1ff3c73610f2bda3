"""The crossing plan whose [MASK] rows join at a later layer."""

import dataclasses

import tensorflow as tf

from tokendrop_tf import errors, settings
from tokendrop_tf.dropping.crossing import Crossing


@dataclasses.dataclass(frozen=True)
class MaskLater(Crossing):
  """As `Crossing`, but the first layers do without the [MASK] rows.

  [MASK] says no more than its place, so P rows stay as they were embedded until
  `mask_layer`: all [MASK]s of a sequence and, where there are fewer than P,
  padding and then the least important tokens. From that layer on they are
  computed, before all others. After Liao et al. (2022, arXiv 2211.04898), who
  drop no other tokens, and raise the mask rate for what this saves.

  Until `mask_layer` the rows stand as the most important, the others, the late
  ones; from it on as the late ones, the most important, the others. So they
  turn by P, once.

  Attributes:
    num_slots: P.
    mask_id: id of [MASK].
  """

  mask_layer: int | None = settings.setting(
    None,
    "Of plan 'mask_later': number, from 1, of the first layer that sees "
    '[MASK]; 1 is the plan crossing, `None` the layer that drops, if it is not '
    'the first.',
    settings.at_least(1),
  )
  num_slots: int | None = None
  mask_id: int | None = None

  @property
  def delays_masks(self):
    return self.mask_layer != 1

  def rows(self, num_layers, seq_length, keep_k):
    sizes = super().rows(num_layers, seq_length, keep_k)
    if keep_k is None or not self.delays_masks:
      return sizes
    least = min(size.queries for size in sizes)
    if self.num_slots >= least:
      raise errors.ConfigurationError(
        "token_drop.plan = 'mask_later' needs fewer label slots than tokens "
        'that every layer computes. Received: '
        f'train_data.max_predictions_per_seq={self.num_slots}, {least} tokens. '
        'Set token_drop.token_keep_k.'
      )
    first = self._mask_layer(num_layers)
    return [
      size._replace(
        queries=size.queries - self.num_slots, keys=size.keys - self.num_slots
      )
      if layer < first
      else size
      for layer, size in enumerate(sizes, start=1)
    ]

  def arrange(self, order, keep_k, word_ids=None):
    if word_ids is None or not self.delays_masks:
      return order
    is_mask = tf.gather(word_ids, order, batch_dims=1) == self.mask_id
    last = tf.argsort(tf.cast(is_mask, tf.int32), stable=True)
    return tf.gather(order, last, batch_dims=1)

  def select(self, layer, rows, sizes, seed):
    if not self.delays_masks or layer != self._mask_layer(len(sizes)):
      return rows
    return rows.map(lambda tensor: tf.roll(tensor, self.num_slots, axis=1))

  def describe(self, num_layers):
    text = super().describe(num_layers)
    if not self.delays_masks:
      return text
    return f'{text}, [MASK] from layer {self._mask_layer(num_layers)} on'

  def check(self, num_layers):
    super().check(num_layers)
    if self._mask_layer(num_layers) > num_layers:
      raise errors.ConfigurationError(
        'token_drop.mask_layer must be at most model.num_layers. Received: '
        f'mask_layer={self.mask_layer}, num_layers={num_layers}. Set '
        'token_drop.mask_layer.'
      )

  def _mask_layer(self, num_layers):
    if self.mask_layer is None:
      return max(2, self._crossing(num_layers))
    return self.mask_layer
