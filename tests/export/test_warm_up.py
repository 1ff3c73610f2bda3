"""Warm-up requests: what is written is what TF Serving reads."""

import numpy as np
import tensorflow as tf

from tokendrop_tf.export import warm_up


def message(**fields: bytes) -> bytes:
  """Encodes fields named f1, f2, ... as protocol buffers do: tag, length."""
  return b''.join(
    bytes([int(name[1:]) << 3 | 2, len(value)]) + value
    for name, value in fields.items()
  )


def test_a_record_is_a_prediction_log(tmp_path):
  value = np.array([7], np.int32)
  path = warm_up.write_requests(
    str(tmp_path), 'embeddings', [('ids', {'x': value})]
  )
  assert path == str(tmp_path / 'assets.extra' / 'tf_serving_warmup_requests')
  [record] = tf.data.TFRecordDataset(path).as_numpy_iterator()
  # Field numbers of TF Serving's model.proto, predict.proto and
  # prediction_log.proto.
  tensor = tf.make_tensor_proto(value).SerializeToString()
  spec = message(f1=b'embeddings', f3=b'ids')
  request = message(f1=spec, f2=message(f1=b'x', f2=tensor))
  assert record == message(f6=message(f1=request))


def test_requests_come_back(tmp_path):
  text = np.array(['a text', 'é'.encode()], object)
  ids = np.array([[1, 2]], np.int32)
  warm_up.write_requests(
    str(tmp_path),
    'm',
    [('serving_default', {'text': text}), ('ids', {'x': ids})],
  )
  first, second = warm_up.read_requests(str(tmp_path))
  assert first[0] == 'serving_default'
  assert first[1]['text'].tolist() == [b'a text', 'é'.encode()]
  assert second[0] == 'ids'
  np.testing.assert_array_equal(second[1]['x'], ids)
  assert second[1]['x'].dtype == np.int32


def test_a_model_without_requests_has_none(tmp_path):
  assert list(warm_up.read_requests(str(tmp_path))) == []
