"""Errors of requests, with the HTTP status that TF Serving gives each."""

import tensorflow as tf

# TF Serving's table from a TensorFlow error to an HTTP status
# (model_servers/http_server.cc).
_HTTP_STATUS = {
  tf.errors.CANCELLED: 499,
  tf.errors.INVALID_ARGUMENT: 400,
  tf.errors.DEADLINE_EXCEEDED: 504,
  tf.errors.NOT_FOUND: 404,
  tf.errors.ALREADY_EXISTS: 409,
  tf.errors.PERMISSION_DENIED: 403,
  tf.errors.RESOURCE_EXHAUSTED: 429,
  tf.errors.FAILED_PRECONDITION: 400,
  tf.errors.ABORTED: 409,
  tf.errors.OUT_OF_RANGE: 400,
  tf.errors.UNIMPLEMENTED: 501,
  tf.errors.UNAVAILABLE: 503,
  tf.errors.UNAUTHENTICATED: 401,
}
_INTERNAL_ERROR = 500
UNAVAILABLE = _HTTP_STATUS[tf.errors.UNAVAILABLE]
# Ends what TensorFlow's Python adds in front of the kernel's own message.
_PYTHON_PREFIX_END = '<stack traces unavailable>\n'


class RequestError(Exception):
  """A request that is answered with an error body.

  Args:
    message: what the body says under 'error'.
    http_status: the status of the response.
  """

  def __init__(self, message: str, http_status: int = 400):
    super().__init__(message)
    self.http_status = http_status


def from_tensorflow(error: tf.errors.OpError) -> RequestError:
  """Returns the error of a request that failed inside the model.

  Example:
    from_tensorflow(tf.errors.InvalidArgumentError(None, None, 'bad'))
  """
  status = _HTTP_STATUS.get(error.error_code, _INTERNAL_ERROR)
  return RequestError(error.message.split(_PYTHON_PREFIX_END)[-1], status)
