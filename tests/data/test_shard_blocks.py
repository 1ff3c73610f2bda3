import os
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import shard_blocks, shard_index, shard_writer

SIZES = (100, 30, 0, 77)
# As no index has, but as file names may be.
FOLDER = "it's ü"


@pytest.fixture(scope='module')
def examples():
  """Serialized examples of all sizes, the empty one included."""
  draw = np.random.default_rng(0)
  sizes = draw.integers(0, 3000, sum(SIZES))
  return [draw.bytes(size) for size in [0, *sizes[1:]]]


@pytest.fixture(scope='module')
def shards(tmp_path_factory, examples):
  """Shards in blocks of 16, every other one compressed; entries by path."""
  folder = tmp_path_factory.mktemp('blocks') / FOLDER
  folder.mkdir()
  entries, first = {}, 0
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shard_writer, 'BLOCK_EXAMPLES', 16)
    for shard, size in enumerate(SIZES):
      is_gzip = bool(shard % 2)
      path = f'{folder}/{shard}.tfrecord{".gz" if is_gzip else ""}'
      entries[path] = shard_writer.write_shard(
        path, examples[first : first + size], 0, is_gzip
      )
      first += size
  return entries


@pytest.fixture(scope='module')
def read(shards):
  """Returns a range of examples, as a function of both ends."""
  reader = shard_blocks.BlockReader(shards)

  @tf.function(input_signature=2 * [tf.TensorSpec([], tf.int64)])
  def rows(first, last):
    nothing = tf.zeros([0], tf.string)
    return reader.rows(first, last).reduce(
      nothing, lambda found, part: tf.concat([found, part], axis=0)
    )

  return lambda first, last: rows(first, last).numpy().tolist()


def test_any_range_is_read(read, examples):
  ends = np.cumsum(SIZES)
  assert read(0, ends[-1]) == examples
  borders = [0, 15, 16, *ends[:2] - 1, *ends[:2], ends[-1]]
  for first in borders:
    for last in (first + 1, first + 33):
      last = min(last, ends[-1])
      assert read(first, last) == examples[first:last]


@pytest.fixture
def damaged(shards):
  """Flips a byte of a file for the time of a test."""
  undo = []

  def flip(path, offset):
    with open(path, 'r+b') as file:
      file.seek(offset)
      byte = file.read(1)[0]
      file.seek(offset)
      file.write(bytes([byte ^ 1]))

  def damage(path, offset):
    flip(path, offset)
    undo.append((path, offset))

  yield damage
  for arguments in undo:
    flip(*arguments)


@pytest.mark.parametrize('shard', [0, 1])
def test_a_block_is_checked_when_it_is_read(
  shards, read, examples, damaged, shard
):
  """What comes before and after it is read all the same."""
  path, entry = list(shards.items())[shard]
  (_, before, _), (_, size, _), *_ = entry.blocks
  first = sum(SIZES[:shard])
  for offset in (before, before + size // 2, before + size - 1):
    damaged(path, offset)
    assert read(first + 32, first + 40) == examples[first + 32 : first + 40]
    assert read(0, first + 16) == examples[: first + 16]
    with pytest.raises(errors.DataError) as caught, errors.as_kept():
      read(first + 17, first + 40)
    assert str(caught.value) == (
      f'A shard must be what its index says. Received: {path}, with another '
      f'checksum in the {size} bytes from {before}. Restore it or write the '
      'shards anew; if it is meant to differ, remove the index.'
    )
    damaged(path, offset)


def test_a_sound_block_of_another_shard_is_refused(shards):
  """A checksum of its own that is right does not make it the right one."""
  path, entry = list(shards.items())[1]
  examples, size, checksum = entry.blocks[0]
  other = shard_index.ShardEntry(
    **(vars(entry) | {'blocks': ((examples, size, checksum ^ 1),)})
  )
  reader = shard_blocks.BlockReader({path: other})
  with pytest.raises(errors.DataError, match='another checksum'):
    with errors.as_kept():
      list(reader.rows(tf.constant(0, tf.int64), tf.constant(1, tf.int64)))


def test_a_file_that_is_gone_is_no_damage(shards, read):
  """Storage that does not answer is nothing that the user can put right."""
  path = list(shards)[0]
  os.rename(path, path + '.gone')
  try:
    with pytest.raises(tf.errors.NotFoundError), errors.as_kept():
      read(0, 1)
  finally:
    os.rename(path + '.gone', path)


@pytest.mark.parametrize('size', [1, 65535, 65536, 3 * 65535])
def test_checksums_are_those_of_zlib(size):
  data = np.random.default_rng(size).bytes(size)
  right = zlib.crc32(data)
  for checksum in (right, right ^ 1 << 31, 0):
    found = shard_blocks._has_checksum(
      tf.constant(data), tf.constant(checksum, tf.int64)
    )
    assert bool(found) == (checksum == right)
