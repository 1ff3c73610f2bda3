"""JSON and tensors: TF Serving's two formats, and what it refuses."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.serving import json_tensors, status

TEXT = {'text': tf.TensorSpec([None], tf.string)}
PAIR = {
  'a': tf.TensorSpec([None], tf.string),
  'b': tf.TensorSpec([None], tf.string),
}
IDS = {'ids': tf.TensorSpec([None, None], tf.int32)}


def message_of(function, *arguments) -> str:
  with pytest.raises(status.RequestError) as caught:
    function(*arguments)
  assert caught.value.http_status == 400
  return str(caught.value)


@pytest.mark.parametrize(
  ('document', 'specs', 'form', 'expected'),
  [
    (
      {'instances': ['a', 'é']},
      TEXT,
      'instances',
      {'text': [b'a', 'é'.encode()]},
    ),
    ({'instances': [{'text': 'a'}]}, TEXT, 'instances', {'text': [b'a']}),
    (
      {'instances': [{'a': 'x', 'b': 'y'}, {'b': 'v', 'a': 'u'}]},
      PAIR,
      'instances',
      {'a': [b'x', b'u'], 'b': [b'y', b'v']},
    ),
    ({'inputs': ['a']}, TEXT, 'inputs', {'text': [b'a']}),
    ({'inputs': {'text': ['a']}}, TEXT, 'inputs', {'text': [b'a']}),
    (
      {'inputs': {'a': ['x'], 'b': ['y'], 'c': 1}},
      PAIR,
      'inputs',
      {'a': [b'x'], 'b': [b'y']},
    ),
    ({'instances': [{'b64': '/w=='}]}, TEXT, 'instances', {'text': [b'\xff']}),
    (
      {'instances': [{'text': {'b64': '/w'}}]},
      TEXT,
      'instances',
      {'text': [b'\xff']},
    ),
    (
      {'instances': [{'b64': ' YWJj\r\nZGVm\n'}]},
      TEXT,
      'instances',
      {'text': [b'abcdef']},
    ),
    ({'inputs': [[1, 2], [3, 4]]}, IDS, 'inputs', {'ids': [[1, 2], [3, 4]]}),
    ({'instances': [[1, -2]]}, IDS, 'instances', {'ids': [[1, -2]]}),
    ({'instances': [[]]}, IDS, 'instances', {'ids': [[]]}),
  ],
)
def test_both_formats_give_the_same_tensors(document, specs, form, expected):
  found, arrays = json_tensors.read_tensors(document, specs)
  assert found == form
  assert {n: a.tolist() for n, a in arrays.items()} == expected
  for name, array in arrays.items():
    assert array.dtype == (
      object if specs[name].dtype == tf.string else np.int32
    )


@pytest.mark.parametrize(
  ('document', 'specs', 'expected'),
  [
    ({}, TEXT, "either 'instances' or 'inputs'. Received: {}"),
    ({'inputs': [], 'instances': []}, TEXT, "either 'instances' or 'inputs'"),
    ({'instances': 'a'}, TEXT, "'instances' must be a list with values"),
    ({'instances': []}, TEXT, "'instances' must be a list with values"),
    ({'instances': ['a']}, PAIR, 'an object with the keys a, b'),
    ({'instances': [{'a': 'x'}]}, PAIR, 'an object with the keys a, b'),
    ({'instances': [{'z': 'x'}]}, TEXT, 'an object with the keys text'),
    ({'instances': ['y', {'z': 'x'}]}, TEXT, "Element 1 of 'instances'"),
    ({'instances': [1]}, TEXT, 'The value at [0] must be string. Received: 1'),
    ({'instances': ['a', None]}, TEXT, 'The value at [1] must be string'),
    ({'instances': [['a']]}, TEXT, 'text must have shape (None,), None being'),
    ({'instances': [{'b64': '!'}]}, TEXT, 'The value at [0] must be base64'),
    ({'instances': [{'b64': 1}]}, TEXT, 'an object with the keys text'),
    ({'inputs': 'a'}, TEXT, 'any size. Received: []'),
    ({'inputs': []}, TEXT, 'at least one. Received: 0 of text'),
    ({'inputs': ['a']}, PAIR, "'inputs' must be an object with the keys a, b"),
    ({'inputs': {'a': ['x']}}, PAIR, 'an object with the keys a, b'),
    ({'inputs': {'a': ['x'], 'b': []}}, PAIR, 'Received: 1 of a, 0 of b'),
    ({'instances': [[1, 2], [3]]}, IDS, 'Received: sizes [1, 2] at level 1'),
    ({'inputs': [[1, 2], [3]]}, IDS, 'Received: sizes [1, 2] at level 1'),
    ({'inputs': [[1, 2], 3]}, IDS, 'values next to lists at level 1'),
    ({'inputs': [[1, [2]]]}, IDS, 'values next to lists at level 2'),
    ({'instances': [[1], [True]]}, IDS, 'at [1, 0] must be int32. Received: t'),
    ({'instances': [[1.5]]}, IDS, 'must be int32. Received: 1.5'),
    ({'instances': [[2**31]]}, IDS, 'must be int32. Received: 2147483648'),
    ({'inputs': 'deep'}, IDS, 'must be int32. Received: "deep"'),
  ],
)
def test_what_does_not_fit_the_signature_is_refused(document, specs, expected):
  assert expected in message_of(json_tensors.read_tensors, document, specs)


def test_lists_of_great_depth_are_refused():
  value = 'a'
  for _ in range(900):
    value = [value]
  message = message_of(json_tensors.read_tensors, {'inputs': value}, TEXT)
  assert 'at most 16 levels. Received: a list at level 16' in message


def test_long_values_are_not_repeated_in_full():
  document = {'instances': [['a' * 10**6]], 'inputs': []}
  assert len(message_of(json_tensors.read_tensors, document, TEXT)) < 500


@pytest.mark.parametrize(
  ('body', 'expected'),
  [
    (b'', 'A request must be JSON'),
    (b'{', 'at offset: 1'),
    (b'instances = [1]', 'A request must be JSON'),
    (b'\xff\xfe', 'A request must be JSON'),
    (b'[' * 10**5, 'A request must be JSON'),
    (b'[1]', 'must be a JSON object. Received: [1]'),
  ],
)
def test_a_body_that_is_no_json_object_is_refused(body, expected):
  assert expected in message_of(json_tensors.parse_document, body)


def test_the_signatures_name_is_a_string():
  assert json_tensors.signature_name({}) == ''
  assert json_tensors.signature_name({'signature_name': 'ids'}) == 'ids'
  message = message_of(json_tensors.signature_name, {'signature_name': 1})
  assert message == "'signature_name' must be a string. Received: 1"


def written(arrays, form):
  return json.loads(json_tensors.write_tensors(arrays, form))


def test_several_outputs_are_objects_by_row_or_by_column():
  arrays = {
    'label': np.array([b'x', 'é'.encode()], object),
    'scores': np.array([[0.1, 0.5], [0.25, 1.0]], np.float32),
  }
  assert written(arrays, 'instances') == {
    'predictions': [
      {'label': 'x', 'scores': [0.1, 0.5]},
      {'label': 'é', 'scores': [0.25, 1.0]},
    ]
  }
  assert written(arrays, 'inputs') == {
    'outputs': {'label': ['x', 'é'], 'scores': [[0.1, 0.5], [0.25, 1.0]]}
  }


def test_a_single_output_has_no_name():
  arrays = {'score': np.array([0.1, 2.0], np.float32)}
  assert written(arrays, 'instances') == {'predictions': [0.1, 2.0]}
  assert written(arrays, 'inputs') == {'outputs': [0.1, 2.0]}


def test_numbers_are_as_short_as_their_type_needs():
  arrays = {'score': np.array([0.1], np.float32)}
  assert json_tensors.write_tensors(arrays, 'instances') == (
    b'{"predictions":[0.1]}'
  )


def test_bytes_are_base64_under_a_name_that_says_so():
  arrays = {'x_bytes': np.array([b'\xff'], object)}
  assert written(arrays, 'instances') == {'predictions': [{'b64': '/w=='}]}


def test_bytes_that_are_no_text_do_not_break_the_response():
  arrays = {'x': np.array([[b'a\xff']], object)}
  assert written(arrays, 'instances') == {'predictions': [['a\ufffd']]}
