"""What the quickstart reports: read from the folders of its two runs.

Letters: S sequence length, K tokens kept, V vocabulary.
"""

import dataclasses
import functools
import importlib.metadata
import os
import platform
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

import tokendrop_tf
from tokendrop_tf import (
  errors,
  fill_mask,
  keep_schedule,
  progress,
  report,
  run_times,
  step_cost,
)
from tokendrop_tf.data import label_levels, loader
from tokendrop_tf.data import vocabulary as vocabulary_lib

# Below the unigram entropy by less than this, a model knows little more than
# how frequent tokens are, and a comparison of two such models says nothing.
LEAST_NATS_LEARNED = 0.4

NUM_LISTED_TOKENS = 15
NUM_PASSAGES = 5
NUM_SENTENCES = 2
MAX_SCATTERED_TOKENS = 1200
_ROWS_TO_CHOOSE_FROM = 200

# What the model is asked about the embedded text.
SENTENCES = (
  'Returns a [MASK] of all files in the directory.',
  'If the argument is not [MASK], an exception is raised.',
)


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished training run.

  Attributes:
    name: 'plain' or 'token_dropping'.
    model_dir: its folder.
    records: the lines of its `metrics.jsonl`.
    stretches: the step with which every stretch of its keep schedule begins.
  """

  name: str
  model_dir: str
  records: tuple[dict, ...]
  stretches: tuple[int, ...] = (0,)

  @classmethod
  def read(cls, name: str, model_dir: str) -> 'Run':
    """Reads a run.

    Raises:
      TrainingError: if it was never validated.
    """
    path = os.path.join(model_dir, progress.METRICS_FILE)
    run = cls(
      name,
      model_dir,
      tuple(progress.read_metrics(path)),
      run_times.first_steps_of(model_dir),
    )
    if not run.validations:
      raise errors.TrainingError(
        f'A run must end with a validation. Received: none in {path}. Remove '
        f'{model_dir} and start again.'
      )
    return run

  @property
  def validations(self) -> list[dict]:
    return [record for record in self.records if record['kind'] == 'validation']

  @functools.cached_property
  def times(self) -> run_times.StepTimes:
    return run_times.measured(self.records, self.stretches)

  @property
  def train_seconds(self) -> float:
    """Seconds of warm train steps up to the last validation."""
    return self.times.until(self.validations[-1]['step'])

  def curve(self, metric: str) -> tuple[tuple[float, float], ...]:
    """Returns (seconds in warm train steps, metric) of every validation."""
    return tuple(
      (self.times.until(record['step']), record[metric])
      for record in self.validations
      if metric in record
    )


def summarize(runs: Sequence[Run], levels: label_levels.LabelLevels) -> dict:
  """Returns the comparison of two runs, as `summary.json` holds it.

  Args:
    runs: the plain run and the token-dropping run.
    levels: of the validation labels.

  Returns:
    dict of `unigram_entropy`; `context_free_loss`; `loss_to_beat`, which both
    arms must reach or `is_comparison_empty`; `arms`, one dict a run; `ratios`
    of the second arm to the first.
  """
  unigram_entropy = levels.unigram_entropy
  arms = [_summarize_arm(run, unigram_entropy) for run in runs]
  first, second = arms
  loss_to_beat = unigram_entropy - LEAST_NATS_LEARNED
  return {
    'unigram_entropy': unigram_entropy,
    'context_free_loss': levels.context_free_loss,
    'loss_to_beat': loss_to_beat,
    'is_comparison_empty': any(
      arm['validation_loss'] > loss_to_beat for arm in arms
    ),
    'arms': arms,
    'ratios': {
      name: second[name] / first[name] if first[name] else None
      for name in (
        'seconds_per_step',
        'train_seconds',
        'validation_loss',
        'validation_accuracy',
      )
    },
  }


def _summarize_arm(run: Run, unigram_entropy: float) -> dict:
  last = run.validations[-1]
  return {
    'name': run.name,
    'model_dir': run.model_dir,
    'steps': last['step'],
    'tokens': last['tokens'],
    'seconds_per_step': run.train_seconds / last['step'],
    'train_seconds': run.train_seconds,
    'validation_loss': last['validation_loss'],
    'validation_accuracy': last['masked_lm_accuracy'],
    'validation_loss_dropping': last.get('lm_example_loss_dropping'),
    'full_sequence_gap': last.get('full_sequence_gap'),
    'nats_learned': unigram_entropy - last['validation_loss'],
  }


def verdict(summary: dict) -> tuple[str, ...]:
  """Says in sentences what the comparison shows, or that it shows nothing."""
  first, second = summary['arms']
  if summary['is_comparison_empty']:
    worst = max(summary['arms'], key=lambda arm: arm['validation_loss'])
    return (
      'The comparison is empty: the full-sequence loss of '
      f'{_label(worst)} is {worst["validation_loss"]:.2f}, '
      f'{_distance(worst["nats_learned"])} the unigram entropy. At least '
      f'{LEAST_NATS_LEARNED} nats below it, {summary["loss_to_beat"]:.2f}, '
      'are needed to say that a model has learnt.',
      'Give both runs more time: set QUICKSTART_MINUTES.',
    )
  saved = 1.0 - second['seconds_per_step'] / first['seconds_per_step']
  speed = (
    f'{saved:.0%} less time a step than plain BERT'
    if saved > 0.0
    else f'{-saved:.0%} more time a step than plain BERT'
  )
  difference = second['validation_loss'] - first['validation_loss']
  side = 'higher' if difference > 0.0 else 'lower'
  gap = ''
  if second['full_sequence_gap'] is not None:
    gap = (
      ' Read with dropping on, its own loss is '
      f'{second["validation_loss_dropping"]:.3f}, a full-sequence gap of '
      f'{second["full_sequence_gap"]:+.3f}.'
    )
  return (
    f'Token dropping took {speed}.',
    f'After the same {second["steps"]:,} steps on the same text, its loss on '
    f'full sequences is {second["validation_loss"]:.3f}; that of plain BERT '
    f'is {first["validation_loss"]:.3f}: {abs(difference):.3f} nats {side}.'
    + gap,
    *_context_note(summary),
  )


def _context_note(summary: dict) -> tuple[str, ...]:
  """Says so where an arm has not yet shown that it reads the context."""
  level = summary['context_free_loss']
  above = [
    _label(arm) for arm in summary['arms'] if arm['validation_loss'] >= level
  ]
  if not above:
    return ()
  return (
    f'A model that looks at no other token can reach {level:.2f}: '
    f'{" and ".join(above)} ended above that, so this run compares how fast '
    'the arms learn which tokens are frequent, not yet how well they read. '
    'QUICKSTART_MINUTES=60 gives them time for it.',
  )


def _label(arm: dict) -> str:
  return {'plain': 'plain BERT', 'token_dropping': 'token dropping'}.get(
    arm['name'], arm['name']
  )


def _distance(nats_below: float) -> str:
  side = 'below' if nats_below >= 0.0 else 'above'
  return f'{abs(nats_below):.2f} nats {side}'


def caveats(task) -> tuple[str, ...]:
  """Says what a run of this size cannot show.

  Args:
    task: `configs.PretrainingTaskConfig` of the token-dropping arm.
  """
  model = task.model
  return (
    'One seed and a short training: differences of a few hundredths of a nat '
    'can be chance.',
    f'{model.num_layers} layers of width {model.hidden_size} at '
    f'{task.train_data.seq_length} tokens: counted in multiply-adds, '
    f'dropping saves {step_cost.expected_saving(task):.0%} here; a '
    'BERT-base at 512 tokens saves 24%.',
  )


# What the table learned.


@dataclasses.dataclass(frozen=True)
class ImportanceTable:
  """The importance table of a checkpoint, ready to be read.

  Attributes:
    values: float32 [V], in nats.
    counts: of every token in the corpus, int64 [V].
    expected_updates: steps in which the token is a label, on average, [V].
    memory: updates after which the start value has faded to 1 / e.
    ordinary_ids: ids of the tokens that are not special.
    tokens: text of every token.
  """

  values: np.ndarray
  counts: np.ndarray
  expected_updates: np.ndarray
  memory: float
  ordinary_ids: np.ndarray
  tokens: tuple[str, ...]

  @classmethod
  def read(cls, trained: fill_mask.TrainedModel) -> 'ImportanceTable | None':
    """Returns the table; `None` where the model has none that moves."""
    importance = trained.model.encoder_network.token_importance
    task = trained.params.task
    if importance is None or task.token_drop.policy == 'random':
      return None
    vocabulary = trained.vocabulary
    counts = vocabulary_lib.read_token_counts(
      task.vocabulary.counts_path
      or vocabulary_lib.counts_path_for(task.vocabulary.path),
      vocabulary,
    )
    return cls(
      values=importance.table.numpy(),
      counts=counts,
      expected_updates=expected_updates(
        counts,
        vocabulary.ordinary_ids,
        labels_per_step=task.train_data.global_batch_size
        * task.train_data.max_predictions_per_seq,
        steps=trained.params.trainer.train_steps,
      ),
      memory=1.0 / (1.0 - task.token_drop.token_loss_beta),
      ordinary_ids=vocabulary.ordinary_ids,
      tokens=vocabulary.tokens,
    )

  @property
  def settled_ids(self) -> np.ndarray:
    """Ordinary ids whose entry has mostly forgotten the start value.

    With too few of them, the most frequent tokens stand in.
    """
    ids = self.ordinary_ids
    settled = ids[self.expected_updates[ids] >= self.memory]
    least = 2 * NUM_LISTED_TOKENS
    if len(settled) >= least:
      return settled
    return ids[np.argsort(-self.counts[ids], kind='stable')[:least]]

  def scores(self, ids) -> tuple[report.TokenScore, ...]:
    return tuple(
      report.TokenScore(
        self.tokens[i], float(self.values[i]), int(self.counts[i])
      )
      for i in ids
    )

  def dropped_first(self) -> tuple[report.TokenScore, ...]:
    """The lowest entries of ordinary tokens, lowest first."""
    ids = self.ordinary_ids
    order = np.argsort(self.values[ids], kind='stable')
    return self.scores(ids[order[:NUM_LISTED_TOKENS]])

  def kept_longest(self) -> tuple[report.TokenScore, ...]:
    """The highest settled entries, highest first."""
    ids = self.settled_ids
    order = np.argsort(-self.values[ids], kind='stable')
    return self.scores(ids[order[:NUM_LISTED_TOKENS]])

  def sample(self) -> tuple[report.TokenScore, ...]:
    """Tokens of all frequencies: the most frequent half of the limit, then
    evenly spaced ones."""
    ids = self.ordinary_ids[self.counts[self.ordinary_ids] > 0]
    ids = ids[np.argsort(-self.counts[ids], kind='stable')]
    if len(ids) > MAX_SCATTERED_TOKENS:
      half = MAX_SCATTERED_TOKENS // 2
      rest = np.linspace(half, len(ids) - 1, half).astype(int)
      ids = np.concatenate([ids[:half], ids[rest]])
    return self.scores(ids)

  def note(self) -> str:
    unsettled = int(
      np.sum(self.expected_updates[self.ordinary_ids] < self.memory)
    )
    return (
      'Every token has an entry: the running mean of its loss where it was '
      'masked. Tokens with low entries skip the middle layers first. '
      f'{unsettled:,} of {len(self.ordinary_ids):,} tokens are too rare for '
      f'this training: in fewer than about {self.memory:.0f} steps were they '
      'a label, so their entries still stand near the start value, and they '
      "are kept before all others; 'kept longest' lists the tokens whose "
      'entry is learnt.'
    )


def expected_updates(
  counts: np.ndarray, ordinary_ids: np.ndarray, labels_per_step: int, steps: int
) -> np.ndarray:
  """Returns in how many steps a token is a label at least once, on average.

      n[v] = steps * (1 - exp(-labels_per_step * share[v]))

  Args:
    counts: of every token in the corpus, integer [V].
    ordinary_ids: the ids that can be labels.
    labels_per_step: label slots of a global batch.
    steps: train steps.

  Returns:
    float64 [V].
  """
  share = counts / max(counts[ordinary_ids].sum(), 1)
  return steps * -np.expm1(-labels_per_step * share)


# Validation text.


def validation_rows(task) -> np.ndarray:
  """Returns unpadded rows of validation text without its masks, int32 [n, S].

  Args:
    task: a `configs.PretrainingTaskConfig`.
  """
  rows = []
  for batch in loader.load_dataset(task.validation_data, task.vocabulary):
    batch = {name: tensor.numpy() for name, tensor in batch.items()}
    ids = unmask(batch)
    rows += list(ids[batch['input_mask'].all(axis=1)])
    if len(rows) >= _ROWS_TO_CHOOSE_FROM:
      break
  return np.array(rows, np.int32).reshape([-1, task.validation_data.seq_length])


def unmask(batch: dict[str, np.ndarray]) -> np.ndarray:
  """Returns the word ids as they were before masking, int32 [B, S].

  Args:
    batch: features of the data loader.
  """
  ids = batch['input_word_ids'].copy()
  rows, slots = np.nonzero(batch['masked_lm_weights'])
  ids[rows, batch['masked_lm_positions'][rows, slots]] = batch['masked_lm_ids'][
    rows, slots
  ]
  return ids


def kept_positions(
  scores: np.ndarray, keep_k: int, random: np.random.Generator
) -> np.ndarray:
  """Returns which positions the ranked rule keeps, bool [S].

  Args:
    scores: float [S], in nats.
    keep_k: K.
    random: breaks ties.
  """
  order = np.lexsort((random.random(len(scores)), -scores))
  kept = np.zeros(len(scores), bool)
  kept[order[:keep_k]] = True
  return kept


def passages(
  trained: fill_mask.TrainedModel, rows: np.ndarray
) -> tuple[report.Passage, ...]:
  """Returns passages of validation text with what the table would drop.

  Args:
    trained: a model with an importance table.
    rows: int32 [n, S].
  """
  chosen = rows[_spread(len(rows), NUM_PASSAGES)]
  scores = trained.model.encoder_network.token_importance(
    tf.constant(chosen)
  ).numpy()
  keep_k = trained.params.task.token_drop.token_keep_k
  random = np.random.default_rng(0)
  return tuple(
    _passage(trained.vocabulary, ids, kept_positions(row, keep_k, random))
    for ids, row in zip(chosen, scores)
  )


def _passage(vocabulary, ids, kept) -> report.Passage:
  hidden = {vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id}
  return report.Passage(
    tuple(
      (vocabulary.tokens[index], bool(is_kept))
      for index, is_kept in zip(ids, kept)
      if index not in hidden
    )
  )


def _spread(length: int, count: int) -> np.ndarray:
  """Returns at most `count` indices evenly spread over `length`."""
  return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))


# Sentences with [MASK].


def filled_sentences(
  trained: fill_mask.TrainedModel, sentences
) -> tuple[report.FilledSentence, ...]:
  """Asks the model.

  Args:
    trained: the model.
    sentences: (text with [MASK], answer or '') each.
  """
  return tuple(
    report.FilledSentence(
      text, tuple(map(tuple, fill_mask.fill_mask(trained, text))), answer
    )
    for text, answer in sentences
  )


def masked_sentences(
  vocabulary: vocabulary_lib.Vocabulary, rows: np.ndarray, counts: np.ndarray
) -> list[tuple[str, str]]:
  """Takes sentences from validation text and masks one word of each.

  The word is a whole one inside a sentence, the most frequent of at least four
  letters, so that a short training has a chance to know it. Text without such
  words has its most frequent token masked.

  Args:
    vocabulary: the vocabulary.
    rows: validation text, int32 [n, S].
    counts: of every token, int64 [V].

  Returns:
    At most `NUM_SENTENCES` pairs of text and the token that was masked.
  """
  sentences = []
  for row in rows[_spread(len(rows), 20)]:
    found = _mask_a_word(vocabulary, _sentence(vocabulary, row), counts)
    if found:
      sentences.append(found)
    if len(sentences) == NUM_SENTENCES:
      break
  return sentences


def _sentence(vocabulary, row) -> list[int]:
  """Returns the first whole sentence of 8 to 30 tokens, or the first 24."""
  special = set(vocabulary.special_ids)
  begin = None
  for place, index in enumerate(row):
    if index not in special and vocabulary.tokens[index] not in '.!?\u3002':
      continue
    if begin is not None and 8 <= place + 1 - begin <= 30:
      sentence = [int(i) for i in row[begin : place + 1] if i not in special]
      return sentence
    begin = place + 1
  return [int(i) for i in row if i not in special][:24]


def _mask_a_word(vocabulary, ids, counts) -> tuple[str, str] | None:
  tokens = [vocabulary.tokens[i] for i in ids]
  if len(tokens) < 3:
    return None

  def preference(place):
    token = tokens[place]
    is_whole = not (
      token.startswith('##') or tokens[place + 1].startswith('##')
    )
    is_word = is_whole and token.isalpha()
    return (
      is_word and len(token) > 3,
      is_word,
      is_whole,
      counts[ids[place]],
      -place,
    )

  place = max(range(1, len(ids) - 1), key=preference)
  masked = ids[:place] + [vocabulary.mask_id] + ids[place + 1 :]
  return vocabulary.detokenize(masked), tokens[place]


# The page.


def build_report(
  summary: dict,
  runs: Sequence[Run],
  trained: fill_mask.TrainedModel,
  filled: tuple[report.FilledSentence, ...],
  rows: np.ndarray,
  commands: Sequence[tuple[str, str]],
) -> report.Report:
  """Gathers the page.

  Args:
    summary: the content of `summary.json`.
    runs: the plain run and the token-dropping run.
    trained: the model of the token-dropping run.
    filled: sentences that it filled in.
    rows: validation text, int32 [n, S].
    commands: (what for, command), to type next.
  """
  table = ImportanceTable.read(trained)
  task = trained.params.task
  return report.Report(
    summary=summary,
    verdict=verdict(summary),
    caveats=caveats(task),
    curves=_curves(runs),
    table_note=table.note() if table else _no_table_note(task),
    dropped_first=table.dropped_first() if table else (),
    kept_longest=table.kept_longest() if table else (),
    scatter=table.sample() if table else (),
    passage_note=_passage_note(task),
    passages=passages(trained, rows),
    filled=filled,
    facts=facts(summary, trained),
    commands=tuple(commands),
  )


def _curves(runs) -> tuple[report.Curve, ...]:
  plain, dropping = runs
  curves = (
    report.Curve(
      'plain BERT, full sequences', plain.curve('validation_loss'), 'plain'
    ),
    report.Curve(
      'token dropping, full sequences',
      dropping.curve('validation_loss'),
      'dropping',
    ),
    report.Curve(
      'token dropping, read with dropping on',
      dropping.curve('lm_example_loss_dropping'),
      'dashed',
    ),
  )
  return tuple(curve for curve in curves if curve.points)


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
  if drop.policy == 'random':
    return note + ' Here the policy is random, and so is the choice.'
  if drop.temperature > 0.0:
    note += (
      f' In training the kept tokens were drawn, at temperature '
      f'{drop.temperature:g}: a grey token was dropped more often than '
      'a black one, but not always.'
    )
  return note


def facts(summary: dict, trained: fill_mask.TrainedModel):
  """Returns the tables of settings, machine and versions, by title."""
  task, trainer = trained.params.task, trained.params.trainer
  model, drop, data = task.model, task.token_drop, task.train_data
  settings = (
    (
      'model',
      f'{model.num_layers} layers x {model.hidden_size}, '
      f'{model.num_attention_heads} heads, vocabulary {model.vocab_size:,}',
    ),
    (
      'blocks',
      f'{"pre" if model.norm_first else "post"}-norm, initial '
      f'standard deviation {model.initializer_range:g}, residual branches '
      f'start at {model.residual_initializer_scale:g} of it',
    ),
    (
      'text',
      summary.get('corpus')
      or 'documentation strings of the installed Python packages',
    ),
    (
      'batch',
      f'{data.global_batch_size} x {data.seq_length} tokens, '
      f'{data.max_predictions_per_seq} masked in each',
    ),
    ('steps', f'{trainer.train_steps:,} for each arm'),
    (
      'dropping',
      f'policy {drop.policy}, '
      f'{keep_schedule.describe(drop, data.seq_length)}, temperature '
      f'{drop.temperature:g}, table decays by {drop.token_loss_beta:g}',
    ),
    ('seed', str(task.seed)),
  )
  return (
    ('Settings', settings),
    ('Machine', tuple(machine().items())),
    ('Versions', tuple(versions().items())),
  )


def machine() -> dict[str, str]:
  """Returns what the runs ran on."""
  return {
    'processor': _processor(),
    'cores': str(_usable_cores()),
    'system': f'{platform.system()} {platform.release()}',
    'device': 'CPU',
  }


def _usable_cores() -> int:
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _processor() -> str:
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      for line in file:
        if line.startswith('model name'):
          return line.split(':', 1)[1].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
  """Returns the versions that a result depends on."""
  names = (
    'tensorflow',
    'tf-keras',
    'tf-models-official',
    'tensorflow-text',
    'numpy',
  )
  return {
    'tokendrop_tf': tokendrop_tf.__version__,
    **{name: importlib.metadata.version(name) for name in names},
    'Python': platform.python_version(),
  }
