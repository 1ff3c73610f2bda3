"""The pretraining experiment: checks, losses in words, start and end block."""

import os

import tensorflow as tf

from tokendrop_tf import dropping, errors, schedules
from tokendrop_tf.config import experiments, rules
from tokendrop_tf.data import baselines, loader
from tokendrop_tf.dropping import cost
from tokendrop_tf.run import checkpoints, metrics_log
from tokendrop_tf.tasks import experiment, masked_lm
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import load_weights

# Metric of a validation: the loss that needs no context minus its own, in nats.
CONTEXT_GAIN = 'context_gain'


class Pretraining(experiment.Experiment):
  """A masked-LM pretraining run, with token dropping or without."""

  NAME = experiments.PRETRAINING

  def __init__(self, params, mode, model_dir):
    super().__init__(params, mode, model_dir)
    # `Baselines` of the validation labels, once the data are checked.
    self._baselines = None
    # The first validation below `Baselines.reading_loss`.
    self._reads_since = None

  def check_settings(self):
    rules.validate_experiment(self.params)
    if self.is_validating:
      rules.validate_validation_source(self.params)

  def complete_settings(self, checkpoint):
    """Fills in `model.vocab_size`; checks vocabulary and initial weights."""
    task = self.params.task
    vocabulary = vocabulary_lib.Vocabulary.from_file(
      task.vocabulary.path, task.vocabulary.lower_case
    )
    rules.resolve_vocabulary(self.params, vocabulary)
    importances = [
      dropping.Dropping.of(task).importance,
      dropping.masking_importance(task),
    ]
    for importance in filter(None, importances):
      if importance.needs_counts:
        _check_counts_exist(task)
      if self.is_training and not checkpoint:
        importance.check_files(masked_lm.Sources.of(task, vocabulary))
    if self.is_training and task.init_checkpoint and not checkpoint:
      source = load_weights.check_fits(
        task.init_checkpoint, task.model, extension=task.position_extension
      )
      load_weights.check_vocabulary(source, vocabulary)

  def check_replicas(self, num_replicas):
    rules.validate_replicas(self.params, num_replicas)

  def check_data(self):
    """Checks the data; measures what validation losses are read against."""
    task = self.params.task
    if self.is_training:
      loader.check_dataset(task.train_data, task.vocabulary)
    if self.is_validating:
      loader.check_dataset(task.validation_data, task.vocabulary)
      self._baselines = baselines.read_baselines(
        task.validation_data,
        task.vocabulary,
        causal=task.objective == schedules.CAUSAL_LM,
      )

  def progress_metrics(self, output):
    accuracy = metrics_log.number(output['masked_lm_accuracy'])
    return [f'accuracy {accuracy:.3f}']

  def begin(self, step, is_chief):
    records = metrics_log.read_metrics(
      os.path.join(self.model_dir, metrics_log.METRICS_FILE)
    )
    self._reads_since = next(
      (
        record['step']
        for record in records
        if record['step'] <= step
        and record.get(CONTEXT_GAIN, 0.0) >= baselines.READING_GAIN
      ),
      None,
    )

  def validation_text(self, metrics):
    return losses_text(metrics)

  def validation_facts(self, metrics):
    """Returns the nats that the text around a token is worth to the model."""
    loss = metrics_log.number(metrics['validation_loss'])
    return {CONTEXT_GAIN: self._baselines.context_free_loss - loss}

  def end_validation(self, step, metrics):
    """Returns, once, that the model has begun to read."""
    reads = metrics[CONTEXT_GAIN] >= baselines.READING_GAIN
    if not (self.is_training and reads and self._reads_since is None):
      return ''
    self._reads_since = step
    return (
      f'reads since step {step:,}: the validation loss is '
      f'{metrics[CONTEXT_GAIN]:.4f} below '
      f'{self._baselines.context_free_loss:.4f}, the least loss without a look '
      'at other tokens'
    )

  def train_facts(self, step):
    """Returns K of the keep schedule in the last step."""
    task = self.params.task
    configured = dropping.Dropping.of(task)
    if not configured.drops:
      return {}
    keep_k = configured.kinds.keeps.value_at(step - 1)
    return {'token_keep_k': float(keep_k or task.train_data.seq_length)}

  def histograms(self, model):
    importance = model.encoder_network.token_importance
    return {} if importance is None else {'token_importance': importance.table}

  def start_rows(self):
    task = self.params.task
    return [
      ('tokens', _tokens_text(self.params)),
      *objective_rows(task),
      ('dropping', dropping_text(task)),
      ('training', _source_text(task.train_data)),
      ('validation', _source_text(task.validation_data)),
    ]

  def scale_rows(self):
    found = self._baselines
    return [('baselines', baselines_text(found))] if found else []

  def end_rows(self):
    model_dir = self.model_dir
    checkpoint = checkpoints.newest(model_dir)
    log = (
      metrics_log.METRICS_FILE
      if self.is_training
      else metrics_log.EVALUATIONS_FILE
    )
    rows = [
      ('weights', checkpoint or 'no checkpoint'),
      ('settings', f'{os.path.join(model_dir, "params.yaml")} and config.gin'),
      ('metrics', os.path.join(model_dir, log)),
      ('curves', f'tensorboard --logdir={model_dir}'),
    ]
    if self._reads_since is not None:
      rows.insert(0, ('reads', f'since step {self._reads_since:,}'))
    if checkpoint and self.is_training:
      command = f'python -m tokendrop_tf.train --model_dir={model_dir}'
      rows += [
        ('evaluate', f'{command} --mode=eval'),
        (
          'train on',
          'the same command with another --model_dir and '
          f'--gin_params="pretraining.init_checkpoint = \'{checkpoint}\'"',
        ),
      ]
    return rows


def _counting_setting(task):
  """Returns the setting that needs the counts, with its value."""
  if dropping.Dropping.of(task).importance.needs_counts:
    return f'token_drop.policy = {task.token_drop.policy!r}'
  return f'train_data.masking_scores = {task.train_data.masking_scores!r}'


def _check_counts_exist(task):
  path = task.vocabulary.counts_path or vocabulary_lib.counts_path_for(
    task.vocabulary.path
  )
  if not tf.io.gfile.exists(path):
    raise errors.ConfigurationError(
      f'{_counting_setting(task)} needs the token counts '
      f'of the corpus. Received: {path}, which does not exist. Write it with '
      'tools/build_vocab.py, or set vocabulary.counts_path.'
    )


def baselines_text(found):
  """Returns what the losses of a validation are read against, in words.

  Args:
    found: the `Baselines` of the validation labels.
  """
  return (
    f'{found.unigram_entropy:.4f} nats: the unigram entropy of the validation '
    f'labels; below {found.context_free_loss:.4f} a model reads the text '
    'around a token'
  )


def losses_text(metrics):
  """Returns the losses of a validation in words.

  Example:
    losses_text({'validation_loss': 5.0, 'masked_lm_accuracy': 0.2})
    # 'loss 5.0000 on full sequences (accuracy 0.200)'
  """
  loss = metrics_log.number(metrics['validation_loss'])
  accuracy = metrics_log.number(metrics['masked_lm_accuracy'])
  perplexity = ''
  if 'perplexity' in metrics:
    value = metrics_log.number(metrics['perplexity'])
    perplexity = f', perplexity {value:.2f}'
  parts = [
    f'loss {loss:.4f} on full sequences (accuracy {accuracy:.3f}{perplexity})'
  ]
  if 'full_sequence_gap' in metrics:
    loss_dropping = metrics_log.number(metrics['lm_example_loss_dropping'])
    gap = metrics_log.number(metrics['full_sequence_gap'])
    parts.append(f'{loss_dropping:.4f} with dropping (gap {gap:+.4f})')
  if 'mask_late_gap' in metrics:
    gap = metrics_log.number(metrics['mask_late_gap'])
    parts.append(f'[MASK] in all layers {gap:+.4f}')
  if CONTEXT_GAIN in metrics:
    parts.append(f'context gain {metrics[CONTEXT_GAIN]:+.4f}')
  return ', '.join(parts)


_OBJECTIVES = {
  schedules.MASKED_LM: 'masked tokens',
  schedules.CAUSAL_LM: 'the next token',
}


def objective_rows(task) -> list[tuple[str, str]]:
  """Returns a row of what is predicted, where it is not masked tokens alone.

  Example:
    [('objective', 'the next token to step 200, then masked tokens')]
  """
  schedule = schedules.OBJECTIVE.parse(
    task.objective_schedule, task.objective, task.token_drop.schedule_steps
  )
  if set(schedule.values) == {schedules.MASKED_LM}:
    return []
  text, *others = (_OBJECTIVES[name] for name in schedule.values)
  for other, step in zip(others, schedule.first_steps[1:]):
    text += f' to step {step:,}, then {other}'
  return [('objective', text)]


def dropping_text(task):
  """Returns what is dropped, where, and what that is expected to save."""
  configured = dropping.Dropping.of(task)
  if not configured.drops:
    return configured.describe()
  return (
    f'{configured.describe()}; saves {cost.expected_saving(task):.1%} of the '
    'multiply-adds of plain steps'
  )


def _tokens_text(params):
  data, steps = params.task.train_data, params.trainer.train_steps
  per_step = data.global_batch_size * data.seq_length
  is_causal = params.task.objective == schedules.CAUSAL_LM
  return (
    f'{per_step:,} per step ({data.global_batch_size} x {data.seq_length}, '
    f'{cost.num_labels(params.task, is_causal)} predictions each), '
    f'{_big_number(per_step * steps)} in {steps:,} steps'
  )


def _big_number(number):
  for size, unit in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M')):
    if number >= size:
      return f'{number / size:,.1f} {unit}'
  return f'{number:,}'


def _source_text(data):
  held_out = ''
  if data.held_out_documents:
    kept = 'without' if data.is_training else 'only'
    held_out = f', {kept} every document {data.held_out_documents}'
  if data.tfds_name:
    return f'TFDS {data.tfds_name}, split {data.tfds_split}{held_out}'
  if data.input_path:
    return f'{data.input_path}{held_out}'
  return f'documentation strings of the installed packages{held_out}'
