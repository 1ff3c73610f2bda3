"""The results of a quickstart, read from the folders of its two runs."""

import os
from collections.abc import Sequence

from tokendrop_tf import dropping
from tokendrop_tf.config import configs
from tokendrop_tf.data import baselines
from tokendrop_tf.dropping import cost
from tokendrop_tf.export import load_model
from tokendrop_tf.pages import (
  charts,
  environment,
  quickstart_plan,
  report,
  run_curves,
  table_view,
  validation_text,
)
from tokendrop_tf.serving import fill_mask

# Names of the arms, and what sentences call them.
NAMES = {'plain': 'plain BERT', 'token_dropping': 'token dropping'}
# Questions to the models about the embedded text.
SENTENCES = (
  'Returns a [MASK] of all files in the directory.',
  'If the argument is not [MASK], an exception is raised.',
)
_TIMES_NOTE = (
  'Times are steps times the median of a step; steps of both arms took turns '
  'on this machine, so what slows it slows both. Median and spread, half the '
  'distance between the quartiles: '
)
_BUSY_NOTE = (
  'This machine did other work while the steps were timed, so times are not '
  'compared. The same command on an idle machine compares them.'
)


def read_runs(
  output: str, plan: quickstart_plan.Plan
) -> list[run_curves.RunCurve]:
  """Reads both arms, with the step times of the plan.

  Args:
    output: folder of the quickstart.
    plan: its plan.
  """
  return [
    run_curves.read_run(
      name, os.path.join(output, name), plan.speeds.medians[name]
    )
    for name in NAMES
  ]


def summarize(
  runs: Sequence[run_curves.RunCurve],
  found: baselines.Baselines,
  plan: quickstart_plan.Plan,
) -> dict:
  """Returns the comparison of two runs, as `summary.json` holds it.

  Args:
    runs: the plain run and the token-dropping run.
    found: baselines of the validation labels.
    plan: of the quickstart.

  Returns:
    dict of `unigram_entropy`; `context_free_loss`; `loss_to_beat`, which both
    arms must reach or `is_comparison_empty`; `times_compare`; `arms`, one dict
    a run; `ratios` of the second arm to the first; and the plan's settings.
  """
  unigram_entropy = found.unigram_entropy
  arms = [_summarize_arm(run, found) for run in runs]
  loss_to_beat = found.reading_loss
  compared = ['multiply_adds', 'validation_loss', 'validation_accuracy']
  if plan.is_quiet:
    compared += ['seconds_per_step', 'train_seconds']
  return {
    'unigram_entropy': unigram_entropy,
    'context_free_loss': found.context_free_loss,
    'loss_to_beat': loss_to_beat,
    'is_comparison_empty': any(
      arm['validation_loss'] > loss_to_beat for arm in arms
    ),
    'times_compare': plan.is_quiet,
    'times_note': times_note(plan),
    'arms': arms,
    'ratios': {name: _ratio(arms, name) for name in compared},
    'corpus': plan.corpus,
    'minutes': plan.minutes,
    'seed': plan.seed,
    'steps_from': plan.steps_from,
    'fork_step': plan.fork_step,
    'will_read': plan.will_read,
    'machine': environment.machine(),
    'versions': environment.versions(),
  }


def times_note(plan: quickstart_plan.Plan) -> str:
  """Returns how steps were timed, or why times are not compared."""
  if not plan.is_quiet:
    return _BUSY_NOTE
  return _TIMES_NOTE + plan.speeds.describe()


def _ratio(arms, name) -> float | None:
  first, second = (arm[name] for arm in arms)
  return second / first if first else None


def _summarize_arm(
  run: run_curves.RunCurve, found: baselines.Baselines
) -> dict:
  last, loss = run.validations[-1], run.full[-1]
  return {
    'name': run.name,
    'model_dir': run.model_dir,
    'steps': last['step'],
    'tokens': last['tokens'],
    'seconds_per_step': run.seconds[-1] / last['step'],
    'train_seconds': run.seconds[-1],
    'multiply_adds': run.costs.until(last['step']) if run.costs else None,
    'validation_loss': loss,
    'validation_accuracy': last['masked_lm_accuracy'],
    'validation_loss_dropping': last.get('lm_example_loss_dropping'),
    'full_sequence_gap': last.get('full_sequence_gap'),
    'context_gain': found.context_free_loss - loss,
  }


def verdict(summary: dict, runs: Sequence[run_curves.RunCurve]) -> list[str]:
  """Returns in sentences what the comparison shows, or that it shows nothing.

  Args:
    summary: what `summarize` gave.
    runs: the plain run and the token-dropping run.
  """
  if summary['is_comparison_empty']:
    return [*_empty_sentences(summary), *_speed_sentences(summary)]
  named = [
    run_curves.renamed(run, NAMES.get(run.name, run.name)) for run in runs
  ]
  return run_curves.verdict(*named, times_compare=summary['times_compare'])


def _speed_sentences(summary):
  if not summary['times_compare']:
    return []
  saved = 1.0 - summary['ratios']['seconds_per_step']
  more_or_less = 'less' if saved > 0.0 else 'more'
  return [
    f'Token dropping took {abs(saved):.0%} {more_or_less} time a step than '
    'plain BERT.'
  ]


def _empty_sentences(summary):
  worst = max(summary['arms'], key=lambda arm: arm['validation_loss'])
  announced = '' if summary['will_read'] else ', as was said before it began'
  return [
    f'The comparison of losses is empty{announced}: the full-sequence loss of '
    f'{NAMES.get(worst["name"], worst["name"])} is '
    f'{worst["validation_loss"]:.2f}, and a model that looks at no other token '
    f'can reach {summary["context_free_loss"]:.2f}. Below '
    f'{summary["loss_to_beat"]:.2f} a model is called reading.',
    'Give both runs more time: set QUICKSTART_MINUTES.',
  ]


def caveats(task) -> list[str]:
  """Returns the limits of a run of this size.

  Args:
    task: `configs.PretrainingTaskConfig` of the token-dropping arm.
  """
  model = task.model
  # The defaults are a BERT-base at 512 tokens.
  base = configs.PretrainingTaskConfig()
  base.model.vocab_size = 30_522
  of_base = cost.expected_saving(base)
  return [
    'One seed and a short training: differences of a few hundredths of a nat '
    'can be chance.',
    f'{model.num_layers} layers of width {model.hidden_size} at '
    f'{task.train_data.seq_length} tokens: counted in multiply-adds, '
    f'dropping saves {cost.expected_saving(task):.0%} here; a '
    f'BERT-base at 512 tokens saves {of_base:.0%}.',
  ]


def filled_sentences(
  models: dict[str, load_model.LoadedModel],
  sentences: Sequence[tuple[str, str]],
) -> list[report.FilledSentence]:
  """Lets all models fill in sentences.

  Args:
    models: by the name of their arm.
    sentences: (text with [MASK], answer or '') each.
  """
  return [
    report.FilledSentence(
      text,
      {
        NAMES.get(name, name): fill_mask.fill_mask(model, text)
        for name, model in models.items()
      },
      answer,
    )
    for text, answer in sentences
  ]


def build_report(
  summary: dict,
  runs: Sequence[run_curves.RunCurve],
  trained: load_model.LoadedModel,
  filled: Sequence[report.FilledSentence],
  rows,
  commands: Sequence[tuple[str, str]],
) -> report.Report:
  """Gathers the page.

  Args:
    summary: the content of `summary.json`.
    runs: the plain run and the token-dropping run.
    trained: the model of the token-dropping run.
    filled: sentences that both models filled in.
    rows: validation text, int32 [n, S].
    commands: (purpose, command), to type next.
  """
  task = trained.params.task
  table = table_view.ImportanceTable.read(trained)
  return report.Report(
    summary=summary,
    verdict=verdict(summary, runs),
    caveats=caveats(task),
    curves=curves(runs, summary),
    curves_note=_curves_note(summary),
    table_note=table.note() if table else _no_table_note(task),
    lists=table.lists() if table else {},
    scatter=table.sample() if table else (),
    passage_note=_passage_note(task),
    passages=validation_text.passages(trained, rows),
    filled=filled,
    facts=facts(summary, trained),
    commands=commands,
  )


def curves(
  runs: Sequence[run_curves.RunCurve], summary: dict
) -> list[charts.Curve]:
  """Returns the curves of the page: the common part, and the fork.

  Args:
    runs: the plain run and the token-dropping run.
    summary: what `summarize` gave.
  """
  plain, dropping_run = runs
  axes = [
    axis
    for axis in plain.places()
    if axis != run_curves.SECONDS or summary['times_compare']
  ]
  shared = sum(step <= summary['fork_step'] for step in dropping_run.steps)
  # Both arms begin at the last validation that they share.
  fork = max(shared - 1, 0)

  def curve(name, run, losses, part, color, **settings):
    places = {axis: run.places()[axis][part] for axis in axes}
    return charts.Curve(name, losses, places, color, **settings)

  after, before = slice(fork, None), slice(0, shared)
  found = [
    curve('plain BERT', plain, plain.full[after], after, 'plain'),
    curve(
      'token dropping',
      dropping_run,
      dropping_run.full[after],
      after,
      'dropping',
    ),
  ]
  if len(dropping_run.dropping) == len(dropping_run.full):
    found.append(
      curve(
        'token dropping, read with dropping on',
        dropping_run,
        dropping_run.dropping[after],
        after,
        'dropping',
        is_dashed=True,
      )
    )
  if shared > 1:
    found.insert(
      0,
      curve(
        'both, until dropping begins',
        dropping_run,
        dropping_run.full[before],
        before,
        'ink',
      ),
    )
  return found


def _curves_note(summary) -> str:
  text = 'Losses on full sequences, where nothing else is said.'
  if summary['fork_step']:
    text += (
      f' Dropping begins at step {summary["fork_step"]:,}; until then both '
      'arms are one run, trained once.'
    )
  if summary['times_compare']:
    return text + ' Time is that of the train steps alone.'
  return f'{text} {_BUSY_NOTE}'


def _no_table_note(task) -> str:
  return (
    f'The policy {task.token_drop.policy!r} fills no table: it needs '
    'none to choose what it drops.'
  )


def _passage_note(task) -> str:
  drop, seq_length = task.token_drop, task.train_data.seq_length
  note = (
    'Passages of text that no run was trained on. In steps that drop, of '
    f'{seq_length} tokens the {drop.token_keep_k} with the highest entries '
    'are kept; the grey ones skip the middle layers.'
  )
  if not dropping.Dropping.of(task).importance.has_scores:
    return note + f' Here the policy is {drop.policy}, and so is the choice.'
  if drop.temperature > 0.0:
    note += (
      f' In training the kept tokens were drawn, at temperature '
      f'{drop.temperature:g}: a grey token was dropped more often than '
      'a black one, but not always.'
    )
  return note


def facts(
  summary: dict, trained: load_model.LoadedModel
) -> dict[str, list[tuple[str, str]]]:
  """Returns the tables of settings, machine and versions, by title."""
  task, trainer = trained.params.task, trained.params.trainer
  model, drop, data = task.model, task.token_drop, task.train_data
  settings = {
    'model': f'{model.num_layers} layers x {model.hidden_size}, '
    f'{model.num_attention_heads} heads, vocabulary {model.vocab_size:,}',
    'blocks': f'{"pre" if model.norm_first else "post"}-norm, initial '
    f'standard deviation {model.initializer_range:g}, residual branches '
    f'start at {model.residual_initializer_scale:g} of it',
    'text': summary.get('corpus')
    or 'documentation strings of the installed Python packages',
    'batch': f'{data.global_batch_size} x {data.seq_length} tokens, '
    f'{data.max_predictions_per_seq} masked in each',
    'steps': f'{trainer.train_steps:,} for each arm, {summary["steps_from"]}',
    'dropping': f'policy {drop.policy}, '
    f'{dropping.Dropping.of(task).describe_kept()}, temperature '
    f'{drop.temperature:g}, table decays by {drop.token_loss_beta:g}',
    'seed': str(task.seed),
  }
  return {
    'Settings': list(settings.items()),
    'Machine': list(environment.machine().items()),
    'Versions': list(environment.versions().items()),
  }
