"""Warm-up requests that travel inside a SavedModel.

TF Serving runs the requests of `assets.extra/tf_serving_warmup_requests` before
it declares a model available, so that the first client does not pay for what is
set up lazily; `tools/serve.py` does the same. The file is a TFRecord of
`tensorflow.serving.PredictionLog` messages.
"""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

WARM_UP_FILE = os.path.join('assets.extra', 'tf_serving_warmup_requests')

Request = tuple[str, Mapping[str, np.ndarray]]

# The fields in use, with the numbers of TF Serving's apis/model.proto,
# apis/predict.proto and apis/prediction_log.proto. A TensorProto is declared as
# the bytes that it is on the wire: TensorFlow has the message itself.
_MESSAGES = {
  'ModelSpec': {'name': (1, 'string'), 'signature_name': (3, 'string')},
  'InputsEntry': {'key': (1, 'string'), 'value': (2, 'bytes')},
  'PredictRequest': {
    'model_spec': (1, 'ModelSpec'),
    'inputs': (2, 'InputsEntry*'),
  },
  'PredictLog': {'request': (1, 'PredictRequest')},
  'PredictionLog': {'predict_log': (6, 'PredictLog')},
}
_PACKAGE = 'tokendrop_tf.warm_up'


@functools.lru_cache(maxsize=1)
def _message_classes() -> dict:
  """Returns the classes of `_MESSAGES`, in a pool of their own.

  In the common pool they would collide with an installed
  tensorflow-serving-api, which this project does not need.
  """
  file = descriptor_pb2.FileDescriptorProto(
    name='tokendrop_tf/warm_up.proto', package=_PACKAGE, syntax='proto3'
  )
  for name, fields in _MESSAGES.items():
    message = file.message_type.add(name=name)
    for field_name, (number, kind) in fields.items():
      _add_field(message, field_name, number, kind)
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return {
    name: message_factory.GetMessageClass(
      pool.FindMessageTypeByName(f'{_PACKAGE}.{name}')
    )
    for name in _MESSAGES
  }


def _add_field(message, name, number, kind):
  types = descriptor_pb2.FieldDescriptorProto
  field = message.field.add(name=name, number=number)
  field.label = (
    types.LABEL_REPEATED if kind.endswith('*') else types.LABEL_OPTIONAL
  )
  kind = kind.rstrip('*')
  if kind in _MESSAGES:
    field.type = types.TYPE_MESSAGE
    field.type_name = f'.{_PACKAGE}.{kind}'
  else:
    field.type = types.TYPE_STRING if kind == 'string' else types.TYPE_BYTES


def write_requests(
  folder: str, model_name: str, requests: Iterable[Request]
) -> str:
  """Writes warm-up requests into a SavedModel.

  Args:
    folder: folder of the SavedModel.
    model_name: name under which the model is served.
    requests: pairs of a signature's name and its inputs by name.

  Returns:
    The path of the file.

  Example:
    write_requests('exports/base/embeddings/1', 'embeddings',
        [('serving_default', {'text': np.array(['a text'], object)})])
  """
  path = os.path.join(folder, WARM_UP_FILE)
  tf.io.gfile.makedirs(os.path.dirname(path))
  with tf.io.TFRecordWriter(path) as writer:
    for signature, inputs in requests:
      writer.write(_encode(model_name, signature, inputs))
  return path


def _encode(model_name, signature, inputs) -> bytes:
  log = _message_classes()['PredictionLog']()
  request = log.predict_log.request
  request.model_spec.name = model_name
  request.model_spec.signature_name = signature
  for name, value in sorted(inputs.items()):
    request.inputs.add(
      key=name, value=tf.make_tensor_proto(value).SerializeToString()
    )
  return log.SerializeToString()


def read_requests(folder: str) -> Iterator[Request]:
  """Yields the warm-up requests of a SavedModel; nothing if it has none.

  Example:
    for signature, inputs in read_requests('exports/base/embeddings/1'):
      ...
  """
  path = os.path.join(folder, WARM_UP_FILE)
  if not tf.io.gfile.exists(path):
    return
  for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
    log = _message_classes()['PredictionLog'].FromString(record)
    request = log.predict_log.request
    inputs = {
      entry.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(entry.value))
      for entry in request.inputs
    }
    yield request.model_spec.signature_name, inputs
