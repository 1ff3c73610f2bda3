"""Draws which rows each layer computes, from the plans themselves.

python -m tokendrop_tf.pages.plan_pictures docs/plans
"""

import pathlib

import numpy as np

from tokendrop_tf import command_line, files
from tokendrop_tf.dropping import Dropping, TokenDropConfig

NUM_LAYERS, SEQ_LENGTH, KEEP_K, _NUM_SLOTS = 12, 32, 16, 5
_SETTINGS = {
  'crossing': {},
  'halving': {'crossing_layer': 4, 'halve_every': 4},
  'layerwise': {'plan': 'layerwise', 'policy': 'random'},
  'weighted': {'plan': 'layerwise', 'temperature': 0.5},
  'windows': {
    'plan': 'layerwise',
    'layer_subsets': 'windows',
    'fixed_rows': 4,
    'always_drop_tokens': (),
  },
  'pooled': {'plan': 'pooled', 'summary_rows': 4},
  'mask_later': {'plan': 'mask_later'},
}
NAMES = tuple(_SETTINGS)
_COMPUTED, _SEEN, _PASSED = '#2a6fb0', '#a9cbe8', '#d4d4d4'
# Pixels: of a row and of a layer, and what stands left of and below them.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 16, 16, 56, 24
_GAP = 3


def example(name: str) -> Dropping:
  """Returns the dropping that a picture shows, 16 of 32 tokens in 12 layers."""
  section = TokenDropConfig(token_keep_k=KEEP_K, **_SETTINGS[name])
  dropping = Dropping(section, NUM_LAYERS, SEQ_LENGTH, num_slots=_NUM_SLOTS)
  dropping.check()
  return dropping


def picture(name: str) -> str:
  """Returns the picture of a plan, as SVG."""
  dropping, tokens = example(name), 'tokens of a sequence'
  scores = np.ones([1, SEQ_LENGTH], np.float32)
  if dropping.importance.has_scores:
    scores *= np.linspace(8.0, 1.0, SEQ_LENGTH)
    tokens += ', most important first'
  layers = dropping.arranged(scores, seed=(1, 2))
  shapes = [
    _text(_LEFT, _HEIGHT * NUM_LAYERS + _BOTTOM - 8, tokens),
    _text(0, 12, 'layer 12'),
    _text(0, _HEIGHT * NUM_LAYERS - 4, 'layer 1'),
  ]
  for layer, (positions, (queries, keys)) in enumerate(layers, start=1):
    computed, seen, passed = np.split(
      positions[0], [queries, max(queries, keys)]
    )
    top = _HEIGHT * (NUM_LAYERS - layer)
    shapes += _cells(computed, top, _COMPUTED)
    shapes += _cells(seen, top, _SEEN)
    shapes += _cells(passed, top, _PASSED)
  columns = max(positions.max() for positions, _ in layers) + 1
  width = _LEFT + _WIDTH * columns
  height = _HEIGHT * NUM_LAYERS + _BOTTOM
  return '\n'.join(
    [
      f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
      f'height="{height}" font-family="sans-serif" font-size="13">',
      *shapes,
      '</svg>\n',
    ]
  )


def _cells(members, top, color) -> list[str]:
  """Returns a bar for each unbroken stretch of rows."""
  return [
    f'<rect x="{_LEFT + _WIDTH * first}" y="{top}" '
    f'width="{_WIDTH * length - 1}" height="{_HEIGHT - _GAP}" fill="{color}"/>'
    for first, length in _stretches(members)
  ]


def _text(x, y, text) -> str:
  return f'<text x="{x}" y="{y}" fill="#808080">{text}</text>'


def _stretches(members) -> list[tuple[int, int]]:
  """Returns (first, length) of each unbroken stretch of some numbers."""
  numbers = np.sort(members)
  parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
  return [(int(part[0]), len(part)) for part in parts if len(part)]


def main(arguments: list[str]) -> None:
  """Writes the pictures into the folder that is named."""
  parser = command_line.ArgumentParser(
    prog='python -m tokendrop_tf.pages.plan_pictures', description=__doc__
  )
  parser.add_argument('folder', type=pathlib.Path)
  folder = parser.parse_args(arguments).folder
  folder.mkdir(parents=True, exist_ok=True)
  for name in NAMES:
    files.write_whole_file(str(folder / f'{name}.svg'), picture(name))


if __name__ == '__main__':
  command_line.run_main(main)
