"""Examples of indexed shards by their number, read inside tf.data.

The operations are TensorFlow's own, without Python: so they run on the hosts of
a TPU slice and on the workers of a tf.data service as well as here, several
blocks at a time.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import shard_index

_BYTES = [bytes([number]) for number in range(256)]
_GZIP_HEADER = b'\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff'
# Of a block that DEFLATE stores as it is: 16 bits hold its length.
_STORED_BYTES = (1 << 16) - 1
# Of a TFRecord: 8 bytes of length, its checksum; behind the data another one.
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
# Records that are cut out in one turn of a loop, whose turns cost.
_RECORDS_A_TURN = 4


class BlockReader:
  """Reads ranges of the examples of several shards.

  Examples are numbered through all shards, in the order in which these are
  given. Only the blocks that hold a range are read; each is checked against the
  index as it is read.

  Example:
    reader = BlockReader(shard_index.entries(paths))
    reader.rows(1000, 2000)  # data set of strings [n], 1000 in all
  """

  def __init__(self, shards: Mapping[str, shard_index.ShardEntry]):
    """Takes the entries of the index, by path."""
    self.sizes = np.array([s.examples for s in shards.values()], np.int64)
    self._paths = list(shards)
    # Examples, bytes and checksums of all blocks, [blocks].
    examples, num_bytes, self._checksums = (
      np.array(
        [block for shard in shards.values() for block in shard.blocks], np.int64
      )
      .reshape([-1, 3])
      .T
    )
    self._ends = np.cumsum(examples)
    self._starts = self._ends - examples
    self._sizes = num_bytes
    blocks = [len(shard.blocks) for shard in shards.values()]
    self._files = np.repeat(np.arange(len(blocks)), blocks)
    file_bytes = np.array([s.num_bytes for s in shards.values()], np.int64)
    before = np.cumsum(num_bytes) - num_bytes
    self._offsets = before - (np.cumsum(file_bytes) - file_bytes)[self._files]
    self._behind = file_bytes[self._files] - self._offsets - num_bytes

  @property
  def num_rows(self) -> int:
    """Examples of all shards."""
    return int(self.sizes.sum())

  def rows(self, first, last) -> tf.data.Dataset:
    """Returns examples `first` to `last` - 1, serialized, in strings [n].

    Args:
      first: number of the first example, int64 scalar.
      last: number behind the last one, int64 scalar.

    Raises:
      tf.errors.InvalidArgumentError: while reading, if a block is not what was
        written; `errors.as_kept` makes it a DataError.
    """
    starts = tf.constant(self._starts)
    begin = tf.searchsorted(starts, [first + 1], out_type=tf.int64)[0] - 1
    end = tf.searchsorted(starts, [last], out_type=tf.int64)[0]
    blocks = tf.data.Dataset.range(tf.where(first < last, begin, end), end)
    return blocks.map(
      lambda block: self.part(
        tf.maximum(first, tf.gather(tf.constant(self._starts), block)), last
      )
    )

  def part(self, first, last):
    """Reads what the block of example `first` holds of a range.

    Args:
      first: number of the first example, int64 scalar.
      last: number behind the last one, int64 scalar, greater than `first`.

    Returns:
      Serialized examples, strings [n], n >= 1.

    Raises:
      tf.errors.InvalidArgumentError: as `rows`.
    """
    ends = tf.constant(self._ends)
    block = tf.searchsorted(ends, [first], side='right', out_type=tf.int64)[0]

    def of_block(numbers):
      return tf.gather(tf.constant(numbers), block)

    path = tf.gather(tf.constant(self._paths), of_block(self._files))
    offset, size = of_block(self._offsets), of_block(self._sizes)
    behind = of_block(self._behind)
    data = _read(path, offset, size, behind)
    check = tf.debugging.Assert(
      _has_checksum(data, of_block(self._checksums)),
      [_altered(path, offset, size)],
    )
    with tf.control_dependencies([check]):
      data = tf.identity(data)
    is_gzip = tf.strings.regex_full_match(path, r'(?s).*\.gz')
    start = of_block(self._starts)
    count = of_block(self._ends) - start
    rows = _split(_unpacked(data, is_gzip), count)
    # A slice would keep the block in memory.
    return tf.gather(
      rows, tf.range(first - start, tf.minimum(last - start, count))
    )


def _read(path, offset, size, behind):
  """Returns `size` bytes of a file from `offset` on, before `behind` bytes."""
  data = tf.raw_ops.FixedLengthRecordDatasetV2(
    filenames=path,
    header_bytes=offset,
    record_bytes=size,
    footer_bytes=behind,
    buffer_size=size,
    compression_type='',
  )
  [data] = tf.raw_ops.DatasetToSingleElement(
    dataset=data, output_types=[tf.string], output_shapes=[[]]
  )
  return data


def _has_checksum(data, checksum):
  """Returns whether bytes have the CRC-32 `checksum`.

  TensorFlow has no operation for this checksum, but gzip data end with it, and
  who unpacks them compares it: so the bytes are dressed as gzip data that hold
  them uncompressed.

  Args:
    data: string scalar, not empty.
    checksum: int64 scalar.
  """
  unpacked = tf.data.Dataset.from_tensors(_as_gzip(data, checksum)).map(
    lambda packed: tf.strings.length(tf.io.decode_compressed(packed, 'GZIP'))
  )
  nothing = tf.data.Dataset.from_tensors(0)
  found = unpacked.ignore_errors().concatenate(nothing).take(1)
  return found.get_single_element() > 0


def _as_gzip(data, checksum):
  """Returns a gzip file (RFC 1952) of `data` in stored blocks (RFC 1951).

  Args:
    data: string scalar, not empty.
    checksum: what is given out as its CRC-32, int64 scalar.
  """
  size = tf.strings.length(data)
  starts = tf.range(0, size, _STORED_BYTES)
  parts = tf.map_fn(
    lambda start: tf.strings.substr(data, start, _STORED_BYTES),
    starts,
    fn_output_signature=tf.string,
  )
  lengths = tf.strings.length(parts)
  is_last = tf.cast(starts + lengths >= size, tf.int32)
  blocks = tf.strings.join(
    [
      _little_endian(is_last, 1),
      _little_endian(lengths, 2),
      _little_endian(_STORED_BYTES - lengths, 2),
      parts,
    ]
  )
  return tf.strings.join(
    [
      _GZIP_HEADER,
      tf.strings.reduce_join(blocks),
      _little_endian(checksum, 4),
      _little_endian(size, 4),
    ]
  )


def _little_endian(numbers, size: int):
  """Returns integers [...] as strings [...] of `size` bytes, lowest first."""
  shifts = 8 * tf.range(size, dtype=numbers.dtype)
  digits = tf.bitwise.right_shift(numbers[..., tf.newaxis], shifts)
  digits = tf.bitwise.bitwise_and(digits, tf.constant(255, numbers.dtype))
  return tf.strings.reduce_join(tf.gather(tf.constant(_BYTES), digits), axis=-1)


def _unpacked(data, is_gzip):
  return tf.cond(
    is_gzip, lambda: tf.io.decode_compressed(data, 'GZIP'), lambda: data
  )


def _split(data, count):
  """Returns the records of an unpacked block, strings [count]."""
  end = tf.strings.length(data)
  # Turns may go beyond the last record: there, all are empty.
  data = tf.strings.join([data, bytes(_HEADER_BYTES)])
  turns = tf.cast(-(-count // _RECORDS_A_TURN), tf.int32)
  found = tf.TensorArray(tf.string, turns, element_shape=[_RECORDS_A_TURN])

  def turn(number, begin, found):
    records = []
    for _ in range(_RECORDS_A_TURN):
      head = tf.strings.substr(data, begin, 8)
      size = tf.cast(tf.io.decode_raw(head, tf.int64)[0], tf.int32)
      records.append(tf.strings.substr(data, begin + _HEADER_BYTES, size))
      begin = tf.minimum(begin + _HEADER_BYTES + size + _FOOTER_BYTES, end)
    return number + 1, begin, found.write(number, tf.stack(records))

  *_, found = tf.while_loop(
    lambda number, *_: number < turns, turn, (0, 0, found)
  )
  return tf.reshape(found.stack(), [-1])[:count]


def _altered(path, offset, size):
  """Returns the message of an error, as a tensor."""
  before, between, after = shard_index.ALTERED.split('%s')
  return tf.strings.join(
    [
      errors.BEGIN_OF_MESSAGE,
      before,
      path,
      between,
      'with another checksum in the ',
      tf.strings.as_string(size),
      ' bytes from ',
      tf.strings.as_string(offset),
      after,
      errors.END_OF_MESSAGE,
    ]
  )
