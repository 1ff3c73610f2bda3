"""The order in which training reads token shards: each pipeline its own part.

A global batch has B slots in G groups of B / G neighbouring slots; G is a
divisor of B, whatever the number of pipelines. Row r of a run, one row after
another through all its epochs of N rows, goes to slot r mod B, so epoch e has

    n(g, e) = number of rows e * N <= r < (e + 1) * N with a slot of group g

rows for group g. The chunks of an epoch, in an order drawn for it, are laid end
to end and cut into parts of n(0, e), n(1, e), ... rows: part g is for group g,
which shuffles the rows of each chunk. So a pipeline that feeds slots a to b
reads the parts of their groups and no others; and with the number of rows of
each chunk, any row of any epoch is found by arithmetic.

Masks follow from the group and the number of the row in it.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data.examples import example_pipeline, shuffling
from tokendrop_tf.data.read import row_batches
from tokendrop_tf.data.shards import token_index
from tokendrop_tf.text import vocabulary as vocabulary_lib

# Chunks that are open at a time, and pipelines that can have parts of their
# own.
MOST_GROUPS = 32


class TokenReader:
  """Reads the rows of given slots of every global batch, and masks them.

  Args:
    rows: the shards.
    config: batch size, epochs, seed, masking.
    vocabulary: the vocabulary.

  Example:
    reader = TokenReader(token_index.TokenRows(paths), config, vocabulary)
    reader.batches(first_batch=1000, slots=range(0, 64))
  """

  def __init__(
    self,
    rows: token_index.TokenRows,
    config: configs.PretrainingDataConfig,
    vocabulary: vocabulary_lib.Vocabulary,
  ):
    self.rows = rows
    self.config = config
    self.vocabulary = vocabulary
    # Groups reach the end of an epoch at about the same time.
    self._chunk_order = functools.lru_cache(maxsize=2)(self._chunk_order)

  @property
  def num_groups(self) -> int:
    """G, the largest divisor of the batch size up to `MOST_GROUPS`."""
    size = self.config.global_batch_size
    return max(n for n in range(1, MOST_GROUPS + 1) if size % n == 0)

  @property
  def group_slots(self) -> int:
    """Slots of a group, B / G."""
    return self.config.global_batch_size // self.num_groups

  def batches(self, first_batch: int, slots: range) -> tf.data.Dataset:
    """Returns the examples in `slots` of the global batches.

    Args:
      first_batch: number of the first global batch.
      slots: neighbouring slots, from 0 to B - 1.

    Returns:
      Data set of what `masking.Masking` makes of the rows of each batch. Where
      a run ends within a batch, its last rows are [PAD].
    """
    first = slots.start // self.group_slots
    num_groups = -(-slots.stop // self.group_slots) - first
    begin = slots.start - first * self.group_slots
    batches = (
      tf.data.Dataset.range(first, first + num_groups)
      .interleave(
        lambda group: self._group_examples(group, first_batch),
        cycle_length=num_groups,
        block_length=1,
        num_parallel_calls=num_groups,
        deterministic=True,
      )
      .batch(num_groups, drop_remainder=True)
    )

    def of_slots(groups):  # [groups, slots of a group, n]
      rows = tf.reshape(groups, [-1, groups.shape[-1]])
      return rows[begin : begin + len(slots)]

    batches = batches.map(lambda batch: tf.nest.map_structure(of_slots, batch))
    if self.config.num_epochs:
      batches = batches.take(max(self._num_batches() - first_batch, 0))
    return batches

  def in_order(self) -> tf.data.Dataset:
    """Returns the examples of all shards in their order, masked as text is.

    Returns:
      Data set of what `masking.Masking` returns for each block of rows.
    """
    rows = tf.data.Dataset.from_generator(
      lambda: map(self._read, range(len(self.rows.chunk_sizes))),
      output_signature=self.rows.spec,
    )
    blocks = rows.rebatch(example_pipeline.BLOCK_ROWS).enumerate()
    return blocks.map(
      lambda block, rows: example_pipeline.mask_rows(
        self.config, self.vocabulary, rows, (0, block)
      ),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )

  def _num_batches(self) -> int:
    """Returns the batches of a run that ends."""
    rows = self.config.num_epochs * self.rows.num_rows
    size = self.config.global_batch_size
    return rows // size if self.config.drop_remainder else -(-rows // size)

  def _group_examples(self, group, first_batch: int) -> tf.data.Dataset:
    """Returns the masked rows of a group from a batch on, a batch's at a time.

    Rows are masked in blocks that are the same wherever reading begins.
    """
    first_row = first_batch * self.group_slots
    block_rows = example_pipeline.BLOCK_ROWS
    skipped = first_row % block_rows
    rows = tf.data.Dataset.from_generator(
      self._group_rows,
      args=(group, tf.constant(first_row - skipped, tf.int64)),
      output_signature=self.rows.spec,
    )
    blocks = (
      rows.prefetch(1).rebatch(block_rows).enumerate(first_row // block_rows)
    )
    masked = blocks.map(lambda block, rows: self._masked(group, block, rows))
    return row_batches.skip_rows(masked, skipped).rebatch(
      self.group_slots, drop_remainder=True
    )

  def _masked(self, group, block, rows):
    """Masks a block of a group."""
    number = block * example_pipeline.BLOCK_ROWS + tf.range(
      tf.shape(rows, tf.int64)[0]
    )
    run_rows = number // self.group_slots * self.config.global_batch_size
    return example_pipeline.mask_rows(
      self.config, self.vocabulary, rows, (group, block), run_rows
    )

  def _group_rows(self, group, row) -> Iterator[np.ndarray]:
    """Yields the rows of a group from its row number `row` on, without end.

    After the last epoch come rows of [PAD].
    """
    group, row = int(group), int(row)
    batch, slot = divmod(row, self.group_slots)
    run_row = batch * self.config.global_batch_size
    run_row += group * self.group_slots + slot
    first_epoch = run_row // self.rows.num_rows
    skipped = row - self._rows_of_group(group, first_epoch * self.rows.num_rows)
    epochs = itertools.count(first_epoch)
    if self.config.num_epochs:
      epochs = range(first_epoch, self.config.num_epochs)
    for epoch in epochs:
      begin, end = self.part(group, epoch)
      yield from self._part_rows(epoch, begin + skipped, end)
      skipped = 0
    padding = np.zeros([example_pipeline.BLOCK_ROWS, self.rows.width], np.int32)
    padding[:, : self.config.seq_length] = self.vocabulary.pad_id
    while True:
      yield padding

  def _part_rows(self, epoch, place, end) -> Iterator[np.ndarray]:
    """Yields rows of an epoch from a place on the line of its chunks on."""
    order, ends = self._chunk_order(epoch)
    while place < end:
      number = int(np.searchsorted(ends, place, side='right'))
      last = min(int(ends[number]), end)
      start = int(ends[number] - self.rows.chunk_sizes[order[number]])
      yield self._chunk(epoch, int(order[number]))[place - start : last - start]
      place = last

  def _chunk(self, epoch, chunk) -> np.ndarray:
    """Returns the rows of a chunk in the order of an epoch."""
    rows = self._read(chunk)
    return rows[_order(len(rows), self.config.seed, 1 + epoch, chunk)]

  def _read(self, chunk) -> np.ndarray:
    """Reads a chunk; an error is kept for who waits for the batch."""
    try:
      return self.rows.read(chunk)
    except errors.UserError as error:
      errors.keep(error)
      raise

  def _chunk_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the chunks of an epoch in their order, and where each ends."""
    sizes = self.rows.chunk_sizes
    order = _order(len(sizes), self.config.seed, 0, epoch)
    return order, np.cumsum(sizes[order])

  def part(self, group: int, epoch: int) -> tuple[int, int]:
    """Returns where the part of a group in an epoch begins and ends."""
    first_row = epoch * self.rows.num_rows
    last_row = first_row + self.rows.num_rows
    begin, end = (
      self._rows_before(bound, last_row) - self._rows_before(bound, first_row)
      for bound in (group, group + 1)
    )
    return begin, end

  def _rows_of_group(self, group, row) -> int:
    """Returns how many of the first `row` rows of the run go to a group."""
    return self._rows_before(group + 1, row) - self._rows_before(group, row)

  def _rows_before(self, group, row) -> int:
    """Returns how many of the first `row` rows go to the groups before one."""
    size, slots = self.config.global_batch_size, group * self.group_slots
    return row // size * slots + min(row % size, slots)


def _order(count: int, seed: int, epoch: int, number: int) -> np.ndarray:
  """Returns a random order of `count` items, int64 [count]."""
  keys = shuffling.keys(count, seed, shuffling.CHUNK_SALT, epoch, number)
  return np.argsort(keys, kind='stable')
