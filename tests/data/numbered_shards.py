"""Indexed shards of examples that each have a number."""

import os

import numpy as np
import tensorflow as tf

from tokendrop_tf.data import example_bytes, shard_index, shard_writer

SEQ_LENGTH = 8
NUM_LABELS = 2


def write(folder, sizes, block_examples=8, gzip=True) -> list[str]:
  """Writes shards of `sizes` examples; returns their paths.

  All ids of an example, and of its labels, are its number: 0 for the first one
  of the first shard.
  """
  before, shard_writer.BLOCK_EXAMPLES = (
    shard_writer.BLOCK_EXAMPLES,
    block_examples,
  )
  paths, entries, first = [], [], 0
  try:
    for shard, size in enumerate(sizes):
      name = f'part-{shard:05}-of-{len(sizes):05}.tfrecord'
      paths.append(os.path.join(folder, name + ('.gz' if gzip else '')))
      numbers = np.arange(first, first + size, dtype=np.int32)
      serialized = example_bytes.serialize(_features(numbers))
      entries.append(shard_writer.write_shard(paths[-1], serialized, 0, gzip))
      first += size
  finally:
    shard_writer.BLOCK_EXAMPLES = before
  index = shard_index.index_path(os.path.join(folder, 'part'))
  shard_index.ShardIndex(index, {}, tuple(entries)).save()
  return paths


def _features(numbers):
  def rows(size, dtype=tf.int32):
    return tf.cast(tf.tile(numbers[:, np.newaxis], [1, size]), dtype)

  return {
    'input_word_ids': rows(SEQ_LENGTH),
    'input_mask': tf.ones_like(rows(SEQ_LENGTH)),
    'input_type_ids': tf.zeros_like(rows(SEQ_LENGTH)),
    'masked_lm_positions': tf.zeros_like(rows(NUM_LABELS)),
    'masked_lm_ids': rows(NUM_LABELS),
    'masked_lm_weights': tf.ones_like(rows(NUM_LABELS, tf.float32)),
  }
