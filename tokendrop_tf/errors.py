"""Errors that reach the user as one message, without a traceback."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
  """Something the user can put right: the message says what and how.

  The launchers print the message alone and exit with code 2. A message states
  the rule, then what was received, then what to change.
  """


class ConfigurationError(UserError):
  """A binding, a combination of settings or a `model_dir` that does not fit."""


class DataError(UserError):
  """A corpus, vocabulary or TFRecord file that cannot be used as it is."""


class TrainingError(UserError):
  """Training cannot go on, e.g. after a loss that is not finite."""


# The last error of a Python function inside tf.data.
_kept: list[UserError] = []
# Between these stands what TensorFlow's own operations say to the user.
BEGIN_OF_MESSAGE, END_OF_MESSAGE = '<user error>', '</user error>'


def keep(error: UserError) -> None:
  """Keeps an error that TensorFlow will put into words of its own."""
  _kept[:] = [error]


def kept(error: Exception | None = None) -> UserError | None:
  """Returns the error that was kept last, once, or that `error` tells of."""
  return _kept.pop() if _kept else _told(str(error))


def _told(text: str) -> DataError | None:
  """Returns the error whose message stands within another one."""
  _, begin, text = text.partition(BEGIN_OF_MESSAGE)
  message, end, _ = text.partition(END_OF_MESSAGE)
  if not begin or not end:
    return None
  # TensorFlow writes quotes and bytes beyond ASCII as C does.
  message = message.encode().decode('unicode_escape').encode('latin-1')
  return DataError(message.decode(errors='replace'))


@contextlib.contextmanager
def as_kept() -> Iterator[None]:
  """Raises a kept error in place of what TensorFlow makes of it.

  Example:
    with errors.as_kept():
      for texts in corpus.documents():
        ...
  """
  _kept.clear()
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if found := kept(error):
      raise found from error
    raise


class WorkerLostError(TrainingError):
  """Another worker ended; the same command on all workers resumes.

  Its exit code, EX_TEMPFAIL, tells supervisors that another try helps.
  """

  code = 75
