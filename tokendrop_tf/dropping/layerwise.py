"""The plan of Yao et al. (2022, arXiv 2211.11586): Random-LTD."""

import dataclasses

import tensorflow as tf

from tokendrop_tf import errors, layers, settings
from tokendrop_tf.dropping.plan import Plan
from tokendrop_tf.dropping.rows import LayerRows
from tokendrop_tf.layers import random_seeds

SUBSETS = ('independent', 'windows')


@dataclasses.dataclass(frozen=True)
class Layerwise(Plan):
  """Other rows in every layer: some layers compute K rows, the others all.

  A layer's K rows attend to each other; all other rows pass it unchanged. The
  rows of a layer are chosen in one of two ways:

  'independent': every layer draws its own K, as rows were first sorted: evenly
  with policy 'random', which is the published method, and with weights
  importance ** (1 / temperature) otherwise. Tokens that are always kept are in
  every subset. Rows move by one gather a layer.

  'windows': after the first `fixed_rows` rows, which every layer computes, the
  others form a ring, and each layer computes a stretch of it from a place drawn
  at random. In a random order a stretch is a random subset, and whether one
  token is computed is independent from layer to layer, as published; but tokens
  that are close in the order are often computed together. Rows move by slices.
  """

  layer_subsets: str = settings.setting(
    'independent',
    "How a layer's tokens are chosen: 'independent' draws for each layer, "
    "'windows' takes stretches of one order.",
    settings.one_of(SUBSETS),
  )
  full_layers: tuple[int, ...] = settings.setting(
    (1,),
    'Numbers, from 1, of the layers that compute all tokens; the last one '
    'always does.',
  )
  fixed_rows: int = settings.setting(
    0,
    "Most important tokens that 'windows' compute in every layer; room for "
    '`always_keep_tokens`.',
    settings.at_least(0),
  )

  def rows(self, num_layers, seq_length, keep_k):
    if keep_k is None:
      return super().rows(num_layers, seq_length, keep_k)
    if self.layer_subsets == 'windows' and self.fixed_rows >= keep_k:
      raise errors.ConfigurationError(
        'token_drop.fixed_rows must be below the tokens kept, so that windows '
        f'have room. Received: fixed_rows={self.fixed_rows}, {keep_k} kept. '
        'Set token_drop.fixed_rows.'
      )
    dropping = self._dropping_layers(num_layers)
    return [
      LayerRows(keep_k, keep_k)
      if layer in dropping
      else LayerRows(seq_length, seq_length)
      for layer in range(1, num_layers + 1)
    ]

  def select(self, layer, rows, sizes, seed):
    if seed is None or layer not in self._dropping_layers(len(sizes)):
      return rows
    seed = random_seeds.fold_in(seed, layer)
    if self.layer_subsets == 'independent':
      return rows.permuted(
        layers.TokenOrder(rows.temperature)(rows.scores, seed=seed)
      )
    fixed, ring = rows.split(self.fixed_rows)
    # Turns add up, and a sum of even draws is one: no need to turn back.
    turn = random_seeds.draw_below(ring.mask.shape[1], seed)
    ring = ring.map(lambda tensor: tf.roll(tensor, turn, axis=1))
    return fixed.followed_by(ring)

  def describe(self, num_layers):
    dropping = self._dropping_layers(num_layers)
    return f'each of {_ranges(dropping)} of {num_layers}'

  def check(self, num_layers):
    wrong = [n for n in self.full_layers if not 1 <= n <= num_layers]
    if wrong or not self._dropping_layers(num_layers):
      raise errors.ConfigurationError(
        'token_drop.full_layers must be numbers from 1 to model.num_layers, '
        'and leave a layer before the last that drops. Received: '
        f'full_layers={self.full_layers}, num_layers={num_layers}. Set '
        'token_drop.full_layers.'
      )

  def check_order(self, section, has_scores):
    if self.layer_subsets == 'independent':
      if has_scores and not section.temperature:
        raise errors.ConfigurationError(
          "token_drop.layer_subsets = 'independent' would compute the same "
          'tokens in every layer if they were ranked. Received: policy='
          f'{section.policy!r}, temperature=0. Set token_drop.temperature '
          "above 0, or token_drop.policy = 'random'."
        )
    elif section.always_drop_tokens:
      raise errors.ConfigurationError(
        "token_drop.layer_subsets = 'windows' computes every token in turn. "
        f'Received: always_drop_tokens={section.always_drop_tokens}. Set '
        'token_drop.always_drop_tokens = (), or another '
        'token_drop.layer_subsets.'
      )
    elif not self.fixed_rows and (has_scores or section.always_keep_tokens):
      raise errors.ConfigurationError(
        "token_drop.layer_subsets = 'windows' computes only the first "
        'token_drop.fixed_rows tokens of the order in every layer. Received: '
        f'fixed_rows=0, policy={section.policy!r}, always_keep_tokens='
        f'{section.always_keep_tokens}. Set token_drop.fixed_rows to the most '
        'tokens of a sequence that are always kept, or '
        "token_drop.policy = 'random' and token_drop.always_keep_tokens = ()."
      )

  def _dropping_layers(self, num_layers):
    return [n for n in range(1, num_layers) if n not in self.full_layers]


def _ranges(numbers) -> str:
  """Returns rising numbers in short, e.g. 'layers 2-5, 7-11'."""
  parts = []
  for number in numbers:
    if parts and parts[-1][1] == number - 1:
      parts[-1][1] = number
    else:
      parts.append([number, number])
  texts = [f'{a}-{b}' if a < b else str(a) for a, b in parts]
  return ('layers ' if len(numbers) > 1 else 'layer ') + ', '.join(texts)
