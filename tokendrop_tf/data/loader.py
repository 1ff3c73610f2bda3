"""Pretraining batches for the trainer, from text or from TFRecords."""

import numpy as np
import tensorflow as tf

from tokendrop_tf import configs
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import examples, records
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.data.checks import check_dataset

__all__ = ['check_dataset', 'label_entropy', 'load_dataset']

MAX_ENTROPY_LABELS = 2_000_000


def load_dataset(
  config: configs.PretrainingDataConfig,
  vocabulary: configs.VocabularyConfig,
  input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
  """Returns batches of masked-LM examples with static shapes.

  Training data are shuffled and masked afresh in every epoch. Validation data
  come in order and with the same masks each time; unless `drop_remainder`, the
  last batch is filled up with rows of weight 0.

  Args:
    config: source, lengths, rates, seed and batch size.
    vocabulary: the vocabulary file.
    input_context: what part of a distributed job this pipeline feeds; every
      pipeline gets examples of its own, in batches for one replica.

  Returns:
    Data set of dicts: `input_word_ids`, `input_mask`, `input_type_ids` int32
    [B, S]; `masked_lm_positions`, `masked_lm_ids` int32 [B, P];
    `masked_lm_weights` float32 [B, P].

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
  if files := records.record_files(config):
    reader = records.RecordReader(files, config)
    blocks = reader.blocks(_num_epochs(config), context)
  else:
    blocks = _live(config, words, context)
  batches = _batch(blocks, config, context, words.pad_id)
  batches = batches.prefetch(config.prefetch_buffer_size or tf.data.AUTOTUNE)
  return batches.with_options(_options())


def label_entropy(
  config: configs.PretrainingDataConfig, vocabulary: configs.VocabularyConfig
) -> float:
  """Returns the unigram entropy of the labels, in nats.

  This is the loss of a model that knows how frequent every token is and looks
  at nothing else: the floor that a trained model has to go below.

      H = -sum over v of p[v] log p[v],  p[v] the share of label v

  Args:
    config: the validation data; at most its first `MAX_ENTROPY_LABELS` labels
      are counted.
    vocabulary: the vocabulary section.

  Example:
    label_entropy(params.task.validation_data, params.task.vocabulary)  # 6.1
  """
  words = vocabulary_lib.Vocabulary.from_file(
    vocabulary.path, vocabulary.lower_case
  )
  counts = np.zeros(words.size, np.float64)
  for batch in load_dataset(config, vocabulary):
    counts += np.bincount(
      batch['masked_lm_ids'].numpy().ravel(),
      weights=batch['masked_lm_weights'].numpy().ravel(),
      minlength=words.size,
    )
    if counts.sum() >= MAX_ENTROPY_LABELS:
      break
  shares = counts[counts > 0] / counts.sum()
  return float(-np.sum(shares * np.log(shares)))


def _live(config, words, context) -> tf.data.Dataset:
  """Returns blocks of examples made from text."""
  maker = examples.ExampleMaker(corpus_lib.open_corpus(config), words, config)
  blocks = maker.blocks(0, _num_epochs(config))
  if config.is_training:
    blocks = blocks.shard(
      context.num_input_pipelines, context.input_pipeline_id
    )
  return blocks.map(
    maker.mask, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )


def _num_epochs(config) -> int | None:
  """Returns how often the corpus is read; `None` is without end."""
  if config.num_epochs:
    return config.num_epochs
  return None if config.is_training else 1


def _batch(blocks, config, context, pad_id):
  """Cuts blocks of rows into batches for one replica."""
  if not config.is_training:
    return _batch_validation(blocks, config, context, pad_id)
  # The blocks have been dealt to the pipelines before.
  size = context.get_per_replica_batch_size(config.global_batch_size)
  batches = blocks.rebatch(size, drop_remainder=config.drop_remainder)
  if config.drop_remainder:
    return batches
  return batches.map(lambda batch: _fill_up(batch, size, pad_id))


def _batch_validation(blocks, config, context, pad_id):
  # Whole global batches first, so that all pipelines have equally many.
  size = config.global_batch_size
  batches = blocks.rebatch(size, drop_remainder=config.drop_remainder)
  if not config.drop_remainder:
    batches = batches.map(lambda batch: _fill_up(batch, size, pad_id))
  if context.num_replicas_in_sync == 1:
    return batches
  share = size // context.num_input_pipelines
  begin = share * context.input_pipeline_id
  mine = tf.range(begin, begin + share)
  shares = batches.map(
    lambda batch: {
      name: tf.gather(tensor, mine) for name, tensor in batch.items()
    }
  )
  return shares.rebatch(
    context.get_per_replica_batch_size(size), drop_remainder=True
  )


def _fill_up(batch, num_rows, pad_id):
  """Appends rows of [PAD] and weight 0 up to `num_rows`."""
  missing = num_rows - tf.shape(batch['input_word_ids'])[0]

  def fill(name, tensor):
    value = pad_id if name == 'input_word_ids' else 0
    padded = tf.pad(tensor, [[0, missing], [0, 0]], constant_values=value)
    return tf.ensure_shape(padded, [num_rows, tensor.shape[1]])

  return {name: fill(name, tensor) for name, tensor in batch.items()}


def _options() -> tf.data.Options:
  options = tf.data.Options()
  options.deterministic = True
  # Rows are dealt to the pipelines above, exactly.
  options.experimental_distribute.auto_shard_policy = (
    tf.data.experimental.AutoShardPolicy.OFF
  )
  return options
