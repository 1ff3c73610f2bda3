"""The page that `inspect_data` writes: one HTML file, complete in itself."""

from collections.abc import Sequence

from tokendrop_tf.pages import charts, data_summary, markup, report, token_view
from tokendrop_tf.pages.markup import html

_LEGEND = (
  ('label', 'a label, shown as [MASK]', 'word'),
  ('label random', 'a label, another token in its place', 'other'),
  ('label kept', 'a label, left as it is', 'word'),
  ('special', 'a special token', '[SEP]'),
)
_DROPPED = ('dropped', 'dropped', 'word')


def page(
  title: str,
  notes: Sequence[str],
  summary: data_summary.DataSummary,
  words,
  examples: Sequence[Sequence[token_view.TokenView]],
  dropped_note: str = '',
  packing: str = '',
) -> str:
  """Returns the page.

  Args:
    title: heading.
    notes: lines below it.
    summary: the numbers.
    words: the vocabulary.
    examples: the examples to show.
    dropped_note: which tokens are grey; '' if none are.
    packing: report on packings, as text; '' omits its section.
  """
  return markup.page(
    'data',
    title=title,
    notes=[html('<p class="note">$note</p>\n', note=note) for note in notes],
    facts=report.facts_table(summary.facts(words)),
    unit=summary.unit,
    lengths=charts.bar_chart(
      summary.histogram(), f'Lengths of {summary.unit} in tokens'
    ),
    frequent=[
      html(
        '<span><code>$token</code> <small>$share</small></span>\n',
        token=token,
        share=f'{share:.2%}',
      )
      for token, share in summary.most_frequent(words)
    ],
    packings=_packings(packing),
    examples_title=f'{len(examples)} examples',
    legend=_legend(dropped_note),
    examples=[
      html('<p class="tokens">$tokens</p>\n', tokens=map(_token, tokens))
      for tokens in examples
    ],
  )


def _packings(text) -> markup.Html:
  if not text:
    return markup.Html('')
  return html(
    '\n<section>\n<h2>Packings</h2>\n<pre>$text</pre>\n</section>\n', text=text
  )


def _legend(dropped_note) -> markup.Html:
  entries = [*_LEGEND, _DROPPED] if dropped_note else _LEGEND
  return html(
    '$note<p class="legend">$entries</p>',
    note=html('<p class="note">$note</p>\n', note=dropped_note)
    if dropped_note
    else '',
    entries=[
      html(
        '<span><span class="$kind">$sample</span> $text</span>\n',
        kind=kind,
        sample=sample,
        text=text,
      )
      for kind, text, sample in entries
    ],
  )


def _token(token: token_view.TokenView) -> markup.Html:
  is_suffix = token.text.startswith('##') and not token.fate
  text = token.text.removeprefix('##') if is_suffix else token.text
  if token.fate == token_view.MASKED:
    text = token.label
  if token.fate == token_view.RANDOM:
    text = html('$text <small>$label</small>', text=text, label=token.label)
  classes = _classes(token)
  space = '' if is_suffix else ' '
  if not classes:
    return html('$space$text', space=space, text=text)
  return html(
    '$space<span class="$classes">$text</span>',
    space=space,
    classes=classes,
    text=text,
  )


def _classes(token: token_view.TokenView) -> str:
  names = {
    'label': bool(token.fate),
    token.fate: token.fate in (token_view.RANDOM, token_view.KEPT),
    'special': token.is_special and not token.fate,
    'dropped': token.is_dropped,
  }
  return ' '.join(name for name, is_set in names.items() if is_set)
