"""The page that `inspect_data` writes: one HTML file, complete in itself."""

import html
from collections.abc import Sequence

from tokendrop_tf.data import data_summary, token_view

_STYLE = """
:root{color-scheme:light dark;--page:#f6f6f3;--card:#fff;--ink:#1d1d1b;
--soft:#5d5d58;--line:#dcdcd6;--label:#ffe08a;--random:#ffc9b8;--kept:#cfe8c9;
--special:#2a5db0;--dropped:#b3b3ab;--bar:#2a5db0}
@media (prefers-color-scheme:dark){:root{--page:#161615;--card:#20201e;
--ink:#ecece7;--soft:#a5a59d;--line:#3a3a36;--label:#6b5200;--random:#7a2f1b;
--kept:#24502b;--special:#8db4f5;--dropped:#65655f;--bar:#6d9be8}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .3rem}
h2{font-size:1.15rem;margin:0 0 .7rem}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:1.1rem 1.3rem;margin-top:1.1rem}
.note{color:var(--soft);font-size:.9rem;margin:.2rem 0;overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{font-weight:400;color:var(--soft);text-align:left;white-space:nowrap;
padding:.12rem 1.2rem .12rem 0;vertical-align:top}
td{padding:.12rem .8rem .12rem 0}
td.number{text-align:right}
.wide{width:100%}.wide td:last-child{width:60%}
.bar{display:block;height:.7rem;border-radius:3px;background:var(--bar);
min-width:1px}
.scroll{overflow-x:auto}
.tokens{font-size:.95rem;line-height:2;overflow-wrap:anywhere;margin:0;
padding:.8rem 0;border-top:1px solid var(--line)}
.tokens span{border-radius:4px}
.label{background:var(--label);padding:.08rem .3rem}
.random{background:var(--random)}.kept{background:var(--kept)}
.label small{color:var(--soft)}
.special{color:var(--special);font-size:.8rem;font-weight:600}
.dropped{color:var(--dropped)}
.dropped.label{opacity:.55}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:.2rem 0 .8rem;
font-size:.9rem}
.frequent{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:0}
.frequent code{font-family:ui-monospace,SFMono-Regular,Menlo,monospace}
.frequent small{color:var(--soft)}
pre{margin:0;font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,monospace}
""".strip()

_LEGEND = (
  ('label', 'a label, shown as [MASK]', 'word'),
  ('label random', 'a label, another token in its place', 'other'),
  ('label kept', 'a label, left as it is', 'word'),
  ('special', 'a special token', '[SEP]'),
)


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
    dropped_note: what the grey tokens are; '' if none are shown.
    packing: report on packings, as text; '' is none.
  """
  sections = [
    ('In numbers', _facts(summary.facts(words))),
    (f'Lengths of {summary.unit} in tokens', _bars(summary.histogram())),
    ('Most frequent tokens', _frequent(summary.most_frequent(words))),
  ]
  if packing:
    text = f'<div class="scroll"><pre>{html.escape(packing)}</pre></div>'
    sections.append(('Packings', text))
  shown = _legend(dropped_note) + ''.join(map(_example, examples))
  sections.append((f'{len(examples)} examples', shown))
  body = ''.join(
    f'<section><h2>{html.escape(name)}</h2>{content}</section>'
    for name, content in sections
  )
  lines = ''.join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>'
    f'<main><h1>{html.escape(title)}</h1>{lines}{body}</main></body></html>\n'
  )


def _facts(facts) -> str:
  rows = ''.join(
    f'<tr><th scope="row">{html.escape(name)}</th>'
    f'<td>{html.escape(value)}</td></tr>'
    for name, value in facts
  )
  return f'<div class="scroll"><table>{rows}</table></div>'


def _bars(histogram) -> str:
  most = max(count for _, count in histogram) or 1
  rows = ''.join(
    f'<tr><th scope="row">{name}</th><td class="number">{count:,}</td><td>'
    f'<i class="bar" style="width:{100 * count / most:.1f}%"></i></td></tr>'
    for name, count in histogram
  )
  return f'<table class="wide">{rows}</table>'


def _frequent(frequent) -> str:
  items = ''.join(
    f'<span><code>{html.escape(token)}</code> <small>{share:.2%}</small></span>'
    for token, share in frequent
  )
  return f'<p class="frequent">{items}</p>'


def _legend(dropped_note: str) -> str:
  items = ''.join(
    f'<span><span class="{name}">{html.escape(sample)}</span> {text}</span>'
    for name, text, sample in _LEGEND
  )
  note = ''
  if dropped_note:
    items += '<span><span class="dropped">word</span> dropped</span>'
    note = f'<p class="note">{html.escape(dropped_note)}</p>'
  return f'{note}<div class="legend">{items}</div>'


def _example(tokens: Sequence[token_view.TokenView]) -> str:
  return f'<p class="tokens">{"".join(map(_token, tokens)).strip()}</p>'


def _token(token: token_view.TokenView) -> str:
  classes = _classes(token)
  space = '' if token.text.startswith('##') else ' '
  text = html.escape(token.text.removeprefix('##'))
  if token.fate:
    label = html.escape(token.label)
    text = {
      token_view.MASKED: label,
      token_view.RANDOM: f'{html.escape(token.text)} <small>{label}</small>',
      token_view.KEPT: html.escape(token.text),
    }[token.fate]
    space = ' '
  if not classes:
    return space + text
  return f'{space}<span class="{classes}">{text}</span>'


def _classes(token: token_view.TokenView) -> str:
  classes = []
  if token.fate:
    classes.append('label')
  if token.fate in (token_view.RANDOM, token_view.KEPT):
    classes.append(token.fate)
  if token.is_special and not token.fate:
    classes.append('special')
  if token.is_dropped:
    classes.append('dropped')
  return ' '.join(classes)
