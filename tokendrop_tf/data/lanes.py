"""The order in which training reads indexed shards: each pipeline its own part.

A global batch has B slots, which belong to L lanes, B / L neighbouring slots to
each; L is a divisor of B, whatever the number of pipelines. Row r of a run, one
row after another through all its epochs of N records, goes to slot r mod B, so
epoch e has

    n(l, e) = number of rows e * N <= r < (e + 1) * N with a slot of lane l

rows for lane l. The shards of an epoch, in an order drawn anew, are laid end to
end and cut into parts of n(0, e), n(1, e), ... records: part l is for lane l,
which shuffles it within windows. So a pipeline that feeds slots a to b reads
the parts of their lanes and no others; and with the number of records of each
shard and block, any row of any epoch is found by arithmetic.
"""

import dataclasses

import tensorflow as tf

from tokendrop_tf import configs
from tokendrop_tf.data import shard_blocks, shuffling, streams

# Blocks that are open at a time, and pipelines that can have parts of their
# own. A block of 512 examples of 512 tokens takes some 1.5 MB.
MAX_LANES = 32


@dataclasses.dataclass(frozen=True)
class LaneReader:
  """Reads the rows of given slots of every global batch.

  Attributes:
    blocks: the shards.
    config: batch size, epochs, seed, size of the shuffle buffer.

  Example:
    reader = LaneReader(shard_blocks.BlockReader(entries), config)
    reader.batches(first_batch=1000, slots=range(0, 64))
  """

  blocks: shard_blocks.BlockReader
  config: configs.PretrainingDataConfig

  @property
  def num_lanes(self) -> int:
    """L, the largest divisor of the batch size up to `MAX_LANES`."""
    size = self.config.global_batch_size
    return max(n for n in range(1, MAX_LANES + 1) if size % n == 0)

  @property
  def lane_slots(self) -> int:
    """Slots of a lane, B / L."""
    return self.config.global_batch_size // self.num_lanes

  @property
  def window_rows(self) -> int:
    """Rows that a lane shuffles at a time."""
    return -(-self.config.shuffle_buffer_size // self.num_lanes)

  def batches(self, first_batch: int, slots: range) -> tf.data.Dataset:
    """Returns the serialized examples in `slots` of the global batches.

    Args:
      first_batch: number of the first global batch.
      slots: neighbouring slots, from 0 to B - 1.

    Returns:
      Data set of strings [n]; n is less than the number of slots only in the
      last batch of a run that ends.
    """
    first = slots.start // self.lane_slots
    last = -(-slots.stop // self.lane_slots)
    begin = slots.start - first * self.lane_slots
    rows = streams.endless_side_by_side(
      lambda lane: self._lane(lane + first, first_batch),
      last - first,
      self.lane_slots,
    ).map(lambda rows: rows[begin : begin + len(slots)])
    if self.config.num_epochs:
      rows = rows.take(max(self._num_batches() - first_batch, 0))
    return rows

  def _num_batches(self) -> int:
    """Returns the batches of a run that ends."""
    rows = self.config.num_epochs * self.blocks.num_rows
    size = self.config.global_batch_size
    return rows // size if self.config.drop_remainder else -(-rows // size)

  def _lane(self, lane, first_batch: int) -> tf.data.Dataset:
    """Returns the rows of a lane, window after window, epoch after epoch."""
    row = first_batch * self.config.global_batch_size
    epoch = row // self.blocks.num_rows
    begin, end = self._part(lane, epoch)
    # Rows that the lane has given in this epoch.
    done = first_batch * self.lane_slots - (
      self._rows_before(lane + 1, epoch * self.blocks.num_rows)
      - self._rows_before(lane, epoch * self.blocks.num_rows)
    )
    last = tf.maximum(self._windows_in(end - begin) - 1, 0)
    window = tf.minimum(done // self.window_rows, last)
    nothing = tf.zeros([0], tf.string)
    start = (
      tf.constant(epoch, tf.int64),
      begin + window * self.window_rows,
      done - window * self.window_rows,
      # Of a shape that later states have, too: else all would be traced again.
      tf.compat.v1.placeholder_with_default(nothing, [None]),
    )
    windows = tf.data.Dataset.range(self._num_windows(lane, epoch) - window)
    # The next window is read while this one is used.
    return windows.scan(
      start, lambda state, _: self._window(lane, *state)
    ).prefetch(1)

  def _num_windows(self, lane, first_epoch: int):
    """Returns the windows of a lane up to the end of the run."""
    if not self.config.num_epochs:
      return tf.int64.max
    last = max(self.config.num_epochs, first_epoch)
    begin, end = self._part(lane, tf.range(first_epoch, last, dtype=tf.int64))
    # An epoch without a row for the lane is one empty window.
    return tf.reduce_sum(tf.maximum(self._windows_in(end - begin), 1))

  def _windows_in(self, rows):
    return -(-rows // self.window_rows)

  def _window(self, lane, epoch, place, skip, rows):
    """Returns the state behind a window, and its rows in their order.

    Args:
      lane: number of the lane.
      epoch: number of the epoch.
      place: number of the window's first record in the epoch.
      skip: rows to leave out, after shuffling.
      rows: records from `place` on that have been read, strings [n].
    """
    _, end = self._part(lane, epoch)
    size = tf.minimum(end - place, self.window_rows)
    rows = self._read_up_to(epoch, place, end, rows, size)
    seeds = shuffling.seed(self.config.seed, shuffling.ROW_SALT, epoch, place)
    window = shuffling.shuffled(rows[:size], seeds)[skip:]
    is_over = place + size == end
    begin, _ = self._part(lane, epoch + 1)
    state = (
      tf.where(is_over, epoch + 1, epoch),
      tf.where(is_over, begin, place + size),
      tf.zeros_like(skip),
      rows[size:],
    )
    return state, window

  def _read_up_to(self, epoch, place, end, rows, size):
    """Appends whole blocks to `rows`, records from `place` on."""
    order = tf.range(len(self.blocks.sizes), dtype=tf.int64)
    seeds = shuffling.seed(self.config.seed, shuffling.FILE_SALT, epoch, 0)
    order = shuffling.shuffled(order, seeds)
    sizes = tf.constant(self.blocks.sizes)
    ends = tf.cumsum(tf.gather(sizes, order))
    # Of the same record, its number in the order given less that in the epoch.
    shifts = tf.gather(tf.cumsum(sizes), order) - ends

    def append(rows):
      next_place = place + tf.size(rows, tf.int64)
      shard = tf.searchsorted(ends, [next_place], side='right')[0]
      last = tf.minimum(end, ends[shard])
      part = self.blocks.part(next_place + shifts[shard], last + shifts[shard])
      return [tf.concat([rows, part], axis=0)]

    [rows] = tf.while_loop(
      lambda rows: tf.size(rows, tf.int64) < size,
      append,
      [rows],
      shape_invariants=[tf.TensorShape([None])],
    )
    return rows

  def _part(self, lane, epoch):
    """Returns where the part of a lane in an epoch begins and ends."""
    first_row = epoch * self.blocks.num_rows
    last_row = first_row + self.blocks.num_rows
    begin, end = (
      self._rows_before(bound, last_row) - self._rows_before(bound, first_row)
      for bound in (lane, lane + 1)
    )
    return begin, end

  def _rows_before(self, lane, row):
    """Returns how many of the first `row` rows go to the lanes before one."""
    size = self.config.global_batch_size
    slots = tf.cast(lane * self.lane_slots, tf.int64)
    return row // size * slots + tf.minimum(
      tf.cast(row % size, tf.int64), slots
    )
