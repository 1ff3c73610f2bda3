"""Examples as TFRecords, with the Model Garden's v2 feature names.

What its `create_pretraining_data` writes with `--use_v2_feature_names` is read
here, and its loaders read what is written here.
"""

import dataclasses

import tensorflow as tf

from tokendrop_tf import configs, errors
from tokendrop_tf.data import corpus, shuffling, text_files

NEXT_SENTENCE_LABELS = 'next_sentence_labels'

# Records parsed in one step.
_BLOCK_RECORDS = 512
_FILES_SIDE_BY_SIDE = 8


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


def serialize(features: dict[str, tf.Tensor]):
  """Returns serialized `tf.train.Example`s, strings [R].

  The protocol buffers are built from the inside out by one op a level, for all
  rows at once: in Python this would take most of the time.

  Args:
    features: name -> int32 or float32 [R, n].
  """
  entries = [_entry(name, features[name]) for name in sorted(features)]
  entries = tf.stack(entries, axis=1)
  return _message(
    'Example',
    'features',
    _message('Features', 'feature', entries)[:, tf.newaxis],
  )


def _entry(name: str, values):
  if values.dtype == tf.float32:
    kind, numbers = 'float_list', _message('FloatList', 'value', values)
  else:
    kind = 'int64_list'
    numbers = _message('Int64List', 'value', tf.cast(values, tf.int64))
  feature = _message('Feature', kind, numbers[:, tf.newaxis])
  keys = tf.fill(tf.shape(feature), name)
  return tf.io.encode_proto(
    sizes=tf.ones([tf.size(feature), 2], tf.int32),
    values=[keys[:, tf.newaxis], feature[:, tf.newaxis]],
    field_names=['key', 'value'],
    message_type='tensorflow.Features.FeatureEntry',
  )


def _message(message_type: str, field: str, values):
  """Encodes `values` [R, n] as R messages with one (repeated) field."""
  rows, size = tf.unstack(tf.shape(values))
  return tf.io.encode_proto(
    sizes=tf.fill([rows, 1], size),
    values=[values],
    field_names=[field],
    message_type=f'tensorflow.{message_type}',
  )


@dataclasses.dataclass(frozen=True)
class RecordReader:
  """Reads examples from TFRecord files, plain or gzip.

  Attributes:
    paths: the files.
    config: lengths, seed, buffer; `is_training` decides on shuffling.
  """

  paths: tuple[str, ...]
  config: configs.PretrainingDataConfig

  def blocks(
    self, num_epochs: int | None, context: tf.distribute.InputContext
  ) -> tf.data.Dataset:
    """Returns blocks of examples, dicts of [R, n], R of any size.

    Args:
      num_epochs: passes over the files; `None` is without end.
      context: in training, each pipeline gets records of its own: whole files
        where their number allows, else every n-th record.
    """
    last = tf.int64.max if num_epochs is None else num_epochs
    records = tf.data.Dataset.range(last).flat_map(
      lambda epoch: self._epoch_records(epoch, context)
    )
    return records.map(
      lambda batch: parse(batch, self.config),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )

  def _epoch_records(self, epoch, context) -> tf.data.Dataset:
    if not self.config.is_training:
      files = tf.data.Dataset.range(len(self.paths))
      return files.flat_map(self._file_records).batch(_BLOCK_RECORDS)
    num, index = context.num_input_pipelines, context.input_pipeline_id
    by_file = len(self.paths) % num == 0
    files = tf.data.Dataset.from_tensor_slices(self._file_order(epoch))
    files = files.shard(num, index) if by_file else files
    side_by_side = min(_FILES_SIDE_BY_SIDE, len(self.paths))
    records = files.interleave(
      self._file_records,
      cycle_length=side_by_side,
      block_length=1,
      num_parallel_calls=side_by_side,
      deterministic=True,
    )
    records = records if by_file else records.shard(num, index)
    return self._shuffled(records, epoch).rebatch(_BLOCK_RECORDS)

  def _file_records(self, file_index) -> tf.data.Dataset:
    path = tf.gather(tf.constant(self.paths), file_index)
    is_gzip = tf.gather(
      tf.constant([is_gzip_file(path) for path in self.paths]), file_index
    )
    return tf.data.TFRecordDataset(
      path, compression_type=tf.where(is_gzip, 'GZIP', ''), buffer_size=1 << 20
    )

  def _file_order(self, epoch):
    seed = shuffling.seed(self.config.seed, shuffling.FILE_SALT, epoch, 0)
    return shuffling.shuffled(tf.range(len(self.paths), dtype=tf.int64), seed)

  def _shuffled(self, records, epoch) -> tf.data.Dataset:
    windows = records.batch(max(self.config.shuffle_buffer_size, 1))
    return windows.enumerate().map(
      lambda window, batch: shuffling.shuffled(
        batch,
        shuffling.seed(self.config.seed, shuffling.ROW_SALT, epoch, window),
      )
    )


def is_gzip_file(path: str) -> bool:
  """Whether a file of examples is compressed, by its first bytes."""
  if text_files.is_remote(path):
    return text_files.is_gzip(path)
  with open(path, 'rb') as file:
    return file.read(2) == b'\x1f\x8b'
