"""The quickstart's report: one HTML page that needs nothing but itself.

Charts are drawn here as inline SVG: they follow the page's light or dark
colours and its width, which a picture of them would not.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

ENTROPY = 'unigram entropy'
CONTEXT_FREE = 'best without context'


@dataclasses.dataclass(frozen=True)
class Curve:
  """A loss over time.

  Attributes:
    name: what it is, as the legend says.
    points: (seconds, loss in nats), in order.
    style: 'plain', 'dropping' or 'dashed', a CSS class.
  """

  name: str
  points: tuple[tuple[float, float], ...]
  style: str


@dataclasses.dataclass(frozen=True)
class TokenScore:
  """A token of the importance table.

  Attributes:
    token: its text.
    importance: its entry in the table, in nats.
    count: how often it occurs in the corpus.
  """

  token: str
  importance: float
  count: int


@dataclasses.dataclass(frozen=True)
class Passage:
  """A passage of validation text; True marks the tokens that are kept."""

  pieces: tuple[tuple[str, bool], ...]


@dataclasses.dataclass(frozen=True)
class FilledSentence:
  """A sentence with [MASK] and what the model puts there.

  Attributes:
    text: the sentence.
    predictions: for every [MASK], (token, probability), best first.
    answer: the token that stood there, or ''.
  """

  text: str
  predictions: tuple[tuple[tuple[str, float], ...], ...]
  answer: str = ''


@dataclasses.dataclass(frozen=True)
class Report:
  """Everything on the page.

  Attributes:
    summary: the content of `summary.json`.
    verdict: what came out, in sentences.
    caveats: what it does not show, in sentences.
    curves: losses over time.
    table_note: how to read the importance table.
    dropped_first: lowest importance first.
    kept_longest: highest importance first.
    scatter: a sample of the whole table.
    passage_note: what is greyed out.
    passages: passages of validation text.
    filled: sentences that the model filled in.
    facts: tables of (name, value), by title.
    commands: what to type next, (what for, command).
  """

  summary: dict
  verdict: tuple[str, ...]
  caveats: tuple[str, ...]
  curves: tuple[Curve, ...]
  table_note: str
  dropped_first: tuple[TokenScore, ...]
  kept_longest: tuple[TokenScore, ...]
  scatter: tuple[TokenScore, ...]
  passage_note: str
  passages: tuple[Passage, ...]
  filled: tuple[FilledSentence, ...]
  facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
  commands: tuple[tuple[str, str], ...]


def render(report: Report) -> str:
  """Returns the page.

  Example:
    pathlib.Path('report.html').write_text(render(report), encoding='utf-8')
  """
  sections = [
    _section('In numbers', results_table(report.summary)),
    _section('Loss against training time', _loss_section(report)),
    _section('What the table learned', _table_section(report)),
    _section('What is dropped', _passage_section(report)),
    _section('Filling in [MASK]', _filled_section(report)),
    _section('Settings, machine, versions', _facts_section(report)),
    _section('What to type next', _commands_section(report)),
  ]
  verdict = ''.join(f'<p>{_text(line)}</p>' for line in report.verdict)
  is_empty = report.summary.get('is_comparison_empty')
  kind = 'verdict empty' if is_empty else 'verdict'
  caveats = ''.join(f'<li>{_text(line)}</li>' for line in report.caveats)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    '<title>Plain BERT and token dropping on the same text</title>\n'
    f'<style>{_STYLE}</style></head>\n<body><main>\n'
    '<header><h1>Plain BERT and token dropping on the same text</h1>'
    f'<div class="{kind}">{verdict}</div>'
    f'<ul class="caveats">{caveats}</ul></header>\n'
    + '\n'.join(sections)
    + '\n</main></body></html>\n'
  )


def _section(title: str, content: str) -> str:
  return f'<section><h2>{_text(title)}</h2>{content}</section>'


def _text(value) -> str:
  return html.escape(str(value))


# The table of results, for the terminal and for the page.


def result_rows(summary: dict) -> list[tuple[str, ...]]:
  """Returns the header and the rows of the comparison, all text.

  Args:
    summary: the content of `summary.json`.
  """
  first, second = summary['arms']
  ratios = summary['ratios']
  names = [arm['name'].replace('_', ' ') for arm in (first, second)]
  rows = [('', *names, 'ratio')]

  def add(title, key, form):
    cells = [
      '-' if arm.get(key) is None else form(arm[key]) for arm in (first, second)
    ]
    ratio = ratios.get(key)
    rows.append((title, *cells, '' if ratio is None else f'{ratio:.3f}'))

  add('steps', 'steps', '{:,}'.format)
  add('tokens', 'tokens', '{:,}'.format)
  add('seconds per step', 'seconds_per_step', '{:.3f}'.format)
  add('training time, s', 'train_seconds', '{:.0f}'.format)
  add('validation loss, full sequences', 'validation_loss', '{:.4f}'.format)
  add('... with dropping', 'validation_loss_dropping', '{:.4f}'.format)
  add('... gap, full minus dropping', 'full_sequence_gap', '{:+.4f}'.format)
  add('... below the unigram entropy', 'nats_learned', '{:.4f}'.format)
  add('accuracy, full sequences', 'validation_accuracy', '{:.3f}'.format)
  return rows


def results_text(summary: dict) -> str:
  """Returns the comparison as a table for the terminal."""
  rows = result_rows(summary)
  widths = [max(len(row[i]) for row in rows) for i in range(4)]
  lines = [
    '  '.join(
      [row[0].ljust(widths[0])]
      + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
    ).rstrip()
    for row in rows
  ]
  rule = '-' * max(map(len, lines))
  return '\n'.join([lines[0], rule, *lines[1:]])


def results_table(summary: dict) -> str:
  """Returns the comparison as an HTML table."""
  header, *rows = result_rows(summary)
  head = ''.join(f'<th scope="col">{_text(cell)}</th>' for cell in header[1:])
  body = ''.join(
    f'<tr><th scope="row">{_text(title)}</th>'
    + ''.join(f'<td>{_text(cell)}</td>' for cell in cells)
    + '</tr>'
    for title, *cells in rows
  )
  entropy = summary['unigram_entropy']
  return (
    '<div class="scroll"><table class="results"><thead><tr><td></td>'
    f'{head}</tr></thead><tbody>{body}</tbody></table></div>'
    f'<p class="note">Losses are in nats per masked token. The unigram '
    f'entropy of the validation labels is {entropy:.4f}: the loss of a model '
    'that knows only how frequent each token is. With what a masked position '
    'itself shows (one in ten shows its token), '
    f'{summary["context_free_loss"]:.4f} can be reached without a look at the '
    'text around it. Ratios are the second arm to the first; below 1 is '
    'less.</p>'
  )


# Charts.


@dataclasses.dataclass(frozen=True)
class _Axis:
  """Maps values to pixels.

  Attributes:
    low: value at `begin`.
    high: value at `end`.
    begin: pixel.
    end: pixel.
  """

  low: float
  high: float
  begin: float
  end: float

  def __call__(self, value: float) -> float:
    share = (value - self.low) / (self.high - self.low)
    return self.begin + share * (self.end - self.begin)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
  """Returns about `count` round values that lie between `low` and `high`.

  Example:
    nice_ticks(0.0, 9.0, 4)  # [0.0, 2.0, 4.0, 6.0, 8.0]
  """
  rough = (high - low) / max(count, 1)
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(
    factor * power for factor in (1, 2, 5, 10) if factor * power >= rough
  )
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [round(i * step, 10) for i in range(first, last + 1)]


def loss_chart(
  curves: Sequence[Curve],
  entropy: float,
  context_free_loss: float,
  width: int,
  height: int,
) -> str:
  """Draws losses over time and the two levels to compare them with.

  Args:
    curves: at least one, each with at least one point.
    entropy: unigram entropy of the validation labels, in nats.
    context_free_loss: least loss without a look at other tokens, in nats.
    width: of the drawing; text keeps its size, so draw for the screen.
    height: likewise.

  Returns:
    An `<svg>` element.
  """
  points = [point for curve in curves for point in curve.points]
  losses = [loss for _, loss in points] + [entropy, context_free_loss]
  # A first validation far above the rest would flatten everything: the line
  # then comes in from above.
  later = [loss for curve in curves for _, loss in curve.points[1:]]
  low, high = min(losses), max([*(later or losses), entropy])
  margin = 0.06 * (high - low) or 0.1
  x = _Axis(0.0, max(seconds for seconds, _ in points) or 1.0, 48, width - 16)
  y = _Axis(low - margin, high + margin, height - 44, 14)
  parts = [_grid(x, y, height, 'seconds of training', 'nats')]
  parts.append(_level(ENTROPY, entropy, x, y))
  parts.append(_level(CONTEXT_FREE, context_free_loss, x, y))
  parts += [_polyline(curve, x, y) for curve in curves]
  label = 'Validation loss against seconds of training'
  return _svg('loss', width, height, label, ''.join(parts))


def _level(name, loss, x, y) -> str:
  return (
    f'<line class="entropy" x1="{x.begin}" x2="{x.end}" y1="{y(loss):.1f}" '
    f'y2="{y(loss):.1f}"/><text class="entropy-label" x="{x.begin + 4}" '
    f'y="{y(loss) - 6:.1f}">{name} {loss:.3f}</text>'
  )


def _polyline(curve, x, y) -> str:
  places = [(x(seconds), y(loss)) for seconds, loss in curve.points]
  path = ' '.join(f'{px:.1f},{py:.1f}' for px, py in places)
  dots = ''.join(
    f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3"><title>'
    f'{_text(curve.name)}: {loss:.4f} nats after {seconds:.0f} s'
    '</title></circle>'
    for (px, py), (seconds, loss) in zip(places, curve.points)
  )
  return f'<g class="{curve.style}"><polyline points="{path}"/>{dots}</g>'


def importance_chart(
  tokens: Sequence[TokenScore], width: int, height: int, num_labels: int
) -> str:
  """Draws importance against frequency, both of the whole vocabulary.

  Args:
    tokens: at least one with a count above 0.
    width: of the drawing.
    height: of the drawing.
    num_labels: how many dots get their token written beside them, if there is
      room.

  Returns:
    An `<svg>` element.
  """
  seen = [token for token in tokens if token.count > 0]
  logs = [math.log10(token.count) for token in seen]
  values = [token.importance for token in seen]
  log_span = (max(logs) - min(logs)) or 1.0
  x = _Axis(
    min(logs) - 0.03 * log_span, max(logs) + 0.06 * log_span, 48, width - 16
  )
  span = (max(values) - min(values)) or 1.0
  y = _Axis(
    min(values) - 0.05 * span, max(values) + 0.05 * span, height - 44, 14
  )
  parts = [_grid(x, y, height, 'times in the corpus', 'nats', True)]
  dots = [
    f'<circle cx="{x(log):.1f}" cy="{y(token.importance):.1f}" r="2.2">'
    f'<title>{_text(token.token)}: {token.importance:.2f} nats, '
    f'{token.count:,} times</title></circle>'
    for token, log in zip(seen, logs)
  ]
  parts.append(f'<g class="dots">{"".join(dots)}</g>')
  parts.append(_dot_labels(seen, x, y, num_labels))
  label = 'Importance of every token against how often it occurs'
  return _svg('importance', width, height, label, ''.join(parts))


def _dot_labels(tokens, x, y, num_labels) -> str:
  """Writes tokens beside their dots, the most frequent first, none on top."""
  labels, taken = [], []
  for token in sorted(tokens, key=lambda token: -token.count):
    px, py = x(math.log10(token.count)), y(token.importance)
    right = px + 8 + 7.2 * len(token.token)
    box = (px - 4, py - 9, right, py + 9)
    if right > x.end or any(_overlap(box, other) for other in taken):
      continue
    taken.append(box)
    labels.append(
      f'<text class="dot-label" x="{px + 5:.1f}" y="{py + 4:.1f}">'
      f'{_text(token.token)}</text>'
    )
    if len(labels) == num_labels:
      break
  return ''.join(labels)


def _overlap(box, other) -> bool:
  return (
    box[0] < other[2]
    and other[0] < box[2]
    and box[1] < other[3]
    and other[1] < box[3]
  )


def _grid(x, y, height, x_title, y_title, is_log_x=False) -> str:
  """Draws the grid, the ticks and the titles of both axes."""
  parts = []
  for value in nice_ticks(y.low, y.high, 5):
    parts.append(
      f'<line class="grid" x1="{x.begin}" x2="{x.end}" y1="{y(value):.1f}" '
      f'y2="{y(value):.1f}"/><text class="tick" x="{x.begin - 7}" '
      f'y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
    )
  if is_log_x:
    ticks = [
      float(value) for value in range(math.ceil(x.low), math.floor(x.high) + 1)
    ]
  else:
    ticks = nice_ticks(x.low, x.high, max(2, int(x.end) // 110))
  for value in ticks:
    text = f'{10**value:,.0f}' if is_log_x else f'{value:,g}'
    parts.append(
      f'<text class="tick" x="{x(value):.1f}" y="{y.begin + 18}" '
      f'text-anchor="{_anchor(x(value), x)}">{text}</text>'
    )
  parts.append(
    f'<text class="axis" x="{x.end}" y="{height - 6}" text-anchor="end">'
    f'{_text(x_title)}</text>'
    f'<text class="axis" x="4" y="11">{_text(y_title)}</text>'
  )
  return ''.join(parts)


def _anchor(place, axis) -> str:
  if place > axis.end - 12:
    return 'end'
  return 'middle'


def _svg(name, width, height, label, content) -> str:
  return (
    f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img" '
    f'aria-label="{_text(label)}">{content}</svg>'
  )


def _in_two_sizes(draw) -> str:
  """Draws for wide and for narrow screens; the style sheet shows one."""
  return (
    f'<div class="wide">{draw(760, 360)}</div>'
    f'<div class="narrow">{draw(380, 320)}</div>'
  )


# Sections.


def _loss_section(report: Report) -> str:
  legend = ''.join(
    f'<li class="{curve.style}"><i></i>{_text(curve.name)}</li>'
    for curve in report.curves
  )
  chart = _in_two_sizes(
    lambda width, height: loss_chart(
      report.curves,
      report.summary['unigram_entropy'],
      report.summary['context_free_loss'],
      width,
      height,
    )
  )
  return (
    f'<ul class="legend">{legend}</ul>{chart}<p class="note">Time is that of '
    'the train steps, without compilation and validation. The learning rate '
    'of each arm falls to its end over its own steps, so a curve read before '
    'its end shows an unfinished run.</p>'
  )


def _table_section(report: Report) -> str:
  note = f'<p>{_text(report.table_note)}</p>'
  if not report.dropped_first:
    return note
  highest = max(
    token.importance for token in (*report.dropped_first, *report.kept_longest)
  )
  columns = _score_list('Dropped first', report.dropped_first, highest)
  columns += _score_list('Kept longest', report.kept_longest, highest)
  chart = ''
  if any(token.count for token in report.scatter):
    chart = '<h3>The whole table</h3>' + _in_two_sizes(
      lambda width, height: importance_chart(
        report.scatter, width, height, 40 if width > 500 else 14
      )
    )
  return f'{note}<div class="columns">{columns}</div>{chart}'


def _score_list(title, tokens, highest) -> str:
  rows = ''.join(
    f'<tr><th scope="row"><code>{_text(token.token)}</code></th>'
    f'<td class="bar"><i style="width:{100 * token.importance / highest:.1f}%">'
    f'</i></td><td>{token.importance:.2f}</td><td>{token.count:,}</td></tr>'
    for token in tokens
  )
  return (
    f'<div><h3>{_text(title)}</h3><table class="scores"><thead><tr>'
    '<th>token</th><td></td><td>nats</td><td>in corpus</td></tr></thead>'
    f'<tbody>{rows}</tbody></table></div>'
  )


def _passage_section(report: Report) -> str:
  passages = ''.join(
    f'<blockquote>{passage_html(passage)}</blockquote>'
    for passage in report.passages
  )
  return f'<p>{_text(report.passage_note)}</p>{passages}'


def passage_html(passage: Passage) -> str:
  """Returns a passage as running text, dropped tokens in `<s>`.

  Pieces of one word stand together, and neighbours of one kind share an
  element.
  """
  parts, is_kept_now, previous = [], True, ''
  for piece, is_kept in passage.pieces:
    space = ' ' if previous and _needs_space(previous, piece) else ''
    if is_kept != is_kept_now:
      parts.append('</s>' if is_kept else '')
      parts.append(space + ('' if is_kept else '<s>'))
      is_kept_now = is_kept
    else:
      parts.append(space)
    is_suffix = previous and _continues_a_word(piece)
    parts.append(_text(piece[2:] if is_suffix else piece))
    previous = piece
  return ''.join(parts) + ('' if is_kept_now else '</s>')


def _continues_a_word(piece: str) -> bool:
  return piece.startswith('##') and len(piece) > 2


def _needs_space(previous: str, piece: str) -> bool:
  if _continues_a_word(piece):
    return False
  if previous in {'(', '[', '{', '/', '-', '_'}:
    return False
  return piece not in set('.,;:!?)]}/-_%')


def _filled_section(report: Report) -> str:
  parts = []
  for sentence in report.filled:
    text = _text(sentence.text).replace('[MASK]', '<mark>[MASK]</mark>')
    rows = ''.join(_guesses(guesses) for guesses in sentence.predictions)
    answer = (
      f'<p class="note">In the text: <code>{_text(sentence.answer)}</code></p>'
      if sentence.answer
      else ''
    )
    parts.append(f'<div class="filled"><p>{text}</p>{rows}{answer}</div>')
  return (
    '<p>By the token-dropping model, on full sequences: nothing is '
    f'dropped.</p>{"".join(parts)}'
  )


def _guesses(guesses) -> str:
  items = ''.join(
    f'<li><code>{_text(token)}</code> {probability:.1%}</li>'
    for token, probability in guesses
  )
  return f'<ul class="guesses">{items}</ul>'


def _facts_section(report: Report) -> str:
  return ''.join(
    f'<details{" open" if index == 0 else ""}><summary>{_text(title)}</summary>'
    '<div class="scroll"><table class="facts">'
    + ''.join(
      f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
      for name, value in rows
    )
    + '</table></div></details>'
    for index, (title, rows) in enumerate(report.facts)
  )


def _commands_section(report: Report) -> str:
  return ''.join(
    f'<p>{_text(purpose)}</p><pre>{_text(command)}</pre>'
    for purpose, command in report.commands
  )


_STYLE = """
:root{--page:#fbfbfa;--card:#fff;--ink:#1c2024;--soft:#60666d;--line:#e3e4e2;
--plain:#5a6b85;--dropping:#0b7a6e;--entropy:#b45309;--gone:#b3b8bd;
--mark:#fdeebb}
@media (prefers-color-scheme:dark){:root{--page:#14171a;--card:#1b1f23;
--ink:#e6e8ea;--soft:#9aa3ac;--line:#2d3339;--plain:#9fb3d1;--dropping:#3fd0bb;
--entropy:#e8a552;--gone:#545c64;--mark:#5a4a12}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:860px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 1rem;text-wrap:balance}
h2{font-size:1.2rem;margin:0 0 .8rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:1.25rem 1.4rem;margin-top:1.25rem}
.verdict p{font-size:1.1rem;margin:.35rem 0}
.verdict.empty{border-left:4px solid var(--entropy);padding-left:.9rem}
.caveats{color:var(--soft);padding-left:1.1rem;margin:.8rem 0 0}
.note{color:var(--soft);font-size:.875rem;margin:.8rem 0 0}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
font-size:.88em}
pre{background:var(--page);border:1px solid var(--line);border-radius:8px;
padding:.7rem .9rem;overflow-x:auto;margin:.3rem 0 .9rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:500;text-align:left}
.results td,.results thead th{text-align:right;padding:.32rem .1rem .32rem 1rem;
white-space:nowrap}
.results tbody tr{border-top:1px solid var(--line)}
.results thead th{font-weight:650}
.results tbody th{padding:.32rem 0;min-width:11rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.3rem;padding:0;
margin:0 0 .5rem;font-size:.9rem}
.legend i{display:inline-block;width:1.5rem;border-top:3px solid;
vertical-align:middle;margin-right:.45rem}
.legend .plain i{border-color:var(--plain)}
.legend .dropping i{border-color:var(--dropping)}
.legend .dashed i{border-top:2px dashed var(--dropping)}
svg{width:100%;height:auto;display:block}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
fill:var(--soft)}
.narrow{display:none}
@media (max-width:560px){.narrow{display:block}.wide{display:none}
section{padding:1rem}main{padding:1.5rem .75rem 3rem}h1{font-size:1.5rem}
.results{font-size:.8rem}
.results td,.results thead th{padding-left:.45rem}
.results thead th{white-space:normal;vertical-align:bottom}
.results tbody th{min-width:6rem;line-height:1.25}}
.grid{stroke:var(--line)}
.entropy{stroke:var(--entropy);stroke-dasharray:6 4;stroke-width:1.5}
svg .entropy-label{fill:var(--entropy)}
polyline{fill:none;stroke-width:2.5;stroke-linejoin:round}
.plain polyline{stroke:var(--plain)}.plain circle{fill:var(--plain)}
.dropping polyline{stroke:var(--dropping)}.dropping circle{fill:var(--dropping)}
.dashed polyline{stroke:var(--dropping);stroke-width:1.5;stroke-dasharray:4 3}
.dashed circle{fill:var(--card);stroke:var(--dropping)}
.dots circle{fill:var(--dropping);opacity:.38}
svg .dot-label{fill:var(--ink);font-size:11.5px;paint-order:stroke;
stroke:var(--card);stroke-width:3px}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(250px,1fr));
gap:0 2rem}
.scores{font-size:.875rem}
.scores td{text-align:right;padding:.1rem 0 .1rem .7rem;white-space:nowrap}
.scores thead{color:var(--soft)}.scores thead th{font-weight:400}
.scores .bar{width:40%}
.bar i{display:block;height:.55rem;border-radius:3px;background:var(--dropping);
opacity:.75}
blockquote{margin:.9rem 0 0;padding:.1rem 0 .1rem .9rem;
border-left:3px solid var(--line);overflow-wrap:anywhere}
blockquote s{color:var(--gone);text-decoration:none}
mark{background:var(--mark);color:inherit;border-radius:4px;padding:0 .2rem}
.filled{border-top:1px solid var(--line);padding-top:.7rem;margin-top:.7rem}
.filled p{margin:0}
.guesses{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;
padding:0;margin:.35rem 0 0;color:var(--soft)}
.guesses code{color:var(--ink)}
details{border-top:1px solid var(--line);padding:.5rem 0}
details:first-of-type{border-top:0}
summary{cursor:pointer;font-weight:500}
.facts th{color:var(--soft);font-weight:400;padding:.15rem 1rem .15rem 0;
vertical-align:top;white-space:nowrap}
.facts td{overflow-wrap:anywhere}
""".strip()
