"""Pretraining batches for the trainer, from text or from TFRecords."""

import tensorflow as tf

from tokendrop_tf import configs
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import (
  examples,
  lanes,
  native_text,
  positions,
  records,
  service,
  streams,
)
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.data.checks import check_dataset

__all__ = ['check_dataset', 'load_dataset']


def load_dataset(
  config: configs.PretrainingDataConfig,
  vocabulary: configs.VocabularyConfig,
  input_context: tf.distribute.InputContext | None = None,
  first_batch: int = 0,
  counts: positions.RowCounts | None = None,
) -> tf.data.Dataset:
  """Returns batches of masked-LM examples with static shapes.

  Training data are shuffled and masked afresh in every epoch. Validation data
  come in order and with the same masks each time; unless `drop_remainder`, the
  last batch is filled up with rows of weight 0.

  Global batch n is the same whatever the number of pipelines and replicas, and
  can be gone to at once: a run resumes by `first_batch`.

  Args:
    config: source, lengths, rates, seed and batch size.
    vocabulary: the vocabulary file.
    input_context: what part of a distributed job this pipeline feeds; every
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
  words = vocabulary_lib.Vocabulary.from_file(
    vocabulary.path, vocabulary.lower_case
  )
  context = input_context or tf.distribute.InputContext()
  first_row = first_batch * config.global_batch_size
  files = records.record_files(config)
  if shards := _shards_in_parts(files, config):
    batches = _own_part(shards, config, context, first_batch, words.pad_id)
  else:
    if first_row and counts is None:
      counts = count_rows(config, vocabulary)
    if files:
      rows = _recorded(files, config, first_row, counts)
    else:
      rows = _live(config, words, first_row, counts)
    if _is_served(config):
      batches = _served(rows, config, context, first_batch)
    else:
      batches = _batch(rows, config, context, words.pad_id)
  if config.is_training and not config.num_epochs:
    # Strategies over several processes give what may end no static shapes.
    batches = batches.apply(
      tf.data.experimental.assert_cardinality(
        tf.data.experimental.INFINITE_CARDINALITY
      )
    )
  batches = batches.prefetch(config.prefetch_buffer_size or tf.data.AUTOTUNE)
  return batches.with_options(_options())


def count_rows(
  config: configs.PretrainingDataConfig, vocabulary: configs.VocabularyConfig
) -> positions.RowCounts:
  """Reads the data once and returns how many rows lie where.

  Args:
    config: the data section.
    vocabulary: the vocabulary file.

  Raises:
    DataError: if the source cannot be read to its end, or holds nothing.
  """
  words = vocabulary_lib.Vocabulary.from_file(
    vocabulary.path, vocabulary.lower_case
  )
  files = records.record_files(config)
  maker = (
    records.RecordReader(files, config)
    if files
    else examples.ExampleMaker(corpus_lib.open_corpus(config), words, config)
  )
  return maker.count()


def resumed_counts(
  config: configs.PretrainingDataConfig,
  vocabulary: configs.VocabularyConfig,
  first_batch: int,
  folder: str,
  writes: bool,
) -> positions.RowCounts | None:
  """Returns the counts with which a run in `folder` goes to `first_batch`.

  At the beginning the data files are noted down; later they must be the same,
  and are counted once.

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
  files = _source_files(config)
  if not first_batch:
    if writes:
      positions.save_sources(files, folder)
    return None
  positions.check_sources(
    files, folder, corpus_lib.setting_name(config, 'input_path')
  )
  counts = positions.load_counts(folder)
  if counts is None:
    counts = count_rows(config, vocabulary)
    if writes:
      positions.save_counts(counts, folder)
  return counts


def _source_files(config) -> tuple[str, ...]:
  """Returns the files that are read; none of TFDS, which has versions."""
  if config.tfds_name:
    return ()
  return records.record_files(config) or corpus_lib.open_corpus(config).paths


def _live(config, words, first_row, counts) -> tf.data.Dataset:
  """Returns examples made from text, from row `first_row` of the run on."""
  corpus = corpus_lib.open_corpus(config)
  if _is_served(config):
    corpus = native_text.of(corpus, 'train_data.tf_data_service_address')
  maker = examples.ExampleMaker(corpus, words, config)
  epoch, row, start = 0, 0, positions.BEGINNING
  if first_row:
    epoch, row = divmod(first_row, counts.num_rows)
    start = maker.start(row, counts)
  skip = row % examples.BLOCK_ROWS
  blocks = maker.masked_blocks(
    epoch, _epochs_left(config, epoch), start, first_row - skip
  )
  return streams.skip_rows(blocks, skip)


def _recorded(files, config, first_row, counts) -> tf.data.Dataset:
  """Returns examples read from files, from row `first_row` of the run on."""
  reader = records.RecordReader(files, config)
  epoch, start = 0, positions.BEGINNING
  if first_row:
    epoch, row = divmod(first_row, counts.num_rows)
    start = reader.start(epoch, row, counts)
  return reader.blocks(epoch, _epochs_left(config, epoch), start)


def _epochs_left(config, epoch) -> int | None:
  """Returns how often the corpus is still read; `None` is without end."""
  if config.num_epochs:
    return max(config.num_epochs - epoch, 0)
  return None if config.is_training else 1


def _is_served(config) -> bool:
  """Whether other machines make the batches."""
  return config.is_training and bool(config.tf_data_service_address)


def _shards_in_parts(files, config) -> lanes.LaneReader | None:
  """Returns the reader of indexed shards; `None` where one stream is read."""
  if not files or not config.is_training or _is_served(config):
    return None
  blocks = records.RecordReader(files, config).blocks_of_shards
  if blocks is None or not blocks.num_rows:
    return None
  return lanes.LaneReader(blocks, config)


def _own_part(shards, config, context, first_batch, pad_id):
  """Returns batches from shards, reading this pipeline's rows alone."""
  slots = _slots(config, context)
  batches = shards.batches(first_batch, slots).map(
    lambda rows: _of_size(
      records.parse(rows, config), len(slots), config, pad_id
    ),
    num_parallel_calls=tf.data.AUTOTUNE,
  )
  return _for_replicas(batches, config, context)


def _batch(rows, config, context, pad_id):
  """Cuts rows into global batches, and this pipeline's rows out of them."""
  size, slots = config.global_batch_size, _slots(config, context)
  batches = rows.rebatch(size, drop_remainder=config.drop_remainder).map(
    lambda batch: _of_size(batch, size, config, pad_id)
  )
  if len(slots) < size:
    mine = tf.range(slots.start, slots.stop)
    batches = batches.map(
      lambda batch: tf.nest.map_structure(lambda x: tf.gather(x, mine), batch)
    )
  return _for_replicas(batches, config, context)


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


def _served(rows, config, context, first_batch):
  """Has batches for one replica made elsewhere; each goes to one pipeline."""
  size = context.get_per_replica_batch_size(config.global_batch_size)
  batches = rows.rebatch(size, drop_remainder=True)
  job = ''
  if context.num_input_pipelines > 1:
    # The same in all processes, another one after a restart.
    job = f'tokendrop-{config.seed}-{first_batch}'
  return service.distribute(batches, config, job)


def _of_size(batch, num_rows, config, pad_id):
  """Returns a batch of `num_rows` rows; what lacks is [PAD] of weight 0."""
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
