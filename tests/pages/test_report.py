"""The quickstart's page: complete by itself, escaped, readable."""

import dataclasses
import html.parser
import pathlib
import re

import pytest

from tokendrop_tf.pages import charts, markup, report

VOID = {'meta', 'line', 'polyline'}


def make_summary(**second):
  arm = {
    'name': 'plain',
    'model_dir': 'runs/plain',
    'steps': 1000,
    'tokens': 2048000,
    'seconds_per_step': 0.25,
    'train_seconds': 250.0,
    'multiply_adds': 12.5,
    'validation_loss': 5.5,
    'validation_accuracy': 0.2,
    'validation_loss_dropping': None,
    'full_sequence_gap': None,
    'context_gain': 0.5,
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
    'unigram_entropy': 6.0,
    'context_free_loss': 5.5,
    'arms': [arm, other],
    'ratios': {'seconds_per_step': 0.8},
    'times_note': 'Steps took turns.',
  }


def make_report(**changes):
  places = {'steps': [10, 20, 30]}
  content = report.Report(
    summary=make_summary(),
    verdict=('Token dropping took 20% less time.',),
    caveats=('One seed.',),
    curves=(
      charts.Curve('plain', [7.0, 5.8, 5.5], places),
      charts.Curve('dropping', [7.1, 5.9, 5.6], places, 'dropping'),
    ),
    curves_note='How to read curves.',
    table_note='A note.',
    lists={
      'Dropped first': [report.TokenScore('the', 2.0, 900, 0.99)],
      'Kept longest': [report.TokenScore('zebra', 8.0, 30, 0.7)],
    },
    scatter=(
      report.TokenScore('the', 2.0, 900),
      report.TokenScore('zebra', 8.0, 30, 0.1),
    ),
    passage_note='Another note.',
    passages=[[('a', True), ('zebra', False)]],
    filled=(
      report.FilledSentence(
        'A [MASK].',
        {'plain BERT': [[('cow', 0.25)]], 'token dropping': [[('dog', 0.5)]]},
        'cat',
      ),
    ),
    facts={'Settings': [('seed', '0')]},
    commands=[('Again:', 'make quickstart')],
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
  assert not {'src', 'srcset'} & names
  targets = [value for name, value in outline.attributes if name == 'href']
  targets += re.findall(r'url\(([^)]*)', page)
  assert all(target.startswith('#') for target in targets)
  assert '@import' not in page
  assert '://' not in page


def test_page_holds_every_part_that_was_given():
  text = ' '.join(Outline(report.render(make_report())).text)
  for part in (
    '20% less time',
    'One seed.',
    'unigram entropy',
    'How to read curves.',
    'Steps took turns.',
    'the',
    'zebra',
    '70%',
    'Another note.',
    '[MASK]',
    'cow',
    'dog',
    '50.0%',
    'cat',
    'seed',
    'make quickstart',
    '0.800',
  ):
    assert part in text, part


def test_text_of_the_corpus_is_never_markup():
  evil = '<script>alert("&")</script>$title'
  page = report.render(
    make_report(
      passages=[[(evil, True), (evil, False)]],
      lists={evil: [report.TokenScore(evil, 1.0, 1)]},
      scatter=[report.TokenScore(evil, 1.0, 1)],
      filled=(report.FilledSentence(evil, {evil: [[(evil, 0.5)]]}, evil),),
    )
  )
  outline = Outline(page)
  assert outline.open == []
  assert 'script' not in outline.tags
  assert page.count('alert(') == page.count('&lt;script&gt;alert(')


def test_a_table_that_has_learnt_too_little_lists_no_tokens():
  page = report.render(
    make_report(lists={}, scatter=(), table_note='Too few are learnt.')
  )
  assert 'Too few are learnt.' in page
  assert 'Kept longest' not in page


def test_passages_join_word_pieces_and_mark_dropped_tokens():
  passage = [
    ('un', True),
    ('##break', True),
    ('##able', False),
    ('(', False),
    ('x', True),
    (')', True),
    ('.', True),
    ('##', True),
  ]
  assert report.passage_html(passage) == 'unbreak<s>able (</s>x). ##'


def test_passage_starting_in_the_middle_of_a_word_keeps_its_marks():
  assert report.passage_html([('##ed', False), ('.', False)]) == '<s>##ed.</s>'


def test_terminal_table_shows_both_arms_and_the_absent_values():
  lines = report.results_text(make_summary()).splitlines()
  assert lines[0].split() == ['plain', 'token', 'dropping', 'ratio']
  speed = next(line for line in lines if line.startswith('seconds per step'))
  assert speed.split()[-3:] == ['0.250', '0.200', '0.800']
  dropping = next(line for line in lines if 'with dropping' in line)
  assert dropping.split()[-2:] == ['-', '5.4000']


def themes():
  """Returns the colours of the style sheet, light and dark."""
  folder = pathlib.Path(markup.__file__).parent / 'templates'
  blocks = re.findall(
    r':root \{(.*?)\}', (folder / 'style.css').read_text(), re.S
  )
  return [
    dict(re.findall(r'--(\w+): (#[0-9a-f]+);', block)) for block in blocks
  ]


def luminance(color):
  digits = color[1:] if len(color) == 7 else ''.join(2 * c for c in color[1:])
  parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
  linear = [
    p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
  ]
  return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize('theme', [0, 1])
@pytest.mark.parametrize(
  ('text', 'ground'),
  [
    *((name, 'card') for name in ('ink', 'soft', 'gone', 'level', 'special')),
    *((name, 'card') for name in ('plain', 'dropping')),
    *(('ink', name) for name in ('mark', 'label', 'random', 'kept', 'page')),
    ('soft', 'page'),
  ],
)
def test_text_has_a_contrast_of_four_and_a_half(theme, text, ground):
  colors = themes()[theme]
  low, high = sorted(luminance(colors[name]) for name in (text, ground))
  assert (high + 0.05) / (low + 0.05) >= 4.5
