"""Pretraining by Keras' `compile` and `fit`.

Letters: B batch, P prediction slots, V vocabulary.
"""

import tensorflow as tf
import tf_keras

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import pretrainer
from tokendrop_tf.run import loss_guard
from tokendrop_tf.tasks import masked_lm


class FitModel(tf_keras.Model):
  """A model whose `fit` takes the steps of the pretraining task.

  Loss, gradients, importance table and random numbers of a step are those of
  `tokendrop_tf.train`. `fit` and `evaluate` read batches of the features that
  `task.build_inputs` gives, with the labels among them.

  A model of one's own, functional or subclassed, takes these features by name
  and returns a dict with `mlm_logits`, [B, P, V]. Which tokens its encoder
  keeps, and what is drawn at random in the encoder, the step decides.

  Args:
    task: says what the loss is and how the table moves.
    model: what is trained; `None` is `task.build_model()`.
    encoder: the encoder in a model of one's own.
    **kwargs: arguments of `tf_keras.Model`.

  Example:
    model = FitModel(task)
    model.compile(optimizer='adam')
    model.fit(task.build_inputs(task.task_config.train_data),
              steps_per_epoch=100)
  """

  def __init__(
    self,
    task: masked_lm.TokenDropPretrainingTask,
    model: tf_keras.Model | None = None,
    encoder: encoder_lib.TokenDropBertEncoder | None = None,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self.model = task.build_model() if model is None else model
    self._prepare_steps(task, encoder)

  # What only computes is no part of a checkpoint.
  @tf.__internal__.tracking.no_automatic_dependency_tracking
  def _prepare_steps(self, task, encoder):
    self._task = task
    self._pretrainer = self.model
    if encoder is not None:
      task.check_takes_other_models()
      self._pretrainer = _OwnPretrainer(self.model, encoder)
    task.start_importances(self._pretrainer)
    self._loss = tf_keras.metrics.Mean(name='loss')
    self._train_metrics = task.build_metrics(training=True)
    self._validation_metrics = task.build_metrics(training=False)

  @property
  def metrics(self):
    return [self._loss, *self._train_metrics, *self._validation_metrics]

  def call(self, inputs, training=False):
    return self.model(inputs, training=training)

  def train_step(self, data):
    features, _, _ = tf_keras.utils.unpack_x_y_sample_weight(data)
    logs = self._task.train_step(
      features, self._pretrainer, self.optimizer, self._train_metrics
    )
    self._loss.update_state(logs[self._task.loss])
    return _results([self._loss, *self._train_metrics])

  def test_step(self, data):
    features, _, _ = tf_keras.utils.unpack_x_y_sample_weight(data)
    self._task.validation_step(
      features, self._pretrainer, self._validation_metrics
    )
    return _results(self._validation_metrics)


def _results(metrics):
  return {metric.name: metric.result() for metric in metrics}


class _OwnPretrainer:
  """A model of features alone, called as the task calls a pretrainer."""

  def __init__(self, model, encoder):
    self._model = model
    self.encoder_network = encoder
    self.loss_guard = loss_guard.LossGuard()

  def __call__(self, inputs, training=False, **arguments):
    names = getattr(self._model, 'input', None)
    if isinstance(names, dict):  # A functional model has these inputs only.
      inputs = {name: inputs[name] for name in names}
    with encoder_lib.arguments_of_calls(**arguments):
      return self._model(inputs, training=training)

  @property
  def trained_variables(self):
    return pretrainer.trained_variables(self._model, self.encoder_network)
