"""Order of the rows in batches, on every pipeline of a distributed job.

Letters: N rows, G global batch, B batch of a replica.
"""

from collections.abc import Callable

import tensorflow as tf

from tokendrop_tf.config import finetuning_configs

# Lengths in training are multiples of this: fewer shapes, aligned rows.
LENGTH_STEP = 8

RowsToBatch = Callable[[tf.Tensor], dict[str, tf.Tensor]]


@tf.autograph.experimental.do_not_convert
def make_batches(
  data: finetuning_configs.TextDataConfig,
  num_rows: int,
  rows_to_batch: RowsToBatch,
  context: tf.distribute.InputContext | None = None,
  first_batch: int = 0,
) -> tf.data.Dataset:
  """Returns the batches that one pipeline of a distributed job feeds.

  Training is endless, and every epoch is another permutation. Row i of the
  whole training is row `permutation(i // N)[i % N]` of the data, where the
  permutations follow from the seed; so the order depends neither on the number
  of replicas nor on what was read before. Other data come once and in order.

  Features: those of `rows_to_batch`, padding trimmed where the section says,
  and `example_id`, int64 [B], -1 for rows that only fill up the last batch.

  Args:
    data: the data section.
    num_rows: N.
    rows_to_batch: graph function from row numbers, int64 [B], to features.
    context: the part of the job; `None` is all of it.
    first_batch: of training, number of global batches read by an earlier run.

  Example:
    make_batches(config.train_data, 67349, lookup)
  """
  context = context or tf.distribute.InputContext()
  size = context.get_per_replica_batch_size(data.global_batch_size)
  replicas = context.num_replicas_in_sync // context.num_input_pipelines
  first = context.input_pipeline_id * replicas * size

  def make(number):
    step, replica = number // replicas, number % replicas
    start = step * data.global_batch_size + first + replica * size
    rows = start + tf.range(size, dtype=tf.int64)
    if data.is_training:
      rows = _permuted(rows, num_rows, data.seed)
    else:
      rows = tf.where(rows < num_rows, rows, -1)
    batch = rows_to_batch(tf.maximum(rows, 0))
    if data.trim_padding:
      batch = trim_padding(batch)
    # What XLA compiles has to know the number of rows.
    return {
      name: tf.ensure_shape(value, [size, *value.shape[1:]])
      for name, value in {**batch, 'example_id': rows}.items()
    }

  if data.is_training:
    numbers = tf.data.Dataset.counter(first_batch * replicas)
  else:
    num_steps = -(-num_rows // data.global_batch_size)
    numbers = tf.data.Dataset.range(num_steps * replicas)
  dataset = numbers.map(
    make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  options = tf.data.Options()
  # Rows are dealt to the pipelines above, exactly.
  options.experimental_distribute.auto_shard_policy = (
    tf.data.experimental.AutoShardPolicy.OFF
  )
  return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _permuted(rows, num_rows, seed):
  """Returns the rows of the data that stand at rows of the training."""
  epochs = tf.cast(rows // num_rows, tf.int32)
  seeds = tf.stack(
    [tf.fill(rows.shape, seed), epochs, tf.zeros_like(epochs)], axis=1
  )
  # `tf.random.experimental.index_shuffle` pads a matrix of seeds wrongly.
  permuted = tf.raw_ops.RandomIndexShuffle(
    index=rows % num_rows,
    seed=seeds,
    max_index=tf.constant(num_rows - 1, tf.int64),
    rounds=4,
  )
  return tf.ensure_shape(permuted, rows.shape)


def trim_padding(
  batch: dict[str, tf.Tensor], multiple: int = LENGTH_STEP
) -> dict[str, tf.Tensor]:
  """Cuts off the columns that are padding in every row of a batch.

  Padding is never attended to, so outputs stay what they are; a batch of short
  texts costs what its longest text needs.

  Args:
    batch: has `input_mask`, int32 [B, S], and other features.
    multiple: of which the new length is one, where S is long enough.

  Returns:
    The batch, its `input_...` features [B, S'], S' the length of the longest
    row, rounded up, at least 1 and at most S.
  """
  mask = batch['input_mask']
  longest = tf.reduce_max(tf.reduce_sum(mask, axis=1))
  length = (longest + multiple - 1) // multiple * multiple
  length = tf.maximum(tf.minimum(length, tf.shape(mask)[1]), 1)
  return {
    name: value[:, :length] if name.startswith('input_') else value
    for name, value in batch.items()
  }
