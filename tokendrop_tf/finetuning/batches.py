"""Which rows make which batch, on every pipeline of a distributed job.

Letters: N rows, G global batch, B batch of a replica.
"""

from collections.abc import Callable

import tensorflow as tf

# Lengths after trimming are multiples of this: fewer shapes, aligned rows.
_LENGTH_STEP = 8

RowsToBatch = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def training_batches(
  num_rows: int,
  global_batch_size: int,
  seed: int,
  rows_to_batch: RowsToBatch,
  context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
  """Returns endless batches in which every epoch is another permutation.

  Row i of the whole training is row `permutation(i // N)[i % N]` of the data,
  where the permutations follow from the seed; so the order depends neither on
  the number of replicas nor on what was read before.

  Args:
    num_rows: N.
    global_batch_size: G.
    seed: of the permutations.
    rows_to_batch: graph function from row numbers, int64 [B], to features.
    context: the part of a distributed job that this pipeline feeds.

  Example:
    training_batches(67349, 32, seed=1, rows_to_batch=lookup)
  """

  def rows(start, size):
    positions = start + tf.range(size, dtype=tf.int64)
    epochs = tf.cast(positions // num_rows, tf.int32)
    seeds = tf.stack(
      [tf.fill([size], seed), epochs, tf.zeros([size], tf.int32)], axis=1
    )
    # `tf.random.experimental.index_shuffle` pads a matrix of seeds wrongly.
    return tf.raw_ops.RandomIndexShuffle(
      index=positions % num_rows,
      seed=seeds,
      max_index=tf.constant(num_rows - 1, tf.int64),
      rounds=4,
    )

  return _batches(None, global_batch_size, rows, rows_to_batch, context)


def evaluation_batches(
  num_rows: int,
  global_batch_size: int,
  rows_to_batch: RowsToBatch,
  context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
  """Returns all rows once and in order, in batches of equal size.

  The last batch is filled up with row number -1.

  Args:
    num_rows: N.
    global_batch_size: G.
    rows_to_batch: graph function from row numbers, int64 [B], to features.
    context: the part of a distributed job that this pipeline feeds.
  """

  def rows(start, size):
    positions = start + tf.range(size, dtype=tf.int64)
    return tf.where(positions < num_rows, positions, -1)

  num_steps = -(-num_rows // global_batch_size)
  return _batches(num_steps, global_batch_size, rows, rows_to_batch, context)


def trim_padding(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Cuts off the columns that are padding in every row of a batch.

  Args:
    batch: has `input_mask`, int32 [B, S], and other features.

  Returns:
    The batch, its `input_...` features [B, S'], S' the longest row rounded up
    to a multiple of 8, at most S.
  """
  mask = batch['input_mask']
  longest = tf.reduce_max(tf.reduce_sum(mask, axis=1))
  length = (longest + _LENGTH_STEP - 1) // _LENGTH_STEP * _LENGTH_STEP
  length = tf.maximum(tf.minimum(length, tf.shape(mask)[1]), 1)
  return {
    name: value[:, :length] if name.startswith('input_') else value
    for name, value in batch.items()
  }


def _batches(num_steps, global_batch_size, rows, rows_to_batch, context):
  context = context or tf.distribute.InputContext()
  size = context.get_per_replica_batch_size(global_batch_size)
  replicas = context.num_replicas_in_sync // context.num_input_pipelines
  first = context.input_pipeline_id * replicas * size

  def make(number):
    step, replica = number // replicas, number % replicas
    start = step * global_batch_size + first + replica * size
    batch = rows_to_batch(tf.ensure_shape(rows(start, size), [size]))
    # What XLA compiles has to know the number of rows.
    return {
      name: tf.ensure_shape(value, [size, *value.shape[1:]])
      for name, value in batch.items()
    }

  numbers = (
    tf.data.Dataset.counter()
    if num_steps is None
    else tf.data.Dataset.range(num_steps * replicas)
  )
  dataset = numbers.map(
    make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  options = tf.data.Options()
  # Rows are dealt to the pipelines above, exactly.
  options.experimental_distribute.auto_shard_policy = (
    tf.data.experimental.AutoShardPolicy.OFF
  )
  return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
