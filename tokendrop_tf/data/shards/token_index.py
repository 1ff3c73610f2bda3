"""Token shards: files of packed rows, and the index that describes them.

A shard is a file of rows and nothing else. A row is W numbers of one type,
little-endian: S token ids, special tokens and padding included, and by best fit
S segment ids; see `examples.packing`. So the place of a row is arithmetic, and
NumPy alone reads a shard:

    np.fromfile('wiki-00000-of-00012.tokens', '<u2').reshape(-1, 512)

The index, `wiki.index.json`, has the settings, the vocabulary, and of each
shard its rows and a checksum of every chunk. A chunk is `chunk_rows` rows, some
hundred kilobytes: the unit in which training reads and checks.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import zlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors, files
from tokendrop_tf.data.examples import packing
from tokendrop_tf.data.read import corpus
from tokendrop_tf.data.shards import data_files
from tokendrop_tf.text import vocabulary as vocabulary_lib

CHUNK_BYTES = 1 << 18
_FORMAT = 'token rows 1'
_SHARD_NAME = re.compile(r'(?s)(.*)-(\d{5,})-of-(\d{5,})(\.[^-]*)')
_ALTERED = (
  'A shard must be what its index says. Received: %s, %s. Restore it, or write '
  'the shards again.'
)


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of rows.

  Attributes:
    name: name of the file, without its folder.
    rows: how many rows it has.
    tokens: their tokens, [CLS] and [SEP] included, padding not.
    crc32: checksum of every chunk.
  """

  name: str
  rows: int
  tokens: int
  crc32: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TokenIndex:
  """All shards that were written together.

  Attributes:
    path: the index file; the shards lie next to it.
    settings: what they were written with; `seq_length` and `packing` are what a
      reader needs.
    vocabulary: what `vocabulary_facts` returns.
    chunk_rows: rows of a chunk; the last one of a shard may have fewer.
    shards: the shards, in order.

  Example:
    index = TokenIndex.load('runs/data/wiki.index.json')
    index.shards[3].rows
  """

  path: str
  settings: dict
  vocabulary: dict
  chunk_rows: int
  shards: tuple[Shard, ...]

  @property
  def rows(self) -> int:
    return sum(shard.rows for shard in self.shards)

  @property
  def tokens(self) -> int:
    return sum(shard.tokens for shard in self.shards)

  @property
  def width(self) -> int:
    """W, the numbers of a row."""
    return packing.row_width(
      self.settings['packing'], self.settings['seq_length']
    )

  @property
  def dtype(self) -> np.dtype:
    return row_dtype(self.vocabulary['size'])

  def save(self) -> None:
    """Writes the file, whole or not at all."""
    tree = dataclasses.asdict(self)
    del tree['path']
    totals = {
      'rows': self.rows,
      'tokens': self.tokens,
      'width': self.width,
      'dtype': self.dtype.str,
    }
    files.write_json(
      self.path, {'format': _FORMAT} | totals | tree, indent=None
    )

  @classmethod
  def load(cls, path: str) -> 'TokenIndex':
    """Reads what `save` wrote.

    Raises:
      DataError: if the file is something else.
    """
    try:
      tree = json.loads(files.read_bytes(path))
      if tree['format'] != _FORMAT:
        raise ValueError(f'format {tree["format"]}')
      return cls(
        path,
        tree['settings'],
        tree['vocabulary'],
        tree['chunk_rows'],
        tuple(shard_of(shard) for shard in tree['shards']),
      )
    except (ValueError, KeyError, TypeError) as error:
      raise errors.DataError(
        'An index of token shards must be what '
        f'tools/create_pretraining_data.py wrote. Received: {path} ({error}). '
        'Write the shards again.'
      ) from error


def shard_of(tree: dict) -> Shard:
  """Returns the shard that was saved as `tree`."""
  return Shard(**(tree | {'crc32': tuple(tree['crc32'])}))


def row_dtype(vocabulary_size: int) -> np.dtype:
  """Returns the type of the numbers of a row."""
  return np.dtype('<u2' if vocabulary_size <= 1 << 16 else '<i4')


def vocabulary_facts(vocabulary: vocabulary_lib.Vocabulary) -> dict:
  """Returns what a vocabulary must share with the one that wrote the rows."""
  text = '\n'.join(vocabulary.tokens)
  return {
    'size': vocabulary.size,
    'sha256': hashlib.sha256(text.encode()).hexdigest(),
    'lower_case': vocabulary.lower_case,
    'tokenization': dataclasses.asdict(vocabulary.settings),
  }


def index_path(output: str) -> str:
  """Returns the name of the index of the shards `OUTPUT-00000-of-...`."""
  return output + data_files.INDEX_SUFFIX


def chunk_rows(width: int, dtype: np.dtype) -> int:
  """Returns how many rows of W numbers make a chunk."""
  return max(CHUNK_BYTES // (width * dtype.itemsize), 1)


class TokenRows:
  """The rows of several shards, read chunk by chunk.

  Rows are numbered through all shards, in the order in which the files are
  given, and so are chunks.

  Attributes:
    indices: the indices of the files.
    chunk_sizes: rows of every chunk, int64.

  Example:
    rows = TokenRows(data_files.of(config).paths)
    rows.read(0)  # int32 [chunk_sizes[0], W]
  """

  def __init__(self, paths: Sequence[str]):
    """Reads the indices.

    Raises:
      DataError: if a file is in no index.
    """
    indices, table = {}, []
    for path in paths:
      index, shard = _entry(path, indices)
      for first in range(0, shard.rows, index.chunk_rows):
        size = min(index.chunk_rows, shard.rows - first)
        checksum = shard.crc32[first // index.chunk_rows]
        table.append((path, index, first, size, checksum))
    self.indices = tuple(indices.values())
    self.chunk_sizes = np.array([size for *_, size, _ in table], np.int64)
    self._chunks = table

  @functools.cached_property
  def num_rows(self) -> int:
    """Rows of all shards."""
    return int(self.chunk_sizes.sum())

  @property
  def width(self) -> int:
    """W, the numbers of a row."""
    return self.indices[0].width

  @property
  def spec(self) -> tf.TensorSpec:
    """Shape and type of what `read` returns."""
    return tf.TensorSpec([None, self.width], tf.int32)

  def read(self, chunk: int) -> np.ndarray:
    """Reads a chunk and compares its checksum.

    Returns:
      int32 [chunk_sizes[chunk], W].

    Raises:
      DataError: if the chunk is not what was written.
    """
    path, index, first, size, checksum = self._chunks[chunk]
    row_bytes = index.width * index.dtype.itemsize
    with tf.io.gfile.GFile(path, 'rb') as file:
      file.seek(first * row_bytes)
      data = file.read(size * row_bytes)
    if zlib.crc32(data) != checksum:
      where = f'rows {first} to {first + size - 1}'
      raise _altered(path, f'with another checksum in {where}')
    rows = np.frombuffer(data, index.dtype).reshape(size, index.width)
    return rows.astype(np.int32)


def _entry(path, indices) -> tuple[TokenIndex, Shard]:
  """Returns the index of a shard, kept in `indices`, and its entry."""
  match = _SHARD_NAME.fullmatch(path)
  index = index_path(match.group(1)) if match else ''
  if index and index not in indices and tf.io.gfile.exists(index):
    indices[index] = TokenIndex.load(index)
  name = os.path.basename(path)
  for shard in indices[index].shards if index in indices else ():
    if shard.name == name:
      return indices[index], shard
  raise errors.DataError(
    f'Token shards must lie next to their index. Received: {path}, which is in '
    f'no index{" " + index if index else ""}. Copy the index of the folder '
    'where the shards were written, or write them again with '
    'tools/create_pretraining_data.py.'
  )


def check_numbers(paths: Sequence[str], setting: str) -> None:
  """Checks that of shards with numbers in their names all are there.

  Args:
    paths: the files, of any form.
    setting: the setting that names them, for the message.

  Raises:
    DataError: naming the first one that is missing.
  """
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


def check_shards(
  paths: Sequence[str], config, vocabulary: vocabulary_lib.Vocabulary
) -> TokenRows:
  """Checks shards against their index, and the settings against both.

  Args:
    paths: the files.
    config: the data section.
    vocabulary: the vocabulary.

  Returns:
    Their rows, whose checksums are compared as they are read.

  Raises:
    DataError: for a shard that is missing or has another size, or a setting
      that is not what the shards were written with.
  """
  check_numbers(paths, corpus.setting_name(config, 'input_path'))
  rows = TokenRows(paths)
  for index in rows.indices:
    _check_settings(index, config)
    _check_vocabulary(index, vocabulary)
    folder = os.path.dirname(index.path)
    for shard in index.shards:
      path = os.path.join(folder, shard.name)
      expected = shard.rows * index.width * index.dtype.itemsize
      if path in paths and tf.io.gfile.stat(path).length != expected:
        size = tf.io.gfile.stat(path).length
        raise _altered(path, f'{size} bytes long instead of {expected}')
  return rows


def _check_settings(index, config):
  for name in ('seq_length', 'packing'):
    written, setting = index.settings[name], corpus.setting_name(config, name)
    if getattr(config, name) != written:
      raise errors.DataError(
        f'{setting} must be that of the token shards. Received: '
        f'{getattr(config, name)!r}, and {written!r} in {index.path}. Set '
        f'{setting} = {written!r}, or write the shards again.'
      )


def _check_vocabulary(index, vocabulary):
  facts = vocabulary_facts(vocabulary)
  if facts != index.vocabulary:
    differs = next(
      name
      for name in ('lower_case', 'tokenization', 'size', 'sha256')
      if facts[name] != index.vocabulary.get(name)
    )
    raise errors.DataError(
      'Token shards must be read with the vocabulary that they were written '
      f'with. Received: {vocabulary.path}, whose {differs} is '
      f'{facts[differs]}; {index.path} has {index.vocabulary.get(differs)}. '
      'Set vocabulary.path, or write the shards again.'
    )


def _altered(path, how) -> errors.DataError:
  return errors.DataError(_ALTERED % (path, how))
