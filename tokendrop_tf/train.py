"""Pretrains BERT with token dropping, configured by gin.

  python -m tokendrop_tf.train --gin_file=wikipedia.gin \\
    --gin_params="VOCABULARY = 'vocab.txt'" \\
    --gin_params="TRAIN_DATA = 'text/train*.txt.gz'" \\
    --gin_params="VALIDATION_DATA = 'text/valid.txt.gz'" \\
    --model_dir=runs/wikipedia

The same command again goes on from the newest checkpoint. Without --gin_file
the settings are those that the run in --model_dir began with:

  python -m tokendrop_tf.train --mode=eval --model_dir=runs/wikipedia
"""

import contextlib
import signal
import time

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
from official.core import exp_factory

from tokendrop_tf import (
  checkpoints,
  configs,
  errors,
  experiments,
  gin_support,
  init_weights,
  progress,
  run_folder,
  run_lock,
  runner,
  stopping,
  storage,
  workers,
)
from tokendrop_tf import task as task_lib  # noqa: F401  (registers the task)
from tokendrop_tf.data import label_levels, loader
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.finetuning import configs as finetuning_configs
from tokendrop_tf.finetuning import launch as finetuning_launch
from tokendrop_tf.finetuning import report as finetuning_report

MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval')


def main(arguments):
  """Runs the command.

  Args:
    arguments: list of str, the flags; see `--help`.

  Raises:
    errors.UserError: for anything that the user can put right.
    command_line.Interrupted: on Ctrl-C, once training has begun, and
      `Terminated` on SIGTERM; a checkpoint is written before.
  """
  flags = parse_flags(arguments)
  # 1. gin in, one tree out; nothing that was bound is ignored.
  params, gin_text = read_configuration(flags)
  # 2. Every rule, before anything is computed or written.
  check_configuration(params, flags)
  params.lock()
  # 3. The devices, before the first operation fixes them; then the data.
  runner.configure_devices(params.runtime)
  strategy = runner.create_strategy(params.runtime)
  check_replicas(params, strategy.num_replicas_in_sync)
  levels = check_data(params, flags.mode)
  is_chief = strategy.extended.should_save_summary
  with contextlib.ExitStack() as stack:
    stack.enter_context(storage.named_failures(flags.model_dir))
    # 4. What is about to run, on disk before the first step.
    if 'train' in flags.mode and is_chief:
      stack.enter_context(run_lock.open_lock(flags.model_dir))
      run_folder.check_unchanged(params, flags.model_dir)
      run_folder.save_configuration(params, gin_text, flags.model_dir)
    # 5. The run.
    if params.runtime.distribution_strategy == 'multi_worker_mirrored':
      stack.enter_context(
        workers.named_losses(lambda: _where_it_stopped(flags.model_dir))
      )
    run_reported(params, flags, strategy, is_chief, levels)


def run_reported(params, flags, strategy, is_chief, levels):
  """Runs with the report of its experiment."""
  if finetuning_configs.is_finetuning(params.task):
    report = finetuning_report.FinetuningReport(
      params, flags.model_dir, 'train' in flags.mode, is_chief
    )
  else:
    report = progress.Report(
      params, flags.model_dir, 'train' in flags.mode, is_chief, levels
    )
  run(params, flags, strategy, report, levels)


def parse_flags(arguments):
  parser = command_line.ArgumentParser(
    prog='python -m tokendrop_tf.train', description=__doc__
  )
  parser.add_argument(
    '--experiment',
    choices=experiments.EXPERIMENTS,
    help='What to run (default: what the gin sections, or the run in '
    '--model_dir, are of).',
  )
  parser.add_argument(
    '--mode',
    default='train_and_eval',
    choices=MODES,
    help='eval reads the newest checkpoint of --model_dir, continuous_eval '
    'every new one while a training writes them (default: %(default)s).',
  )
  parser.add_argument(
    '--model_dir',
    required=True,
    help='Folder of checkpoints, settings, metrics and TensorBoard files; '
    'a path or gs://...',
  )
  parser.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help='A gin file: a path, or the name of a packaged one, such as '
    'base_512.gin. May be repeated; later ones win.',
  )
  parser.add_argument(
    '--gin_params',
    action='append',
    default=[],
    metavar='"A.B = C"',
    help='gin bindings, after the files. May be repeated.',
  )
  parser.add_argument(
    '--allow_gin_imports',
    action='store_true',
    help='Obey import statements in gin files; they run code.',
  )
  return parser.parse_args(arguments)


def read_configuration(flags):
  """Returns the experiment's tree and the gin text that gives it again.

  Without gin flags both come from `model_dir`; with `--gin_params` only, these
  are applied to the gin text of `model_dir`. Fills in `flags.experiment`.
  """
  files = list(flags.gin_file)
  if not files and not flags.gin_params:
    gin_support.clear()
    _choose_experiment(flags, run_folder.experiment_of(flags.model_dir))
    return run_folder.load_params(flags.experiment, flags.model_dir), ''
  if not files and run_folder.has_configuration(flags.model_dir):
    files = [run_folder.gin_file(flags.model_dir)]
  bindings = gin_support.parse(
    files, flags.gin_params, experiments.sections(), flags.allow_gin_imports
  )
  gin_support.check_macros(bindings)
  _choose_experiment(flags, experiments.experiment_of(bindings))
  params = exp_factory.get_exp_config(flags.experiment)
  gin_support.check_all_used(bindings)
  return params, gin_support.operative_config()


def _choose_experiment(flags, found):
  """Sets `flags.experiment` unless it was given."""
  if flags.experiment is None:
    flags.experiment = found
  elif flags.experiment != found and not flags.gin_file:
    raise errors.ConfigurationError(
      f'--experiment must be that of the run. Received: {flags.experiment}, '
      f'but {flags.model_dir} is of {found}. Leave --experiment out.'
    )


def check_replicas(params, num_replicas):
  """Checks that the devices share the batches evenly."""
  if finetuning_configs.is_finetuning(params.task):
    finetuning_configs.validate_replicas(params, num_replicas)
  else:
    configs.validate_replicas(params, num_replicas)


def check_configuration(params, flags):
  """Checks the tree by itself, against the vocabulary, and against the folder.

  Fills in `model.vocab_size` and, of fine-tuning, what its data decide.
  """
  if finetuning_configs.is_finetuning(params.task):
    finetuning_launch.check_configuration(params, flags.mode, flags.model_dir)
    return
  configs.validate_experiment(params)
  if 'eval' in flags.mode:
    configs.validate_validation_source(params)
  vocabulary = vocabulary_lib.Vocabulary.from_file(
    params.task.vocabulary.path, params.task.vocabulary.lower_case
  )
  configs.resolve_vocabulary(params, vocabulary)
  if 'train' in flags.mode:
    run_folder.check_writable(flags.model_dir)
    run_folder.check_unchanged(params, flags.model_dir)
    check_initial_weights(params.task, vocabulary, flags.model_dir)
  elif run_folder.has_configuration(flags.model_dir):
    run_folder.check_same_model(params, flags.model_dir)
  if flags.mode == 'eval':
    run_folder.require_checkpoint(flags.model_dir)


def check_initial_weights(task, vocabulary, model_dir):
  """Checks what a new run starts from; one that goes on has its weights."""
  if task.init_checkpoint and not checkpoints.newest(model_dir):
    source = init_weights.check_fits(task.init_checkpoint, task.model)
    init_weights.check_vocabulary(source, vocabulary)


def check_data(params, mode):
  """Checks the data that `mode` reads.

  Returns:
    The `LabelLevels` of the validation labels, or `None` where nothing is
    validated.
  """
  task = params.task
  if finetuning_configs.is_finetuning(task):
    finetuning_launch.check_data(params, mode)
    return None
  if 'train' in mode:
    loader.check_dataset(task.train_data, task.vocabulary)
  if 'eval' not in mode:
    return None
  loader.check_dataset(task.validation_data, task.vocabulary)
  return label_levels.read_label_levels(task.validation_data, task.vocabulary)


def run(params, flags, strategy, report, levels):
  """Trains or evaluates, with a block before and after."""
  began = time.monotonic()
  model_dir, mode = flags.model_dir, flags.mode
  experiment = runner.create_runner(params, mode, model_dir, strategy, report)
  first_step = int(experiment.trainer.global_step.numpy())
  if 'train' in mode:
    report.begin(first_step)
  report.show(
    start_block(params, flags, experiment, strategy, first_step, levels)
  )
  try:
    runner.run_loops(experiment)
  except KeyboardInterrupt:
    report.interrupt()
    raise command_line.Interrupted(_where_it_stopped(model_dir)) from None
  except stopping.Stopped as stop:
    report.interrupt()
    is_sigterm = stop.signal_number == signal.SIGTERM
    end = command_line.Terminated if is_sigterm else command_line.Interrupted
    raise end(_where_it_stopped(model_dir)) from None
  report.show(
    end_block(params, flags, experiment, strategy, report, began, levels)
  )


def start_block(params, flags, experiment, strategy, first_step, levels):
  """Returns what is about to run, in words."""
  arguments = (
    params,
    flags.mode,
    flags.model_dir,
    sum(
      variable.shape.num_elements()
      for variable in experiment.trainer.model.trainable_variables
    ),
    strategy.num_replicas_in_sync,
    first_step,
  )
  if finetuning_configs.is_finetuning(params.task):
    return finetuning_report.start_block(*arguments)
  return progress.start_block(*arguments, levels)


def end_block(params, flags, experiment, strategy, report, began, levels):
  """Writes predictions where they are asked for; returns what came out."""
  step = int(experiment.trainer.global_step.numpy())
  if not finetuning_configs.is_finetuning(params.task):
    return progress.end_block(
      flags.mode,
      flags.model_dir,
      step,
      time.monotonic() - began,
      report.last_validation,
      levels,
    )
  predictions = finetuning_launch.write_predictions(
    experiment, strategy, flags.model_dir
  )
  return finetuning_report.end_block(
    params,
    flags.mode,
    flags.model_dir,
    step,
    time.monotonic() - began,
    report.last_validation,
    predictions,
  )


def _where_it_stopped(model_dir):
  checkpoint = checkpoints.newest(model_dir)
  if not checkpoint:
    return 'No checkpoint had been written yet.'
  return (
    f'The last checkpoint is {checkpoint}; the same command goes on from there.'
  )


def console_main():
  """Entry point of the installed command."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
