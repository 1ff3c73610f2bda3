"""What the user is told when something is refused."""

import pytest

from tokendrop_tf import errors


def message_of(function, *arguments, raises=errors.UserError, **more) -> str:
  """Returns the message with which a call is refused.

  Args:
    function: what is called, with `arguments` and `more`.
    raises: type of the error.
  """
  with pytest.raises(raises) as caught:
    function(*arguments, **more)
  return str(caught.value)
