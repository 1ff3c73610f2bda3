"""Sentence classification and regression.

Letters: B batch of a replica, S sequence length, C classes, N rows.
"""

import functools

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import task_factory

from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.finetuning import (
  finetuning_task,
  gather_rows,
  models,
  scores,
  sentence_data,
  table_files,
)

MISMATCHED = 'mismatched'


@task_factory.register_task_cls(finetuning_configs.GlueTaskConfig)
class SentenceTask(finetuning_task.FinetuningTask):
  """Fine-tunes the encoder on single texts or pairs.

  Args:
    params: `finetuning_configs.GlueTaskConfig`, complete.
  """

  result_names = ('losses', 'logits')

  @property
  def num_classes(self) -> int:
    """C; 1 for regression."""
    return num_classes(self.task_config.glue)

  def build_model(self) -> models.SentenceClassifier:
    model = self.task_config.model
    return models.SentenceClassifier(
      self._build_encoder(),
      self.num_classes,
      model.initializer_range,
      model.dropout_rate,
    )

  def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
    """Returns batches; those of validation hold both sets of MNLI."""
    return sentence_data.SentenceBatches(
      self.texts_of(params), self.task_config.vocabulary, params
    ).dataset(input_context, self._first_batch)

  def texts_of(self, data, needs_labels=True) -> table_files.LabelledTexts:
    """Reads a data section; that of validation with the mismatched set."""
    glue = self.task_config.glue
    if data.is_training:
      return sentence_data.read_texts(data, glue, 'glue.train_data')
    if not needs_labels:
      return sentence_data.read_texts(data, glue, 'glue.test_data', False)
    return self._validation_texts

  @functools.cached_property
  def _validation_texts(self):
    config = self.task_config
    texts = sentence_data.read_texts(
      config.validation_data, config.glue, 'glue.validation_data'
    )
    self._num_matched = texts.num_rows
    if not finetuning_configs.has_source(config.mismatched_validation_data):
      return texts
    return table_files.concatenate(
      texts,
      sentence_data.read_texts(
        config.mismatched_validation_data,
        config.glue,
        'glue.mismatched_validation_data',
      ),
    )

  def row_results(self, inputs, model, training, seed=None, branch=None):
    """Returns losses, float32 [B], and logits, [B, C]."""
    logits = model.logits(inputs, training=training, seed=seed)
    labels = inputs['label_ids']
    if self.task_config.glue.is_regression:
      losses = tf.square(logits[:, 0] - labels)
    else:
      losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=labels, logits=logits
      )
    return {'losses': losses, 'logits': logits}

  def build_metrics(self, training=None):
    if not training:
      return [tf_keras.metrics.Mean(name='validation_loss', dtype=tf.float32)]
    if self.task_config.glue.is_regression:
      return []
    return [tf_keras.metrics.Mean(name='cls_accuracy', dtype=tf.float32)]

  def update_metrics(self, metrics, inputs, results):
    """Counts the hits of a training batch."""
    for metric in metrics:
      predictions = tf.argmax(results['logits'], axis=-1, output_type=tf.int32)
      metric.update_state(tf.equal(predictions, inputs['label_ids']))

  def validation_step(self, inputs, model, metrics=None):
    """Returns the logits of this replica's rows, with their numbers."""
    results = self.row_results(inputs, model, training=False)
    is_row = tf.cast(inputs['example_id'] >= 0, tf.float32)
    for metric in metrics or ():
      metric.update_state(results['losses'], is_row)
    return {'example_id': inputs['example_id'], 'logits': results['logits']}

  def aggregate_logs(self, state=None, step_outputs=None):
    """Collects numbers [n] and logits [n, C] of this worker's rows."""
    state = state or []
    for ids, logits in zip(step_outputs['example_id'], step_outputs['logits']):
      state.append((ids.numpy(), logits.numpy()))
    return state

  def reduce_aggregated_logs(self, aggregated_logs, global_step=None):
    """Returns the scores of all workers' rows; the second set has a suffix."""
    del global_step
    texts = self._validation_texts
    logits, is_there = gather_rows.gather(
      aggregated_logs,
      (texts.num_rows, self.num_classes),
      tf.distribute.get_strategy(),
    )
    labels, logits = texts.labels[is_there], logits[is_there].astype(np.float64)
    [places] = np.nonzero(is_there)
    is_matched = places < self._num_matched
    results = self._scores(labels[is_matched], logits[is_matched])
    if not is_matched.all():
      more = self._scores(labels[~is_matched], logits[~is_matched])
      results |= {f'{name}_{MISMATCHED}': more[name] for name in more}
    return results

  def _scores(self, labels, logits):
    if self.task_config.glue.is_regression:
      return scores.regression_scores(labels, logits[:, 0])
    return scores.classification_scores(
      labels, np.argmax(logits, axis=1), self.num_classes
    )


def num_classes(glue: finetuning_configs.GlueConfig) -> int:
  """Returns C, 1 for regression."""
  return 1 if glue.is_regression else len(glue.label_names)
