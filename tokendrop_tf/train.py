"""Pretrains BERT with token dropping, configured by gin."""

import os

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.
from tokendrop_tf import configs
from tokendrop_tf import errors
from tokendrop_tf import experiments
from tokendrop_tf import gin_support
from tokendrop_tf import progress
from tokendrop_tf import runner as runner_lib
from tokendrop_tf import task  # noqa: F401  (registers the task)
from tokendrop_tf.data import loader
from tokendrop_tf.data import vocabulary as vocabulary_lib
from official.core import exp_factory

MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval')


def main(arguments):
  """Runs the command; see `--help`."""
  flags = parse_flags(arguments)
  bindings = gin_support.parse(
      flags.gin_file, flags.gin_params, experiments.sections(),
      flags.allow_gin_imports)
  gin_support.check_macros(bindings)
  params = exp_factory.get_exp_config(flags.experiment)
  gin_support.check_all_used(bindings)
  vocabulary = vocabulary_lib.Vocabulary.from_file(
      params.task.vocabulary.path, params.task.vocabulary.lower_case)
  if not params.task.model.vocab_size:
    params.task.model.vocab_size = vocabulary.size
  configs.validate_experiment(params)
  params.lock()
  os.makedirs(flags.model_dir, exist_ok=True)
  runner_lib.configure_devices(params.runtime)
  strategy = runner_lib.create_strategy(params.runtime)
  report = progress.Report(params, flags.model_dir)
  runner = runner_lib.create_runner(
      params, flags.mode, flags.model_dir, strategy, report)
  runner.run()


def parse_flags(arguments):
  parser = command_line.ArgumentParser(
      prog='python -m tokendrop_tf.train', description=__doc__)
  parser.add_argument(
      '--experiment', default=experiments.PRETRAINING,
      help='Registered experiment (default: %(default)s).')
  parser.add_argument('--mode', choices=MODES, default='train_and_eval')
  parser.add_argument('--model_dir', required=True)
  parser.add_argument('--gin_file', action='append', default=[])
  parser.add_argument('--gin_params', action='append', default=[])
  parser.add_argument('--allow_gin_imports', action='store_true')
  return parser.parse_args(arguments)


def console_main():
  """Entry point of the installed command."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
