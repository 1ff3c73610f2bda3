"""Runs an experiment on the Model Garden's orchestrator.

Orbit's controller and the Model Garden's runner do the work. What differs here:

- Loops, checkpoints and validations fall on multiples of their intervals,
  whatever step a run resumes from, and are reported through `progress`.
- A loss that is not finite stops the run before a checkpoint of it is written.
- A run goes on from the newest checkpoint that is whole, with the very batch
  that comes next, and takes back what its logs tell beyond it.
- A signal ends a training with a checkpoint.
"""

import contextlib
import functools
import os
import signal
import time

import orbit
import tensorflow as tf
import tf_keras
from absl import logging
from official.common import distribute_utils
from official.core import base_trainer, task_factory, train_lib, train_utils
from official.modeling import performance
from orbit import controller as orbit_controller

from tokendrop_tf import (
  agreement,
  checkpoints,
  command_line,
  configs,
  errors,
  event_files,
  progress,
  run_folder,
  run_lock,
  stopping,
  storage,
  workers,
)

# Steps between two looks for a signal take about so long. Half a minute is what
# clouds leave a machine that they take back.
SECONDS_PER_SLICE = 5.0


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
  waiting = contextlib.nullcontext()
  if runtime.distribution_strategy == 'multi_worker_mirrored':
    waiting = workers.meeting(
      *workers.check_tf_config(), runtime.worker_timeout_seconds
    )
  try:
    with waiting:
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
  command_line.silence_xla()
  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  _require_same_settings(params, strategy)
  checkpoint = _find_checkpoint(mode, model_dir, strategy, report)
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
  if hasattr(task, 'configure_step'):
    task.configure_step(
      params.trainer.gradient_accumulation_steps,
      params.runtime.all_reduce_dtype,
    )
  step = checkpoints.step_of(checkpoint) if checkpoint else 0
  # A run that has ended reads no more data.
  goes_on = 'train' in mode and step < params.trainer.train_steps
  if goes_on and hasattr(task, 'resume_data'):
    task.resume_data(step, model_dir, strategy.extended.should_checkpoint)
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
        Controller, report=report, model_dir=model_dir, checkpoint=checkpoint
      ),
      save_summary=strategy.extended.should_save_summary,
      enable_async_checkpointing=configs.has_async_checkpoints(params),
      trainer=_build_trainer(params, task, mode, model_dir, strategy),
    )
  if 'train' in mode and strategy.extended.should_save_summary:
    _add_histogram(
      runner.controller,
      runner.trainer.model,
      params.trainer.validation_interval,
    )
  return runner


def _find_checkpoint(mode, model_dir, strategy, report):
  """Returns the checkpoint to go on from, and makes the folder agree with it.

  Returns:
    Its prefix; `None` to begin, and where checkpoints are waited for.
  """
  if strategy.extended.should_checkpoint:
    checkpoints.repair_record(model_dir)
  if mode == 'continuous_eval':
    return None
  checkpoint = checkpoints.newest_whole(model_dir, report.show)
  _require_same_checkpoint(checkpoint, model_dir, strategy)
  if 'train' not in mode or not strategy.extended.should_checkpoint:
    return checkpoint
  checkpoints.set_aside(model_dir, checkpoint)
  step = checkpoints.step_of(checkpoint) if checkpoint else 0
  event_files.forget_after(os.path.join(model_dir, 'train'), step)
  # A validation that was not logged is made again.
  last = step if report.has_validation(step) else step - 1
  event_files.forget_after(os.path.join(model_dir, 'validation'), last)
  return checkpoint


def _require_same_settings(params, strategy):
  """Raises `ConfigurationError` unless all workers compute the same."""
  first, *others = agreement.of_each(strategy, run_folder.fingerprint(params))
  different = [n for n, other in enumerate(others, start=1) if other != first]
  if different:
    raise errors.ConfigurationError(
      'All workers must have the same settings. Received: others than worker '
      f'0 on worker {", ".join(map(str, different))}. Start the same command, '
      'with the same gin files, on all workers.'
    )


def _require_same_checkpoint(checkpoint, model_dir, strategy):
  """Raises `ConfigurationError` unless all workers begin at the same step."""
  step = checkpoints.step_of(checkpoint) if checkpoint else -1
  steps = agreement.of_each(strategy, step)
  if len(set(steps)) > 1:
    seen = ', '.join(
      f'{"none" if step < 0 else f"step {step:,.0f}"} on worker {number}'
      for number, step in enumerate(steps)
    )
    raise errors.ConfigurationError(
      'All workers must see the same checkpoints in --model_dir. Received: '
      f'{model_dir}, with {seen}. Pass a --model_dir that all share, such as a '
      'network file system or gs://..., and the same to all.'
    )


def _build_trainer(params, task, mode, model_dir, strategy):
  with strategy.scope():
    return train_utils.create_trainer(
      params,
      task,
      train='train' in mode,
      evaluate='eval' in mode,
      checkpoint_exporter=train_lib.maybe_create_best_ckpt_exporter(
        params, model_dir
      ),
      trainer_cls=Trainer,
    )


def run_loops(runner):
  """Trains or evaluates in the runner's mode until it is done.

  Raises:
    stopping.Stopped: after SIGTERM or Ctrl-C in a training, once a checkpoint
      is written.
    errors.TrainingError: for a loss or weights that are not finite, or when
      the device's memory is too small.
  """
  try:
    with contextlib.ExitStack() as stack:
      stack.enter_context(_quiet_orbit())
      stack.enter_context(storage.named_failures(runner.model_dir))
      if runner.controller.trainer is not None:
        stack.enter_context(runner.trainer.stop_request)
      runner.run()
  except tf.errors.ResourceExhaustedError as error:
    first_line = error.message.splitlines()[0]
    raise errors.TrainingError(
      'A step must fit into memory. Received: '
      f'{first_line} Set a smaller train_data.global_batch_size.'
    ) from error


class Trainer(base_trainer.Trainer):
  """The Model Garden's trainer, whose loops a signal can end at any step.

  A loop runs in slices of some seconds. Its metrics are in the checkpoint, so a
  loop that was ended goes on to the same figures.
  """

  def __init__(self, config, task, model, optimizer, train=True, **kwargs):
    super().__init__(config, task, model, optimizer, train=train, **kwargs)
    self.stop_request = stopping.StopRequest()
    self._slice_steps = 1
    if train:
      # A checkpoint that is written aside has what this one begins with.
      self._checkpoint = tf.train.Checkpoint(
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

  def train(self, num_steps):
    """Implements `num_steps` steps, unless it is told to stop.

    Raises:
      stopping.Stopped: between two steps; the metrics stay as they are.
    """
    self.train_loop_begin()
    if self._train_loop_fn is None:
      self._train_loop_fn = self.create_train_loop_fn()
    if self._train_iter is None:
      self._train_iter = tf.nest.map_structure(iter, self.train_dataset)
    left = int(num_steps)
    while left:
      self._agree_to_stop()
      size = min(left, self._slice_steps)
      began = time.monotonic()
      self._train_loop_fn(self._train_iter, tf.constant(size, tf.int32))
      self.global_step.numpy()  # Waits for the device.
      left -= size
      self._choose_slice((time.monotonic() - began) / size)
    return self.train_loop_end()

  @property
  def has_workers(self):
    """Whether other processes take the same steps."""
    return agreement.has_others(self.strategy)

  def _agree_to_stop(self):
    """Raises `Stopped` on all workers at the same step."""
    run_lock.require_held()
    request = self.stop_request
    if self.has_workers:
      number = request.signal_number or 0
      if not any(agreement.of_each(self.strategy, number)):
        return  # A signal that came meanwhile waits for the next time.
      request.signal_number = request.signal_number or signal.SIGTERM
    request.check()

  def wait_for_workers(self):
    """Returns once all workers have come here."""
    agreement.of_each(self.strategy, 0)

  def _choose_slice(self, seconds_per_step):
    seconds_per_step = max(agreement.of_each(self.strategy, seconds_per_step))
    steps = int(SECONDS_PER_SLICE / max(seconds_per_step, 1e-6))
    self._slice_steps = max(steps, 1)


class Controller(orbit.Controller):
  """Orbit's controller on fixed steps, with our reports and guards.

  Args:
    report: a `progress.Report`.
    model_dir: folder of the run, for messages.
    checkpoint: prefix of the checkpoint to begin with; `None` is none.
    steps_per_loop: steps per loop; loops end on its multiples.
    **kwargs: of `orbit.Controller`.
  """

  def __init__(
    self, *, report, model_dir, steps_per_loop, checkpoint=None, **kwargs
  ):
    self._checkpoint = checkpoint
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
    if self._misses_validation(train_steps, eval_interval):
      output = self.evaluate(eval_steps)
    while self._step() < train_steps:
      step = self._step()
      next_step = min(train_steps, step + eval_interval - step % eval_interval)
      # Before the last validation, the weights are safe.
      self.train(next_step, checkpoint_at_completion=next_step == train_steps)
      output = self.evaluate(eval_steps)
    return output

  def train(self, steps, checkpoint_at_completion=True):
    try:
      super().train(steps, checkpoint_at_completion)
    except stopping.Stopped:
      self._maybe_save_checkpoint(check_interval=False)
      self.trainer.wait_for_workers()
      raise
    finally:
      # What is being written aside is complete, or has failed, before the end.
      self._sync_on_async_checkpointing()

  def restore_checkpoint(self, checkpoint_path=None):
    """Restores a checkpoint, at first the one that was found whole."""
    checkpoint_path = checkpoint_path or self._checkpoint
    if checkpoint_path is None and self.trainer is None:
      return None  # An evaluation that waits for one.
    return super().restore_checkpoint(checkpoint_path)

  def _misses_validation(self, train_steps, eval_interval):
    """Returns whether the run ended between a checkpoint and its validation."""
    step = self._step()
    is_due = step and (step % eval_interval == 0 or step >= train_steps)
    # The chief alone has the history.
    return is_due and agreement.of_chief(
      self.strategy, not self._report.has_validation(step)
    )

  def evaluate_continuously(self, steps=-1, timeout=None, timeout_fn=None):
    """Evaluates every new checkpoint; ends with that of the last step."""
    output = None
    for checkpoint in tf.train.checkpoints_iterator(
      self.checkpoint_manager.directory, timeout=timeout, timeout_fn=timeout_fn
    ):
      if self._is_damaged(checkpoint):
        continue
      # A training that goes on may delete what is being read.
      with contextlib.suppress(tf.errors.NotFoundError):
        self.restore_checkpoint(checkpoint)
        output = self.evaluate(steps)
        if timeout_fn():
          break
    return output

  def _is_damaged(self, checkpoint):
    """Tells of a checkpoint that is damaged, not of one that was deleted."""
    what = checkpoints.damage(checkpoint)
    if not what or not tf.io.gfile.exists(f'{checkpoint}.index'):
      return False
    self._report.show(
      f'The checkpoint {checkpoint} is damaged and left out: {what}'
    )
    return True

  def evaluate(self, steps=-1):
    began = time.monotonic()
    with self._interruptible():
      output = super().evaluate(steps)
    self._require_examples()
    self._report.end_validation(self._step(), time.monotonic() - began, output)
    return output

  @contextlib.contextmanager
  def _interruptible(self):
    """Ends a validation at once on a signal: it is made again."""
    if self.trainer is None or self.trainer.has_workers:
      yield
      return
    try:
      with self.trainer.stop_request.at_once():
        yield
    except stopping.Stopped:
      self._maybe_save_checkpoint(check_interval=False)
      self._sync_on_async_checkpointing()
      raise

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
    run_lock.require_held()
    self._require_finite_weights()
    self._saved_step = step
    with _raised_only():
      return super()._maybe_save_checkpoint(check_interval=False)

  def _sync_on_async_checkpointing(self):
    with _raised_only():
      super()._sync_on_async_checkpointing()

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
    self._sync_on_async_checkpointing()
    checkpoint = checkpoints.newest(self._model_dir)
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
    if counts and not any(counts):
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
def _raised_only():
  """TensorFlow also logs a failure to write aside, which it then raises."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _quiet_orbit():
  """Sends to the log what orbit would print on stdout as well."""
  original = orbit_controller._log  # pylint: disable=protected-access
  orbit_controller._log = logging.info
  try:
    yield
  finally:
    orbit_controller._log = original
