"""Writes one shard: examples in order, in blocks, under its name when whole."""

import collections
import functools
import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures

import google_crc32c
import tensorflow as tf

from tokendrop_tf.data import shard_index

BLOCK_EXAMPLES = 512
_LENGTH = struct.Struct('<Q')
_CHECKSUM = struct.Struct('<I')
_CHECKSUM_MASK = 0xA282EAD8


def write_shard(
  path: str, examples: Sequence[bytes], tokens: int, is_gzip: bool
) -> shard_index.ShardEntry:
  """Writes a shard; the same examples give the same bytes.

  Args:
    path: its name, which appears when the file is whole.
    examples: serialized examples, in order.
    tokens: tokens of all of them.
    is_gzip: whether the blocks are compressed, several at a time.

  Returns:
    The entry of the index.
  """
  unfinished = unfinished_name(path)
  starts = range(0, len(examples), BLOCK_EXAMPLES)
  parts = (examples[start : start + BLOCK_EXAMPLES] for start in starts)
  blocks, checksum, size = [], 0, 0
  with tf.io.gfile.GFile(unfinished, 'wb') as file:
    file.write(b'')  # A shard without examples is a file, too.
    for count, data in _packed(parts, is_gzip):
      file.write(data)
      blocks.append((count, len(data), zlib.crc32(data)))
      checksum = zlib.crc32(data, checksum)
      size += len(data)
  tf.io.gfile.rename(unfinished, path, overwrite=True)
  return shard_index.ShardEntry(
    os.path.basename(path),
    len(examples),
    tokens,
    size,
    checksum,
    tuple(blocks),
  )


def _packed(
  parts: Iterable[Sequence[bytes]], is_gzip: bool
) -> Iterator[tuple[int, bytes]]:
  """Yields (number of examples, bytes) of each block."""
  if not is_gzip:
    for part in parts:
      yield len(part), framed(part)
    return
  workers = os.cpu_count() or 1
  # zlib lets other threads go on.
  with futures.ThreadPoolExecutor(workers) as pool:
    yield from _in_order(pool, _compressed, parts, 2 * workers)


def _compressed(examples: Sequence[bytes]) -> tuple[int, bytes]:
  data = gzip.compress(framed(examples), compresslevel=6, mtime=0)
  return len(examples), data


def _in_order(
  pool: futures.Executor, function: Callable, items: Iterable, most: int
) -> Iterator:
  """Yields function(item) for each item, `most` of them on the way."""
  waiting = collections.deque()
  for item in items:
    waiting.append(pool.submit(function, item))
    if len(waiting) >= most:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


def framed(examples: Iterable[bytes]) -> bytes:
  """Returns examples as TFRecords.

      length, uint64    its checksum    example    its checksum

  Checksums are CRC-32C, turned and shifted ("masked"), uint32. Source: the
  guide on TFRecords of TensorFlow's documentation.
  """
  parts = []
  for example in examples:
    parts += _frame_head(len(example)), example, _checksum(example)
  return b''.join(parts)


@functools.lru_cache(maxsize=1 << 14)
def _frame_head(size: int) -> bytes:
  length = _LENGTH.pack(size)
  return length + _checksum(length)


def _checksum(data: bytes) -> bytes:
  crc = google_crc32c.value(data)
  turned = (crc >> 15 | crc << 17) + _CHECKSUM_MASK
  return _CHECKSUM.pack(turned & 0xFFFFFFFF)


def unfinished_name(path: str) -> str:
  """Returns the name of a shard that is being written; no glob finds it."""
  folder, name = os.path.split(path)
  return os.path.join(folder, f'.writing.{name}')
