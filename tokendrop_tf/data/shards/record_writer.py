"""Writes packed rows as masked examples, with the Model Garden's v2 names."""

from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from tokendrop_tf.data.examples import example_pipeline
from tokendrop_tf.data.shards import shard_job
from tokendrop_tf.text import vocabulary as vocabulary_lib


def write(
  path: str,
  rows: np.ndarray,
  shard: int,
  job: shard_job.ShardJob,
  words: vocabulary_lib.Vocabulary,
) -> None:
  """Masks the rows of a shard and writes them as a TFRecord file.

  Args:
    path: the file.
    rows: integers [n, W].
    shard: its number, on which the masks depend.
    job: what is written.
    words: the vocabulary.
  """
  blocks = (
    tf.data.Dataset.from_tensor_slices(rows)
    .batch(example_pipeline.BLOCK_ROWS)
    .enumerate()
    .map(
      lambda block, rows: example_pipeline.mask_rows(
        job.config, words, tf.cast(rows, tf.int32), (shard, block)
      ),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )
  )
  with tf.io.TFRecordWriter(path, 'GZIP' if job.gzip else '') as writer:
    for features in blocks.as_numpy_iterator():
      for example in serialized(features):
        writer.write(example)


def serialized(features: Mapping[str, np.ndarray]) -> Iterator[bytes]:
  """Yields a serialized `tf.train.Example` for each row, always the same bytes.

  Args:
    features: name -> integers or float32 [R, n].

  Example:
    [data] = serialized({'ids': np.array([[101, 7592, 102]])})
    tf.train.Example.FromString(data)
  """
  columns = [_column(features[name]) for name in sorted(features)]
  for row in zip(*columns, strict=True):
    example = tf.train.Example()
    for name, feature in zip(sorted(features), row, strict=True):
      example.features.feature[name].CopyFrom(feature)
    yield example.SerializeToString(deterministic=True)


def _column(values) -> list[tf.train.Feature]:
  values = np.asarray(values)
  if np.issubdtype(values.dtype, np.floating):
    return [
      tf.train.Feature(float_list=tf.train.FloatList(value=row))
      for row in values.tolist()
    ]
  return [
    tf.train.Feature(int64_list=tf.train.Int64List(value=row))
    for row in values.tolist()
  ]
