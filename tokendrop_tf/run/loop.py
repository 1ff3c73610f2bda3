"""The loop of a run: trains, validates, reports and saves on fixed steps.

The Model Garden's trainer takes the steps. Around it:

- Loops, checkpoints and validations fall on multiples of their intervals,
  whatever step a run resumes from.
- A loss that is not finite stops the run before a checkpoint of it is written.
- A run resumes from the newest checkpoint that is whole, with the batch that
  comes next; later entries of its logs are removed.
- A signal ends a training run with a checkpoint.
"""

import contextlib
import functools
import os
import tempfile
import threading
import time

import orbit
import tensorflow as tf
from absl import logging
from official.core import task_factory, train_utils
from official.modeling import performance

from tokendrop_tf import command_line, errors, files
from tokendrop_tf.config import configs
from tokendrop_tf.run import (
  checkpoints,
  collectives,
  disk_errors,
  event_files,
  metrics_log,
  run_folder,
  signals,
)
from tokendrop_tf.run import trainer as trainer_lib


def create_loop(experiment, strategy, report):
  """Builds task, model and optimizer, and restores the checkpoint.

  Args:
    experiment: a `tasks.experiment.Experiment` whose settings are locked.
    strategy: a `tf.distribute.Strategy`.
    report: a `run_report.RunReport`.

  Returns:
    A `Loop`.
  """
  params, model_dir = experiment.params, experiment.model_dir
  command_line.silence_xla()
  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  _require_same_settings(params, strategy)
  checkpoint = _find_checkpoint(experiment, strategy, report)
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
  task.configure_step(
    params.trainer.gradient_accumulation_steps,
    params.runtime.all_reduce_dtype,
  )
  first_step = checkpoints.step_of(checkpoint) if checkpoint else 0
  # A run that has ended reads no more data.
  if experiment.is_training and first_step < params.trainer.train_steps:
    is_chief = strategy.extended.should_checkpoint
    task.resume_data(first_step, model_dir, is_chief)
  # Steps have nothing for AutoGraph to convert, which takes it seconds.
  for name in ('train_step', 'validation_step'):
    step = tf.autograph.experimental.do_not_convert(getattr(task, name))
    setattr(task, name, step)
  if params.runtime.enable_xla and not params.runtime.num_gpus:
    # On GPUs the Model Garden's trainer compiles the step itself, on TPUs
    # everything is compiled.
    task.train_step = tf.function(task.train_step, jit_compile=True)
  with strategy.scope():
    trainer = train_utils.create_trainer(
      params,
      task,
      train=experiment.is_training,
      evaluate=experiment.is_validating,
      checkpoint_exporter=train_utils.maybe_create_best_ckpt_exporter(
        params, model_dir
      ),
      trainer_cls=functools.partial(trainer_lib.Trainer, model_dir=model_dir),
    )
  return Loop(experiment, trainer, report, checkpoint)


def _find_checkpoint(experiment, strategy, report):
  """Returns the checkpoint to resume from, and makes the folder agree with it.

  Returns:
    Its prefix; `None` to begin, and where checkpoints are waited for.
  """
  model_dir = experiment.model_dir
  if strategy.extended.should_checkpoint:
    checkpoints.repair_record(model_dir)
  if experiment.mode == 'continuous_eval':
    return None
  checkpoint = checkpoints.newest_whole(model_dir, report.show)
  _require_same_checkpoint(checkpoint, model_dir, strategy)
  if not experiment.is_training or not strategy.extended.should_checkpoint:
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
  first, *others = collectives.of_each(strategy, run_folder.fingerprint(params))
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
  steps = collectives.of_each(strategy, step)
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


class Loop:
  """Runs an experiment in its mode.

  Args:
    experiment: a `tasks.experiment.Experiment`.
    trainer: a `trainer.Trainer`.
    report: a `run_report.RunReport`.
    checkpoint: prefix of the checkpoint to begin with; `None`: begin without
      one.
  """

  def __init__(self, experiment, trainer, report, checkpoint=None):
    self.trainer = trainer
    self._experiment = experiment
    self._settings = experiment.params.trainer
    self._model_dir = experiment.model_dir
    self._strategy = trainer.strategy
    self._report = report
    self._checkpoints = _checkpoint_manager(experiment, trainer)
    self._save_options = tf.train.CheckpointOptions(
      enable_async=configs.has_async_checkpoints(experiment.params)
    )
    self._train_summaries = self._summaries('train')
    self._validation_summaries = self._summaries(
      self._settings.validation_summary_subdir
    )
    tf.summary.experimental.set_step(trainer.global_step)
    if checkpoint:
      self._restore(checkpoint)
    elif experiment.is_training:
      with self._strategy.scope():
        trainer.initialize()
    self._saved_step = self.step
    # The thread that waits for the checkpoint that is being written.
    self._saving = self._saving_path = None
    _silence_async_saving()

  @property
  def step(self) -> int:
    """The global step."""
    return int(self.trainer.global_step.numpy())

  @property
  def num_parameters(self) -> int:
    """The number of trainable parameters."""
    return sum(
      variable.shape.num_elements()
      for variable in self.trainer.model.trainable_variables
    )

  def run(self):
    """Trains or evaluates until the mode is done.

    Raises:
      signals.Stopped: after SIGTERM or Ctrl-C in a training run, once a
        checkpoint is written.
      errors.TrainingError: for a loss or weights that are not finite, or when
        the device's memory is too small.
    """
    run = {
      'train': self._train_until_end,
      'train_and_eval': self._train_and_validate,
      'eval': self.validate,
      'continuous_eval': self._validate_continuously,
    }[self._experiment.mode]
    try:
      with contextlib.ExitStack() as stack:
        stack.enter_context(self._strategy.scope())
        stack.enter_context(disk_errors.named_failures(self._model_dir))
        if self._experiment.is_training:
          stack.enter_context(self.trainer.stop_request)
          self._write_settings()
        run()
    except tf.errors.ResourceExhaustedError as error:
      first_line = error.message.splitlines()[0]
      raise errors.TrainingError(
        'A step must fit into memory. Received: '
        f'{first_line} Set a smaller train_data.global_batch_size.'
      ) from error

  def _train_until_end(self):
    self._train(self._settings.train_steps, saves_at_end=True)

  def _train_and_validate(self):
    """Validates at multiples of the interval and at the end."""
    last = self._settings.train_steps
    interval = self._settings.validation_interval
    if self._misses_validation(last, interval):
      self.validate()
    while (step := self.step) < last:
      until = min(last, step + interval - step % interval)
      # Before the last validation, the weights are safe.
      self._train(until, saves_at_end=until == last)
      self.validate()

  def _misses_validation(self, last, interval):
    """Returns whether the run ended between a checkpoint and its validation."""
    step = self.step
    is_due = step and (step % interval == 0 or step >= last)
    # The chief alone has the history.
    return is_due and collectives.of_chief(
      self._strategy, not self._report.has_validation(step)
    )

  def _train(self, until, saves_at_end):
    """Trains until a step; loops end on multiples of their length."""
    length = self._settings.steps_per_loop
    try:
      while (step := self.step) < until:
        self._train_loop(min(until - step, length - step % length))
        if self._is_checkpoint_due():
          self._save()
      if saves_at_end:
        self._save()
    except signals.Stopped:
      self._save()
      self.trainer.wait_for_workers()
      raise
    finally:
      # The checkpoint that is being written is complete, or has failed.
      self._finish_saving()

  def _train_loop(self, num_steps):
    """Takes some steps, checks the loss, reports."""
    begin, summaries = self.step, self._train_summaries
    self._report.begin_loop()
    began = time.monotonic()
    with summaries.summary_writer().as_default():
      with tf.summary.record_if(self._is_summary_due):
        output = self.trainer.train(num_steps)
    self._require_finite_loss(output, begin)
    self._require_saved()
    self._report.end_loop(self.step, num_steps, output)
    output['steps_per_second'] = num_steps / (time.monotonic() - began)
    guard = self.trainer.model.loss_guard
    output['gradient_norm'] = float(guard.gradient_norm.numpy())
    if hasattr(self.trainer.optimizer, 'loss_scale'):
      output['loss_scale'] = float(self.trainer.optimizer.loss_scale)
    output |= self._experiment.train_facts(self.step)
    summaries.write_summaries(_numbers(output))
    if self.step % self._settings.validation_interval == 0:
      self._write_histograms()
    summaries.flush()

  def _is_summary_due(self):
    return self.trainer.global_step % self._settings.summary_interval == 0

  def _write_settings(self):
    """Shows the settings in TensorBoard, once."""
    folder = os.path.join(self._model_dir, 'train')
    is_chief = self._strategy.extended.should_save_summary
    if self.step or not is_chief or tf.io.gfile.glob(f'{folder}/*tfevents*'):
      return
    path = os.path.join(self._model_dir, run_folder.PARAMS_FILE)
    lines = files.read_bytes(path).decode().splitlines(keepends=True)
    # Indented, Markdown is code.
    text = ''.join(f'    {line}' for line in lines)
    with self._train_summaries.summary_writer().as_default():
      tf.summary.text('settings', text, step=0)

  def _write_histograms(self):
    with self._train_summaries.summary_writer().as_default():
      for name, values in self._experiment.histograms(
        self.trainer.model
      ).items():
        tf.summary.histogram(name, values, step=self.step)

  def validate(self):
    """Runs a validation and reports it."""
    began, num_steps = time.monotonic(), self._settings.validation_steps
    summaries = self._validation_summaries
    with self._interruptible(), summaries.summary_writer().as_default():
      output = self.trainer.evaluate(tf.constant(num_steps, tf.int32))
    seconds = time.monotonic() - began
    output = _numbers(output)
    if num_steps > 0:
      output['steps_per_second'] = num_steps / seconds
    self._require_examples()
    output |= self._experiment.validation_facts(output)
    summaries.write_summaries(output)
    summaries.flush()
    self._report.end_validation(self.step, seconds, output)

  @contextlib.contextmanager
  def _interruptible(self):
    """Ends a validation at once on a signal: it is made again."""
    if not self._experiment.is_training or self.trainer.has_workers:
      yield
      return
    try:
      with self.trainer.stop_request.at_once():
        yield
    except signals.Stopped:
      self._save()
      self._finish_saving()
      raise

  def _validate_continuously(self):
    """Validates every new checkpoint; ends with that of the last step."""
    last = self._settings.train_steps
    for checkpoint in tf.train.checkpoints_iterator(
      self._checkpoints.directory,
      timeout=self._settings.continuous_eval_timeout,
      timeout_fn=lambda: self.step >= last,
    ):
      if self._is_damaged(checkpoint):
        continue
      # A run that still trains may delete what is being read.
      with contextlib.suppress(tf.errors.NotFoundError):
        self._restore(checkpoint)
        self.validate()
        if self.step >= last:
          break

  def _is_damaged(self, checkpoint):
    """Reports a checkpoint that is damaged, not one that was deleted."""
    what = checkpoints.damage(checkpoint)
    if not what or not tf.io.gfile.exists(f'{checkpoint}.index'):
      return False
    self._report.show(
      f'The checkpoint {checkpoint} is damaged and omitted: {what}'
    )
    return True

  def _restore(self, checkpoint):
    with self._strategy.scope():
      status = self._checkpoints.checkpoint.restore(checkpoint)
    if not self._experiment.is_training:
      status.expect_partial()

  def _is_checkpoint_due(self):
    """Returns whether a multiple of the interval was passed."""
    interval = self._checkpoints.checkpoint_interval
    return self.step // interval > self._saved_step // interval

  def save(self):
    """Writes a checkpoint of this step and waits until it is whole."""
    self._save()
    self._finish_saving()

  def _save(self):
    """Writes a checkpoint, unless there is one of this step."""
    step = self.step
    if step == self._saved_step:
      return
    self._require_finite_weights()
    self._finish_saving()
    self._saved_step = step
    self._saving_path = self._checkpoints.save(
      checkpoint_number=step,
      check_interval=False,
      options=self._save_options,
    )
    self._saving = threading.Thread(target=self._checkpoints.sync, daemon=True)
    self._saving.start()

  def _require_saved(self):
    """Raises the failure of a checkpoint once its writing has ended."""
    if self._saving is None or self._saving.is_alive():
      return
    self._saving = None
    if not tf.io.gfile.exists(f'{self._saving_path}.index'):
      # TensorFlow raises what went wrong where it is to write the next one.
      self.trainer.checkpoint.write(self._saving_path, self._save_options)

  def _finish_saving(self):
    """Waits for the checkpoint that is being written."""
    if self._saving is not None:
      self._saving.join()
      self._require_saved()

  def _summaries(self, folder):
    """Returns an `orbit.utils.SummaryManager`; that of the chief writes."""
    is_chief = self._strategy.extended.should_save_summary
    return orbit.utils.SummaryManager(
      os.path.join(self._model_dir, folder) if is_chief else None,
      tf.summary.scalar,
      global_step=self.trainer.global_step,
    )

  def _require_finite_loss(self, output, begin):
    """Stops before a checkpoint of a broken model is written."""
    loss = metrics_log.number(output['training_loss'])
    first = int(self.trainer.model.loss_guard.first_nonfinite_step.numpy())
    if first < 0 and tf.math.is_finite(loss):
      return
    where = (
      f'at step {first:,}'
      if first >= 0
      else f'between the steps {begin + 1:,} and {self.step:,}'
    )
    self._stop(f'The training loss must be finite. Received: {loss} {where}.')

  def _require_finite_weights(self):
    """Catches an update that breaks the model after the last loss was good."""
    for variable in self.trainer.model.trainable_variables:
      if not tf.reduce_all(tf.math.is_finite(variable)):
        self._stop(
          'The weights must be finite. Received: not so in '
          f'{variable.name} after step {self.step:,}.'
        )

  def _stop(self, what):
    self._finish_saving()
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
      for metric in self.trainer.validation_metrics
      if metric.name == 'validation_loss'
    ]
    if counts and not any(counts):
      raise errors.DataError(
        'Validation needs at least one example with a masked token. '
        'Received: none. Set validation_data.input_path, or a '
        'vocabulary.path that knows its words.'
      )


def _checkpoint_manager(experiment, trainer):
  """Returns the manager of the run's checkpoints.

  Variables of several workers are read by all of them at once, so each must
  save; all but the chief do so in a temporary folder.
  """
  settings = experiment.params.trainer
  is_chief = trainer.strategy.extended.should_checkpoint
  return tf.train.CheckpointManager(
    trainer.checkpoint,
    directory=experiment.model_dir if is_chief else tempfile.mkdtemp(),
    max_to_keep=settings.max_to_keep if is_chief else 1,
    step_counter=trainer.global_step,
    checkpoint_interval=settings.checkpoint_interval,
  )


def _numbers(output):
  return tf.nest.map_structure(orbit.utils.get_value, output or {})


@functools.cache
def _silence_async_saving():
  """Hides the log of a failed write, which TensorFlow raises as well."""
  logging.get_absl_logger().addFilter(
    lambda record: 'from the async thread' not in record.getMessage()
  )
