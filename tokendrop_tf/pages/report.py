"""The quickstart's report: one HTML page that needs nothing but itself."""

import dataclasses
from collections.abc import Iterable, Sequence

import tabulate

from tokendrop_tf.pages import charts, markup, run_curves
from tokendrop_tf.pages.markup import html

TITLE = 'Plain BERT and token dropping on the same text'


@dataclasses.dataclass(frozen=True)
class TokenScore:
  """A token of the importance table.

  Attributes:
    token: its text.
    importance: its entry in the table, in nats.
    count: how often it occurs in the corpus.
    converged: share of its start value that the entry has forgotten.
  """

  token: str
  importance: float
  count: int
  converged: float = 1.0


@dataclasses.dataclass(frozen=True)
class FilledSentence:
  """A sentence with [MASK] and the tokens that the models put there.

  Attributes:
    text: the sentence.
    predictions: by the name of a model, for every [MASK], (token, probability),
      best first.
    answer: the token that stood there, or ''.
  """

  text: str
  predictions: dict[str, Sequence[Sequence[tuple[str, float]]]]
  answer: str = ''


@dataclasses.dataclass(frozen=True)
class Report:
  """Everything on the page.

  Attributes:
    summary: the content of `summary.json`.
    verdict: the result, in sentences.
    caveats: the limits of the result, in sentences.
    curves: losses over the course of the runs.
    curves_note: how to read them.
    table_note: how to read the importance table.
    lists: tokens of the table, by the title of their list.
    scatter: a sample of the whole table, the most frequent first.
    passage_note: which tokens are grey.
    passages: validation text, as (token, whether it is kept) each.
    filled: sentences that the models filled in.
    facts: tables of (name, value), by title.
    commands: (purpose, command), to type next.
  """

  summary: dict
  verdict: Sequence[str]
  caveats: Sequence[str]
  curves: Sequence[charts.Curve]
  curves_note: str
  table_note: str
  lists: dict[str, Sequence[TokenScore]]
  scatter: Sequence[TokenScore]
  passage_note: str
  passages: Sequence[Sequence[tuple[str, bool]]]
  filled: Sequence[FilledSentence]
  facts: dict[str, Sequence[tuple[str, str]]]
  commands: Sequence[tuple[str, str]]


def render(report: Report) -> str:
  """Returns the page.

  Example:
    files.write_whole_file('report.html', render(report))
  """
  summary = report.summary
  is_empty = summary.get('is_comparison_empty')
  return markup.page(
    'report',
    title=TITLE,
    verdict_class='verdict empty' if is_empty else 'verdict',
    verdict=_each('<p>$item</p>\n', report.verdict),
    caveats=_each('<li>$item</li>\n', report.caveats),
    results=text_table(result_rows(summary)),
    unigram_entropy=f'{summary["unigram_entropy"]:.4f}',
    context_free_loss=f'{summary["context_free_loss"]:.4f}',
    times_note=summary.get('times_note', ''),
    legend=legend(report.curves),
    loss_chart=charts.loss_chart(
      report.curves,
      run_curves.distinct_baselines(
        summary['unigram_entropy'], summary['context_free_loss']
      ),
    ),
    curves_note=report.curves_note,
    table_note=report.table_note,
    table=_table(report),
    passage_note=report.passage_note,
    passages=[
      html('<blockquote>$text</blockquote>\n', text=passage_html(passage))
      for passage in report.passages
    ],
    filled=map(_filled, report.filled),
    facts=[
      facts_details(title, rows, is_open=not number)
      for number, (title, rows) in enumerate(report.facts.items())
    ],
    commands=[
      html('<p>$purpose</p><pre>$command</pre>\n', purpose=p, command=c)
      for p, c in report.commands
    ],
  )


def _each(template, items) -> list[markup.Html]:
  return [html(template, item=item) for item in items]


# The table of results, for the terminal and for the page.

_FORMATS = {
  'steps': ('steps', ',d'),
  'tokens': ('tokens', ',d'),
  'seconds per step': ('seconds_per_step', '.3f'),
  'training time, s': ('train_seconds', '.0f'),
  'multiply-adds, 10¹²': ('multiply_adds', '.1f'),
  'validation loss, full sequences': ('validation_loss', '.4f'),
  '... with dropping': ('validation_loss_dropping', '.4f'),
  '... gap, full minus dropping': ('full_sequence_gap', '+.4f'),
  '... context gain': ('context_gain', '+.4f'),
  'accuracy, full sequences': ('validation_accuracy', '.3f'),
}


def result_rows(summary: dict) -> list[tuple[str, ...]]:
  """Returns the header and the rows of the comparison, all text.

  Args:
    summary: the content of `summary.json`.
  """
  arms, ratios = summary['arms'], summary['ratios']
  rows = [('', *(arm['name'].replace('_', ' ') for arm in arms), 'ratio')]
  for title, (key, form) in _FORMATS.items():
    cells = [arm.get(key) for arm in arms]
    ratio = ratios.get(key)
    rows.append(
      (
        title,
        *('-' if cell is None else format(cell, form) for cell in cells),
        '' if ratio is None else f'{ratio:.3f}',
      )
    )
  return rows


def results_text(summary: dict) -> str:
  """Returns the comparison as a table for the terminal."""
  header, *rows = result_rows(summary)
  return tabulate.tabulate(
    rows,
    header,
    disable_numparse=True,
    colalign=('left', *['right'] * (len(header) - 1)),
  )


def text_table(rows: Sequence[Sequence[str]]) -> markup.Html:
  """Returns a header and rows, the first cell of each a title, as HTML."""
  header, *rows = rows
  return html(
    '<div class="scroll"><table class="results">'
    '<thead><tr><td>$corner</td>$head</tr></thead>\n'
    '<tbody>$body</tbody></table></div>',
    corner=header[0],
    head=_each('<th scope="col">$item</th>', header[1:]),
    body=[
      html(
        '<tr><th scope="row">$title</th>$cells</tr>\n',
        title=title,
        cells=_each('<td>$item</td>', cells),
      )
      for title, *cells in rows
    ],
  )


def legend(curves: Sequence[charts.Curve]) -> list[markup.Html]:
  """Returns the names of curves with their colours, as items of a list."""
  return [
    html(
      '<li class="$style"><i></i>$name</li>\n',
      style='dashed' if curve.is_dashed else curve.color,
      name=curve.name,
    )
    for curve in curves
  ]


def facts_details(
  title: str, rows: Iterable[tuple[str, str]], is_open: bool
) -> markup.Html:
  """Returns (name, value) pairs as a table that opens and closes."""
  return html(
    '<details$is_open><summary>$title</summary>\n$rows</details>\n',
    is_open=' open' if is_open else '',
    title=title,
    rows=facts_table(rows),
  )


def facts_table(rows: Iterable[tuple[str, str]]) -> markup.Html:
  """Returns (name, value) pairs as an HTML table."""
  return html(
    '<div class="scroll"><table class="facts">$rows</table></div>\n',
    rows=[
      html(
        '<tr><th scope="row">$name</th><td>$value</td></tr>\n', name=n, value=v
      )
      for n, v in rows
    ],
  )


# Sections.


def _table(report: Report) -> Sequence[markup.Html]:
  parts = []
  if report.lists:
    scores = [score for list_ in report.lists.values() for score in list_]
    highest = max(score.importance for score in scores)
    parts.append(
      html(
        '<div class="columns">$lists</div>\n',
        lists=[
          _score_list(title, list_, highest)
          for title, list_ in report.lists.items()
        ],
      )
    )
  dots = [
    charts.Dot(
      score.count,
      score.importance,
      score.token,
      f'{score.token}: {score.importance:.2f} nats, {score.count:,} times, '
      f'{score.converged:.0%} converged',
      is_faint=score.converged < CONVERGED,
    )
    for score in report.scatter
    if score.count
  ]
  if dots:
    parts.append(
      html(
        '<h3>The whole table</h3>\n$chart<p class="note">Empty dots are '
        'entries that still stand near their start value.</p>',
        chart=charts.scatter_chart(
          dots,
          'times in the corpus',
          'nats',
          'Importance of every token against how often it occurs',
        ),
      )
    )
  return parts


# An entry that has forgotten this share of its start value is learnt.
CONVERGED = 1.0 - 2.718281828**-1


def _score_list(title, scores, highest) -> markup.Html:
  return html(
    '<div><h3>$title</h3><table class="scores"><thead><tr><th>token</th>'
    '<td></td><td>nats</td><td>in corpus</td><td>converged</td></tr></thead>\n'
    '<tbody>$rows</tbody></table></div>',
    title=title,
    rows=[
      html(
        '<tr><th scope="row"><code>$token</code></th><td class="bar">'
        '<i style="width:$width%"></i></td><td>$importance</td><td>$count</td>'
        '<td>$converged</td></tr>\n',
        token=score.token,
        width=f'{100 * score.importance / highest:.1f}',
        importance=f'{score.importance:.2f}',
        count=f'{score.count:,}',
        converged=f'{score.converged:.0%}',
      )
      for score in scores
    ],
  )


def passage_html(pieces: Sequence[tuple[str, bool]]) -> markup.Html:
  """Returns a passage as running text, dropped tokens in `<s>`.

  Pieces of one word stand together, and neighbours of one kind share an
  element.

  Args:
    pieces: (token, whether it is kept) each.
  """
  parts, is_kept_now, previous = [], True, ''
  for piece, is_kept in pieces:
    space = ' ' if previous and _needs_space(previous, piece) else ''
    if is_kept != is_kept_now:
      parts += [markup.Html('</s>'), space] if is_kept else [space, _STRUCK]
      is_kept_now = is_kept
    else:
      parts.append(space)
    is_suffix = previous and _continues_a_word(piece)
    parts.append(piece[2:] if is_suffix else piece)
    previous = piece
  parts.append(markup.Html('' if is_kept_now else '</s>'))
  return html('$parts', parts=parts)


_STRUCK = markup.Html('<s>')


def _continues_a_word(piece: str) -> bool:
  return piece.startswith('##') and len(piece) > 2


def _needs_space(previous: str, piece: str) -> bool:
  if _continues_a_word(piece):
    return False
  if previous in {'(', '[', '{', '/', '-', '_'}:
    return False
  return piece not in set('.,;:!?)]}/-_%')


def _filled(sentence: FilledSentence) -> markup.Html:
  before, *rest = sentence.text.split('[MASK]')
  text = [before]
  for part in rest:
    text += [markup.Html('<mark>[MASK]</mark>'), part]
  answer = ''
  if sentence.answer:
    answer = html(
      '<p class="note">In the text: <code>$answer</code></p>',
      answer=sentence.answer,
    )
  return html(
    '<div class="filled"><p>$text</p><dl class="guesses">$rows</dl>'
    '$answer</div>\n',
    text=text,
    rows=[
      html(
        '<dt>$name</dt><dd>$guesses</dd>\n', name=name, guesses=_guesses(row)
      )
      for name, rows in sentence.predictions.items()
      for row in rows
    ],
    answer=answer,
  )


def _guesses(guesses) -> list[markup.Html]:
  return [
    html('<span><code>$token</code> $share</span> ', token=t, share=f'{p:.1%}')
    for t, p in guesses
  ]
