"""Errors that reach the user as one message, without a traceback."""


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
