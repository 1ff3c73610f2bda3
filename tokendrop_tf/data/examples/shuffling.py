"""Random numbers and orders that follow from seed, purpose, epoch and number.

Nothing here has a state: any window of any epoch can be made without the ones
before it.
"""

import numpy as np
import tensorflow as tf

# Philox, on the processors that make data (and on GPUs). Asked for by name,
# TensorFlow makes its key from 50 operations instead of 8.
ALGORITHM = 'auto_select'
# Salts keep the random numbers of different purposes apart.
FILE_SALT, DOCUMENT_SALT, ROW_SALT, MASK_SALT, SHARD_SALT, CHUNK_SALT = range(6)


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


def file_queues(num_files: int, most: int, seeds):
  """Deals shuffled files to queues that are read at the same time.

  Args:
    num_files: how many files there are.
    most: most queues; 1 keeps the files in order.
    seeds: int32 [2], decides on the order.

  Returns:
    int64 [queues, n], the numbers of the files of each queue; -1 pads.

  Example:
    file_queues(5, 2, seed(0, FILE_SALT, 0, 0))  # [[3, 0, 1], [4, 2, -1]], say
  """
  num_queues = min(num_files, most)
  files = tf.range(num_files, dtype=tf.int64)
  if num_queues > 1:
    files = shuffled(files, seeds)
  padded = tf.pad(files, [[0, -num_files % num_queues]], constant_values=-1)
  return tf.transpose(tf.reshape(padded, [-1, num_queues]))


def keys(
  count: int, base: int, salt: int, epoch: int, number: int
) -> np.ndarray:
  """Returns random numbers of 64 bits, uint64 [count].

  Items sorted by them are in an order that is uniform. The numbers are those of
  the generator itself, which no version of NumPy changes.

  Args:
    count: how many.
    base: the seed that the user sets, at least 0.
    salt: as in `seed`.
    epoch: number of the epoch.
    number: number of the window or chunk in the epoch.
  """
  sequence = np.random.SeedSequence([base, salt, epoch, number])
  return np.random.PCG64(sequence).random_raw(count)
