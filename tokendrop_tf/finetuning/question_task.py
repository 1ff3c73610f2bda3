"""Question answering: answers as spans of a text.

Letters: B batch of a replica, S sequence length, W windows.
"""

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import task_factory

from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.finetuning import (
  finetuning_task,
  gather_rows,
  models,
  squad_answers,
  squad_windows,
)


@task_factory.register_task_cls(finetuning_configs.SquadTaskConfig)
class QuestionTask(finetuning_task.FinetuningTask):
  """Fine-tunes the encoder to find answers.

  The Model Garden's task writes features to disk first; here windows are made
  in memory, from the same rules.

  Args:
    params: `finetuning_configs.SquadTaskConfig`, complete.
  """

  result_names = ('losses', 'start_logits', 'end_logits')

  def __init__(self, params, logging_dir=None, name=None):
    super().__init__(params, logging_dir=logging_dir, name=name)
    self.last_answers = None

  def build_model(self) -> models.SpanLabeler:
    return models.SpanLabeler(
      self._build_encoder(), self.task_config.model.initializer_range
    )

  def windows_of(self, data) -> squad_windows.Windows:
    """Returns the windows of a data section, made once."""
    name = 'train_data' if data.is_training else 'validation_data'
    config = self.task_config
    return squad_windows.windows_of(
      data, config.squad, config.vocabulary, f'squad.{name}'
    )

  def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
    return squad_windows.window_batches(
      self.windows_of(params),
      self._vocabulary,
      params,
      input_context,
      self._first_batch,
    )

  def row_results(self, inputs, model, training, seed=None, branch=None):
    """Returns the loss of every window, float32 [B], and logits, [B, S]."""
    start, end = model.logits(inputs, training=training, seed=seed)
    padding = (1.0 - tf.cast(inputs['input_mask'], tf.float32)) * -1e9
    losses = [
      tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=inputs[name], logits=logits + padding
      )
      for name, logits in (('start_positions', start), ('end_positions', end))
    ]
    return {
      'losses': (losses[0] + losses[1]) / 2.0,
      'start_logits': start,
      'end_logits': end,
    }

  def build_metrics(self, training=None):
    if not training:
      return []
    return [
      tf_keras.metrics.Mean(name=name, dtype=tf.float32)
      for name in ('start_position_accuracy', 'end_position_accuracy')
    ]

  def update_metrics(self, metrics, inputs, results):
    """Counts the hits of a training batch."""
    for metric, end in zip(metrics, ('start', 'end')):
      predictions = tf.argmax(
        results[f'{end}_logits'], axis=-1, output_type=tf.int32
      )
      metric.update_state(tf.equal(predictions, inputs[f'{end}_positions']))

  def validation_step(self, inputs, model, metrics=None):
    """Returns the logits of this replica's windows, with their numbers."""
    del metrics
    start, end = model.logits(inputs, training=False)
    return {
      'example_id': inputs['example_id'],
      'start_logits': start,
      'end_logits': end,
    }

  def aggregate_logs(self, state=None, step_outputs=None):
    """Collects numbers and logits of this worker's windows."""
    state = state or []
    names = ('example_id', 'start_logits', 'end_logits')
    for outputs in zip(*(step_outputs[name] for name in names)):
      state.append(tuple(output.numpy() for output in outputs))
    return state

  def reduce_aggregated_logs(self, aggregated_logs, global_step=None):
    """Returns the official scores; keeps the answers in `last_answers`."""
    del global_step
    config = self.task_config
    windows = self.windows_of(config.validation_data)
    logits = stack_logits(
      aggregated_logs, windows, config, tf.distribute.get_strategy()
    )
    self.last_answers = squad_answers.find_answers(
      windows, *logits, config.squad
    )
    return squad_answers.official_scores(
      windows.data.articles, self.last_answers, config.squad.version
    )


def stack_logits(parts, windows, config, strategy):
  """Returns start and end logits of all workers, float32 [W, S] each.

  Args:
    parts: tuples of numbers [n] and logits [n, S'], [n, S'], S' at most S, of
      this worker; numbers below 0 are no windows.
    windows: the windows.
    config: the task section.
    strategy: the strategy that the workers share.
  """
  logits, _ = gather_rows.gather(
    ((ids, np.stack(both, axis=1)) for ids, *both in parts),
    (windows.num_windows, 2, config.validation_data.seq_length),
    strategy,
    fill=-1e30,
  )
  return logits[:, 0], logits[:, 1]
