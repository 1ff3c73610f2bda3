"""Charts as inline SVG that follows a page's width and its light or dark theme.

matplotlib draws with stand-in colours, which become the variables of the style
sheet, and leaves text as text.
"""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree

import matplotlib
from matplotlib import figure as figure_lib
from matplotlib import ticker

from tokendrop_tf.pages import markup

# Pixels of a drawing for wide and for narrow screens.
_WIDE, _NARROW = 780, 380
# Variables of the style sheet, by the colour that stands for each.
_COLORS = {
  'ink': '#010101',
  'soft': '#020202',
  'line': '#030303',
  'plain': '#040404',
  'dropping': '#050505',
  'level': '#060606',
  'card': '#070707',
  # Of curves beyond two.
  'third': '#080808',
  'fourth': '#090909',
  'fifth': '#0a0a0a',
  'sixth': '#0b0b0b',
  'seventh': '#0c0c0c',
  'eighth': '#0d0d0d',
}
# Of the curves of one chart, in order.
PALETTE = (
  *('plain', 'dropping', 'third', 'fourth'),
  *('fifth', 'sixth', 'seventh', 'eighth'),
)
# Most dots of a curve; the last validation has one.
_MOST_POINTS = 30
_SVG = '{http://www.w3.org/2000/svg}'
_HREF = '{http://www.w3.org/1999/xlink}href'


@dataclasses.dataclass(frozen=True)
class Curve:
  """A loss over the course of a run.

  Attributes:
    name: as the legend and the tooltips say.
    losses: in nats, one for each validation.
    places: where the validations stand, by the label of the axis.
    color: a variable of the style sheet.
    is_dashed: whether its line is thin and dashed.
    band: lowest and highest losses at the same places, or `None`.
  """

  name: str
  losses: Sequence[float]
  places: Mapping[str, Sequence[float]]
  color: str = 'plain'
  is_dashed: bool = False
  band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclasses.dataclass(frozen=True)
class Dot:
  """A dot of a scatter chart."""

  x: float
  y: float
  text: str
  tooltip: str
  is_faint: bool = False


def loss_chart(curves: Sequence[Curve], levels: Mapping[str, float]) -> str:
  """Draws losses, in one panel for each axis that the curves have places on.

  Args:
    curves: at least one, each with at least one loss, all with the same axes.
    levels: losses to compare with, by name; those far from the curves are not
      drawn.

  Returns:
    HTML: the drawing for wide screens and that for narrow ones.
  """

  def draw(width):
    labels = list(curves[0].places)
    rows = len(labels) if width == _NARROW else 1
    figure = _figure(width, 300 * rows)
    grid = figure.subplots(
      rows, len(labels) // rows, sharey=True, squeeze=False
    )
    tooltips = {}
    for label, axes in zip(labels, grid.flat, strict=True):
      _draw_losses(axes, curves, levels, label, tooltips)
      _set_labels(axes, label, 'nats')
    _draw_levels(grid, levels)
    return figure, tooltips

  axes = ', '.join(curves[0].places)
  return _in_two_sizes(draw, f'Validation loss against {axes}')


def draw_runs(
  groups: Mapping[str, Sequence[Curve]], levels: Mapping[str, float], path: str
) -> None:
  """Writes a figure of runs, a row of panels for each group.

  Args:
    groups: curves by the title of their row; `color` is of matplotlib here.
    levels: as in `loss_chart`.
    path: file to write, .svg or .png.
  """
  labels = list(next(iter(groups.values()))[0].places)
  figure = figure_lib.Figure(
    figsize=(9, 3.2 * len(groups)), layout='constrained'
  )
  grid = figure.subplots(len(groups), len(labels), sharey='row', squeeze=False)
  for (title, curves), row in zip(groups.items(), grid, strict=True):
    for label, axes in zip(labels, row, strict=True):
      for curve in curves:
        axes.plot(
          curve.places[label], curve.losses, color=curve.color, label=curve.name
        )
      for (name, loss), style in zip(levels.items(), (':', '--', '-.')):
        axes.axhline(loss, color='grey', linestyle=style, label=name)
      axes.spines[['top', 'right']].set_visible(False)
      axes.set_xlabel(label)
    row[0].set_title(title or 'full sequences', loc='left', fontsize=10)
    row[0].set_ylabel('validation MLM loss, nats')
    row[-1].legend(frameon=False, fontsize=8)
  with matplotlib.rc_context({'text.parse_math': False}):
    figure.savefig(path)


def scatter_chart(
  dots: Sequence[Dot], x_label: str, y_label: str, title: str
) -> str:
  """Draws dots over a logarithmic axis, some with their text next to them.

  Args:
    dots: at least one, with x above 0; those named first go first.
    x_label: of the logarithmic axis.
    y_label: of the other.
    title: for those who cannot see it.
  """

  def draw(width):
    figure = _figure(width, 380 if width == _WIDE else 320)
    axes = figure.subplots()
    axes.set_xscale('log')
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_plain_number))
    tooltips = {}
    for kind, is_faint in (('learnt', False), ('faint', True)):
      members = [dot for dot in dots if dot.is_faint == is_faint]
      if not members:
        continue
      points = axes.scatter(
        [dot.x for dot in members],
        [dot.y for dot in members],
        s=14,
        facecolors='none' if is_faint else _COLORS['dropping'],
        edgecolors=_COLORS['soft' if is_faint else 'dropping'],
        alpha=0.45,
        gid=kind,
      )
      points.set_zorder(1 if is_faint else 2)
      tooltips[kind] = [dot.tooltip for dot in members]
    _set_labels(axes, x_label, y_label)
    _label_dots(figure, axes, dots, 40 if width == _WIDE else 12)
    return figure, tooltips

  return _in_two_sizes(draw, title)


def bar_chart(bars: Sequence[tuple[str, int]], title: str) -> str:
  """Draws numbers as bars, one below the other, with the numbers at their end.

  Args:
    bars: (name, number) each.
    title: for those who cannot see it.
  """

  def draw(width):
    figure = _figure(width, 24 * len(bars) + 16)
    axes = figure.subplots()
    names = [name for name, _ in bars]
    drawn = axes.barh(
      range(len(bars)), [n for _, n in bars], 0.7, color=_COLORS['dropping']
    )
    axes.bar_label(
      drawn, [f'{n:,}' for _, n in bars], padding=4, color=_COLORS['soft']
    )
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.spines['bottom'].set_visible(False)
    axes.grid(False)
    return figure, {}

  return _in_two_sizes(draw, title)


def _draw_losses(axes, curves, levels, label, tooltips):
  """Draws one panel; its axes are fitted to the curves."""
  axes.set_ylim(*_fitting_range(curves, levels))
  for curve in curves:
    places, color = curve.places[label], _COLORS[curve.color]
    style = {'lw': 1.4, 'ls': (0, (3, 2))} if curve.is_dashed else {'lw': 2.2}
    axes.plot(places, curve.losses, color=color, **style)
    if curve.band:
      axes.fill_between(places, *curve.band, color=color, alpha=0.2, lw=0)
    points = list(zip(places, curve.losses, strict=True))
    every = -(-len(points) // _MOST_POINTS)
    for place, loss in points[::-every][::-1]:
      gid = f'point{len(tooltips)}'
      axes.plot(
        place,
        loss,
        marker='o',
        ms=5,
        mec=color,
        mfc=_COLORS['card'] if curve.is_dashed else color,
        gid=gid,
      )
      tooltips[gid] = [f'{curve.name}: {loss:.4f} nats, {label} {place:,.4g}']
  axes.set_xlim(left=0)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(_plain_number))


def _draw_levels(grid, levels):
  """Draws the levels that the panels reach, and names each once."""
  low, high = grid[0, 0].get_ylim()
  for name, loss in levels.items():
    if not low <= loss <= high:
      continue
    for axes in grid.flat:
      axes.axhline(loss, color=_COLORS['level'], ls=(0, (5, 3)), lw=1.2)
    grid[0, 0].annotate(
      f'{name} {loss:.3f}',
      (1, loss),  # Curves begin at the left, above or on the level.
      xycoords=('axes fraction', 'data'),
      xytext=(-4, 4),
      ha='right',
      textcoords='offset points',
      color=_COLORS['level'],
      gid='halo',
    )


def _set_labels(axes, x_label, y_label):
  axes.set_xlabel(x_label, loc='right')
  axes.set_title(y_label, loc='left', fontsize=12, color=_COLORS['soft'], pad=8)


def _fitting_range(curves, levels) -> tuple[float, float]:
  """Returns limits that fit the losses.

  A first validation far above the rest would flatten everything: its line then
  comes in from above. So would a level that is far from the losses.
  """
  later = [
    loss
    for curve in curves
    for losses in (curve.losses, *(curve.band or ()))
    for loss in losses[1:]
  ]
  everything = [loss for curve in curves for loss in curve.losses]
  losses = later if len(later) > 1 else everything
  low, high = min(losses), max(losses)
  reach = max(high - low, 0.2)
  near = [x for x in levels.values() if low - reach <= x <= high + reach]
  firsts = [c.losses[0] for c in curves if c.losses[0] <= high + reach]
  low, high = min([low, *near]), max([high, *near, *firsts])
  margin = 0.06 * (high - low) or 0.1
  return low - margin, high + margin


def _plain_number(value, _) -> str:
  return f'{value:,.10g}'


def _label_dots(figure, axes, dots, most):
  """Writes texts next to their dots, none on top of another."""
  figure.draw_without_rendering()  # Fixes where the axes are.
  right = axes.get_window_extent().x1
  taken, count = [], 0
  for dot in dots:
    x, y = axes.transData.transform((dot.x, dot.y))
    box = (x - 4, y - 9, x + 8 + 7.2 * len(dot.text), y + 9)
    if box[2] > right or any(_overlap(box, other) for other in taken):
      continue
    taken.append(box)
    axes.annotate(
      dot.text,
      (dot.x, dot.y),
      xytext=(5, -3),
      textcoords='offset points',
      color=_COLORS['ink'],
      gid='halo',
    )
    count += 1
    if count == most:
      break


def _overlap(box, other) -> bool:
  return (
    box[0] < other[2]
    and other[0] < box[2]
    and box[1] < other[3]
    and other[1] < box[3]
  )


@contextlib.contextmanager
def _theme() -> Iterator[None]:
  colors, size = _COLORS, 12
  settings = {
    'axes.edgecolor': colors['line'],
    'axes.facecolor': 'none',
    'axes.grid': True,
    'axes.grid.axis': 'y',
    'axes.labelcolor': colors['soft'],
    'axes.labelsize': size,
    'axes.spines.left': False,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.unicode_minus': False,
    'font.size': size,
    'grid.color': colors['line'],
    'svg.fonttype': 'none',
    'svg.hashsalt': 'tokendrop',
    # Text of a corpus may hold dollar signs.
    'text.parse_math': False,
    'xtick.color': colors['line'],
    'xtick.labelcolor': colors['soft'],
    'ytick.color': colors['line'],
    'ytick.labelcolor': colors['soft'],
    'ytick.major.size': 0,
  }
  with matplotlib.rc_context(settings), warnings.catch_warnings():
    # Widths are measured in a font that lacks some scripts; browsers do not.
    warnings.filterwarnings('ignore', message='Glyph .* missing')
    yield


def _figure(width, height) -> figure_lib.Figure:
  # A point of the drawing is a pixel of the page.
  figure = figure_lib.Figure(
    figsize=(width / 72, height / 72), dpi=72, layout='constrained'
  )
  figure.patch.set_visible(False)
  return figure


def _in_two_sizes(draw, title) -> markup.Html:
  """Draws for wide and for narrow screens; the style sheet shows one."""
  drawings = []
  for width in (_WIDE, _NARROW):
    with _theme():
      figure, tooltips = draw(width)
      buffer = io.StringIO()
      figure.savefig(buffer, format='svg', metadata={'Date': None})
    drawings.append(markup.Html(_inline(buffer.getvalue(), title, tooltips)))
  return markup.html(
    '<div class="wide">$wide</div><div class="narrow">$narrow</div>',
    wide=drawings[0],
    narrow=drawings[1],
  )


def _inline(svg, title, tooltips) -> str:
  """Returns a drawing as an element of a page.

  Args:
    svg: what matplotlib wrote.
    title: for those who cannot see it.
    tooltips: texts by the group that they belong to, one for each dot in it.
  """
  root = ElementTree.fromstring(svg)
  for metadata in root.findall(f'{_SVG}metadata'):
    root.remove(metadata)
  for group in root.iter(f'{_SVG}g'):
    texts = tooltips.get(group.get('id'), ())
    uses = list(group.iter(f'{_SVG}use'))
    # A single dot, or very few, are drawn without references to one shape.
    targets = uses if len(uses) == len(texts) else [group][: len(texts)]
    for target, text in zip(targets, texts):
      ElementTree.SubElement(target, f'{_SVG}title').text = text
  for element in root.iter():
    element.tag = element.tag.removeprefix(_SVG)
    if element.tag == 'g' and 'id' in element.attrib:
      name = element.attrib.pop('id')
      if name == 'halo':  # Stays readable on a line or a dot.
        element.set('class', name)
    if _HREF in element.attrib:
      element.set('href', element.attrib.pop(_HREF))
  for name in ('width', 'height', 'version'):
    del root.attrib[name]
  root.set('role', 'img')
  root.set('aria-label', title)
  text = ElementTree.tostring(root, encoding='unicode')
  for name, color in _COLORS.items():
    text = text.replace(color, f'var(--{name})')
  return text
