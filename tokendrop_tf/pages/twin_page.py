"""The report of a twin: a page, and the same figures for the terminal."""

from collections.abc import Sequence

import tabulate

from tokendrop_tf.pages import arms as arms_lib
from tokendrop_tf.pages import (
  charts,
  markup,
  report,
  run_curves,
  twin_results,
)
from tokendrop_tf.pages.markup import html

_RESULTS_NOTE = (
  'Losses are in nats per label, on full sequences, where all labels show '
  '[MASK] if nothing else is said below; means over seeds, the lowest and the '
  'highest in brackets. Tokens include padding. Multiply-adds are counted from '
  'the shapes, the backward pass as two forward passes. Reading begins 0.05 '
  'below the least loss without a look at other tokens. '
)
_CURVES_NOTE = (
  'Lines are means over seeds, bands go from the lowest to the highest. The '
  'learning rate falls until the last step, so losses before it are higher '
  'than those of a shorter run that ends there.'
)
_TASKS_NOTE = (
  'Medians over seeds of the last validation, after full fine-tuning on full '
  'sequences; in brackets the bootstrap interval (95 %) of the median. The '
  'learning rate was chosen for each start on the validation data, with one '
  'seed, so scores are a little high, for all alike.'
)


# The tables.


def result_rows(summary: dict) -> list[tuple[str, ...]]:
  """Returns the header and the rows of the comparison, all text.

  Args:
    summary: the content of `summary.json`.
  """
  arms, first = summary['arms'], summary['arms'][0]
  rows = {
    'runs': [str(arm['num_runs']) for arm in arms],
    'steps': [f'{arm["steps"]:,}' for arm in arms],
    'tokens': [f'{arm["tokens"]:,.0f}' for arm in arms],
    'loss, full sequences': [_spread(arm['validation_loss']) for arm in arms],
    '... gap, full minus dropping': [
      _spread(arm['full_sequence_gap'], '+.4f') for arm in arms
    ],
    '... context gain': [_spread(arm['context_gain'], '+.3f') for arm in arms],
    'accuracy': [_spread(arm['validation_accuracy']) for arm in arms],
    'tokens until reading, 10⁶': [
      _each(arm['tokens_until_reading']) for arm in arms
    ],
    'multiply-adds, 10¹²': [
      _with_ratio(arm, first, 'multiply_adds', ',.0f') for arm in arms
    ],
  }
  if summary['times_compare']:
    rows |= {
      'time of all steps, s': [
        _with_ratio(arm, first, 'train_seconds', ',.0f') for arm in arms
      ],
      'loss after as much time': [
        _number(arm['loss_at_equal_time'], '.3f') for arm in arms
      ],
    }
  for title, key, total in (
    ('tokens', 'tokens_to_baseline_loss', 'tokens'),
    ('multiply-adds', 'multiply_adds_to_baseline_loss', 'multiply_adds'),
    ('time', 'seconds_to_baseline_loss', 'train_seconds'),
  ):
    if key.startswith('seconds') and not summary['times_compare']:
      continue
    rows[f'{title} to the loss of {first["name"]}, share'] = [
      _number(arm[key] and arm[key] / first[total], '.3f') for arm in arms
    ]
  return [
    ('', *(arm['name'] for arm in arms)),
    *((title, *cells) for title, cells in rows.items()),
  ]


def _number(value, form) -> str:
  return '-' if value is None else format(value, form)


def _spread(spread, form='.3f') -> str:
  if not spread:
    return '-'
  text = format(spread['mean'], form)
  if len(spread['values']) == 1:
    return text
  return f'{text} ({spread["low"]:{form}} to {spread["high"]:{form}})'


def _each(tokens) -> str:
  if not tokens:
    return '-'
  return ', '.join('never' if t is None else f'{1e-6 * t:.2f}' for t in tokens)


def _with_ratio(arm, first, key, form) -> str:
  if arm[key] is None or not first[key]:
    return '-'
  text = format(arm[key], form)
  if arm is first:
    return text
  return f'{text} ({arm[key] / first[key]:.2f})'


def task_rows(summary: dict) -> list[tuple[str, ...]]:
  """Returns the header and the rows of all tasks, all text.

  Args:
    summary: the content of `summary.json`.
  """
  tasks = summary['tasks']
  names = dict.fromkeys(s['name'] for task in tasks for s in task['scores'])
  scores = [{s['name']: s for s in task['scores']} for task in tasks]
  rows = [
    (name, *(_score(task.get(name)) for task in scores)) for name in names
  ]
  rows += [
    (
      'most frequent label',
      *(_number(task['majority'], '.3f') for task in tasks),
    ),
    (
      'counted',
      *('no: at chance' if task['is_at_chance'] else 'yes' for task in tasks),
    ),
  ]
  titles = [f'{t["name"]}, {t["metric"].replace("_", " ")}' for t in tasks]
  return [('', *titles), *rows]


def _score(score) -> str:
  if score is None:
    return '-'
  low, high = score['interval']
  return (
    f'{score["median"]:.3f} ({low:.3f} to {high:.3f}), '
    f'rate {score["learning_rate"]}'
  )


def as_text(summary: dict) -> str:
  """Returns the comparison for the terminal.

  Args:
    summary: the content of `summary.json`.
  """
  parts = [_as_table(result_rows(summary))]
  if summary['tasks']:
    parts.append(_as_table(task_rows(summary)))
  if summary['step_times']:
    parts.append(f'a step: {summary["step_times"]}')
  return '\n\n'.join([*parts, '\n'.join(twin_results.verdict(summary))])


def _as_table(rows) -> str:
  header, *body = rows
  return tabulate.tabulate(
    body,
    header,
    disable_numparse=True,
    colalign=('left', *['right'] * (len(header) - 1)),
  )


# The page.


def render(
  twin: arms_lib.Declaration,
  arms: Sequence[twin_results.ArmCurve],
  summary: dict,
) -> str:
  """Returns the page.

  Args:
    twin: the declaration.
    arms: the curves of all arms.
    summary: the content of `summary.json`.
  """
  curves = draw_curves(arms)
  times = (
    f'Steps took turns on this machine, so what slows it slows all; median and '
    f'half the distance between the quartiles: {summary["step_times"]}.'
    if summary['times_compare']
    else 'Times are not compared yet.'
  )
  title = f'{" and ".join([summary["baseline_arm"], _others(summary)])}'
  return markup.page(
    'twin',
    title=title,
    verdict=_each_in('<p>$line</p>\n', twin_results.verdict(summary)),
    caveats=_each_in('<li>$line</li>\n', caveats(summary)),
    results=report.text_table(result_rows(summary)),
    results_note=_RESULTS_NOTE + times,
    legend=report.legend(curves),
    loss_chart=charts.loss_chart(curves, _baselines(summary)),
    curves_note=_CURVES_NOTE,
    tasks=_tasks_section(summary) if summary['tasks'] else '',
    equal=html(
      '<h3>Equal in all runs</h3>\n$table',
      table=report.facts_table(summary['equal_settings'].items()),
    ),
    different=_different(summary),
    facts=[
      report.facts_details(title, summary[key].items(), is_open=not number)
      for number, (title, key) in enumerate(
        (('Machine', 'machine'), ('Versions', 'versions'))
      )
    ],
    commands=_commands(summary),
  )


def _each_in(template, lines) -> list[markup.Html]:
  return [html(template, line=line) for line in lines]


def _others(summary) -> str:
  others = [arm['name'] for arm in summary['arms'][1:]]
  return others[0] if len(others) == 1 else f'{len(others)} other arms'


def caveats(summary: dict) -> list[str]:
  """Returns the limits of the comparison, in sentences."""
  single = [a['name'] for a in summary['arms'] if a['num_runs'] == 1]
  lines = []
  if single:
    lines.append(
      f'One seed of {", ".join(single)}: small differences can be chance.'
    )
  return lines


def draw_curves(arms: Sequence[twin_results.ArmCurve]) -> list[charts.Curve]:
  """Returns the curves of all arms on the axes that all of them have."""
  axes = [a for a in arms[0].places() if all(a in arm.places() for arm in arms)]
  curves = []
  for number, arm in enumerate(arms):
    losses, places = arm.losses(), arm.places()
    curves.append(
      charts.Curve(
        arm.name,
        losses.mean(axis=0).tolist(),
        {axis: places[axis] for axis in axes},
        charts.PALETTE[number % len(charts.PALETTE)],
        band=(losses.min(axis=0), losses.max(axis=0))
        if len(losses) > 1
        else None,
      )
    )
  return curves


def _baselines(summary) -> dict[str, float]:
  if summary['unigram_entropy'] is None:
    return {}
  return run_curves.distinct_baselines(
    summary['unigram_entropy'], summary['context_free_loss']
  )


def _tasks_section(summary) -> markup.Html:
  return html(
    '\n<section>\n<h2>Downstream</h2>\n$table\n'
    '<p class="note">$note</p>\n</section>\n',
    table=report.text_table(task_rows(summary)),
    note=_TASKS_NOTE,
  )


def _different(summary) -> markup.Html:
  names = [arm['name'] for arm in summary['arms']]
  rows = [
    (setting, *(_setting_text(by_arm.get(name)) for name in names))
    for setting, by_arm in summary['different_settings'].items()
  ]
  if not rows:
    return html('<p>$text</p>', text='No setting differs but the seeds.')
  return html(
    '<h3>Different</h3>\n$table', table=report.text_table([('', *names), *rows])
  )


def _setting_text(value) -> str:
  if isinstance(value, list) and not value:
    return '()'
  if isinstance(value, list):
    return ', '.join(map(str, value))
  return str(value)


def _commands(summary) -> list[markup.Html]:
  return [
    html(
      '<details><summary>$name</summary><pre>$command</pre></details>\n',
      name=name,
      command=command,
    )
    for name, command in summary['commands'].items()
  ]
