"""The index of written shards: what lies where, with checksums.

A shard is a TFRecord file, plain or gzip, in blocks of some hundred examples;
each block of a compressed one is gzip data of its own. Any reader of TFRecords
reads it from beginning to end; with the index, reading begins at any block, and
every block is checked as it is read.
"""

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Sequence

import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import vocabulary as vocabulary_lib

SUFFIX = '.index.json'
_FORMAT = 1
_SHARD_NAME = re.compile(r'(?s)(.*)-(\d{5,})-of-(\d{5,})(\.tfrecord(?:\.gz)?)')
_CHUNK_BYTES = 1 << 22
# The message about a shard (1) and what is wrong with it (2).
ALTERED = (
  'A shard must be what its index says. Received: %s, %s. Restore it or write '
  'the shards anew; if it is meant to differ, remove the index.'
)


@dataclasses.dataclass(frozen=True)
class ShardEntry:
  """One shard.

  Attributes:
    name: name of the file, without its folder.
    examples: how many examples it has.
    tokens: their tokens, [CLS] and [SEP] included, padding not.
    num_bytes: size of the file.
    crc32: checksum of the file.
    blocks: (examples, bytes, checksum) of each block, in order.
  """

  name: str
  examples: int
  tokens: int
  num_bytes: int
  crc32: int
  blocks: tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class ShardIndex:
  """All shards that were written together.

  Attributes:
    path: the index file; the shards lie beside it.
    settings: what they were written with.
    shards: the shards, in order.

  Example:
    index = ShardIndex.load('runs/data/train.index.json')
    index.shards[3].examples
  """

  path: str
  settings: dict
  shards: tuple[ShardEntry, ...]

  @property
  def examples(self) -> int:
    return sum(shard.examples for shard in self.shards)

  @property
  def tokens(self) -> int:
    return sum(shard.tokens for shard in self.shards)

  def save(self) -> None:
    """Writes the file, whole or not at all."""
    tree = {
      'format': _FORMAT,
      'examples': self.examples,
      'tokens': self.tokens,
      'settings': self.settings,
      'shards': [dataclasses.asdict(shard) for shard in self.shards],
    }
    vocabulary_lib.write_whole_file(self.path, json.dumps(tree) + '\n')

  @classmethod
  def load(cls, path: str) -> 'ShardIndex':
    """Reads what `save` wrote.

    Raises:
      DataError: if the file is something else.
    """
    try:
      with tf.io.gfile.GFile(path, 'r') as file:
        tree = json.loads(file.read())
      if tree['format'] != _FORMAT:
        raise ValueError(f'format {tree["format"]}')
      shards = tuple(shard_entry(shard) for shard in tree['shards'])
    except (ValueError, KeyError, TypeError) as error:
      raise errors.DataError(
        'An index of shards must be what tools/create_pretraining_data.py '
        f'wrote. Received: {path} ({error}). Write the shards anew, or remove '
        'the index to have them read without checks.'
      ) from error
    return cls(path, tree['settings'], shards)


def shard_entry(tree: dict) -> ShardEntry:
  """Returns the entry that was saved as `tree`."""
  blocks = tuple(tuple(block) for block in tree['blocks'])
  return ShardEntry(**(tree | {'blocks': blocks}))


def index_path(output: str) -> str:
  """Returns the name of the index of the shards `OUTPUT-00000-of-...`."""
  return output + SUFFIX


def entries(paths: Sequence[str]) -> dict[str, ShardEntry]:
  """Returns the index entries of those files that have one, by path."""
  indices = {}
  found = {}
  for path in paths:
    match = _SHARD_NAME.fullmatch(path)
    if not match:
      continue
    index = index_path(match.group(1))
    if index not in indices:
      exists = tf.io.gfile.exists(index)
      indices[index] = _by_path(ShardIndex.load(index)) if exists else {}
    if path in indices[index]:
      found[path] = indices[index][path]
  return found


def _by_path(index: ShardIndex) -> dict[str, ShardEntry]:
  folder = os.path.dirname(index.path)
  return {os.path.join(folder, shard.name): shard for shard in index.shards}


def check_shards(
  paths: Sequence[str], setting: str, checksums: bool = True
) -> None:
  """Checks files of examples against their index, or at least their number.

  Args:
    paths: the files.
    setting: the setting that names them, for messages.
    checksums: reads every file whole; else only sizes are compared.

  Raises:
    DataError: naming the first shard that is missing or has been altered.
  """
  _check_numbers(paths, setting)
  for path, entry in entries(paths).items():
    size = tf.io.gfile.stat(path).length
    if size != entry.num_bytes:
      raise _altered(path, f'{size} bytes long instead of {entry.num_bytes}')
    if checksums and file_crc32(path) != entry.crc32:
      raise _altered(path, 'with another checksum')


def _check_numbers(paths, setting):
  groups = set()
  for path in paths:
    if match := _SHARD_NAME.fullmatch(path):
      groups.add((match.group(1), match.group(3), match.group(4)))
  for prefix, count, suffix in sorted(groups):
    for shard in range(int(count)):
      path = f'{prefix}-{shard:0{len(count)}d}-of-{count}{suffix}'
      if not tf.io.gfile.exists(path):
        raise errors.DataError(
          f'All {int(count)} shards of {prefix} must be there. Received: '
          f'{path} is missing. Restore it, write the shards to their end with '
          f'the command that began them, or set {setting}.'
        )


def file_crc32(path: str) -> int:
  """Returns the checksum of a file, local or remote."""
  checksum = 0
  with tf.io.gfile.GFile(path, 'rb') as file:
    while chunk := file.read(_CHUNK_BYTES):
      checksum = zlib.crc32(chunk, checksum)
  return checksum


def _altered(path, how) -> errors.DataError:
  return errors.DataError(ALTERED % (path, how))
