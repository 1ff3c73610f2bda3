"""Question answering on the Model Garden's task.

Letters: B batch of a replica, S sequence length, W windows.
"""

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import base_task, task_factory
from official.nlp.tasks import question_answering

from tokendrop_tf import init_weights
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.finetuning import (
  configs,
  models,
  row_logits,
  squad_answers,
  squad_windows,
  step,
)


@task_factory.register_task_cls(configs.SquadTaskConfig)
class QuestionTask(step.SeededStep, question_answering.QuestionAnsweringTask):
  """Fine-tunes the encoder to find answers, always on full sequences.

  The Model Garden's task writes features to disk first; here windows are made
  in memory, from the same rules.

  Args:
    params: `configs.SquadTaskConfig`, resolved.
  """

  def __init__(self, params, logging_dir=None, name=None):
    # Past the Model Garden's own, which prepares its evaluation files.
    base_task.Task.__init__(self, params, logging_dir=logging_dir, name=name)
    self._vocabulary = vocabulary_lib.Vocabulary.from_file(
      params.vocabulary.path, lower_case=params.vocabulary.lower_case
    )
    self.last_answers = None

  @property
  def vocabulary(self) -> vocabulary_lib.Vocabulary:
    """The vocabulary that the model's ids refer to."""
    return self._vocabulary

  def build_model(self) -> models.SpanLabeler:
    config = self.task_config
    encoder = step.build_encoder(config.model, self._vocabulary, config.seed)
    return models.SpanLabeler(encoder, config.model.initializer_range)

  def initialize(self, model):
    """Loads the encoder of `init_checkpoint`, unless only its sizes count."""
    source = self.task_config.init_checkpoint
    if source and not self.task_config.finetuning.random_init:
      init_weights.load_encoder(model.encoder_network, source)

  def windows_of(self, data) -> squad_windows.Windows:
    """Returns the windows of a data section, made once."""
    name = 'train_data' if data.is_training else 'validation_data'
    config = self.task_config
    return squad_windows.windows_of(
      data, config.squad, config.vocabulary, f'squad.{name}'
    )

  def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
    return squad_windows.window_batches(
      self.windows_of(params), self._vocabulary, params, input_context
    )

  def row_losses(self, inputs, model, training, seed=None):
    """Returns the loss of every window, float32 [B], and the logits."""
    start, end = model.logits(inputs, training=training, seed=seed)
    padding = (1.0 - tf.cast(inputs['input_mask'], tf.float32)) * -1e9
    losses = [
      tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=inputs[name], logits=logits + padding
      )
      for name, logits in (('start_positions', start), ('end_positions', end))
    ]
    return (losses[0] + losses[1]) / 2.0, (start, end)

  def build_metrics(self, training=None):
    if not training:
      return []
    return [
      tf_keras.metrics.Mean(name=name, dtype=tf.float32)
      for name in ('start_position_accuracy', 'end_position_accuracy')
    ]

  def update_metrics(self, metrics, inputs, logits):
    """Counts the hits of a training batch."""
    labels = (inputs['start_positions'], inputs['end_positions'])
    for metric, label, values in zip(metrics, labels, logits):
      predictions = tf.argmax(values, axis=-1, output_type=tf.int32)
      metric.update_state(tf.equal(predictions, label))

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
  logits, _ = row_logits.gather(
    ((ids, np.stack(both, axis=1)) for ids, *both in parts),
    (windows.num_windows, 2, config.validation_data.seq_length),
    strategy,
    fill=-1e30,
  )
  return logits[:, 0], logits[:, 1]
