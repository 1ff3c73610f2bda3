"""The Model Garden's trainer, whose loops a signal can end at any step."""

import contextlib
import signal
import time

import tensorflow as tf
import tf_keras
from official.core import base_trainer

from tokendrop_tf.run import collectives, signals

# Steps between two looks for a signal take about this long. Half a minute is
# the notice that clouds give before they take a machine back.
SECONDS_PER_SLICE = 5.0


def create_slots(optimizer, model) -> None:
  """Creates the variables of an optimizer before its first step.

  A step that creates variables is traced twice.

  Args:
    optimizer: of the Model Garden's factory.
    model: a model with `trained_variables`.
  """
  optimizer._create_all_weights(model.trained_variables)


class Trainer(base_trainer.Trainer):
  """Runs a loop in slices of some seconds and looks for signals in between.

  The metrics of a loop are in the checkpoint, so a loop that was ended resumes
  to the same figures.

  Args:
    model_dir: folder of the run, for messages.
    others as the Model Garden's trainer.
  """

  def __init__(
    self, config, task, model, optimizer, train=True, *, model_dir, **kwargs
  ):
    super().__init__(config, task, model, optimizer, train=train, **kwargs)
    self.stop_request = signals.StopRequest()
    self._model_dir = model_dir
    self._has_taken_a_step = False
    self._slice_steps = 1
    self._is_last_slice = True
    self._with_loop_metrics = None
    if train:
      with self.strategy.scope():
        create_slots(optimizer, model)
      # A checkpoint that is written asynchronously has the items that this one
      # begins with.
      self._with_loop_metrics = tf.train.Checkpoint(
        global_step=self.global_step,
        model=self.model,
        optimizer=self.optimizer,
        loop_metrics=[
          metric
          for metric in [*self.train_metrics, self.train_loss]
          if isinstance(metric, tf_keras.metrics.Metric)
        ],
        **getattr(self.model, 'checkpoint_items', {}),
      )

  @property
  def checkpoint(self):
    """The `tf.train.Checkpoint` of a run."""
    return self._with_loop_metrics or super().checkpoint

  @property
  def has_workers(self) -> bool:
    """Whether other processes take the same steps."""
    return collectives.has_others(self.strategy)

  def train(self, num_steps):
    """Runs `num_steps` steps, unless a signal comes.

    Returns:
      The metrics of the loop.

    Raises:
      signals.Stopped: between two steps; the metrics stay as they are.
    """
    left, logs = int(num_steps), None
    while left:
      self._agree_to_stop()
      size = min(left, self._slice_steps)
      self._is_last_slice = size == left
      began = time.monotonic()
      with self._starting():
        logs = super().train(tf.constant(size, tf.int32))
      self._has_taken_a_step = True
      left -= size
      self._choose_slice((time.monotonic() - began) / size)
    return logs

  def train_loop_end(self):
    """Waits for the device; returns the metrics at the end of a loop."""
    self.global_step.numpy()
    return super().train_loop_end() if self._is_last_slice else None

  def _starting(self):
    """Lets a signal end the first step, which takes long to compile."""
    if self._has_taken_a_step or self.has_workers:
      return contextlib.nullcontext()
    return self.stop_request.before_first_step(self._model_dir)

  def wait_for_workers(self):
    """Returns once all workers have called it."""
    collectives.of_each(self.strategy, 0)

  def _agree_to_stop(self):
    """Raises `Stopped` on all workers at the same step."""
    request = self.stop_request
    if self.has_workers:
      number = request.signal_number or 0
      if not any(collectives.of_each(self.strategy, number)):
        return  # A signal that came meanwhile waits for the next time.
      request.signal_number = request.signal_number or signal.SIGTERM
    request.check()

  def _choose_slice(self, seconds_per_step):
    seconds_per_step = max(collectives.of_each(self.strategy, seconds_per_step))
    steps = int(SECONDS_PER_SLICE / max(seconds_per_step, 1e-6))
    self._slice_steps = max(steps, 1)
