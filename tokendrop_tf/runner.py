"""Runs an experiment on the Model Garden's orchestrator.

Orbit's controller and the Model Garden's runner do the work. What differs here:
loops and checkpoints fall on multiples of their intervals whatever step a run
resumes from, reports go through `progress`, and a loss that is not finite stops
the run before its checkpoint is written.
"""

import contextlib

import orbit
import tensorflow as tf
from absl import logging
from official.common import distribute_utils
from official.core import config_definitions as cfg
from official.core import task_factory
from official.core import train_lib
from official.modeling import performance

from tokendrop_tf import errors


def configure_devices(runtime):
  """Splits the CPU as configured; must run before TensorFlow computes.

  Raises:
    errors.ConfigurationError: when there are fewer GPUs than configured.
  """
  gpus = tf.config.list_physical_devices('GPU')
  if len(gpus) < runtime.num_gpus:
    raise errors.ConfigurationError(
        'runtime.num_gpus must be at most the number of GPUs that TensorFlow '
        f'sees. Received: runtime.num_gpus={runtime.num_gpus}, seen: '
        f'{len(gpus)}. Set runtime.num_gpus.')
  wanted = runtime.num_logical_cpu_devices
  if wanted > 1:
    cpu = tf.config.list_physical_devices('CPU')[0]
    # Too late is fine as long as the CPU was already split as finely.
    with contextlib.suppress(RuntimeError):
      tf.config.set_logical_device_configuration(
          cpu, [tf.config.LogicalDeviceConfiguration()] * wanted)
    if len(tf.config.list_logical_devices('CPU')) < wanted:
      raise RuntimeError('The CPU was split after TensorFlow had started.')


def create_strategy(runtime):
  """Returns the configured `tf.distribute.Strategy`."""
  split_cpu = runtime.num_logical_cpu_devices > 1
  if runtime.distribution_strategy == 'mirrored' and split_cpu:
    return tf.distribute.MirroredStrategy(
        [f'CPU:{index}' for index in range(runtime.num_logical_cpu_devices)])
  try:
    return distribute_utils.get_distribution_strategy(
        distribution_strategy=runtime.distribution_strategy,
        all_reduce_alg=runtime.all_reduce_alg,
        num_gpus=runtime.num_gpus,
        num_packs=runtime.num_packs,
        tpu_address=runtime.tpu)
  except (ValueError, tf.errors.OpError) as error:
    if runtime.distribution_strategy != 'tpu':
      raise
    raise errors.ConfigurationError(
        'runtime.tpu must name a TPU that answers. Received: '
        f'{runtime.tpu!r}: {error}. Set runtime.tpu (\'local\' on a TPU VM).'
    ) from error


class Controller(orbit.Controller):
  """Orbit's controller with loops and checkpoints on fixed steps."""

  def __init__(self, *, steps_per_loop=None, **kwargs):
    loop = steps_per_loop
    with _silent_orbit():
      super().__init__(
          steps_per_loop=loop and (lambda step: loop - step % loop), **kwargs)
    self._last_saved_step = int(self.global_step.numpy())

  def train_and_evaluate(self, train_steps, eval_steps=-1, eval_interval=None):
    """Trains, evaluating at multiples of `eval_interval` and at the end."""
    output = None
    step = int(self.global_step.numpy())
    while step < train_steps:
      step = min(train_steps, step + eval_interval - step % eval_interval)
      is_last = step == train_steps
      self.train(steps=step, checkpoint_at_completion=is_last)
      output = self.evaluate(steps=eval_steps)
    return output

  def train(self, steps, checkpoint_at_completion=True):
    with _silent_orbit():
      super().train(steps, checkpoint_at_completion)

  def evaluate(self, steps=-1):
    with _silent_orbit():
      return super().evaluate(steps)

  def restore_checkpoint(self, checkpoint_path=None):
    with _silent_orbit():
      return super().restore_checkpoint(checkpoint_path)

  def _train_n_steps(self, num_steps):
    self.step_timer = None  # Evaluation and saving are not training time.
    super()._train_n_steps(num_steps)

  def _maybe_save_checkpoint(self, check_interval=True):
    step = int(self.global_step.numpy())
    interval = self.checkpoint_manager.checkpoint_interval
    due = step // interval > self._last_saved_step // interval
    if step == self._last_saved_step or (check_interval and not due):
      return False
    self._last_saved_step = step
    return super()._maybe_save_checkpoint(check_interval=False)


@contextlib.contextmanager
def _silent_orbit():
  """Sends what orbit prints on stdout to the log only."""
  from orbit import controller
  original = controller._log  # pylint: disable=protected-access
  controller._log = logging.info
  try:
    yield
  finally:
    controller._log = original


class StopAtNonfiniteLoss:
  """Train action: raises before a checkpoint of a broken model is written.

  Args:
    trainer: the Model Garden's trainer; its model may have the variable
      `first_nonfinite_step` (int64, -1 for none).
    model_dir: where the last checkpoint lies, for the message.
  """

  def __init__(self, trainer, model_dir):
    self._trainer = trainer
    self._model_dir = model_dir
    self._previous_step = int(trainer.global_step.numpy())

  def __call__(self, output):
    loss = float(orbit.utils.get_value(output['training_loss']))
    step = int(self._trainer.global_step.numpy())
    first = int(self._trainer.model.first_nonfinite_step.numpy())
    if first >= 0 or not tf.math.is_finite(loss):
      raise errors.TrainingError(self._message(first, step, loss))
    self._previous_step = step

  def _message(self, first, step, loss):
    where = (f'step {first}' if first >= 0 else
             f'a step between {self._previous_step + 1} and {step}')
    checkpoint = tf.train.latest_checkpoint(self._model_dir)
    kept = (f'The last good checkpoint is {checkpoint}.' if checkpoint
            else 'No checkpoint had been written yet.')
    return (
        f'The training loss must be finite. Received: {loss} (first not finite '
        f'at {where}). {kept} Lower optimizer.learning_rate, lengthen '
        'optimizer.warmup_steps or lower optimizer.gradient_clip_norm, and '
        'start again with another --model_dir.')


def create_runner(params, mode, model_dir, strategy, report):
  """Builds task, model, optimizer and controller.

  Args:
    params: the locked `ExperimentConfig`.
    mode: 'train', 'eval', 'train_and_eval' or 'continuous_eval'.
    model_dir: folder of checkpoints and summaries.
    strategy: a `tf.distribute.Strategy`.
    report: `progress.Report`; gets every loop and every evaluation.

  Returns:
    A `train_lib.OrbitExperimentRunner`; its `run()` does the work.
  """
  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
  if params.runtime.enable_xla and not params.runtime.num_gpus:
    # The Model Garden compiles the step on GPUs only.
    task.train_step = tf.function(task.train_step, jit_compile=True)
  train_actions, eval_actions = [], []
  with _silent_orbit():
    runner = train_lib.OrbitExperimentRunner(
        strategy, task, mode, params, model_dir,
        train_actions=train_actions, eval_actions=eval_actions,
        controller_cls=Controller)
  controller = runner.controller
  controller.train_actions = (
      StopAtNonfiniteLoss(runner.trainer, model_dir),
      report.train_action(runner.trainer)) + tuple(controller.train_actions)
  controller.eval_actions = tuple(controller.eval_actions) + (
      report.eval_action(runner.trainer),)
  return runner
