"""Data sets of rows in batches of any size: skipped, joined, cut.

A row is an entry of the first axis: a document, a packed row, a record.
"""

import tensorflow as tf


def skip_rows(dataset: tf.data.Dataset, num_rows) -> tf.data.Dataset:
  """Omits the first `num_rows` rows of a data set of batches.

  Args:
    dataset: elements are tensors, or structures of tensors, [n, ...], any n.
    num_rows: how many rows, int or integer tensor; may be more than there are.

  Returns:
    Data set of the same structure; its first elements may have no row.

  Example:
    skip_rows(tf.data.Dataset.range(10).batch(4), 5)  # [], [5, 6, 7], [8, 9]
  """
  if isinstance(num_rows, int) and not num_rows:
    return dataset

  def step(left, *batch):
    batch = batch[0] if len(batch) == 1 else batch
    size = tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]
    dropped = tf.minimum(left, size)
    rest = tf.cond(
      dropped > 0, lambda: _without_head(batch, dropped, size), lambda: batch
    )
    return left - dropped, rest

  return dataset.scan(tf.cast(num_rows, tf.int64), step)


def _without_head(batch, dropped, size):
  # Slices would share memory with the batch, which `rebatch` complains of.
  kept = tf.range(dropped, size)
  return tf.nest.map_structure(lambda tensor: tf.gather(tensor, kept), batch)


def side_by_side(open_queue, num_queues: int, rows: int) -> tf.data.Dataset:
  """Reads several queues of files at a time: `rows` of each make one window.

      window w = rows [w * rows, (w + 1) * rows) of every queue, in its order

  A queue that has ended adds nothing; the last queue to end ends the data set.
  So the beginning of a window follows from the queues' lengths alone.

  Args:
    open_queue: function of an int64 scalar, the number of the queue, to its
      data set of strings [n], any n.
    num_queues: how many queues.
    rows: rows that each queue adds to a window.

  Returns:
    Data set of strings [m], 1 <= m <= rows * num_queues.
  """
  if num_queues == 1:
    return open_queue(tf.constant(0, tf.int64)).rebatch(rows)
  nothing = tf.data.Dataset.from_tensors(tf.zeros([0], tf.string)).repeat()
  parts = tf.data.Dataset.range(num_queues).interleave(
    lambda queue: open_queue(queue).rebatch(rows).concatenate(nothing),
    cycle_length=num_queues,
    block_length=1,
    num_parallel_calls=num_queues,
    deterministic=True,
  )
  windows = parts.ragged_batch(num_queues).map(lambda ragged: ragged.values)
  return windows.take_while(lambda window: tf.size(window) > 0)


def in_parts(batch, rows: int) -> tf.data.Dataset:
  """Returns one large batch as several.

  Args:
    batch: structure of tensors [n, ...].
    rows: rows of a part at most.

  Example:
    in_parts(tf.range(5), 2)  # [0, 1], [2, 3], [4]
  """
  size = tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]

  def part(start):
    # Slices would share memory with the batch, which `rebatch` complains of.
    chosen = tf.range(start, tf.minimum(start + rows, size))
    return tf.nest.map_structure(lambda x: tf.gather(x, chosen), batch)

  return tf.data.Dataset.range(0, size, rows).map(part)
