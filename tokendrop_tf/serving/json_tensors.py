"""Tensors as TF Serving's REST interface writes them in JSON.

Requests hold `instances` (row format: one object, or one value, per example) or
`inputs` (columnar: whole tensors by name); responses hold `predictions` or
`outputs` accordingly. Bytes that are not text are written as
`{"b64": "..."}`. The shapes are those of TF Serving's util/json_tensor.cc.
"""

import base64
import itertools
import json
from collections.abc import Mapping

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
  try:
    document = orjson.loads(body)
  except orjson.JSONDecodeError as error:
    raise status.RequestError(
      f'A request must be JSON. Received: {error.msg} at offset: {error.pos}'
    ) from error
  if not isinstance(document, dict):
    raise _refusal('A request must be a JSON object', document)
  return document


def signature_name(document: dict) -> str:
  """Returns the signature that a request names, '' for the default.

  Raises:
    RequestError: 400, if the name is not a string.
  """
  name = document.get('signature_name', '')
  if not isinstance(name, str):
    raise _refusal("'signature_name' must be a string", name)
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
  forms = [form for form in (ROWS, COLUMNS) if form in document]
  if len(forms) != 1:
    raise _refusal(
      f"A request must have either '{ROWS}' or '{COLUMNS}'", document
    )
  [form] = forms
  columns = _COLUMNS_OF[form](document[form], specs)
  arrays = {
    name: to_array(columns[name], spec.dtype) for name, spec in specs.items()
  }
  _check_shapes(arrays, specs)
  return form, arrays


def _columns_of_rows(rows, specs) -> dict:
  if not isinstance(rows, list) or not rows:
    raise _refusal(f"'{ROWS}' must be a list with values", rows)
  if len(specs) == 1:
    rows = [
      row if _is_named(row) else dict.fromkeys(specs, row) for row in rows
    ]
  for number, row in enumerate(rows):
    if not _is_named(row) or row.keys() != specs.keys():
      raise _refusal(
        f"Element {number} of '{ROWS}' must be an object with the keys "
        f'{", ".join(sorted(specs))}',
        row,
      )
  return {name: [row[name] for row in rows] for name in specs}


def _columns_of_inputs(value, specs) -> dict:
  if len(specs) == 1 and not _is_named(value):
    return dict.fromkeys(specs, value)
  if not _is_named(value) or not specs.keys() <= value.keys():
    raise _refusal(
      f"'{COLUMNS}' must be an object with the keys {', '.join(sorted(specs))}",
      value,
    )
  return value


_COLUMNS_OF = {ROWS: _columns_of_rows, COLUMNS: _columns_of_inputs}


def _check_shapes(arrays: Arrays, specs: Specs) -> None:
  """Checks ranks, fixed dimensions, and that all inputs have as many rows."""
  for name, array in arrays.items():
    if not specs[name].shape.is_compatible_with(array.shape):
      raise status.RequestError(
        f'{name} must have shape {specs[name].shape}, None being any size. '
        f'Received: {list(array.shape)}'
      )
  sizes = {name: len(array) for name, array in arrays.items()}
  if len(set(sizes.values())) > 1 or 0 in sizes.values():
    raise status.RequestError(
      'All inputs must have equally many rows, at least one. Received: '
      + ', '.join(f'{size} of {name}' for name, size in sizes.items())
    )


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
  shape, items = [], [value]
  while items and all(isinstance(item, list) for item in items):
    sizes = {len(item) for item in items}
    if len(sizes) > 1:
      raise _not_dense(f'sizes {sorted(sizes)} at level {len(shape)}')
    if len(shape) == _MAX_RANK:
      raise _not_dense(f'a list at level {_MAX_RANK}')
    shape += sizes
    items = list(itertools.chain.from_iterable(items))
  if any(isinstance(item, list) for item in items):
    raise _not_dense(f'values next to lists at level {len(shape)}')
  kind = object if dtype == tf.string else dtype.as_numpy_dtype
  array = np.empty(len(items), kind)
  for number, item in enumerate(items):
    try:
      array[number] = _scalar(item, dtype)
    except ValueError as error:
      place = [int(index) for index in np.unravel_index(number, shape)]
      raise _refusal(
        f'The value at {place} must be {str(error) or dtype.name}', item
      ) from error
  return array.reshape(shape)


def _not_dense(what) -> status.RequestError:
  return status.RequestError(
    f'Lists must have one size at each level, and at most {_MAX_RANK} levels. '
    f'Received: {what}'
  )


def _scalar(value, dtype):
  """Returns a value in its type.

  Raises:
    ValueError: for a value of another type, saying what it must be if that is
      more than the name of the type.
  """
  if dtype == tf.string:
    if isinstance(value, str):
      return value.encode('utf-8')
    if _is_base64(value):
      # MIME encoders break lines; TF Serving skips white space, too.
      text = ''.join(value['b64'].split()).rstrip('=')
      try:
        return base64.b64decode(text + '=' * (-len(text) % 4), validate=True)
      except ValueError as error:
        raise ValueError('base64') from error
  elif dtype == tf.bool:
    if isinstance(value, bool):
      return value
  elif isinstance(value, int) and not isinstance(value, bool):
    if dtype.is_floating or dtype.min <= value <= dtype.max:
      return value
  elif isinstance(value, float) and dtype.is_floating:
    return value
  raise ValueError


def _is_base64(value) -> bool:
  return (
    isinstance(value, dict)
    and value.keys() == {'b64'}
    and isinstance(value['b64'], str)
  )


def _is_named(value) -> bool:
  return isinstance(value, dict) and not _is_base64(value)


def _refusal(rule, value) -> status.RequestError:
  text = json.dumps(value, ensure_ascii=False)
  if len(text) > _SHOWN_CHARACTERS:
    text = f'{text[:_SHOWN_CHARACTERS]}...'
  return status.RequestError(f'{rule}. Received: {text}')


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
