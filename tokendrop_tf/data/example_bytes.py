"""Examples as bytes: `tf.train.Example` messages, written without TensorFlow.

An example is a map from names to lists of numbers. Its protocol buffer is

    Example   { 0a length Features }
    Features  { 0a length Entry }*          one for each feature
    Entry     { 0a length name  12 length Feature }
    Feature   { 12 length List } of floats, { 1a length List } of integers
    List      { 0a length numbers }         nothing, if there are none

with lengths and integers as varints: groups of 7 bits, the lowest first, the
high bit set in all but the last. Source: the protocol buffers' encoding
guide, and example.proto and feature.proto of TensorFlow.

A block of rows is encoded as one array; what is left to do for each row is to
join the parts, most of which are the same in every row.

Letters: R rows, n numbers of a feature, b bytes.
"""

import functools
from collections.abc import Mapping

import numpy as np

_FLOATS, _INTEGERS = b'\x12', b'\x1a'


def serialize(features: Mapping[str, np.ndarray]) -> list[bytes]:
  """Returns a serialized `tf.train.Example` for each row.

  They are the bytes that TensorFlow writes with the features sorted by name.

  Args:
    features: name -> integers or float32 [R, n], arrays or eager tensors.

  Returns:
    R strings of bytes.

  Example:
    [data] = serialize({'ids': np.array([[101, 7592, 102]])})
    tf.train.Example.FromString(data)
  """
  columns = [_column(name, features[name]) for name in sorted(features)]
  return [_message(b'\x0a', b''.join(row)) for row in zip(*columns)]


def _column(name: str, values) -> list[bytes]:
  """Returns a feature's entry in the message of every row."""
  values = np.asarray(values)
  if np.issubdtype(values.dtype, np.floating):
    kind = _FLOATS
    data = values.astype('<f4').tobytes()
    sizes = [4 * values.shape[1]] * len(values)
  else:
    kind = _INTEGERS
    data, sizes = varints(values)
    sizes = sizes.tolist()
  column, start = [], 0
  for size in sizes:
    column.append(_head(name, kind, size) + data[start : start + size])
    start += size
  return column


@functools.lru_cache(maxsize=1 << 14)
def _head(name: str, kind: bytes, size: int) -> bytes:
  """Returns what stands before the `size` bytes of a feature's numbers."""
  key = _message(b'\x0a', name.encode())
  numbers = b'\x0a' + _varint(size) if size else b''
  feature = kind + _varint(len(numbers) + size) + numbers
  value = b'\x12' + _varint(len(feature) + size) + feature
  return b'\x0a' + _varint(len(key) + len(value) + size) + key + value


def _message(tag: bytes, data: bytes) -> bytes:
  return tag + _varint(len(data)) + data


@functools.lru_cache(maxsize=1 << 14)
def _varint(number: int) -> bytes:
  data, _ = varints(np.array([[number]]))
  return data


def varints(values: np.ndarray) -> tuple[bytes, np.ndarray]:
  """Encodes integers as varints, one row after the other.

  Args:
    values: integers [R, n]; negative ones become 10 bytes, as in protocol
      buffers.

  Returns:
    The bytes of all rows, and how many belong to each, int64 [R].

  Example:
    varints(np.array([[1, 300]]))  # (b'\\x01\\xac\\x02', [3])
  """
  rows, columns = values.shape
  if not values.size:
    return b'', np.zeros([rows], np.int64)
  least, most = values.min(), values.max()
  if least >= 0 and most < 1 << 7:
    return values.astype(np.uint8).tobytes(), np.full([rows], columns)
  # The narrowest type, for the sake of speed.
  kind = np.uint16 if least >= 0 and most < 1 << 16 else np.uint64
  values = values.astype(kind).ravel()
  most = int(values.max())
  width = -(-most.bit_length() // 7)
  groups = np.empty([values.size, width], np.uint8)  # [R n, b]
  is_used = np.ones([values.size, width], np.bool_)
  for place in range(width):
    left = values >> kind(7 * place)
    groups[:, place] = left & kind(0x7F)
    if place:
      is_used[:, place] = left > 0
      # Another group follows the one before.
      groups[:, place - 1] |= is_used[:, place].view(np.uint8) << np.uint8(7)
  sizes = np.count_nonzero(is_used.reshape([rows, -1]), axis=1)
  # Four times as fast here as indexing by what is used.
  return groups.ravel().compress(is_used.ravel()).tobytes(), sizes
