"""The quickstart's page: complete by itself, honest in its geometry."""

import dataclasses
import html.parser
import re

import pytest

from tokendrop_tf import report

ENTROPY = 6.0
VOID = {'meta', 'line', 'polyline'}


def make_summary(**second):
  arm = {
    'name': 'plain',
    'model_dir': 'runs/plain',
    'steps': 1000,
    'tokens': 2048000,
    'seconds_per_step': 0.25,
    'train_seconds': 250.0,
    'validation_loss': 5.5,
    'validation_accuracy': 0.2,
    'validation_loss_dropping': None,
    'full_sequence_gap': None,
    'nats_learned': 0.5,
  }
  other = {
    **arm,
    'name': 'token_dropping',
    'seconds_per_step': 0.2,
    'validation_loss_dropping': 5.4,
    'full_sequence_gap': 0.1,
    **second,
  }
  return {
    'unigram_entropy': ENTROPY,
    'context_free_loss': 5.5,
    'arms': [arm, other],
    'ratios': {'seconds_per_step': 0.8},
  }


def make_report(**changes):
  content = report.Report(
    summary=make_summary(),
    verdict=('Token dropping took 20% less time.',),
    caveats=('One seed.',),
    curves=(
      report.Curve('plain', ((10.0, 7.0), (20.0, 5.8), (30.0, 5.5)), 'plain'),
      report.Curve(
        'dropping', ((8.0, 7.1), (16.0, 5.9), (24.0, 5.6)), 'dropping'
      ),
    ),
    table_note='A note.',
    dropped_first=(report.TokenScore('the', 2.0, 900),),
    kept_longest=(report.TokenScore('zebra', 8.0, 30),),
    scatter=(
      report.TokenScore('the', 2.0, 900),
      report.TokenScore('zebra', 8.0, 30),
    ),
    passage_note='Another note.',
    passages=(report.Passage((('a', True), ('zebra', False))),),
    filled=(report.FilledSentence('A [MASK].', ((('dog', 0.5),),), 'cat'),),
    facts=(('Settings', (('seed', '0'),)),),
    commands=(('Again:', 'make quickstart'),),
  )
  return dataclasses.replace(content, **changes)


class Outline(html.parser.HTMLParser):
  """Checks that elements nest, and collects tags, attributes and text."""

  def __init__(self, page):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], []
    self.feed(page)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_endtag(self, tag):
    assert self.open, f'</{tag}> closes nothing'
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def test_page_is_well_formed_and_asks_for_nothing_outside():
  page = report.render(make_report())
  outline = Outline(page)
  assert outline.open == []
  assert not {'script', 'link', 'img', 'iframe', 'object'} & set(outline.tags)
  names = {name for name, _ in outline.attributes}
  assert not {'src', 'href', 'srcset'} & names
  assert 'url(' not in page
  assert '@import' not in page
  assert '://' not in page


def test_page_holds_every_part_that_was_given():
  text = ' '.join(Outline(report.render(make_report())).text)
  for part in (
    '20% less time',
    'One seed.',
    'unigram entropy',
    'the',
    'zebra',
    'Another note.',
    '[MASK]',
    'dog',
    '50.0%',
    'cat',
    'seed',
    'make quickstart',
    '0.800',
  ):
    assert part in text, part


def test_text_of_the_corpus_is_never_markup():
  evil = '<script>alert("&")</script>'
  page = report.render(
    make_report(
      passages=(report.Passage(((evil, True), (evil, False))),),
      dropped_first=(report.TokenScore(evil, 1.0, 1),),
      filled=(report.FilledSentence(evil, (((evil, 0.5),),), evil),),
    )
  )
  outline = Outline(page)
  assert outline.open == []
  assert 'script' not in outline.tags


def test_without_a_table_the_page_says_why_and_lists_no_tokens():
  page = report.render(
    make_report(
      dropped_first=(),
      kept_longest=(),
      scatter=(),
      table_note='There is no table.',
    )
  )
  assert 'There is no table.' in page
  assert 'Kept longest' not in page


def points_of(svg, style):
  group = re.search(rf'<g class="{style}"><polyline points="([^"]*)"', svg)
  return [tuple(map(float, pair.split(','))) for pair in group[1].split()]


def test_curves_share_their_axes():
  curves = (
    report.Curve('a', ((10.0, 6.5), (20.0, 5.0)), 'plain'),
    report.Curve('b', ((10.0, 6.0), (20.0, 5.0), (40.0, 5.5)), 'dropping'),
  )
  svg = report.loss_chart(
    curves, entropy=6.0, context_free_loss=5.5, width=700, height=300
  )
  first, second = points_of(svg, 'plain'), points_of(svg, 'dropping')
  assert first[1] == second[1]
  assert second[2][0] - second[1][0] == pytest.approx(
    2 * (second[1][0] - second[0][0]), abs=0.2
  )
  # Down the page is down in loss, in proportion.
  assert second[2][1] - second[0][1] == pytest.approx(
    second[1][1] - second[2][1], abs=0.2
  )
  entropy = float(re.search(r'class="entropy"[^>]* y1="([\d.]+)"', svg)[1])
  assert entropy == pytest.approx(second[0][1], abs=0.1)


def test_a_high_first_loss_leaves_room_for_the_others():
  curve = report.Curve('a', ((1.0, 60.0), (2.0, 5.9), (3.0, 5.0)), 'plain')
  svg = report.loss_chart(
    (curve,), entropy=6.0, context_free_loss=5.5, width=700, height=300
  )
  (_, above), (_, upper), (_, lower) = points_of(svg, 'plain')
  assert above < 0
  assert 0 < upper < lower < 300
  assert lower - upper > 100


def test_a_run_that_learns_nothing_stays_in_view():
  curve = report.Curve('a', ((1.0, 6.50), (2.0, 6.45), (3.0, 6.44)), 'plain')
  svg = report.loss_chart(
    (curve,), entropy=6.0, context_free_loss=5.5, width=700, height=300
  )
  for _, y in points_of(svg, 'plain')[1:]:
    assert 0 < y < 300


def test_a_single_validation_makes_a_chart():
  curve = report.Curve('a', ((10.0, 6.0),), 'plain')
  svg = report.loss_chart(
    (curve,), entropy=6.0, context_free_loss=5.5, width=700, height=300
  )
  assert len(points_of(svg, 'plain')) == 1


@pytest.mark.parametrize(
  ('low', 'high', 'count'), [(0.0, 9.0, 4), (5.02, 6.31, 5), (0.0, 3e5, 6)]
)
def test_ticks_are_round_even_and_inside(low, high, count):
  ticks = report.nice_ticks(low, high, count)
  assert 2 <= len(ticks) <= count + 2
  assert low <= ticks[0]
  assert ticks[-1] <= high
  steps = {round(b - a, 9) for a, b in zip(ticks, ticks[1:])}
  assert len(steps) == 1
  assert f'{steps.pop():e}'[0] in '125'


def test_labels_of_dots_never_lie_on_each_other():
  tokens = [
    report.TokenScore(f'token{i}', 5.0 + 0.01 * i, 100 + i) for i in range(200)
  ]
  svg = report.importance_chart(tokens, width=700, height=300, num_labels=40)
  places = [
    (float(x), float(y))
    for x, y in re.findall(r'class="dot-label" x="([\d.]+)" y="([\d.]+)"', svg)
  ]
  assert 2 <= len(places) < 40
  for i, (x, y) in enumerate(places):
    for other_x, other_y in places[i + 1 :]:
      assert abs(x - other_x) > 40 or abs(y - other_y) >= 18


def test_passages_join_word_pieces_and_mark_what_is_dropped():
  passage = report.Passage(
    (
      ('un', True),
      ('##break', True),
      ('##able', False),
      ('(', False),
      ('x', True),
      (')', True),
      ('.', True),
      ('##', True),
    )
  )
  assert report.passage_html(passage) == ('unbreak<s>able (</s>x). ##')


def test_passage_starting_in_the_middle_of_a_word_keeps_its_marks():
  assert (
    report.passage_html(report.Passage((('##ed', False), ('.', False))))
    == '<s>##ed.</s>'
  )


def test_terminal_table_is_aligned_and_shows_what_is_missing():
  lines = report.results_text(make_summary()).splitlines()
  assert lines[0].split() == ['plain', 'token', 'dropping', 'ratio']
  speed = next(line for line in lines if line.startswith('seconds per step'))
  assert speed.split()[-3:] == ['0.250', '0.200', '0.800']
  dropping = next(line for line in lines if 'with dropping' in line)
  assert dropping.split()[-2:] == ['-', '5.4000']
  # Right-aligned: the columns of both arms end where their titles end.
  end = lines[0].index('plain') + len('plain')
  assert speed[:end].endswith('0.250')
  assert dropping[:end].endswith('-')
