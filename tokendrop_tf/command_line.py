"""What every console command shares: quiet start, one-line errors, exit codes.

Import this module before TensorFlow: TensorFlow reads its log level when it is
loaded.
"""

import argparse
import contextlib
import difflib
import functools
import logging
import os
import sys
import warnings

from absl import logging as absl_logging

from tokendrop_tf import errors

# Level 3 hides TensorFlow's remarks on CUDA, oneDNN and instruction sets, among
# them an 'error' on every machine without a GPU. What really fails raises. A
# level that the user has set stays.
_LOG_LEVEL = 'TF_CPP_MIN_LOG_LEVEL'
os.environ.setdefault(_LOG_LEVEL, '0' if '--verbose' in sys.argv else '3')

# The Model Garden's TF Hub modules say so when they are imported.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')

SUCCESS_CODE = 0
USER_ERROR_CODE = 2
INTERRUPTED_CODE = 130  # 128 + SIGINT, as shells report it.
TERMINATED_CODE = 143  # 128 + SIGTERM.


class Interrupted(KeyboardInterrupt):
  """Ctrl-C with something to tell: its message is printed, code 130."""

  what = 'Interrupted'
  code = INTERRUPTED_CODE


class Terminated(Interrupted):
  """SIGTERM, as a machine sends it that is taken back: code 143."""

  what = 'Terminated'
  code = TERMINATED_CODE


class ArgumentParser(argparse.ArgumentParser):
  """Flags as `--name=value` or `--name value`; never abbreviated.

  Every command has `--verbose`. A mistake raises `errors.UserError` with the
  closest flag instead of printing the usage.

  Example:
    parser = ArgumentParser(description='Counts tokens.')
    parser.add_argument('--input', required=True, help='A text file.')
    parser.add_number('--batch_size', 32, 'Texts at once.', least=1)
    flags = parser.parse_args(arguments)
  """

  def __init__(self, **kwargs):
    kwargs.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
    super().__init__(allow_abbrev=False, **kwargs)
    self.add_argument(
      '--verbose',
      action='store_true',
      help='Show the log of TensorFlow and the Model Garden.',
    )

  def add_number(self, flag, default, text, least) -> None:
    """Adds a flag of a number that must be at least `least`.

    Args:
      flag: with its dashes.
      default: decides whether it is an int or a float.
      text: help, to which the default is added.
      least: the smallest that is accepted.
    """
    self.add_argument(
      flag,
      type=type(default),
      default=default,
      action=_AtLeast,
      least=least,
      help=f'{text} Default %(default)s.',
    )

  def parse_args(self, args=None, namespace=None):
    args = sys.argv[1:] if args is None else list(args)
    # A mistyped flag is the better news than the required one it was to be.
    self._refuse_unknown_flags(args)
    flags, unexpected = self.parse_known_args(args, namespace)
    if unexpected:
      self.error(f'unexpected argument: {" ".join(unexpected)}')
    return flags

  def error(self, message):
    raise errors.UserError(
      f'{message[:1].upper()}{message[1:].rstrip(".")}. See {self.prog} --help.'
    )

  def _refuse_unknown_flags(self, args):
    names = [name for action in self._actions for name in action.option_strings]
    for argument in args:
      flag = argument.split('=')[0]
      if flag.startswith('--') and flag not in names:
        raise errors.UserError(
          f'Unknown flag: {flag}.{did_you_mean(flag, names)} See {self.prog} '
          '--help.'
        )


class _AtLeast(argparse.Action):
  """Stores a number and refuses smaller ones."""

  def __init__(self, *args, least, **kwargs):
    super().__init__(*args, **kwargs)
    self._least = least

  def __call__(self, parser, namespace, values, option_string=None):
    if not values >= self._least:
      raise errors.ConfigurationError(
        f'{option_string} must be at least {self._least}. Received: {values}. '
        f'Set {option_string}.'
      )
    setattr(namespace, self.dest, values)


def did_you_mean(name, valid_names):
  """Returns ' Did you mean X?' for the valid name closest to `name`, or ''.

  Example:
    did_you_mean('--model_dri', ['--model_dir'])  # ' Did you mean ...?'
  """
  closest = difflib.get_close_matches(name, list(valid_names), n=1, cutoff=0.6)
  return f' Did you mean {closest[0]}?' if closest else ''


def run_main(main, arguments=None):
  """Runs a console command and exits the process with its code.

  Codes: 0 done, 2 something that the user can put right (one message on
  stderr, no traceback), 75 another worker was lost, 130 Ctrl-C, 143 SIGTERM in
  a training. An unforeseen exception keeps its traceback and the interpreter's
  code 1.

  Args:
    main: function of one argument, the list of command line arguments without
      the program's name; returns `None` or an exit code.
    arguments: list of str; `sys.argv[1:]` when `None`.

  Raises:
    SystemExit: always, unless `main` raises an unforeseen exception.

  Example:
    def main(arguments):
      parser = command_line.ArgumentParser(description=__doc__)
      flags = parser.parse_args(arguments)

    if __name__ == '__main__':
      command_line.run_main(main)
  """
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  if '--verbose' not in arguments:
    silence_libraries()
  try:
    sys.exit(main(arguments) or SUCCESS_CODE)
  except errors.UserError as error:
    print(f'Error: {error}', file=sys.stderr)
    sys.exit(getattr(error, 'code', USER_ERROR_CODE))
  except Exception as error:
    # A reader's error, which TensorFlow has put into words of its own.
    if (kept := errors.kept(error)) is None:
      raise
    print(f'Error: {kept}', file=sys.stderr)
    sys.exit(USER_ERROR_CODE)
  except KeyboardInterrupt as error:
    note = str(error)
    what = getattr(error, 'what', Interrupted.what)
    print(f'\n{what}.{" " + note if note else ""}', file=sys.stderr)
    sys.exit(getattr(error, 'code', INTERRUPTED_CODE))


def silence_libraries():
  """Hides what the libraries log below ERROR, and Python warnings."""
  warnings.simplefilter('ignore')
  absl_logging.set_verbosity(absl_logging.ERROR)
  absl_logging.set_stderrthreshold('error')
  logging.getLogger('tensorflow').setLevel(logging.ERROR)


@functools.cache
def silence_xla():
  """Lets XLA greet where nobody sees it.

  XLA tells on stderr, once in a process and whatever the log level, that it has
  compiled something. Here it compiles nothing of importance, with stderr shut.
  Call it before the first step, after the devices are configured.
  """
  if os.environ.get(_LOG_LEVEL) == '0':
    return
  import tensorflow as tf

  with stderr_shut():
    tf.function(lambda number: number + 1.0, jit_compile=True)(tf.zeros([]))


@contextlib.contextmanager
def stderr_shut():
  """Shuts stderr, also for C++, which has messages that nothing turns off."""
  sys.stderr.flush()
  stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nowhere, 2)
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(nowhere)
