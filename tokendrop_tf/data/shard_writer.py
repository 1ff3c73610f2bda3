"""Writes one shard: examples in order, in blocks, under its name when whole."""

import gzip
import os
import zlib
from collections.abc import Sequence

import tensorflow as tf

from tokendrop_tf.data import shard_index

BLOCK_EXAMPLES = 512


def write_shard(
  path: str,
  examples: Sequence[bytes],
  tokens: int,
  is_gzip: bool,
  scratch: str,
) -> shard_index.ShardEntry:
  """Writes a shard; the same examples give the same bytes.

  Args:
    path: its name, which appears when the file is whole.
    examples: serialized examples, in order.
    tokens: tokens of all of them.
    is_gzip: whether the blocks are compressed.
    scratch: name of a local file to write beside it for a while.

  Returns:
    The entry of the index.
  """
  # TensorFlow frames records, with the checksum that TFRecords have.
  with tf.io.TFRecordWriter(scratch) as writer:
    for example in examples:
      writer.write(example)
  unfinished = unfinished_name(path)
  blocks, checksum, size = [], 0, 0
  with (
    open(scratch, 'rb') as framed,
    tf.io.gfile.GFile(unfinished, 'wb') as file,
  ):
    file.write(b'')  # A shard without examples is a file, too.
    for first in range(0, len(examples), BLOCK_EXAMPLES):
      block = examples[first : first + BLOCK_EXAMPLES]
      length = sum(map(len, block)) + len(block) * shard_index.FRAME_BYTES
      data = framed.read(length)
      if is_gzip:
        data = gzip.compress(data, compresslevel=6, mtime=0)
      file.write(data)
      blocks.append((len(block), len(data), zlib.crc32(data)))
      checksum = zlib.crc32(data, checksum)
      size += len(data)
  os.remove(scratch)
  tf.io.gfile.rename(unfinished, path, overwrite=True)
  return shard_index.ShardEntry(
    os.path.basename(path),
    len(examples),
    tokens,
    size,
    checksum,
    tuple(blocks),
  )


def unfinished_name(path: str) -> str:
  """Returns the name of a shard that is being written; no glob finds it."""
  folder, name = os.path.split(path)
  return os.path.join(folder, f'.writing.{name}')
