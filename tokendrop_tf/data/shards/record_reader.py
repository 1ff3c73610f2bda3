"""Masked examples read from TFRecord files, ours and the Model Garden's.

The Model Garden's `create_pretraining_data` gives features one of two sets of
names: those of google-research/bert, by default, and with
`--use_v2_feature_names` those of this package. Both are read.
"""

import dataclasses
import functools

import tensorflow as tf

from tokendrop_tf.config import configs
from tokendrop_tf.data.examples import packing, row_places, shuffling
from tokendrop_tf.data.read import row_batches, text_files

NEXT_SENTENCE_LABELS = 'next_sentence_labels'
# Of rows that hold several documents; see `packing.pack_best_fit`.
SEGMENT_FEATURES = ('segment_ids', 'position_ids')
# Names of google-research/bert where they differ.
_OLD_NAMES = {'input_word_ids': 'input_ids', 'input_type_ids': 'segment_ids'}

# Records parsed in one step.
_BLOCK_RECORDS = 512
# Files read at the same time in training, so that a window mixes them.
_FILES_AT_ONCE = 8


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
  if config.packing == packing.BEST_FIT:
    spec |= {name: whole(config.seq_length) for name in SEGMENT_FEATURES}
  if config.use_next_sentence_label:
    spec[NEXT_SENTENCE_LABELS] = whole(1)
  return spec


def has_old_names(example: bytes) -> bool:
  """Whether the features of a serialized example have the older names."""
  features = tf.train.Example.FromString(example).features.feature
  return 'input_ids' in features and 'input_word_ids' not in features


def name_in_file(name: str, is_old: bool) -> str:
  """Returns the name of a feature in a file."""
  return _OLD_NAMES.get(name, name) if is_old else name


def parse(
  records, config: configs.PretrainingDataConfig, is_old: bool = False
) -> dict:
  """Parses serialized examples, strings [R], to a dict of [R, n] tensors.

  Args:
    records: the examples.
    config: the data section.
    is_old: whether they have the older names; the result never does.
  """
  spec = feature_spec(config)
  found = tf.io.parse_example(
    records, {name_in_file(name, is_old): spec[name] for name in spec}
  )
  features = {name: found[name_in_file(name, is_old)] for name in spec}
  # TPUs have no int64.
  return {
    name: tf.cast(tensor, tf.int32) if tensor.dtype == tf.int64 else tensor
    for name, tensor in features.items()
  }


def first_record(path: str) -> bytes | None:
  """Returns the first record of a file; `None` of an empty one."""
  records = open_file(path).take(1)
  return next(records.as_numpy_iterator(), None)


def open_file(path: str) -> tf.data.TFRecordDataset:
  """Returns the records of a file, plain or gzip."""
  compression = 'GZIP' if is_gzip_file(path) else ''
  return tf.data.TFRecordDataset(path, compression, buffer_size=1 << 20)


@dataclasses.dataclass(frozen=True)
class RecordReader:
  """Reads examples from TFRecord files, plain or gzip.

  The files are one stream: of several pipelines each reads all of it, and to
  begin within an epoch is to pass over what comes before.

  Attributes:
    paths: the files.
    config: lengths, seed, buffer; `is_training` decides on shuffling.
  """

  paths: tuple[str, ...]
  config: configs.PretrainingDataConfig

  def blocks(
    self, first_epoch: int, num_epochs: int | None, first_row: int = 0
  ) -> tf.data.Dataset:
    """Returns blocks of examples, dicts of [R, n], R of any size.

    Args:
      first_epoch: number of the first epoch.
      num_epochs: passes over the files; `None` is without end.
      first_row: number of the first example in the first epoch.
    """
    last = tf.int64.max if num_epochs is None else first_epoch + num_epochs
    is_old = self._is_old  # Read outside of graphs.
    records = tf.data.Dataset.range(first_epoch, last).flat_map(
      lambda epoch: row_batches.skip_rows(
        self._epoch_records(epoch),
        row_places.if_here(first_row, tf.equal(epoch, first_epoch)),
      )
    )
    return records.rebatch(_BLOCK_RECORDS).map(
      lambda batch: parse(batch, self.config, is_old),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )

  def count(self) -> row_places.RowCounts:
    """Counts the records of every file."""
    counts = tuple(
      sum(map(len, open_file(path).batch(_BLOCK_RECORDS).as_numpy_iterator()))
      for path in self.paths
    )
    return row_places.RowCounts(documents=counts, rows=(sum(counts),))

  def _epoch_records(self, epoch) -> tf.data.Dataset:
    """Returns the serialized examples of an epoch, strings [n], any n."""
    files = tf.range(len(self.paths), dtype=tf.int64)
    if not self.config.is_training:
      files = tf.data.Dataset.from_tensor_slices(files)
      return files.flat_map(self._file_records).batch(_BLOCK_RECORDS)
    files = tf.data.Dataset.from_tensor_slices(
      shuffling.shuffled(files, self._seed(shuffling.FILE_SALT, epoch, 0))
    )
    windows = files.interleave(
      self._file_records,
      cycle_length=_FILES_AT_ONCE,
      num_parallel_calls=_FILES_AT_ONCE,
      deterministic=True,
    ).batch(max(self.config.shuffle_buffer_size, 1))
    return windows.enumerate().map(
      lambda window, records: shuffling.shuffled(
        records, self._seed(shuffling.ROW_SALT, epoch, window)
      )
    )

  def _seed(self, salt, epoch, number):
    return shuffling.seed(self.config.seed, salt, epoch, number)

  @functools.cached_property
  def _is_old(self) -> bool:
    """Whether the files have the older names."""
    record = first_record(self.paths[0])
    return record is not None and has_old_names(record)

  def _file_records(self, file_index) -> tf.data.TFRecordDataset:
    is_gzip = tf.constant([is_gzip_file(path) for path in self.paths])
    return tf.data.TFRecordDataset(
      tf.gather(tf.constant(self.paths), file_index),
      compression_type=tf.where(tf.gather(is_gzip, file_index), 'GZIP', ''),
      buffer_size=1 << 20,
    )


def is_gzip_file(path: str) -> bool:
  """Whether a file of examples is compressed, by its first bytes."""
  if text_files.is_remote(path):
    return text_files.is_gzip(path)
  with open(path, 'rb') as file:
    return file.read(2) == b'\x1f\x8b'
