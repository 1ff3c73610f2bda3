"""Pretraining batches for the trainer, from text, token shards or TFRecords."""

import tensorflow as tf

from tokendrop_tf.config import configs
from tokendrop_tf.data.checks import check_dataset
from tokendrop_tf.data.examples import example_pipeline, row_places
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.read import row_batches, source_files
from tokendrop_tf.data.shards import (
  data_files,
  record_reader,
  token_index,
  token_reader,
)
from tokendrop_tf.text import vocabulary as vocabulary_lib

__all__ = ['check_dataset', 'load_dataset']


# Nothing of a pipeline is for AutoGraph to convert, which takes it seconds.
@tf.autograph.experimental.do_not_convert
def load_dataset(
  config: configs.PretrainingDataConfig,
  vocabulary: configs.VocabularyConfig,
  input_context: tf.distribute.InputContext | None = None,
  first_batch: int = 0,
  counts: row_places.RowCounts | None = None,
) -> tf.data.Dataset:
  """Returns batches of masked-LM examples with static shapes.

  Training data are shuffled in every epoch and, but for TFRecords, masked
  afresh. Validation data come in order and with the same masks each time;
  unless `drop_remainder`, the last batch is filled up with rows of weight 0.

  Global batch n is the same whatever the number of pipelines and replicas, and
  reading may begin at any batch: a run resumes by `first_batch`.

  Args:
    config: source, lengths, rates, seed and batch size.
    vocabulary: the vocabulary file.
    input_context: the part of a distributed job that this pipeline feeds; every
      pipeline gets its rows of each global batch, in batches for one replica.
    first_batch: number of the first global batch.
    counts: what `count_rows` gives; without it a `first_batch` above 0 has the
      rows counted.

  Returns:
    Data set of dicts: `input_word_ids`, `input_mask`, `input_type_ids` int32
    [B, S]; `masked_lm_positions`, `masked_lm_ids` int32 [B, P];
    `masked_lm_weights` float32 [B, P]. With packing 'best_fit' also
    `segment_ids` and `position_ids` int32 [B, S].

  Raises:
    DataError: if the source or the vocabulary cannot be used.

  Example:
    config = configs.PretrainingDataConfig(
        input_path='wiki/*.txt.gz', is_training=True, global_batch_size=256)
    batches = load_dataset(config, configs.VocabularyConfig(path='vocab.txt'))
  """
  words = vocabulary_lib.Vocabulary.of(vocabulary)
  context = input_context or tf.distribute.InputContext()
  files = data_files.of(config)
  if files.form == data_files.TOKENS and config.is_training:
    rows = token_index.TokenRows(files.paths)
    reader = token_reader.TokenReader(rows, config, words)
    batches = reader.batches(first_batch, _slots(config, context))
  else:
    rows = _stream(config, words, files, first_batch, counts)
    batches = _batch(rows, config, context, words.pad_id)
  batches = _for_replicas(batches, config, context)
  if config.is_training and not config.num_epochs:
    # Strategies over several processes give what may end no static shapes.
    batches = batches.apply(
      tf.data.experimental.assert_cardinality(
        tf.data.experimental.INFINITE_CARDINALITY
      )
    )
  batches = batches.prefetch(config.prefetch_buffer_size or tf.data.AUTOTUNE)
  return batches.with_options(_options())


@tf.autograph.experimental.do_not_convert
def count_rows(
  config: configs.PretrainingDataConfig, vocabulary: configs.VocabularyConfig
) -> row_places.RowCounts:
  """Reads the data once and returns how many rows lie where.

  Args:
    config: the data section.
    vocabulary: the vocabulary file.

  Raises:
    DataError: if the source cannot be read to its end, or holds nothing.
  """
  files = data_files.of(config)
  if files.form == data_files.TOKENS:
    num_rows = token_index.TokenRows(files.paths).num_rows
    return row_places.RowCounts((num_rows,), (num_rows,))
  if files.form == data_files.RECORDS:
    return record_reader.RecordReader(files.paths, config).count()
  return _maker(config, vocabulary_lib.Vocabulary.of(vocabulary)).count()


def resumed_counts(
  config: configs.PretrainingDataConfig,
  vocabulary: configs.VocabularyConfig,
  first_batch: int,
  folder: str,
  writes: bool,
) -> row_places.RowCounts | None:
  """Returns the counts with which a run in `folder` resumes at `first_batch`.

  At the beginning the data files are noted; later they must be the same, and
  are counted once.

  Args:
    config: the training data.
    vocabulary: the vocabulary file.
    first_batch: number of the batch to begin with.
    folder: folder of the run.
    writes: whether this process may write there.

  Returns:
    `None` at the beginning.

  Raises:
    DataError: if the files have changed since the run began.
  """
  paths = _source_files(config)
  if not first_batch:
    if writes:
      row_places.remove_counts(folder)
      source_files.save(paths, folder)
    return None
  setting = corpus_lib.setting_name(config, 'input_path')
  source_files.check(paths, folder, setting)
  counts = row_places.load_counts(folder)
  if counts is None:
    counts = count_rows(config, vocabulary)
    if writes:
      row_places.save_counts(counts, folder)
  return counts


def _source_files(config) -> tuple[str, ...]:
  """Returns the files that are read; none of TFDS, which has versions."""
  if config.tfds_name:
    return ()
  return data_files.of(config).paths or corpus_lib.open_corpus(config).paths


def _maker(config, words) -> example_pipeline.ExampleMaker:
  return example_pipeline.ExampleMaker(
    corpus_lib.open_corpus(config), words, config
  )


def _stream(config, words, files, first_batch, counts) -> tf.data.Dataset:
  """Returns masked rows in batches of any size, for all slots."""
  first_row = first_batch * config.global_batch_size
  if files.form == data_files.TOKENS:
    rows = token_index.TokenRows(files.paths)
    return token_reader.TokenReader(rows, config, words).in_order()
  if files.form == data_files.RECORDS:
    reader = record_reader.RecordReader(files.paths, config)
    return _recorded(reader, config, first_row, counts)
  return _live(_maker(config, words), config, first_row, counts)


def _live(maker, config, first_row, counts) -> tf.data.Dataset:
  """Returns examples made from text, from row `first_row` of the run on."""
  epoch, row, start = 0, 0, row_places.BEGINNING
  if first_row:
    counts = counts or maker.count()
    epoch, row = divmod(first_row, counts.num_rows)
    start = maker.start(row, counts)
  skip = row % example_pipeline.BLOCK_ROWS
  blocks = maker.masked_blocks(
    epoch, _epochs_left(config, epoch), start, first_row - skip
  )
  return row_batches.skip_rows(blocks, skip)


def _recorded(reader, config, first_row, counts) -> tf.data.Dataset:
  """Returns examples read from files, from row `first_row` of the run on."""
  epoch, row = 0, 0
  if first_row:
    epoch, row = divmod(first_row, (counts or reader.count()).num_rows)
  return reader.blocks(epoch, _epochs_left(config, epoch), row)


def _epochs_left(config, epoch) -> int | None:
  """Returns how often the corpus is still read; `None` is without end."""
  if config.num_epochs:
    return max(config.num_epochs - epoch, 0)
  return None if config.is_training else 1


def _batch(rows, config, context, pad_id):
  """Cuts rows into global batches, and this pipeline's rows out of them."""
  size, slots = config.global_batch_size, _slots(config, context)
  batches = rows.rebatch(size, drop_remainder=config.drop_remainder).map(
    lambda batch: _filled_up(batch, size, config, pad_id)
  )
  if len(slots) < size:
    mine = tf.range(slots.start, slots.stop)
    batches = batches.map(
      lambda batch: tf.nest.map_structure(lambda x: tf.gather(x, mine), batch)
    )
  return batches


def _slots(config, context) -> range:
  """Returns which rows of every global batch this pipeline gives."""
  size = config.global_batch_size
  if context.num_replicas_in_sync == 1:
    return range(size)
  share = size // context.num_input_pipelines
  begin = share * context.input_pipeline_id
  return range(begin, begin + share)


def _for_replicas(batches, config, context):
  """Cuts this pipeline's rows of global batches into batches of a replica."""
  if context.num_replicas_in_sync == 1:
    return batches
  size = context.get_per_replica_batch_size(config.global_batch_size)
  return batches.rebatch(size, drop_remainder=True)


def _filled_up(batch, num_rows, config, pad_id):
  """Returns a batch of `num_rows` rows; missing ones are [PAD] of weight 0."""
  missing = num_rows - tf.shape(batch['input_word_ids'])[0]

  def fill(name, tensor):
    value = pad_id if name == 'input_word_ids' else 0
    if not config.drop_remainder:
      tensor = tf.pad(tensor, [[0, missing], [0, 0]], constant_values=value)
    return tf.ensure_shape(tensor, [num_rows, tensor.shape[1]])

  return {name: fill(name, tensor) for name, tensor in batch.items()}


def _options() -> tf.data.Options:
  options = tf.data.Options()
  options.deterministic = True
  # Rows are dealt to the pipelines above, exactly.
  options.experimental_distribute.auto_shard_policy = (
    tf.data.experimental.AutoShardPolicy.OFF
  )
  return options
