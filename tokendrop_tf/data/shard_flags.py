"""Flags of the tools that write shards, and the job that they stand for."""

import argparse
import dataclasses

from tokendrop_tf import command_line, errors
from tokendrop_tf.data import checks, data_flags
from tokendrop_tf.data.shards import shard_job

_ROWS = data_flags.example_flags('packing', 'seq_length', 'seed')
_EXAMPLES = data_flags.example_flags(
  *shard_job.MASK_SETTINGS, 'num_epochs', num_epochs=1
)


def add_flags(parser: command_line.ArgumentParser) -> None:
  """Adds source, vocabulary, output and the settings of rows."""
  data_flags.add_source_flags(parser)
  parser.add_argument(
    '--held_out',
    action='store_true',
    help='Writes the documents that --held_out_documents omits from '
    'training, in order: the validation data.',
  )
  data_flags.add_vocabulary_flags(parser)
  parser.add_argument(
    '--output', required=True, help='Beginning of the names of the files.'
  )
  parser.add_argument(
    '--format',
    choices=shard_job.FORMATS,
    default=shard_job.FORMATS[0],
    help='tokens: rows of token ids, masked while a model trains. tfrecord: '
    'masked examples, as the Model Garden reads them. Default %(default)s.',
  )
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='Replaces shards of this name that exist.',
  )
  _ROWS.add_to(parser)
  parser.add_number(
    '--num_shards',
    0,
    'Number of files; one is sorted in memory at a time. 0 makes them of about '
    '64 MB.',
    least=0,
  )
  group = parser.add_argument_group(
    'masked examples', 'Of --format=tfrecord only.'
  )
  group.add_argument(
    '--gzip', action='store_true', help='Compresses the files.'
  )
  _EXAMPLES.add_to(group)


def check(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
  """Checks the flags that `add_flags` added, without looking at files.

  Raises:
    ConfigurationError: naming the flag.
  """
  for setting_flags in (_ROWS, _EXAMPLES):
    setting_flags.values(flags)
  if not flags.num_epochs:
    raise errors.ConfigurationError(
      '--num_epochs must be at least 1. Received: 0. Set --num_epochs.'
    )
  if flags.held_out and not flags.held_out_documents:
    raise errors.ConfigurationError(
      '--held_out needs documents that are held out. Received: '
      '--held_out_documents=0. Set --held_out_documents.'
    )
  if flags.held_out and flags.num_epochs > 1:
    raise errors.ConfigurationError(
      '--held_out writes one epoch: validation has one set of masks. '
      f'Received: --num_epochs={flags.num_epochs}. Leave it unset.'
    )
  if flags.format == 'tokens':
    _check_only_rows(parser, flags)


def _check_only_rows(parser, flags):
  """Refuses the flags of masked examples."""
  if flags.gzip:
    raise errors.ConfigurationError(
      '--gzip is a flag of --format=tfrecord; the rows of token shards are '
      'read at any place. Received: --gzip. Leave it unset, or pass '
      '--format=tfrecord.'
    )
  for name in _EXAMPLES.flags:
    if getattr(flags, name) != parser.get_default(name):
      raise errors.ConfigurationError(
        f'--{name} is a flag of --format=tfrecord; token shards are masked '
        'afresh in every epoch while a model trains. Received: '
        f'--{name}={getattr(flags, name)}. Set train_data.{name} for the run, '
        'or pass --format=tfrecord.'
      )


def job(flags: argparse.Namespace) -> shard_job.ShardJob:
  """Returns what to write, its data checked.

  Raises:
    UserError: if the corpus or the vocabulary cannot be used.
  """
  described = _described(flags)
  head = checks.check_heads(described.config, described.vocabulary)
  estimate = shard_job.estimate_rows(described, head)
  described = dataclasses.replace(described, estimate=estimate)
  return shard_job.with_shards(described, estimate)


def _described(flags) -> shard_job.ShardJob:
  config = data_flags.data_config(
    flags, _ROWS, _EXAMPLES, is_training=not flags.held_out, global_batch_size=1
  )
  if flags.format == 'tokens':
    # Token shards have no masks: what fits any S.
    slots = int(config.mask_rate * (config.seq_length - 2))
    config.max_predictions_per_seq = max(slots, 1)
  return shard_job.ShardJob(
    config,
    data_flags.vocabulary_config(flags),
    flags.output,
    flags.num_shards,
    flags.format,
    flags.gzip,
  )
