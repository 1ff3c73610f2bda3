"""What a person sees of fine-tuning, and `results.json` for programs.

`results.json`, in `model_dir`, is written anew after every validation:

    {"experiment": ..., "task": ..., "metric": the main metric's name,
     "best": {"step": ..., the metrics of the best validation},
     "last": {"step": ..., those of the last},
     "majority_class": the metrics of always answering the most frequent label,
     "train_steps": ..., "num_train_examples": ..., "seed": ...,
     "learning_rate": ..., "init_from": ..., "random_init": ...}

Metrics of sentences lie in [-1, 1], those of SQuAD are percentages, as each is
usually reported.
"""

import json
import os

import numpy as np
import tensorflow as tf

from tokendrop_tf import checkpoints, progress
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.finetuning import (
  configs,
  resolution,
  scores,
  sentence_data,
  squad_windows,
)

RESULTS_FILE = 'results.json'
SQUAD_METRIC = 'f1'


class FinetuningReport(progress.Report):
  """Reports the metrics of a task instead of those of pretraining.

  Args:
    as `progress.Report`.
  """

  def __init__(self, params, model_dir, is_training=True, is_chief=True):
    super().__init__(params, model_dir, is_training, is_chief)
    self._results_path = None
    if is_training and is_chief:
      self._results_path = os.path.join(model_dir, RESULTS_FILE)
    self._best = None
    self._facts = None

  def begin(self, step):
    super().begin(step)
    self._best = self._best_so_far(step)

  def end_validation(self, step, seconds, output):
    super().end_validation(step, seconds, output)
    record = {'step': step, **self.last_validation}
    metric = main_metric(self._params.task)
    if self._best is None or record[metric] > self._best[metric]:
      self._best = record
    if self._results_path:
      self._write_results(record)

  def _best_so_far(self, step):
    """Takes up the best validation of a run that goes on."""
    path = self._results_path
    if not step or not path or not tf.io.gfile.exists(path):
      return None
    with tf.io.gfile.GFile(path, 'r') as file:
      best = json.loads(file.read())['best']
    return best if best['step'] <= step else None

  def _write_results(self, record):
    if self._facts is None:
      self._facts = _facts(self._params)
    results = {**self._facts, 'best': self._best, 'last': record}
    vocabulary_lib.write_whole_file(
      self._results_path, json.dumps(results, indent=2) + '\n'
    )

  def _progress_metrics(self, output):
    names = {
      'cls_accuracy': 'accuracy',
      'start_position_accuracy': 'start accuracy',
    }
    return [
      f'{words} {progress.number(output[name]):.3f}'
      for name, words in names.items()
      if name in output
    ]

  def _validation_text(self, output):
    return metrics_text(self._params.task, output)


def main_metric(task) -> str:
  """Returns the name of the metric that a task is known by."""
  if isinstance(task, configs.GlueTaskConfig):
    return task.metric_type
  return SQUAD_METRIC


def metrics_text(task, metrics) -> str:
  """Returns the metrics of a validation in words, the main one first.

  Example:
    metrics_text(task, {'accuracy': 0.7, 'f1': 0.6, ...})
    # 'accuracy 0.7000, f1 0.6000, ...'
  """
  first = main_metric(task)
  hidden = _HIDDEN if _has_two_labels(task) else (*_HIDDEN, *_TWO_LABELS_ONLY)
  names = [first, *sorted(set(metrics) - {first})]
  digits = 4 if isinstance(task, configs.GlueTaskConfig) else 2
  return ', '.join(
    f'{name.replace("_", " ")} {metrics[name]:.{digits}f}'
    for name in names
    if name == first or not name.startswith(hidden)
  )


# What orbit adds; and metrics that say little of more than two labels.
_HIDDEN = ('steps_per_second',)
_TWO_LABELS_ONLY = ('f1', 'matthews_corrcoef')


def _has_two_labels(task):
  is_glue = isinstance(task, configs.GlueTaskConfig)
  return not is_glue or len(task.glue.label_names) == 2


def _facts(params):
  task, trainer = params.task, params.trainer
  rate = trainer.optimizer_config.learning_rate.get()
  is_glue = isinstance(task, configs.GlueTaskConfig)
  facts = {
    'experiment': configs.experiment_name(task),
    'task': task.glue.task if is_glue else f'squad {task.squad.version}',
    'metric': main_metric(task),
    'train_steps': trainer.train_steps,
    'num_train_examples': resolution.count_training_examples(task),
    'batch_size': task.train_data.global_batch_size,
    'seq_length': task.train_data.seq_length,
    'seed': task.seed,
    'learning_rate': getattr(
      rate, 'initial_learning_rate', getattr(rate, 'learning_rate', None)
    ),
    'init_from': task.init_checkpoint,
    'random_init': task.finetuning.random_init or not task.init_checkpoint,
  }
  if is_glue and not task.glue.is_regression:
    facts['majority_class'] = majority_class_scores(task)
  return facts


def majority_class_scores(task) -> dict[str, float]:
  """Returns the validation scores of always answering the likeliest label.

  Args:
    task: a `GlueTaskConfig` of a classification.
  """
  train = sentence_data.read_texts(
    task.train_data, task.glue, 'glue.train_data'
  )
  valid = sentence_data.read_texts(
    task.validation_data, task.glue, 'glue.validation_data'
  )
  num_classes = len(task.glue.label_names)
  likeliest = np.argmax(np.bincount(train.labels, minlength=num_classes))
  return scores.classification_scores(
    valid.labels, np.full_like(valid.labels, likeliest), num_classes
  )


def start_block(
  params, mode, model_dir, num_parameters, num_replicas, first_step
) -> str:
  """Returns the block that says what is about to run.

  Args:
    as `progress.start_block`.
  """
  task = params.task
  rows = [
    (
      'run',
      f'{mode} in {model_dir}, {_beginning(params, mode, first_step)}',
    ),
    ('model', progress.model_text(task.model, num_parameters)),
    ('task', _task_text(task)),
  ]
  if 'train' in mode:
    rows.append(('training', _training_text(params)))
  if 'eval' in mode:
    rows.append(('validation', _validation_text(task)))
  rows += [
    ('devices', progress.devices_text(params.runtime, num_replicas)),
    ('versions', progress.versions_text()),
  ]
  return progress.block(
    'tokendrop_tf', [(name, progress.wrap_text(text)) for name, text in rows]
  )


def _beginning(params, mode, first_step):
  text = progress.beginning_text(params, mode, first_step)
  source = params.task.init_checkpoint
  if source and params.task.finetuning.random_init:
    return text.replace('the weights of', 'random weights, sizes of')
  return text


def _task_text(task):
  if not isinstance(task, configs.GlueTaskConfig):
    squad, data = task.squad, task.train_data
    return (
      f'SQuAD {squad.version}, windows of {data.seq_length} tokens, one every '
      f'{squad.doc_stride}'
    )
  labels = ', '.join(task.glue.label_names) or 'a number'
  kind = 'pairs' if sentence_data.task_of(task.glue).pair_columns else 'texts'
  return (
    f'{task.glue.task}: {kind} of up to {task.train_data.seq_length} tokens to '
    f'{labels}; metric {task.metric_type}'
  )


def _training_text(params):
  task = params.task
  text = (
    f'{configs.source_name(task.train_data)}: '
    f'{resolution.count_training_examples(task):,} '
  )
  if isinstance(task, configs.GlueTaskConfig):
    texts = sentence_data.read_texts(
      task.train_data, task.glue, 'glue.train_data'
    )
    text += 'rows' + _skipped(texts.num_skipped, 'malformed rows skipped')
  else:
    windows = squad_windows.windows_of(
      task.train_data, task.squad, task.vocabulary, 'squad.train_data'
    )
    text += f'windows of {len(windows.data.questions):,} questions' + _skipped(
      windows.num_lost, 'left out: their answer is not where it should be'
    )
  steps, size = params.trainer.train_steps, task.train_data.global_batch_size
  return f'{text}; {steps:,} steps of {size}'


def _skipped(count, words):
  return f' ({count:,} {words})' if count else ''


def _validation_text(task):
  sources = [task.validation_data]
  if isinstance(task, configs.GlueTaskConfig):
    sources.append(task.mismatched_validation_data)
  return ' and '.join(
    configs.source_name(data) for data in sources if configs.has_source(data)
  )


def end_block(
  params, mode, model_dir, step, seconds, validation=None, predictions=()
) -> str:
  """Returns the block that says what came out and where it is.

  Args:
    params: the experiment's tree.
    mode: the mode of the launcher.
    model_dir: folder of the run.
    step: the global step reached.
    seconds: duration of this process's run.
    validation: metrics of the last validation, or `None`.
    predictions: paths of the prediction files that were written.
  """
  rows = [('step', f'{step:,}, after {progress.duration_text(seconds)}')]
  if validation:
    rows.append(('validation', metrics_text(params.task, validation)))
  results = os.path.join(model_dir, RESULTS_FILE)
  if tf.io.gfile.exists(results):
    rows.append(('results', results))
  rows += [('predictions', path) for path in predictions]
  checkpoint = checkpoints.newest(model_dir)
  rows.append(('weights', checkpoint or 'no checkpoint'))
  if checkpoint:
    rows.append(
      (
        'evaluate',
        f'python -m tokendrop_tf.train --mode=eval --model_dir={model_dir}',
      )
    )
  return progress.block('done', rows)
