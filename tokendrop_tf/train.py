"""Pretrains BERT with token dropping, configured by gin.

  python -m tokendrop_tf.train --gin_file=wikipedia.gin \\
    --gin_params="VOCABULARY = 'vocab.txt'" \\
    --gin_params="TRAIN_DATA = 'text/train*.txt.gz'" \\
    --gin_params="VALIDATION_DATA = 'text/valid.txt.gz'" \\
    --model_dir=runs/wikipedia

The same command again resumes from the newest checkpoint. Without --gin_file
the settings are those that the run in --model_dir began with:

  python -m tokendrop_tf.train --mode=eval --model_dir=runs/wikipedia
"""

import contextlib
import time

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
from tokendrop_tf import errors
from tokendrop_tf.config import experiments, gin_reader, gin_sections
from tokendrop_tf.finetuning import finetuning_experiments
from tokendrop_tf.run import (
  collectives,
  devices,
  disk_errors,
  run_folder,
  run_lock,
  run_paths,
  run_report,
  signals,
  workers,
)
from tokendrop_tf.run import loop as loop_lib
from tokendrop_tf.tasks import pretraining

MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval')
EXPERIMENTS = {
  kind.NAME: kind
  for kind in (
    pretraining.Pretraining,
    finetuning_experiments.SentenceExperiment,
    finetuning_experiments.QuestionExperiment,
  )
}


@gin_reader.macros_in_messages()
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
  experiment = EXPERIMENTS[flags.experiment](
    params, flags.mode, flags.model_dir
  )
  # 2. Every rule, before anything is computed or written.
  experiment.check()
  params.lock()
  # 3. The devices, before the first operation fixes them; then the data.
  devices.configure(params.runtime)
  strategy = devices.create_strategy(params.runtime)
  experiment.check_replicas(strategy.num_replicas_in_sync)
  experiment.check_data()
  is_chief = strategy.extended.should_save_summary
  with contextlib.ExitStack() as stack:
    stack.enter_context(disk_errors.named_failures(flags.model_dir))
    # 4. The settings, on disk before the first step.
    if experiment.is_training and is_chief:
      stack.enter_context(run_lock.open_lock(flags.model_dir))
      run_folder.check_unchanged(params, flags.model_dir)
      run_paths.keep_vocabulary(params, flags.model_dir)
      run_folder.save_configuration(params, gin_text, flags.model_dir)
    # 5. The run.
    if collectives.has_others(strategy):
      stack.enter_context(workers.named_losses(flags.model_dir))
    stack.enter_context(signals.named_ends(flags.model_dir))
    run(experiment, strategy, run_report.RunReport(experiment, is_chief))


def parse_flags(arguments):
  parser = command_line.ArgumentParser(
    prog='python -m tokendrop_tf.train', description=__doc__
  )
  parser.add_argument(
    '--experiment',
    choices=tuple(EXPERIMENTS),
    help='Kind of run (default: that of the gin sections, or of the run in '
    '--model_dir).',
  )
  parser.add_argument(
    '--mode',
    default='train_and_eval',
    choices=MODES,
    help='eval reads the newest checkpoint of --model_dir, continuous_eval '
    'every new one while a run writes them (default: %(default)s).',
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
    _choose_experiment(flags, run_folder.experiment_of(flags.model_dir))
    return run_folder.load_params(flags.model_dir), ''
  if not files and run_folder.has_configuration(flags.model_dir):
    files = [run_folder.gin_file(flags.model_dir)]
  bindings = gin_reader.parse(files, flags.gin_params, flags.allow_gin_imports)
  gin_reader.check_macros(bindings)
  _choose_experiment(flags, experiments.of_bindings(bindings))
  values = gin_sections.GinValues()
  params = experiments.build(flags.experiment, values)
  EXPERIMENTS[flags.experiment].take_start(params, values)
  if not flags.gin_file and run_folder.has_configuration(flags.model_dir):
    run_folder.find_files(params, flags.model_dir)
  gin_reader.check_all_used(bindings)
  return params, gin_reader.operative_config()


def _choose_experiment(flags, found):
  """Sets `flags.experiment` unless it was given."""
  if flags.experiment is None:
    flags.experiment = found
  elif flags.experiment != found and not flags.gin_file:
    raise errors.ConfigurationError(
      f'--experiment must be that of the run. Received: {flags.experiment}, '
      f'but {flags.model_dir} is of {found}. Leave --experiment out.'
    )


def run(experiment, strategy, report):
  """Trains or evaluates, with a block before and after."""
  began = time.monotonic()
  loop = loop_lib.create_loop(experiment, strategy, report)
  first_step = loop.step
  if experiment.is_training:
    report.begin(first_step)
    experiment.begin(first_step, strategy.extended.should_save_summary)
  report.show(
    experiment.start_block(
      loop.num_parameters, strategy.num_replicas_in_sync, first_step
    )
  )
  try:
    loop.run()
  finally:
    report.leave()
  experiment.finish(loop.trainer.task, loop.trainer.model, strategy)
  report.show(
    experiment.end_block(
      loop.step, time.monotonic() - began, report.last_validation
    )
  )


def console_main():
  """Entry point of the installed command."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
