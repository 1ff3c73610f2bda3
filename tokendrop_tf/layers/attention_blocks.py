"""Attention to all keys, for a block of queries at a time.

Letters: B batch, T query rows, S rows that are seen, N heads, D width of a
head, b queries in a block.
"""

from collections.abc import Callable

import tensorflow as tf

from tokendrop_tf.layers import random_seeds


def attend_in_blocks(
  attend: Callable,
  queries: tf.Tensor,
  keys: tf.Tensor,
  values: tf.Tensor,
  bias_at: Callable[[tf.Tensor], tf.Tensor | None],
  seed: tf.Tensor | None,
  block: int,
) -> tf.Tensor:
  """Returns the attention of all queries, in memory linear in T and in S.

  Every block of queries sees all keys, so its softmax is exact. Probabilities
  of one block, [B, N, b, S], live at a time; the gradient computes them again
  instead of remembering them. What dropout zeroes follows from the seed and the
  number of the block, so it is the same both times.

  Args:
    attend: function of a block of queries, keys, values, bias and seed to the
      context, [B, b, N, D].
    queries: [B, T, N, D].
    keys: as `attend` takes them.
    values: as `attend` takes them.
    bias_at: function of places among the queries, int32 [b], to their bias,
      [B, 1, 1 or b, S], or `None`.
    seed: int32 [2], or `None` where nothing is dropped out.
    block: b.

  Returns:
    [B, T, N, D].
  """
  length = queries.shape[1] or tf.shape(queries)[1]
  num_blocks = -(-length // block)

  def attend_block(index, places, block_queries, keys, values):
    block_seed = None if seed is None else random_seeds.fold_in(seed, index)
    return attend(block_queries, keys, values, bias_at(places), block_seed)

  def places_of(index):
    # What exceeds the last row repeats it, and is cut off afterwards.
    return tf.minimum(index * block + tf.range(block), length - 1)

  @tf.custom_gradient
  def run(queries, keys, values):
    def forward(index, contexts):
      places = places_of(index)
      rows = tf.gather(queries, places, axis=1)
      context = attend_block(index, places, rows, keys, values)
      return index + 1, contexts.write(index, context)

    _, contexts = _loop(forward, num_blocks, _array(queries, num_blocks))

    def gradient(upstream):
      def backward(index, of_queries, of_keys, of_values):
        places = places_of(index)
        rows = tf.gather(queries, places, axis=1)
        with tf.GradientTape() as tape:
          tape.watch([rows, keys, values])
          context = attend_block(index, places, rows, keys, values)
        is_row = index * block + tf.range(block) < length
        rows_gradient, keys_gradient, values_gradient = tape.gradient(
          context,
          [rows, keys, values],
          output_gradients=tf.where(
            is_row[:, tf.newaxis, tf.newaxis],
            tf.gather(upstream, places, axis=1),
            tf.zeros([], upstream.dtype),
          ),
        )
        return (
          index + 1,
          of_queries.write(index, rows_gradient),
          of_keys + tf.cast(keys_gradient, tf.float32),
          of_values + tf.cast(values_gradient, tf.float32),
        )

      _, of_queries, of_keys, of_values = _loop(
        backward,
        num_blocks,
        _array(queries, num_blocks),
        tf.zeros_like(keys, tf.float32),
        tf.zeros_like(values, tf.float32),
      )
      return (
        _joined(of_queries, queries),
        tf.cast(of_keys, keys.dtype),
        tf.cast(of_values, values.dtype),
      )

    return _joined(contexts, queries), gradient

  return run(queries, keys, values)


def _loop(body, num_blocks, *state):
  return tf.while_loop(
    lambda index, *_: index < num_blocks,
    body,
    (tf.constant(0), *state),
    parallel_iterations=1,  # One block in memory at a time.
    maximum_iterations=num_blocks,
  )


def _array(queries, num_blocks):
  return tf.TensorArray(queries.dtype, num_blocks)


def _joined(blocks, queries):
  """Returns the rows of all blocks like `queries`."""
  stacked = blocks.stack()  # [blocks, B, b, N, D]
  rows = tf.transpose(stacked, [1, 0, 2, 3, 4])
  batch, length, heads, width = tf.unstack(tf.shape(queries))
  rows = tf.reshape(rows, [batch, -1, heads, width])[:, :length]
  rows.set_shape(queries.shape)
  return rows
