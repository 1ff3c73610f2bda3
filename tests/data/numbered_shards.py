"""Token shards of rows that each have a number."""

import os

import numpy as np

from tokendrop_tf.data.shards import shard_writer, token_index
from tokendrop_tf.text import vocabulary as vocabulary_lib

SEQ_LENGTH = 8
_FIRST_ID = len(vocabulary_lib.SPECIAL_TOKENS)


def write(folder, sizes, vocabulary, chunk_rows=8) -> list[str]:
  """Writes shards of `sizes` rows; returns their paths.

  All ids of a row are those of one word: of the first ordinary one in the first
  row of the first shard, of the next one in the next row.

  Args:
    folder: where they lie.
    sizes: rows of every shard.
    vocabulary: a `Vocabulary` whose special tokens come first.
    chunk_rows: rows of a chunk.
  """
  paths, shards, first = [], [], _FIRST_ID
  chunk_bytes = token_index.CHUNK_BYTES
  token_index.CHUNK_BYTES = chunk_rows * SEQ_LENGTH * 2
  try:
    for shard, size in enumerate(sizes):
      name = f'part-{shard:05}-of-{len(sizes):05}.tokens'
      paths.append(os.path.join(folder, name))
      ids = np.arange(first, first + size, dtype='<u2')
      rows = np.tile(ids[:, np.newaxis], [1, SEQ_LENGTH])
      checksums = tuple(shard_writer.write_rows(paths[-1], rows))
      shards.append(token_index.Shard(name, size, rows.size, checksums))
      first += size
  finally:
    token_index.CHUNK_BYTES = chunk_bytes
  token_index.TokenIndex(
    token_index.index_path(os.path.join(folder, 'part')),
    {'seq_length': SEQ_LENGTH, 'packing': 'across_documents'},
    token_index.vocabulary_facts(vocabulary),
    chunk_rows,
    tuple(shards),
  ).save()
  return paths


def numbers(batch) -> list[int]:
  """Returns the number of each row of a batch, -1 of an empty one."""
  has_text = batch['masked_lm_weights'][:, 0] > 0
  ids = batch['masked_lm_ids'][:, 0]
  return np.where(has_text, ids - _FIRST_ID, -1).tolist()


def flip_byte(path, offset):
  """Changes a bit of the byte at `offset` of a file."""
  with open(path, 'r+b') as file:
    file.seek(offset)
    byte = file.read(1)
    file.seek(offset)
    file.write(bytes([byte[0] ^ 1]))
