import gzip

import pytest
import tensorflow as tf

from tokendrop_tf.data import shard_index, shard_writer

EXAMPLES = [b'', b'\0', b'one', b'two' * 5000, *map(bytes, range(40))]


def test_records_are_framed_as_tensorflow_frames_them(tmp_path):
  path = str(tmp_path / 'a.tfrecord')
  with tf.io.TFRecordWriter(path) as writer:
    for example in EXAMPLES:
      writer.write(example)
  with open(path, 'rb') as file:
    assert shard_writer.framed(EXAMPLES) == file.read()


@pytest.mark.parametrize('is_gzip', [False, True])
def test_blocks_keep_their_order(tmp_path, monkeypatch, is_gzip):
  """Also where several are compressed at a time."""
  monkeypatch.setattr(shard_writer, 'BLOCK_EXAMPLES', 3)
  path = str(tmp_path / 'a.tfrecord')
  entry = shard_writer.write_shard(path, EXAMPLES, tokens=7, is_gzip=is_gzip)
  with open(path, 'rb') as file:
    blocks = [file.read(size) for _, size, _ in entry.blocks]
    assert file.read() == b''
  unpacked = [gzip.decompress(b) if is_gzip else b for b in blocks]
  assert b''.join(unpacked) == shard_writer.framed(EXAMPLES)
  assert [count for count, *_ in entry.blocks] == [3] * 14 + [2]
  assert entry.crc32 == shard_index.file_crc32(path)
  assert (entry.examples, entry.tokens) == (len(EXAMPLES), 7)
