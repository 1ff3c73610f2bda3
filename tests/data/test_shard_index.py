import os

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import (
  checks,
  loader,
  records,
  shard_blocks,
  shard_index,
  shard_writer,
  shards,
)


@pytest.fixture(scope='module')
def written(numbered_text, tmp_path_factory):
  """Compressed shards of several blocks; returns their index."""
  folder = tmp_path_factory.mktemp('indexed')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shard_writer, 'BLOCK_EXAMPLES', 16)
    return shards.write_shards(
      shards.ShardJob(
        numbered_text.config(),
        numbered_text.vocabulary,
        str(folder / 'part'),
        3,
        gzip=True,
      )
    )


@pytest.fixture
def copied(written, tmp_path):
  """A copy to damage; returns the paths of its shards."""
  source = os.path.dirname(written.path)
  for name in os.listdir(source):
    tf.io.gfile.copy(os.path.join(source, name), str(tmp_path / name))
  return [str(tmp_path / shard.name) for shard in written.shards]


def config(numbered_text, paths, **settings):
  return numbered_text.config(
    input_path=os.path.join(os.path.dirname(paths[0]), '*'), **settings
  )


def refusal(numbered_text, paths):
  with pytest.raises(errors.DataError) as caught:
    checks.check_dataset(config(numbered_text, paths), numbered_text.vocabulary)
  return str(caught.value)


def flip_byte(path, offset):
  with open(path, 'r+b') as file:
    file.seek(offset)
    byte = file.read(1)
    file.seek(offset)
    file.write(bytes([byte[0] ^ 1]))


def test_the_index_tells_what_lies_where(written):
  for shard in written.shards:
    path = os.path.join(os.path.dirname(written.path), shard.name)
    assert os.path.getsize(path) == shard.num_bytes
    assert shard_index.file_crc32(path) == shard.crc32
    assert sum(examples for examples, *_ in shard.blocks) == shard.examples
    assert len(shard.blocks) > 2
  assert shard_index.ShardIndex.load(written.path) == written


def test_a_missing_shard_is_named(numbered_text, copied):
  os.remove(copied[1])
  message = refusal(numbered_text, copied)
  assert f'All 3 shards of {copied[0][:-27]} must be there.' in message
  assert f'Received: {copied[1]} is missing.' in message


def test_an_altered_shard_is_named(numbered_text, copied):
  flip_byte(copied[2], 100)
  message = refusal(numbered_text, copied)
  assert f'Received: {copied[2]}, with another checksum.' in message


def test_a_shard_of_another_size_is_named(numbered_text, copied, monkeypatch):
  # Of a large corpus the sizes are compared at once, ...
  monkeypatch.setattr(checks, 'MAX_SCANNED_BYTES', 0)
  with open(copied[0], 'ab') as file:
    file.write(b'more')
  size = os.path.getsize(copied[0])
  message = refusal(numbered_text, copied)
  assert f'{copied[0]}, {size} bytes long instead of {size - 4}' in message


def test_a_block_is_checked_when_it_is_read(numbered_text, copied, monkeypatch):
  # ... and the checksums while training reads.
  monkeypatch.setattr(checks, 'MAX_SCANNED_BYTES', 0)
  monkeypatch.setattr(checks, '_HEAD_RECORDS', 1)
  flip_byte(copied[0], os.path.getsize(copied[0]) - 30)
  section = config(numbered_text, copied)
  checks.check_dataset(section, numbered_text.vocabulary)
  with (
    pytest.raises(errors.DataError, match='with another checksum in the'),
    errors.as_kept(),
  ):
    list(loader.load_dataset(section, numbered_text.vocabulary))


def test_another_file_is_no_index(copied):
  path = copied[0][:-27] + '.index.json'
  with open(path, 'w') as file:
    file.write('{"format": 7}')
  with pytest.raises(errors.DataError, match='wrote. Received: .*format 7'):
    shard_index.entries(copied)


def test_counts_come_from_the_index(numbered_text, written, monkeypatch):
  def read(*arguments):
    raise AssertionError('A file was read.')

  monkeypatch.setattr(shard_blocks.BlockReader, 'part', read)
  monkeypatch.setattr(records, '_count', read)
  paths = [
    os.path.join(os.path.dirname(written.path), shard.name)
    for shard in written.shards
  ]
  counts = records.RecordReader(
    tuple(paths), config(numbered_text, paths)
  ).count()
  assert counts.num_rows == written.examples


@pytest.mark.parametrize('first', [1, 7, 60])
def test_any_batch_of_shards_is_gone_to_at_once(numbered_text, written, first):
  paths = [
    os.path.join(os.path.dirname(written.path), shard.name)
    for shard in written.shards
  ]
  section = config(numbered_text, paths, num_epochs=2)
  whole = loader.load_dataset(section, numbered_text.vocabulary)
  rest = loader.load_dataset(
    section, numbered_text.vocabulary, first_batch=first
  )
  whole = [batch['input_word_ids'].numpy() for batch in whole][first:]
  rest = [batch['input_word_ids'].numpy() for batch in rest]
  assert len(rest) == len(whole) > 0
  for found, expected in zip(rest, whole, strict=True):
    np.testing.assert_array_equal(found, expected)
