"""Takes a training to a machine that has JAX alone, and its weights back.

  python tools/export_training.py --output_dir=steps/plain \\
    --gin_file=wikipedia.gin --gin_params="VOCABULARY = 'vocab.txt'" \\
    --gin_params="TRAIN_DATA = 'text/train*.txt.gz'" \\
    --gin_params="VALIDATION_DATA = 'text/valid.txt.gz'" --model_dir=runs/plain
  python tools/run_stablehlo.py --train=steps/plain
  python tools/export_training.py --output_dir=steps/plain --take_back \\
    --model_dir=runs/plain

Flags are those of tokendrop_tf.train. The whole train step leaves as one
program, with the schedules of its learning rate and of the tokens kept; so do
the batches with their masks, in the order of the run, from the newest
checkpoint of --model_dir on. The second command needs JAX and these files, and
resumes when it is interrupted. The third writes the newest state as a
checkpoint of --model_dir, with its metrics: an ordinary run again.
"""

import functools
import json
import os

import numpy as np

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import tensorflow as tf

from tokendrop_tf import errors, files, train
from tokendrop_tf.config import gin_reader
from tokendrop_tf.run import loop as loop_lib
from tokendrop_tf.run import metrics_log, run_folder, run_paths, run_report
from tokendrop_tf.tasks import pretraining
from tools.tpu import compiler, export_step, training_folder


@gin_reader.macros_in_messages()
def main(arguments: list[str]) -> None:
  """Exports a training, or takes its state back."""
  flags, launcher_arguments = _parse(arguments)
  folder = training_folder.TrainingFolder(flags.output_dir)
  training = Training(train.parse_flags(launcher_arguments))
  if flags.take_back:
    step = training.take_back(folder)
    print(f'{training.model_dir} has the weights of step {step:,}.')
  else:
    number = training.export(folder)
    print(
      f'{flags.output_dir}: {number:,} batches. Where JAX is: python '
      f'tools/run_stablehlo.py --train={flags.output_dir}'
    )


def _parse(arguments):
  parser = command_line.ArgumentParser(
    prog='tools/export_training.py', description=__doc__
  )
  parser.add_argument(
    '--output_dir', required=True, help='Folder of the exported training.'
  )
  parser.add_argument(
    '--take_back',
    action='store_true',
    help='Writes the newest state as a checkpoint of --model_dir.',
  )
  return parser.parse_known_args(arguments)


class Training:
  """A pretraining run, built as the launcher builds it, on one device.

  Args:
    flags: of the launcher.
  """

  def __init__(self, flags):
    params, self._gin_text = train.read_configuration(flags)
    self.model_dir = flags.model_dir
    self._experiment = pretraining.Pretraining(
      params, 'train_and_eval', flags.model_dir
    )
    self._experiment.check()
    params.lock()
    self._experiment.check_replicas(1)
    self._experiment.check_data()
    run_paths.keep_vocabulary(params, flags.model_dir)
    run_folder.save_configuration(params, self._gin_text, flags.model_dir)
    self.params = params
    self._loop = loop_lib.create_loop(
      self._experiment,
      tf.distribute.get_strategy(),
      run_report.RunReport(self._experiment),
    )
    trainer = self._loop.trainer
    self._task, self._model = trainer.task, trainer.model
    self._train_program = tf.function(
      lambda batch: trainer.task.train_step(
        batch, trainer.model, trainer.optimizer, trainer.train_metrics
      )['loss'],
      jit_compile=True,
    )

  def export(self, folder: training_folder.TrainingFolder) -> int:
    """Writes programs, state and batches; returns the number of batches."""
    folder.path.mkdir(parents=True, exist_ok=True)
    task, trainer = self.params.task, self.params.trainer
    first = self._loop.step
    # A number of validation steps below 0 is all of them, as of `take`.
    validation = list(
      self._task.build_inputs(task.validation_data)
      .take(trainer.validation_steps)
      .as_numpy_iterator()
    )
    folder.write_validation(validation)
    number = folder.write_batches(
      self._task.build_inputs(task.train_data)
      .take(trainer.train_steps - first)
      .as_numpy_iterator()
    )
    example = next(folder.batches(0))
    variables = self._write_program(
      self._train_program, self._as_read(example), folder, training_folder.TRAIN
    )
    self._write_program(
      tf.function(self._validate, jit_compile=True),
      self._as_read(validation[0]),
      folder,
      training_folder.VALIDATION,
      variables,
    )
    folder.write_state(first, [variable.numpy() for variable in variables])
    folder.write_plan(
      {
        'first_step': first,
        'train_steps': trainer.train_steps,
        'steps_per_loop': trainer.steps_per_loop,
        'validation_interval': trainer.validation_interval,
        'checkpoint_interval': trainer.checkpoint_interval,
        'tokens_per_step': self._experiment.tokens_per_step,
        # The loss of a model without context.
        'context_free_loss': self._experiment.validation_facts(
          {'validation_loss': 0.0}
        )[pretraining.CONTEXT_GAIN],
      }
    )
    return number

  def take_back(self, folder: training_folder.TrainingFolder) -> int:
    """Writes the newest state as a checkpoint; returns its step.

    Raises:
      errors.ConfigurationError: if it is of another model.
    """
    step = folder.newest_step()
    example = self._as_read(next(folder.batches(0)))
    variables = self._captured(self._train_program, example)
    state = folder.read_state(step)
    shapes = [variable.shape.as_list() for variable in variables]
    if shapes != [list(value.shape) for value in state]:
      raise errors.ConfigurationError(
        '--output_dir must hold a training of --model_dir. Received: '
        f'{folder.path}, whose variables are others. Set --output_dir.'
      )
    for variable, value in zip(variables, state):
      if isinstance(variable, tf.Variable):
        variable.assign(value)
    trainer = self._loop.trainer
    trainer.global_step.assign(step)
    # Sums of the loop that a run resumes in; there is none.
    for metric in [*trainer.train_metrics, trainer.train_loss]:
      metric.reset_states()
    lines = (folder.path / training_folder.METRICS_FILE).read_bytes()
    target = os.path.join(self.model_dir, metrics_log.METRICS_FILE)
    before = files.read_bytes(target) if tf.io.gfile.exists(target) else b''
    files.write_whole_file(target, before + lines)
    self._loop.save()
    return step

  def _captured(self, function, batch) -> list:
    """Returns the variables and constants that a function reads, in order."""
    trainer = self._loop.trainer
    view = tf.train.TrackableView(trainer.checkpoint)
    return export_step.captured_values(
      function.get_concrete_function(batch),
      [
        *trainer.optimizer.variables(),
        *(v for v in view.descendants() if isinstance(v, tf.Variable)),
      ],
    )

  def _validate(self, batch):
    """Returns sums over label slots: losses, hits, weights."""
    found = self._task.row_results(batch, self._model, training=False)
    weights = batch['masked_lm_weights']
    return tf.stack(
      [
        tf.reduce_sum(tf.math.multiply_no_nan(found['losses'], weights)),
        tf.reduce_sum(found['hits'] * weights),
        tf.reduce_sum(weights),
      ]
    )

  def _as_read(self, batch):
    """Returns a batch of files in the types of the loader."""
    spec = self._task.build_inputs(self.params.task.train_data).element_spec
    return {
      name: tf.constant(value, spec[name].dtype)
      for name, value in batch.items()
    }

  def _write_program(self, function, batch, folder, name, known=()):
    """Writes HLO and manifest; returns the captured variables, in order.

    Args:
      function: a compiled `tf.function` of a batch.
      batch: to trace it with.
      folder: of the training.
      name: of the program.
      known: variables of the train program: others are written as they are.
    """
    path = folder.program(name)
    path.mkdir(exist_ok=True)
    (path / compiler.STEP_FILE).unlink(missing_ok=True)
    captured = self._captured(function, batch)
    compiler_ir = function.experimental_get_compiler_ir(batch)
    places = {id(variable): n for n, variable in enumerate(known or captured)}
    constants, arguments = [], []
    for key in sorted(batch):
      described = export_step.described(key, batch[key])
      arguments.append({'role': 'input', **described})
    for value in captured:
      described = export_step.described(getattr(value, 'name', ''), value)
      place = places.get(id(value))
      if place is None:
        constants.append(value.numpy())
      arguments.append({'role': 'variable', 'place': place, **described})
    np.savez(path / 'constants.npz', *constants)
    header = compiler_ir(stage='hlo').split('\n', 1)[0]
    manifest = {
      'arguments': arguments,
      'results': export_step.described_results(header),
    }
    (path / compiler.HLO_FILE).write_bytes(compiler_ir(stage='hlo_serialized'))
    (path / compiler.MANIFEST_FILE).write_text(json.dumps(manifest, indent=2))
    return captured


console_main = functools.partial(command_line.run_main, main)
