"""Runs an experiment on the Model Garden's orchestrator.

Orbit's controller and the Model Garden's runner do the work. What differs here:
loops, checkpoints and validations fall on multiples of their intervals whatever
step a run resumes from; they are reported through `progress`; and a loss that
is not finite stops the run before a checkpoint of it is written.
"""

import contextlib
import functools
import time

import orbit
import tensorflow as tf
from absl import logging
from official.common import distribute_utils
from official.core import task_factory, train_lib
from official.modeling import performance
from orbit import controller as orbit_controller

from tokendrop_tf import errors, progress


def configure_devices(runtime):
  """Splits the CPU as configured; must run before TensorFlow computes.

  Raises:
    errors.ConfigurationError: when there are fewer GPUs than configured.
  """
  gpus = tf.config.list_physical_devices('GPU')
  if len(gpus) < runtime.num_gpus:
    raise errors.ConfigurationError(
      'runtime.num_gpus must be at most the number of GPUs that TensorFlow '
      f'sees. Received: num_gpus={runtime.num_gpus}, seen: {len(gpus)}. Set '
      'runtime.num_gpus.'
    )
  wanted = runtime.num_logical_cpu_devices
  if wanted > 1:
    cpu = tf.config.list_physical_devices('CPU')[0]
    # TensorFlow that has already started may be split finely enough.
    with contextlib.suppress(RuntimeError):
      tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
      )
    if len(tf.config.list_logical_devices('CPU')) < wanted:
      raise RuntimeError('TensorFlow had started before the CPU was split.')


def create_strategy(runtime):
  """Returns the configured `tf.distribute.Strategy`.

  Raises:
    errors.ConfigurationError: if no TPU answers under `runtime.tpu`.
  """
  num_cpus = runtime.num_logical_cpu_devices
  if runtime.distribution_strategy == 'mirrored' and num_cpus > 1:
    return tf.distribute.MirroredStrategy(
      [f'CPU:{index}' for index in range(num_cpus)]
    )
  try:
    return distribute_utils.get_distribution_strategy(
      distribution_strategy=runtime.distribution_strategy,
      all_reduce_alg=runtime.all_reduce_alg,
      num_gpus=runtime.num_gpus,
      num_packs=runtime.num_packs,
      tpu_address=runtime.tpu,
    )
  except (ValueError, tf.errors.OpError) as error:
    if runtime.distribution_strategy != 'tpu':
      raise
    raise errors.ConfigurationError(
      'runtime.tpu must name a TPU that answers. Received: '
      f"{runtime.tpu!r}: {error}. Set runtime.tpu, to 'local' on a TPU VM."
    ) from error


def create_runner(params, mode, model_dir, strategy, report):
  """Builds task, model, optimizer and controller; restores the checkpoint.

  Args:
    params: the locked `ExperimentConfig`.
    mode: 'train', 'eval', 'train_and_eval' or 'continuous_eval'.
    model_dir: folder of checkpoints and summaries.
    strategy: a `tf.distribute.Strategy`.
    report: a `progress.Report`; hears of every loop and every validation.

  Returns:
    A `train_lib.OrbitExperimentRunner`; `run_loops` does the work.
  """
  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
  if params.runtime.enable_xla and not params.runtime.num_gpus:
    # On GPUs the Model Garden's trainer compiles the step itself, on TPUs
    # everything is compiled.
    task.train_step = tf.function(task.train_step, jit_compile=True)
  with _quiet_orbit():
    runner = train_lib.OrbitExperimentRunner(
      strategy,
      task,
      mode,
      params,
      model_dir,
      controller_cls=functools.partial(
        Controller, report=report, model_dir=model_dir
      ),
    )
  if 'train' in mode and strategy.extended.should_save_summary:
    _add_histogram(
      runner.controller,
      runner.trainer.model,
      params.trainer.validation_interval,
    )
  return runner


def run_loops(runner):
  """Trains or evaluates in the runner's mode until it is done.

  Raises:
    errors.TrainingError: for a loss or weights that are not finite, or when
      the device's memory is too small.
  """
  try:
    with _quiet_orbit():
      runner.run()
  except tf.errors.ResourceExhaustedError as error:
    first_line = error.message.splitlines()[0]
    raise errors.TrainingError(
      'A step must fit into memory and a checkpoint on the disk. Received: '
      f'{first_line} Set a smaller train_data.global_batch_size, or make '
      'room.'
    ) from error


class Controller(orbit.Controller):
  """Orbit's controller on fixed steps, with our reports and guards.

  Args:
    report: a `progress.Report`.
    model_dir: folder of the run, for messages.
    steps_per_loop: steps per loop; loops end on its multiples.
    **kwargs: of `orbit.Controller`.
  """

  def __init__(self, *, report, model_dir, steps_per_loop, **kwargs):
    super().__init__(
      steps_per_loop=lambda step: steps_per_loop - step % steps_per_loop,
      **kwargs,
    )
    self._report = report
    self._model_dir = model_dir
    self._saved_step = self._step()

  def train_and_evaluate(self, train_steps, eval_steps=-1, eval_interval=None):
    """Validates at multiples of `eval_interval` and at the end."""
    output = None
    while self._step() < train_steps:
      step = self._step()
      next_step = min(train_steps, step + eval_interval - step % eval_interval)
      # Before the last validation, the weights are safe.
      self.train(next_step, checkpoint_at_completion=next_step == train_steps)
      output = self.evaluate(eval_steps)
    return output

  def evaluate_continuously(self, steps=-1, timeout=None, timeout_fn=None):
    """Evaluates every new checkpoint; ends with that of the last step."""
    output = None
    for checkpoint in tf.train.checkpoints_iterator(
      self.checkpoint_manager.directory, timeout=timeout, timeout_fn=timeout_fn
    ):
      # A training that goes on may delete what is being read.
      with contextlib.suppress(tf.errors.NotFoundError):
        self.restore_checkpoint(checkpoint)
        output = self.evaluate(steps)
        if timeout_fn():
          break
    return output

  def evaluate(self, steps=-1):
    began = time.monotonic()
    output = super().evaluate(steps)
    self._require_examples()
    self._report.end_validation(self._step(), time.monotonic() - began, output)
    return output

  def _train_n_steps(self, num_steps):
    self.step_timer = None  # Counts no time of validation and saving.
    begin = self._step()
    self._report.begin_loop()
    actions = self.train_actions
    self.train_actions = (
      lambda output: self._require_finite_loss(output, begin),
      lambda output: self._report.end_loop(self._step(), num_steps, output),
      *actions,
    )
    super()._train_n_steps(num_steps)
    self.train_actions = actions

  def _maybe_save_checkpoint(self, check_interval=True):
    """Saves where a multiple of the interval was passed, or if told to."""
    step, interval = self._step(), self.checkpoint_manager.checkpoint_interval
    is_due = step // interval > self._saved_step // interval
    if step == self._saved_step or (check_interval and not is_due):
      return False
    self._require_finite_weights()
    self._saved_step = step
    return super()._maybe_save_checkpoint(check_interval=False)

  def _step(self):
    return int(self.global_step.numpy())

  def _require_finite_loss(self, output, begin):
    """Stops before a checkpoint of a broken model is written."""
    loss = float(orbit.utils.get_value(output['training_loss']))
    first = int(self.trainer.model.first_nonfinite_step.numpy())
    if first < 0 and tf.math.is_finite(loss):
      return
    where = (
      f'at step {first:,}'
      if first >= 0
      else f'between the steps {begin + 1:,} and {self._step():,}'
    )
    self._stop(f'The training loss must be finite. Received: {loss} {where}.')

  def _require_finite_weights(self):
    """Catches an update that breaks the model after the last loss was good."""
    for variable in self.trainer.model.trainable_variables:
      if not tf.reduce_all(tf.math.is_finite(variable)):
        self._stop(
          'The weights must be finite. Received: not so in '
          f'{variable.name} after step {self._step():,}.'
        )

  def _stop(self, what):
    checkpoint = tf.train.latest_checkpoint(self._model_dir)
    kept = (
      f'The last good checkpoint is kept: {checkpoint}.'
      if checkpoint
      else 'No checkpoint had been written yet.'
    )
    raise errors.TrainingError(
      f'{what} {kept} Set a lower optimizer.learning_rate or more '
      'optimizer.warmup_steps, and start again in another --model_dir.'
    )

  def _require_examples(self):
    """A mean over no example would read as a loss of 0."""
    counts = [
      float(metric.count.numpy())
      for metric in self.evaluator.validation_metrics
      if metric.name == 'validation_loss'
    ]
    if not any(counts):
      raise errors.DataError(
        'Validation needs at least one example with a masked token. '
        'Received: none. Set validation_data.input_path, or a '
        'vocabulary.path that knows its words.'
      )


def _add_histogram(controller, model, interval):
  importance = model.encoder_network.token_importance
  if importance is None:
    return
  controller.train_actions += (
    progress.ImportanceHistogram(
      importance.table,
      controller.summary_manager.summary_writer(),
      controller.global_step,
      interval,
    ),
  )


@contextlib.contextmanager
def _quiet_orbit():
  """Sends to the log what orbit would print on stdout as well."""
  original = orbit_controller._log  # pylint: disable=protected-access
  orbit_controller._log = logging.info
  try:
    yield
  finally:
    orbit_controller._log = original
