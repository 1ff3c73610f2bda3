"""Random numbers and orders that follow from seed, purpose, epoch and number.

Nothing here has a state: any window of any epoch can be made without the ones
before it.
"""

import tensorflow as tf

# Philox, on the processors that make data (and on GPUs). Asked for by name,
# TensorFlow makes its key from 50 operations instead of 8.
ALGORITHM = 'auto_select'
# Salts keep the random numbers of different purposes apart.
FILE_SALT, DOCUMENT_SALT, ROW_SALT, MASK_SALT, SHARD_SALT = range(5)


def seed(base: int, salt: int, epoch, number):
  """Returns a stateless seed, int32 [2].

  Args:
    base: the seed that the user sets.
    salt: purpose, one of the salts above.
    epoch: number of the epoch, integer, may be a tensor.
    number: number of the window or block in the epoch, integer or tensor.
  """
  seeds = tf.constant([base & 0x7FFFFFFF, salt], tf.int32)
  for part in (epoch, number):
    seeds = tf.random.fold_in(seeds, tf.cast(part, tf.int32), alg=ALGORITHM)
  return seeds


def shuffled(tensors, seeds):
  """Permutes the first axis of all `tensors` alike.

  Args:
    tensors: structure of tensors with equal first dimensions.
    seeds: int32 [2].

  Example:
    shuffled(tf.range(10), seed(0, ROW_SALT, epoch=2, number=0))
  """
  count = tf.shape(tf.nest.flatten(tensors)[0])[0]
  order = tf.random.experimental.stateless_shuffle(
    tf.range(count), seeds, alg=ALGORITHM
  )
  return tf.nest.map_structure(lambda tensor: tf.gather(tensor, order), tensors)


def lanes(num_files: int, max_lanes: int, seeds):
  """Deals shuffled files to streams that are read side by side.

  Args:
    num_files: how many files there are.
    max_lanes: most streams; 1 keeps the files in order.
    seeds: int32 [2], decides on the order.

  Returns:
    int64 [lanes, n], the numbers of the files of each lane; -1 is no file.

  Example:
    lanes(5, 2, seed(0, FILE_SALT, 0, 0))  # [[3, 0, 1], [4, 2, -1]], say
  """
  num_lanes = min(num_files, max_lanes)
  files = tf.range(num_files, dtype=tf.int64)
  if num_lanes > 1:
    files = shuffled(files, seeds)
  padded = tf.pad(files, [[0, -num_files % num_lanes]], constant_values=-1)
  return tf.transpose(tf.reshape(padded, [-1, num_lanes]))


def row_keys(base: int, epoch, block, num_rows):
  """Returns a random number for each row of a block, int64 [num_rows].

  Rows sorted by these numbers are in an order that is uniform over the corpus.

  Args:
    base: the seed that the user sets.
    epoch: number of the epoch.
    block: number of the block in the epoch.
    num_rows: rows of the block.
  """
  return tf.random.stateless_uniform(
    [num_rows],
    seed(base, SHARD_SALT, epoch, block),
    minval=None,
    maxval=None,
    dtype=tf.int64,
    alg=ALGORITHM,
  )
