"""The Python that has JAX and the TPU compiler."""

import pytest

from tokendrop_tf import errors
from tools.tpu import compile_command


@pytest.fixture(scope='session', name='jax_python')
def fixture_jax_python():
  try:
    return compile_command.find_python()
  except errors.ConfigurationError as error:
    pytest.skip(str(error))
