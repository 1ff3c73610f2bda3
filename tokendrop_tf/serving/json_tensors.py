"""Tensors as TF Serving's REST interface writes them in JSON.

Requests hold `instances` (row format: one object, or one value, per example) or
`inputs` (columnar: whole tensors by name); responses hold `predictions` or
`outputs` accordingly. Bytes that are no text travel as `{"b64": "..."}`. Rules
and messages follow TF Serving's util/json_tensor.cc, so that clients see what
they know.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence

import numpy as np
import orjson
import tensorflow as tf

from tokendrop_tf.serving import status

ROWS, COLUMNS = 'instances', 'inputs'
_RESPONSE_KEY = {ROWS: 'predictions', COLUMNS: 'outputs'}
_BYTES_SUFFIX = '_bytes'
_MAX_RANK = 16
_SHOWN_CHARACTERS = 200

Arrays = dict[str, np.ndarray]
Specs = Mapping[str, tf.TensorSpec]


def parse_document(body: bytes) -> dict:
  """Parses the JSON object that every request is.

  Raises:
    RequestError: 400, if `body` is empty, no JSON, or no object.
  """
  if not body:
    raise status.RequestError('JSON Parse error: The document is empty')
  try:
    document = orjson.loads(body)
  except orjson.JSONDecodeError as error:
    raise status.RequestError(
      f'JSON Parse error: {error.msg} at offset: {error.pos}'
    ) from error
  if not isinstance(document, dict):
    raise status.RequestError(f'JSON Value: {_show(document)} Is not object')
  return document


def signature_name(document: dict) -> str:
  """Returns the signature that a request names, '' for the default.

  Raises:
    RequestError: 400, if the name is no string.
  """
  name = document.get('signature_name', '')
  if not isinstance(name, str):
    raise status.RequestError(
      f'JSON Value: {_show(document)} not formatted correctly. '
      "'signature_name' key must be a string value."
    )
  return name


def read_tensors(document: dict, specs: Specs) -> tuple[str, Arrays]:
  """Returns the format of a request, and its tensors by name.

  Args:
    document: the parsed request.
    specs: the signature's inputs.

  Raises:
    RequestError: 400, for whatever does not fit the signature.

  Example:
    read_tensors({'instances': ['a', 'b']}, {'text': tf.TensorSpec([None],
        tf.string)})  # ('instances', {'text': array([b'a', b'b'])})
  """
  if ROWS in document and COLUMNS in document:
    raise status.RequestError(
      f'JSON Value: {_show(document)} Not formatted correctly expecting only '
      f"one of '{COLUMNS}' or '{ROWS}' keys to exist "
    )
  if ROWS in document:
    arrays = _read_rows(document, specs)
    return ROWS, arrays
  if COLUMNS in document:
    arrays = _read_columns(document[COLUMNS], specs)
    _check_shapes(arrays, specs)
    return COLUMNS, arrays
  raise status.RequestError("Missing 'inputs' or 'instances' key")


def _read_rows(document, specs) -> Arrays:
  rows = document[ROWS]
  if not isinstance(rows, list):
    raise status.RequestError(
      f"JSON Value: {_show(document)} Excepting '{ROWS}' to be an list/array"
    )
  if not rows:
    raise status.RequestError(
      f"JSON Value: {_show(document)} No values in '{ROWS}' array"
    )
  if not isinstance(rows[0], dict) and len(specs) > 1:
    raise status.RequestError(
      'instances is a plain list, but expecting list of objects as multiple '
      'input tensors required as per tensorinfo_map'
    )
  if _is_named(rows[0]):
    columns = _named_rows(rows, specs)
  else:
    columns = _plain_rows(rows, specs)
  arrays = {name: np.stack(items) for name, items in columns.items()}
  _check_shapes(arrays, specs)
  return arrays


def _named_rows(rows, specs) -> dict[str, list]:
  columns = {name: [] for name in specs}
  for number, row in enumerate(rows):
    if not _is_named(row):
      raise status.RequestError(
        f'Expecting object but got list at item {number} of input list'
      )
    for name, value in row.items():
      where = f"{number} key: {name} of 'instances' list"
      if name not in specs:
        raise _in_element(
          where, f'JSON object: does not have named input: {name}'
        )
      _add_item(columns[name], value, specs[name].dtype, where)
    if row.keys() != specs.keys():
      raise status.RequestError(
        f"Failed to process element: {number} of 'instances' list. JSON "
        f'object: {_show(row)} keys must be equal to: {",".join(sorted(specs))}'
      )
  return columns


def _plain_rows(rows, specs) -> dict[str, list]:
  [(name, spec)] = specs.items()
  column = []
  for number, row in enumerate(rows):
    if _is_named(row):
      raise status.RequestError(
        f'Expecting value/list but got object at item {number} of input list'
      )
    _add_item(column, row, spec.dtype, f"{number} of 'instances' list")
  return {name: column}


def _add_item(column, value, dtype, where):
  try:
    item = to_array(value, dtype)
  except status.RequestError as error:
    raise _in_element(where, str(error)) from error
  if column and column[0].shape != item.shape:
    if column[0].size != item.size:
      expected, received = column[0].size, item.size
      raise _in_element(
        where, f'Expecting tensor size: {expected} but got: {received}'
      )
    expected, received = _shape(column[0].shape), _shape(item.shape)
    raise _in_element(where, f'Expecting shape {expected} but got: {received}')
  column.append(item)


def _in_element(where, message) -> status.RequestError:
  return status.RequestError(
    f'Failed to process element: {where}. Error: INVALID_ARGUMENT: {message}'
  )


def _read_columns(value, specs) -> Arrays:
  if not _is_named(value):
    if len(specs) > 1:
      raise status.RequestError(
        'inputs is a plain value/list, but expecting an object as multiple '
        'input tensors required as per tensorinfo_map'
      )
    [(name, spec)] = specs.items()
    return {name: to_array(value, spec.dtype)}
  for name in specs:
    if name not in value:
      raise status.RequestError(
        f"Missing named input: {name} in 'inputs' object."
      )
  return {
    name: to_array(value[name], spec.dtype) for name, spec in specs.items()
  }


def _check_shapes(arrays: Arrays, specs: Specs) -> None:
  """Checks ranks, fixed dimensions, and that all inputs have as many rows."""
  for name, array in arrays.items():
    expected = specs[name].shape
    if not expected.is_compatible_with(array.shape):
      dims = [-1 if size is None else size for size in expected.as_list()]
      raise status.RequestError(
        f'Tensor name: {name} must have shape {_shape(dims)}, -1 being any '
        f'size, but got: {_shape(array.shape)}'
      )
  sizes = {array.shape[0] for array in arrays.values()}
  if len(sizes) > 1:
    shapes = ', '.join(f'{n} {_shape(a.shape)}' for n, a in arrays.items())
    raise status.RequestError(
      'Batching input tensors must have equal 0th-dimension size. Received: '
      f'{shapes}'
    )
  if 0 in sizes:
    raise status.RequestError('Batching input tensors must have rows: got 0')


def to_array(value, dtype: tf.DType) -> np.ndarray:
  """Turns a JSON value, nested lists or not, into an array.

  Args:
    value: what a JSON parser gives.
    dtype: the type of the tensor; strings become bytes, UTF-8.

  Raises:
    RequestError: 400, for ragged lists and values of another type.

  Example:
    to_array([['a', {'b64': 'YQ=='}]], tf.string)  # [[b'a', b'a']]
  """
  shape = _dense_shape(value)
  values = []
  _collect(value, 0, shape, dtype, values)
  kind = object if dtype == tf.string else dtype.as_numpy_dtype
  array = np.empty(len(values), kind)
  array[:] = values
  return array.reshape(shape)


def _dense_shape(value) -> list[int]:
  shape = []
  while isinstance(value, list):
    shape.append(len(value))
    if not value:
      break
    if len(shape) > _MAX_RANK:
      raise status.RequestError(
        f'Encountered list at unexpected level: {_MAX_RANK} expected < '
        f'{_MAX_RANK}'
      )
    value = value[0]
  return shape


def _collect(value, level, shape, dtype, values):
  if not isinstance(value, list):
    if level != len(shape):
      raise status.RequestError(
        f'JSON Value: {_show(value)} found at incorrect level: {level + 1} in '
        f'the JSON DOM. Expected at level: {len(shape)}'
      )
    values.append(_scalar(value, dtype))
    return
  if level >= len(shape):
    raise status.RequestError(
      f'Encountered list at unexpected level: {level} expected < {len(shape)}'
    )
  if len(value) != shape[level]:
    raise status.RequestError(
      f'Encountered list at unexpected size: {len(value)} at level: {level} '
      f'expected size: {shape[level]}'
    )
  for item in value:
    _collect(item, level + 1, shape, dtype, values)


def _scalar(value, dtype):
  if dtype == tf.string:
    if isinstance(value, str):
      return value.encode('utf-8')
    if isinstance(value, dict):
      return _decode_base64(value)
  elif dtype == tf.bool:
    if isinstance(value, bool):
      return value
  elif isinstance(value, int) and not isinstance(value, bool):
    if dtype.is_floating or dtype.min <= value <= dtype.max:
      return value
  elif isinstance(value, float) and dtype.is_floating:
    return value
  name = {'float32': 'float', 'float64': 'double'}.get(dtype.name, dtype.name)
  raise status.RequestError(
    f'JSON Value: {_show(value)} Type: {_type_name(value)} is not of expected '
    f'type: {name}'
  )


def _decode_base64(value) -> bytes:
  if not _is_base64(value):
    raise status.RequestError(
      f'JSON Value: {_show(value)} not formatted correctly for base64 data'
    )
  text = value['b64'].rstrip('=')
  try:
    return base64.b64decode(text + '=' * (-len(text) % 4), validate=True)
  except (binascii.Error, ValueError) as error:
    raise status.RequestError('Unable to base64 decode') from error


def _is_base64(value) -> bool:
  return (
    isinstance(value, dict)
    and value.keys() == {'b64'}
    and isinstance(value['b64'], str)
  )


def _is_named(value) -> bool:
  return isinstance(value, dict) and not _is_base64(value)


def _type_name(value) -> str:
  names = {
    type(None): 'Null',
    bool: str(value),
    dict: 'Object',
    list: 'Array',
    str: 'String',
  }
  return names.get(type(value), 'Number')


def _show(value) -> str:
  text = json.dumps(value, ensure_ascii=False)
  if len(text) > _SHOWN_CHARACTERS:
    text = f'{text[:_SHOWN_CHARACTERS]}...'
  return text


def _shape(dims: Sequence[int]) -> str:
  return f'[{",".join(map(str, dims))}]'


def write_tensors(arrays: Mapping[str, np.ndarray], form: str) -> bytes:
  """Returns the body of a response.

  Args:
    arrays: the model's outputs by name, each with a batch dimension.
    form: of the request, `ROWS` or `COLUMNS`.

  Example:
    write_tensors({'score': np.array([0.5], np.float32)}, ROWS)
    # b'{"predictions":[0.5]}'
  """
  columns = {name: _values(name, array) for name, array in arrays.items()}
  if len(columns) == 1:
    [payload] = columns.values()
  elif form == ROWS:
    rows = zip(*columns.values(), strict=True)
    payload = [dict(zip(columns, row)) for row in rows]
  else:
    payload = columns
  return orjson.dumps(
    {_RESPONSE_KEY[form]: payload}, option=orjson.OPT_SERIALIZE_NUMPY
  )


def _values(name, array):
  """Returns what the JSON writer takes: numbers stay arrays, bytes do not."""
  if array.dtype != object:
    return np.ascontiguousarray(array)
  encode = _to_base64 if name.endswith(_BYTES_SUFFIX) else _to_text
  return _map_nested(encode, array.tolist())


def _map_nested(function, value):
  if isinstance(value, list):
    return [_map_nested(function, item) for item in value]
  return function(value)


def _to_text(value: bytes) -> str:
  return value.decode('utf-8', errors='replace')


def _to_base64(value: bytes) -> dict[str, str]:
  return {'b64': base64.b64encode(value).decode('ascii')}
