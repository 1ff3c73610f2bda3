"""Seconds of the steps of several runs, measured in turns on this machine."""

import dataclasses
import time
from collections.abc import Mapping

import tensorflow as tf
import tf_keras
from official.modeling import performance

from tokendrop_tf import command_line, dropping
from tokendrop_tf.pages import run_curves
from tokendrop_tf.run import turns
from tokendrop_tf.tasks import masked_lm

_NUM_TURNS = 20


@dataclasses.dataclass(frozen=True)
class StepSpeeds:
  """Seconds of a step of several runs.

  Attributes:
    medians: by run, a number for each stretch of its keep schedule.
    spreads: half the distance between the quartiles, likewise.
    is_quiet: whether the machine did little else meanwhile.
    startup: seconds until the first step was done, with compilation.
  """

  medians: dict[str, list[float]]
  spreads: dict[str, list[float]]
  is_quiet: bool = True
  startup: float = 0.0

  def describe(self) -> str:
    """Returns the figures in words, e.g. 'plain 0.25 s, 0.01 s'."""
    return '; '.join(
      f'{name} '
      + ', then '.join(
        f'{median:.4f} s ± {spread:.4f}'
        for median, spread in zip(medians, self.spreads[name])
      )
      for name, medians in self.medians.items()
    )


class _OneKind(masked_lm.TokenDropPretrainingTask):
  """The task of a run, all of whose steps are of one kind."""

  kind = None

  def switch(self, step, run):
    return run(self.kind)


def measure(runs: Mapping[str, object]) -> StepSpeeds:
  """Times every kind of step of several runs in turns, in this process.

  Args:
    runs: complete `ExperimentConfig`s by name.
  """
  command_line.silence_xla()
  kinds = {
    name: dropping.Dropping.of(params.task).kinds
    for name, params in runs.items()
  }
  began, startup, steps = time.monotonic(), None, {}
  policy = tf_keras.mixed_precision.global_policy()
  for name, params in runs.items():
    for kind in kinds[name].kinds:
      step = steps[name, kind] = _stepper(params, kind)
      step()
      startup = startup or time.monotonic() - began
  tf_keras.mixed_precision.set_global_policy(policy)
  times = turns.time_in_turns(steps, _NUM_TURNS)

  def by_stretch(figure):
    return {
      name: run_curves.by_stretch(
        kinds[name], lambda kind, name=name: figure((name, kind))
      )
      for name in runs
    }

  return StepSpeeds(
    by_stretch(times.median), by_stretch(times.spread), times.is_quiet, startup
  )


def _stepper(params, kind):
  """Returns a function that takes a train step of one kind."""
  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  task = _OneKind(params.task)
  task.kind = kind
  task.configure_step(params.trainer.gradient_accumulation_steps)
  model = task.build_model()
  optimizer = task.create_optimizer(params.trainer.optimizer_config)
  metrics = task.build_metrics(training=True)
  data = task.build_inputs(params.task.train_data)
  step = tf.function(
    lambda inputs: task.train_step(inputs, model, optimizer, metrics),
    jit_compile=params.runtime.enable_xla or None,
  )
  batch = next(iter(data))
  return lambda: step(batch)['loss'].numpy()
