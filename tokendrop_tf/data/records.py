"""Examples as TFRecords, with the Model Garden's v2 feature names.

What its `create_pretraining_data` writes with `--use_v2_feature_names` is read
here, and its loaders read what is written here.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tokendrop_tf import configs, errors
from tokendrop_tf.data import (
  corpus,
  positions,
  shard_blocks,
  shard_index,
  shuffling,
  streams,
  text_files,
)

NEXT_SENTENCE_LABELS = 'next_sentence_labels'
# Of rows that hold several documents; see `packing.pack_best_fit`.
SEGMENT_FEATURES = ('segment_ids', 'position_ids')

# Records parsed in one step.
_BLOCK_RECORDS = 512
# Streams of files read side by side in training, so that a window mixes them.
_MAX_LANES = 8


def is_record_file(path: str) -> bool:
  """Whether a file of this name holds examples rather than text."""
  return '.tfrecord' in path


def record_files(config: configs.PretrainingDataConfig) -> tuple[str, ...]:
  """Returns the files of examples that a data section names; () for text.

  Raises:
    DataError: if a glob matches no file, or some of the files are text.
  """
  if not config.input_path:
    return ()
  setting = corpus.setting_name(config, 'input_path')
  paths = text_files.match_files(config.input_path, setting)
  if any(map(is_record_file, paths)):
    paths = tuple(p for p in paths if not p.endswith(shard_index.SUFFIX))
  texts = [path for path in paths if not is_record_file(path)]
  if texts and len(texts) < len(paths):
    raise errors.DataError(
      f'{setting} must name either text or TFRecords. Received: both, '
      f'{texts[0]} is text. Set {setting} to a narrower glob.'
    )
  return () if texts else paths


def feature_spec(config: configs.PretrainingDataConfig) -> dict:
  """Returns name -> `FixedLenFeature` of what training reads."""

  def whole(size):
    return tf.io.FixedLenFeature([size], tf.int64)

  spec = {
    'input_word_ids': whole(config.seq_length),
    'input_mask': whole(config.seq_length),
    'input_type_ids': whole(config.seq_length),
    'masked_lm_positions': whole(config.max_predictions_per_seq),
    'masked_lm_ids': whole(config.max_predictions_per_seq),
    'masked_lm_weights': tf.io.FixedLenFeature(
      [config.max_predictions_per_seq], tf.float32
    ),
  }
  if config.packing == 'best_fit':
    spec |= {name: whole(config.seq_length) for name in SEGMENT_FEATURES}
  if config.use_next_sentence_label:
    spec[NEXT_SENTENCE_LABELS] = whole(1)
  return spec


def parse(records, config: configs.PretrainingDataConfig) -> dict:
  """Parses serialized examples, strings [R], to a dict of [R, n] tensors."""
  features = tf.io.parse_example(records, feature_spec(config))
  # TPUs have no int64.
  return {
    name: tf.cast(tensor, tf.int32) if tensor.dtype == tf.int64 else tensor
    for name, tensor in features.items()
  }


@dataclasses.dataclass(frozen=True)
class RecordReader:
  """Reads examples from TFRecord files, plain or gzip, in one stream.

  Of training, this is how files without an index are read; with one, see
  `lanes.LaneReader`.

  Attributes:
    paths: the files.
    config: lengths, seed, buffer; `is_training` decides on shuffling.
  """

  paths: tuple[str, ...]
  config: configs.PretrainingDataConfig

  def blocks(
    self,
    first_epoch: int,
    num_epochs: int | None,
    start: positions.Start = positions.BEGINNING,
  ) -> tf.data.Dataset:
    """Returns blocks of examples, dicts of [R, n], R of any size.

    Args:
      first_epoch: number of the first epoch.
      num_epochs: passes over the files; `None` is without end.
      start: where in the first epoch to begin; see `start`.
    """
    last = tf.int64.max if num_epochs is None else first_epoch + num_epochs
    records = tf.data.Dataset.range(first_epoch, last).flat_map(
      lambda epoch: self._epoch_records(
        epoch, start, tf.equal(epoch, first_epoch)
      )
    )
    return records.rebatch(_BLOCK_RECORDS).map(
      lambda batch: parse(batch, self.config),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )

  def count(self) -> positions.RowCounts:
    """Says how many records each file has; the index, if any, knows."""
    counts = tuple(
      self._entries[path].examples if path in self._entries else _count(path)
      for path in self.paths
    )
    return positions.RowCounts(documents=counts, rows=(sum(counts),))

  def start(
    self, epoch: int, row: int, counts: positions.RowCounts
  ) -> positions.Start:
    """Returns where record `row` of an epoch lies.

    Args:
      epoch: number of the epoch; each has its own order of files.
      row: number of the record in the epoch.
      counts: what `count` gives.
    """
    lanes = self._lanes(epoch).numpy()
    lengths = [positions.lengths(lane, counts.documents) for lane in lanes]
    window, first = _window_of(
      row, [sum(lane) for lane in lengths], self._lane_rows
    )
    skip = window * self._lane_rows
    return positions.Start(
      files=tuple(positions.seek(lane, skip) for lane in lengths),
      row_window=window,
      skip_shuffled=row - first,
    )

  @property
  def _num_lanes(self) -> int:
    return min(len(self.paths), _MAX_LANES) if self.config.is_training else 1

  @property
  def _lane_rows(self) -> int:
    """Records that each lane adds to a window."""
    if not self.config.is_training:
      return _BLOCK_RECORDS
    return -(-max(self.config.shuffle_buffer_size, 1) // self._num_lanes)

  def _lanes(self, epoch) -> tf.Tensor:
    """Returns the files of each stream, int64 [lanes, n]; -1 is no file."""
    seed = shuffling.seed(self.config.seed, shuffling.FILE_SALT, epoch, 0)
    return shuffling.lanes(len(self.paths), self._num_lanes, seed)

  def _epoch_records(self, epoch, start, is_here) -> tf.data.Dataset:
    lanes = self._lanes(epoch)

    def open_lane(lane):
      first, skip = positions.lane_start(start, lane, is_here)
      files = tf.gather(lanes, lane)[first:]
      skips = tf.pad([skip], [[0, tf.size(files)]])[:-1]
      files = tf.data.Dataset.from_tensor_slices((files, skips))
      return files.filter(lambda file, skip: file >= 0).flat_map(
        self._file_records
      )

    windows = streams.side_by_side(open_lane, self._num_lanes, self._lane_rows)
    if self.config.is_training:
      window = positions.if_here(start.row_window, is_here)
      windows = self._shuffled(windows, epoch, window)
    skip = positions.if_here(start.skip_shuffled, is_here)
    return streams.skip_rows(windows, skip)

  @functools.cached_property
  def blocks_of_shards(self) -> shard_blocks.BlockReader | None:
    """Reads any examples at once; `None` unless the index has all files."""
    if len(self._entries) < len(self.paths):
      return None
    return shard_blocks.BlockReader(self._entries)

  @functools.cached_property
  def _entries(self) -> dict[str, shard_index.ShardEntry]:
    """What the index of the shards says, by path; others have no entry."""
    return shard_index.entries(self.paths)

  def _file_records(self, file_index, skip) -> tf.data.Dataset:
    """Returns the records of a file in batches, without the first `skip`."""
    if self.blocks_of_shards:
      ends = tf.constant(self.blocks_of_shards.sizes.cumsum())
      size = tf.gather(tf.constant(self.blocks_of_shards.sizes), file_index)
      end = tf.gather(ends, file_index)
      return self.blocks_of_shards.rows(end - size + skip, end)
    is_gzip = tf.gather(
      tf.constant([is_gzip_file(path) for path in self.paths]), file_index
    )
    records = tf.data.TFRecordDataset(
      tf.gather(tf.constant(self.paths), file_index),
      compression_type=tf.where(is_gzip, 'GZIP', ''),
      buffer_size=1 << 20,
    )
    # Single records would be passed over more slowly.
    return streams.skip_rows(records.batch(_BLOCK_RECORDS), skip)

  def _shuffled(self, windows, epoch, first_window) -> tf.data.Dataset:
    return windows.enumerate(first_window).map(
      lambda window, batch: shuffling.shuffled(
        batch,
        shuffling.seed(self.config.seed, shuffling.ROW_SALT, epoch, window),
      )
    )


def _count(path: str) -> int:
  compression = 'GZIP' if is_gzip_file(path) else ''
  records = tf.data.TFRecordDataset(path, compression, buffer_size=1 << 20)
  batches = records.batch(_BLOCK_RECORDS).as_numpy_iterator()
  return sum(len(batch) for batch in batches)


def _window_of(row: int, lane_lengths, lane_rows: int) -> tuple[int, int]:
  """Returns the window that holds a row, and the number of its first row."""
  lengths = np.asarray(lane_lengths)[:, np.newaxis]
  windows = np.arange(-(-max(lane_lengths) // lane_rows))
  sizes = np.clip(lengths - windows * lane_rows, 0, lane_rows).sum(axis=0)
  ends = np.cumsum(sizes)
  window = int(np.searchsorted(ends, row, side='right'))
  return window, int(ends[window] - sizes[window])


def is_gzip_file(path: str) -> bool:
  """Whether a file of examples is compressed, by its first bytes."""
  if text_files.is_remote(path):
    return text_files.is_gzip(path)
  with open(path, 'rb') as file:
    return file.read(2) == b'\x1f\x8b'
