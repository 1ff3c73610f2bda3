"""Reports loops and validations on the console and in the metrics log."""

import os
import time

from tokendrop_tf.run import console as console_lib
from tokendrop_tf.run import metrics_log


class RunReport:
  """Reports every loop and every validation of one run.

  Args:
    experiment: a `tasks.experiment.Experiment`; says what of the metrics is
      shown.
    is_chief: whether this process prints and writes.
    stream: where to print; `None` is stdout.
  """

  def __init__(self, experiment, is_chief=True, stream=None):
    self._experiment = experiment
    self._console = console_lib.Console(stream, is_chief)
    name = (
      metrics_log.METRICS_FILE
      if experiment.is_training
      else metrics_log.EVALUATIONS_FILE
    )
    self._log = metrics_log.MetricsLog(
      os.path.join(experiment.model_dir, name), is_chief
    )
    self._num_steps = experiment.params.trainer.train_steps
    self._tokens_per_step = experiment.tokens_per_step
    self._train_seconds = 0.0
    self._loop_start = self._pace_start = None
    self.last_validation = None

  def show(self, text):
    """Prints a block."""
    self._console.show(text)

  def leave(self):
    """Ends the progress line, so that what follows starts on a new one."""
    self._console.leave()

  def begin(self, step):
    """Continues the history of `metrics.jsonl` up to the resumed `step`."""
    self._train_seconds = self._log.begin(step)

  def has_validation(self, step):
    """Returns whether a validation of this step is in the history."""
    return self._log.has('validation', step)

  def begin_loop(self):
    """Starts the clock of a train loop."""
    if self._pace_start is None:
      self._console.wait('compiling the train step ...')
    self._loop_start = time.monotonic()

  def end_loop(self, step, num_steps, output):
    """Adds speeds to the metrics of a train loop, logs and shows them.

    Args:
      step: the global step after the loop.
      num_steps: number of steps of the loop.
      output: dict of metrics, tensors or numbers; gets `tokens_per_second`.
    """
    seconds = time.monotonic() - self._loop_start
    self._train_seconds += seconds
    output['tokens_per_second'] = num_steps * self._tokens_per_step / seconds
    includes_compilation = self._pace_start is None
    self._log.append(
      'train',
      step,
      output,
      train_seconds=self._train_seconds,
      tokens=step * self._tokens_per_step,
      seconds_per_step=seconds / num_steps,
      includes_compilation=includes_compilation,
    )
    if includes_compilation:
      self._pace_start = (time.monotonic(), step)
    self._console.progress(
      step,
      self._num_steps,
      self._progress_text(step, seconds, output),
      force=includes_compilation or step >= self._num_steps,
    )

  def end_validation(self, step, seconds, output):
    """Logs and shows the metrics of a validation.

    Args:
      step: the global step of the weights.
      seconds: duration.
      output: dict of metrics, tensors or numbers.
    """
    output = {name: metrics_log.number(v) for name, v in output.items()}
    self.last_validation = output
    self._log.append(
      'validation',
      step,
      output,
      train_seconds=self._train_seconds,
      tokens=step * self._tokens_per_step,
      validation_seconds=seconds,
    )
    news = self._experiment.end_validation(step, output)
    self._console.show(
      f'step {step:,}  validation: {self._experiment.validation_text(output)}'
    )
    if news:
      self._console.show(f'step {step:,}  {news}')

  def _progress_text(self, step, seconds, output):
    parts = [
      f'loss {metrics_log.number(output["training_loss"]):.4f}',
      *self._experiment.progress_metrics(output),
    ]
    began, first = self._pace_start
    if step == first:  # Its speed says nothing about the speed to come.
      return '  '.join([*parts, f'{seconds:.0f} s with compilation'])
    left = (
      (self._num_steps - step) * (time.monotonic() - began) / (step - first)
    )
    return '  '.join(
      [
        *parts,
        f'{output["tokens_per_second"]:,.0f} tokens/s',
        f'{console_lib.duration_text(left)} left',
      ]
    )
