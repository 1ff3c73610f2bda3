"""The fine-tuning experiments, and `results.json` for programs.

`results.json`, in `model_dir`, is rewritten after every validation:

    {"experiment": ..., "task": ..., "metric": the main metric's name,
     "best": {"step": ..., the metrics of the best validation},
     "last": {"step": ..., those of the last},
     "majority_class": the metrics of always answering the most frequent label,
     "train_steps": ..., "num_train_examples": ..., "seed": ...,
     "learning_rate": ..., "init_from": ..., "random_init": ...}

Metrics of sentences lie in [-1, 1], those of SQuAD are percentages, as each is
usually reported.
"""

import abc
import os

import numpy as np
import tensorflow as tf

from tokendrop_tf import files
from tokendrop_tf.config import experiments, finetuning_configs
from tokendrop_tf.finetuning import (
  complete_settings,
  finetuning_rules,
  predictions,
  scores,
  sentence_data,
  squad_windows,
)
from tokendrop_tf.finetuning import question_task as _question_task  # noqa: F401  (registers the task)
from tokendrop_tf.finetuning import sentence_task as _sentence_task  # noqa: F401  (registers the task)
from tokendrop_tf.run import checkpoints, metrics_log, run_folder
from tokendrop_tf.tasks import experiment

RESULTS_FILE = 'results.json'
# Speeds among the metrics of a validation.
_HIDDEN = ('steps_per_second',)


class FinetuningExperiment(experiment.Experiment):
  """A fine-tuning run; it keeps `results.json` and writes predictions."""

  # Name of the task's section in gin.
  SECTION = ''
  # Digits of a metric after the point.
  DIGITS = 4
  # Metrics of training batches, and what a progress line calls them.
  PROGRESS_METRICS = {}
  # Metrics that are not shown.
  hidden_metrics = _HIDDEN

  def __init__(self, params, mode, model_dir):
    super().__init__(params, mode, model_dir)
    self._results_path = None
    self._best = self._facts = None
    self._predictions = ()

  @property
  @abc.abstractmethod
  def main_metric(self) -> str:
    """Name of the metric that the task is known by."""

  # Before the run.

  @staticmethod
  def take_start(params, values):
    complete_settings.take_start(params.task, values)

  def check_settings(self):
    """Checks the settings; an evaluation takes the model's from its run."""
    if not self.is_training and run_folder.has_configuration(self.model_dir):
      self.take_over(run_folder.load_params(self.model_dir, self.NAME))
    finetuning_rules.validate_experiment(self.params)
    finetuning_rules.validate_sources(self.params, self.mode)

  def take_over(self, saved):
    """Takes what a trained model fixes from its run, which may have moved.

    Args:
      saved: the tree of that run.
    """
    params = self.params
    params.task.model = saved.task.model
    if params.task.vocabulary.path != saved.task.vocabulary.path:
      params.task.vocabulary.lower_case = saved.task.vocabulary.lower_case
    if params.trainer.train_steps is None:
      params.trainer = saved.trainer

  def complete_settings(self, checkpoint):
    complete_settings.resolve(self.params, self.mode, checkpoint)

  def check_replicas(self, num_replicas):
    finetuning_rules.validate_replicas(self.params, num_replicas)

  def check_data(self):
    """Reads what is read at the end, so that it is wrong at the start."""
    names = [name for name in self.params.task.as_dict() if 'test_data' in name]
    if self.is_validating:
      names += [name.replace('test', 'validation') for name in names]
    for name in names:
      data = getattr(self.params.task, name)
      if finetuning_configs.has_source(data):
        self.read_data(name)

  @abc.abstractmethod
  def read_data(self, name):
    """Returns the rows or windows of a data section, read once."""

  # During the run.

  def begin(self, step, is_chief):
    """Continues `results.json` with the best validation until `step`."""
    path = os.path.join(self.model_dir, RESULTS_FILE)
    if is_chief:
      self._results_path = path
    if step and is_chief and tf.io.gfile.exists(path):
      best = files.read_json_object(path)['best']
      self._best = best if best['step'] <= step else None

  def progress_metrics(self, output):
    return [
      f'{words} {metrics_log.number(output[name]):.3f}'
      for name, words in self.PROGRESS_METRICS.items()
      if name in output
    ]

  def validation_text(self, metrics):
    """Returns the metrics in words, the main one first."""
    first = self.main_metric
    names = [first, *sorted(set(metrics) - {first})]
    return ', '.join(
      f'{name.replace("_", " ")} {metrics[name]:.{self.DIGITS}f}'
      for name in names
      if name == first or not name.startswith(self.hidden_metrics)
    )

  def end_validation(self, step, metrics):
    record = {'step': step, **metrics}
    metric = self.main_metric
    if self._best is None or record[metric] > self._best[metric]:
      self._best = record
    if self._results_path:
      self._facts = self._facts or self.facts()
      results = {**self._facts, 'best': self._best, 'last': record}
      files.write_json(self._results_path, results)
    return ''

  def facts(self) -> dict:
    """Returns the part of `results.json` that is not metrics."""
    task, trainer = self.params.task, self.params.trainer
    rate = trainer.optimizer_config.learning_rate.get()
    return {
      'experiment': self.NAME,
      'task': self.task_name,
      'metric': self.main_metric,
      'train_steps': trainer.train_steps,
      'num_train_examples': complete_settings.count_training_examples(task),
      'batch_size': task.train_data.global_batch_size,
      'seq_length': task.train_data.seq_length,
      'seed': task.seed,
      'learning_rate': getattr(
        rate, 'initial_learning_rate', getattr(rate, 'learning_rate', None)
      ),
      'init_from': task.init_checkpoint,
      'random_init': task.finetuning.random_init or not task.init_checkpoint,
    }

  @property
  @abc.abstractmethod
  def task_name(self) -> str:
    """Name of the task in `results.json`."""

  def finish(self, task, model, strategy):
    """Writes predictions where the settings ask for them."""
    self._predictions = predictions.write_predictions(
      task, model, strategy, self.model_dir
    )

  # In words.

  def beginning(self, first_step):
    text = super().beginning(first_step)
    task = self.params.task
    if task.init_checkpoint and task.finetuning.random_init:
      return text.replace('the weights of', 'random weights, sizes of')
    return text

  def start_rows(self):
    rows = [('task', self.task_text())]
    if self.is_training:
      rows.append(('training', self._training_text()))
    if self.is_validating:
      rows.append(('validation', self._validation_sources()))
    return rows

  @abc.abstractmethod
  def task_text(self) -> str:
    """Returns inputs, outputs and metric of the task in words."""

  @abc.abstractmethod
  def training_rows_text(self) -> str:
    """Returns what an epoch consists of, after its number."""

  def _training_text(self):
    task = self.params.task
    source = finetuning_configs.source_name(task.train_data)
    count = complete_settings.count_training_examples(task)
    steps, size = (
      self.params.trainer.train_steps,
      task.train_data.global_batch_size,
    )
    return (
      f'{source}: {count:,} {self.training_rows_text()}; {steps:,} steps of '
      f'{size}'
    )

  def _validation_sources(self):
    task = self.params.task
    return ' and '.join(
      finetuning_configs.source_name(getattr(task, name))
      for name in ('validation_data', 'mismatched_validation_data')
      if hasattr(task, name)
      and finetuning_configs.has_source(getattr(task, name))
    )

  def end_rows(self):
    rows = []
    results = os.path.join(self.model_dir, RESULTS_FILE)
    if tf.io.gfile.exists(results):
      rows.append(('results', results))
    rows += [('predictions', path) for path in self._predictions]
    checkpoint = checkpoints.newest(self.model_dir)
    rows.append(('weights', checkpoint or 'no checkpoint'))
    if checkpoint:
      command = 'python -m tokendrop_tf.train --mode=eval'
      rows.append(('evaluate', f'{command} --model_dir={self.model_dir}'))
    return rows


class SentenceExperiment(FinetuningExperiment):
  """Fine-tuning on sentences or pairs of them."""

  NAME = experiments.GLUE
  SECTION = 'glue'
  PROGRESS_METRICS = {'cls_accuracy': 'accuracy'}

  @property
  def main_metric(self):
    return self.params.task.metric_type

  @property
  def hidden_metrics(self):
    if len(self.params.task.glue.label_names) == 2:
      return _HIDDEN
    # They say little of more than two labels.
    return (*_HIDDEN, 'f1', 'matthews_corrcoef')

  @property
  def task_name(self):
    return self.params.task.glue.task

  def take_over(self, saved):
    super().take_over(saved)
    glue = self.params.task.glue
    glue.label_names = tuple(saved.task.glue.label_names)
    glue.is_regression = saved.task.glue.is_regression

  def read_data(self, name):
    task = self.params.task
    return sentence_data.read_texts(
      getattr(task, name), task.glue, f'glue.{name}', 'test_data' not in name
    )

  def facts(self):
    facts = super().facts()
    if not self.params.task.glue.is_regression:
      facts['majority_class'] = self._majority_class_scores()
    return facts

  def _majority_class_scores(self):
    """Returns the validation scores of always answering the likeliest label."""
    train = self.read_data('train_data').labels
    labels = self.read_data('validation_data').labels
    num_classes = len(self.params.task.glue.label_names)
    likeliest = np.argmax(np.bincount(train, minlength=num_classes))
    return scores.classification_scores(
      labels, np.full_like(labels, likeliest), num_classes
    )

  def task_text(self):
    task = self.params.task
    labels = ', '.join(task.glue.label_names) or 'a number'
    is_pair = sentence_data.task_of(task.glue).pair_columns
    return (
      f'{task.glue.task}: {"pairs" if is_pair else "texts"} of up to '
      f'{task.train_data.seq_length} tokens to {labels}; metric '
      f'{task.metric_type}'
    )

  def training_rows_text(self):
    skipped = self.read_data('train_data').num_skipped
    return 'rows' + _skipped(skipped, 'malformed rows skipped')

  def end_rows(self):
    rows = super().end_rows()
    baseline = (self._facts or {}).get('majority_class')
    if baseline:
      text = f'{self.validation_text(baseline)} by the most frequent label'
      rows.insert(0, ('baseline', text))
    return rows


class QuestionExperiment(FinetuningExperiment):
  """Fine-tuning on questions whose answers are spans of a paragraph."""

  NAME = experiments.SQUAD
  SECTION = 'squad'
  DIGITS = 2
  PROGRESS_METRICS = {'start_position_accuracy': 'start accuracy'}
  main_metric = 'f1'

  @property
  def task_name(self):
    return f'squad {self.params.task.squad.version}'

  def read_data(self, name):
    task = self.params.task
    return squad_windows.windows_of(
      getattr(task, name), task.squad, task.vocabulary, f'squad.{name}'
    )

  def task_text(self):
    squad, data = self.params.task.squad, self.params.task.train_data
    return (
      f'SQuAD {squad.version}, windows of {data.seq_length} tokens, one every '
      f'{squad.doc_stride}'
    )

  def training_rows_text(self):
    windows = self.read_data('train_data')
    return f'windows of {len(windows.data.questions):,} questions' + _skipped(
      windows.num_lost, 'omitted: their answer is not where it should be'
    )


def _skipped(count, words):
  return f' ({count:,} {words})' if count else ''
