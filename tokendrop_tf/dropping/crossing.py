"""The plan of Hou, Pang et al. (2022, arXiv 2203.13240): crossing layers."""

import dataclasses

from tokendrop_tf import errors, settings
from tokendrop_tf.dropping.plan import Plan
from tokendrop_tf.dropping.rows import LayerRows


@dataclasses.dataclass(frozen=True)
class Crossing(Plan):
  """All rows, from the crossing layer on the K most important, at last all.

  The crossing layer computes K rows, which attend to all; the layers after it
  see these K only; the last layer sees them and the others as the layer before
  the crossing left them. For 12 layers: 5 full, 1 crossing, 5 kept, 1 full.

  With `halve_every`, later layers cross again, each time to half the rows:
  512, 256, 128. The last layer sees every row as the last layer that computed
  it left it.
  """

  crossing_layer: int | None = settings.setting(
    None,
    'Number, from 1, of the layer that drops; `None` is half of the layers, as '
    'published.',
    settings.at_least(1),
  )
  halve_every: int = settings.setting(
    0,
    'Number of layers, from the crossing layer on, after which the kept tokens '
    'are halved again; 0 is never.',
    settings.at_least(0),
  )

  def rows(self, num_layers, seq_length, keep_k):
    if keep_k is None:
      return super().rows(num_layers, seq_length, keep_k)
    crossing = self._crossing(num_layers)
    full, computed = [seq_length] * (crossing - 1), []
    for since in range(num_layers - crossing):
      halvings = since // self.halve_every if self.halve_every else 0
      computed.append(max(1, keep_k >> halvings))
    queries = [*full, *computed]
    return [
      *(LayerRows(q, k) for k, q in zip([seq_length, *queries], queries)),
      LayerRows(seq_length, seq_length),
    ]

  def describe(self, num_layers):
    first, last = self._crossing(num_layers), num_layers - 1
    layers = f'layers {first}-{last}' if first < last else f'layer {first}'
    text = f'{layers} of {num_layers}'
    if self.halve_every:
      text += f', half as many after every {self.halve_every}'
    return text

  def check(self, num_layers):
    if num_layers < 3:
      raise errors.ConfigurationError(
        'model.num_layers must be at least 3 to drop tokens: one layer on the '
        'kept tokens with a full one before and after. Received: '
        f'num_layers={num_layers}. Set model.num_layers, or token_drop.policy '
        "= 'none'."
      )
    crossing = self._crossing(num_layers)
    if not 1 <= crossing <= num_layers - 1:
      raise errors.ConfigurationError(
        'token_drop.crossing_layer must be between 1 and model.num_layers - 1. '
        f'Received: crossing_layer={crossing}, num_layers={num_layers}. Set '
        'token_drop.crossing_layer.'
      )

  def _crossing(self, num_layers):
    if self.crossing_layer is None:
      return num_layers // 2
    return self.crossing_layer
