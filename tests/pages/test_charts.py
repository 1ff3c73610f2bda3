"""Charts: in scale, fitted to their data, in the colours of the page."""

import re
from xml.etree import ElementTree

import pytest

from tokendrop_tf.pages import charts


def make_curve(name, losses, color='plain', scale=1.0):
  steps = [100 * (n + 1) for n in range(len(losses))]
  seconds = [scale * step for step in steps]
  return charts.Curve(name, losses, {'steps': steps, 'seconds': seconds}, color)


def drawings(markup):
  """Returns the wide and the narrow drawing, parsed."""
  wide, narrow = re.findall(r'<svg.*?</svg>', markup, re.S)
  return ElementTree.fromstring(wide), ElementTree.fromstring(narrow)


def texts_of(svg):
  return [element.text for element in svg.iter('text')]


def dots_of(svg, name):
  """Returns (x, y) of the dots of a curve in its first panel."""
  places = []
  for use in svg.iter('use'):
    title = use.find('title')
    if title is not None and title.text.startswith(f'{name}: '):
      places.append((float(use.get('x')), float(use.get('y'))))
  return places[: len(places) // 2]


def test_text_stays_text_and_colours_follow_the_theme():
  svg = charts.loss_chart([make_curve('<a & $b$>', [6.0, 5.0])], {'level': 5.5})
  assert 'var(--plain)' in svg
  assert 'var(--level)' in svg
  assert not re.search(r'#0[0-9a-f]{5}\b', svg)
  wide, narrow = drawings(svg)
  for drawing in (wide, narrow):
    assert 'steps' in texts_of(drawing)
    assert 'seconds' in texts_of(drawing)
    assert 'level 5.500' in texts_of(drawing)
    assert '<a & $b$>: 5.0000 nats, steps 200' in [
      title.text for title in drawing.iter('title')
    ]


def test_drawings_ask_for_nothing_outside():
  svg = charts.loss_chart([make_curve('a', [6.0, 5.0])], {})
  assert '://' not in svg
  assert all(target.startswith('#') for target in re.findall(r'href="(.)', svg))
  assert set(re.findall(r'url\((.)', svg)) <= {'#'}


def test_curves_share_their_axes_in_proportion():
  svg, _ = drawings(
    charts.loss_chart(
      [
        make_curve('a', [6.5, 6.0, 5.0]),
        make_curve('b', [6.5, 5.5, 5.0], 'dropping'),
      ],
      {},
    )
  )
  first, second = dots_of(svg, 'a'), dots_of(svg, 'b')
  assert first[2] == second[2]
  assert first[2][0] - first[1][0] == pytest.approx(first[1][0] - first[0][0])
  # Down the page is down in loss.
  assert second[1][1] - first[1][1] == pytest.approx(
    (first[2][1] - first[1][1]) / 2
  )


def test_a_high_first_loss_leaves_room_for_the_others():
  svg, _ = drawings(
    charts.loss_chart([make_curve('a', [60.0, 5.9, 5.0])], {'level': 5.5})
  )
  ys = [y for _, y in dots_of(svg, 'a')]
  assert ys[-1] - ys[-2] > 100


def test_axes_fit_the_curves_and_not_a_level_far_away():
  curve = make_curve('a', [6.5, 6.45, 6.44])
  svg, _ = drawings(charts.loss_chart([curve], {'near': 6.4, 'far': 2.0}))
  assert 'near 6.400' in texts_of(svg)
  assert not any('far' in text for text in texts_of(svg))
  ys = [y for _, y in dots_of(svg, 'a')]
  assert max(ys) - min(ys) > 50


def test_a_single_validation_makes_a_chart():
  svg, _ = drawings(charts.loss_chart([make_curve('a', [6.0])], {}))
  assert len(dots_of(svg, 'a')) == 1


@pytest.mark.parametrize('count', [1, 300])
def test_every_dot_has_its_tooltip_and_labels_do_not_overlap(count):
  dots = [
    charts.Dot(
      100.0 + i, 5.0 + 0.01 * i, f'token{i}', f'tip {i}', is_faint=i % 2 > 0
    )
    for i in range(count)
  ]
  svg, _ = drawings(charts.scatter_chart(dots, 'times', 'nats', 'title'))
  tips = {title.text for title in svg.iter('title')}
  assert {dot.tooltip for dot in dots} <= tips
  places = [
    (float(text.get('x')), float(text.get('y')))
    for text in svg.iter('text')
    if (text.text or '').startswith('token')
  ]
  assert min(2, count) <= len(places) <= 40
  for i, (x, y) in enumerate(places):
    for other_x, other_y in places[i + 1 :]:
      assert abs(x - other_x) > 40 or abs(y - other_y) >= 17


def test_bars_have_their_numbers():
  svg, _ = drawings(charts.bar_chart([('4 to 7', 2), ('8 to 15', 1234)], 'a'))
  assert {'4 to 7', '8 to 15', '2', '1,234'} <= set(texts_of(svg))
