"""Flags of the tools that write examples, and the job that they stand for."""

import argparse
import dataclasses
import math

from tokendrop_tf import command_line, configs, errors
from tokendrop_tf.data import checks, data_flags, shards

# A shard is sorted in memory, so it should not be larger.
_SHARD_BYTES = 64 << 20
_LARGEST_SHARD_BYTES = 1 << 30
_MOST_SHARDS = 4096

_NUMBERS = (
  ('seq_length', 512, 'S, tokens of an example.'),
  ('max_predictions_per_seq', 76, 'P, labels of an example at most.'),
  ('mask_rate', 0.15, 'Share of the ordinary tokens that are labels.'),
  ('mask_token_share', 0.8, 'Share of the labels replaced by [MASK].'),
  ('random_token_share', 0.1, 'Share of the labels replaced at random.'),
  ('span_stop_probability', 0.2, 'Of --masking=span: to end after each word.'),
  ('max_span_words', 10, 'Of --masking=span: words of a span at most.'),
  ('num_epochs', 1, 'Times that the corpus is written, each with new masks.'),
  ('seed', 0, 'Seed of the order and the masks.'),
  (
    'shuffle_buffer_size',
    4096,
    'Examples that are masked as one window, as in training.',
  ),
  (
    'num_shards',
    0,
    'Number of files; one is sorted in memory at a time. 0 makes them of '
    'about 64 MB.',
  ),
)

_LEAST = {
  'num_epochs': 1,
  'num_shards': 0,
  'shuffle_buffer_size': 1,
  'held_out_documents': 0,
  'seed': 0,
}


def add_flags(parser: command_line.ArgumentParser) -> None:
  """Adds source, vocabulary, output and the numbers of examples."""
  data_flags.add_source_flags(parser)
  parser.add_argument(
    '--held_out',
    action='store_true',
    help='Writes the documents that --held_out_documents leaves out of '
    'training, in order: the validation data.',
  )
  data_flags.add_vocabulary_flags(parser)
  parser.add_argument(
    '--output', required=True, help='Beginning of the names of the files.'
  )
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='Replaces shards of this name that exist.',
  )
  data_flags.add_packing_flag(parser)
  data_flags.add_masking_flag(parser)
  parser.add_argument(
    '--gzip', action='store_true', help='Compresses the files.'
  )
  data_flags.add_number_flags(parser, _NUMBERS)


def check(flags: argparse.Namespace) -> None:
  """Checks the flags that `add_flags` added, as far as one can alone.

  Raises:
    ConfigurationError: naming the flag.
  """
  data_flags.check_at_least(flags, _LEAST)
  if not 0 < flags.mask_rate <= 1:
    raise errors.ConfigurationError(
      '--mask_rate must be above 0 and at most 1. Received: '
      f'{flags.mask_rate}. Set --mask_rate.'
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


def job(flags: argparse.Namespace) -> shards.ShardJob:
  """Returns what to write, its data checked.

  Raises:
    UserError: if the corpus or the vocabulary cannot be used.
  """
  described = _described(flags)
  head = checks.check_heads(described.config, described.vocabulary)
  estimate = shards.estimate_examples(described, head)
  described = dataclasses.replace(described, estimate=estimate)
  return with_shards(described, estimate)


def _described(flags) -> shards.ShardJob:
  config = data_flags.corpus_config(flags).replace(
    is_training=not flags.held_out,
    global_batch_size=1,
    packing=flags.packing,
    masking=flags.masking,
    mask_token_share=flags.mask_token_share,
    random_token_share=flags.random_token_share,
    span_stop_probability=flags.span_stop_probability,
    max_span_words=flags.max_span_words,
    seq_length=flags.seq_length,
    max_predictions_per_seq=flags.max_predictions_per_seq,
    mask_rate=flags.mask_rate,
    num_epochs=flags.num_epochs,
    seed=flags.seed,
    shuffle_buffer_size=flags.shuffle_buffer_size,
  )
  vocabulary = configs.VocabularyConfig(
    path=flags.vocab_file, lower_case=flags.lower_case
  )
  return shards.ShardJob(
    config, vocabulary, flags.output, flags.num_shards, flags.gzip
  )


def with_shards(job: shards.ShardJob, num_examples: int) -> shards.ShardJob:
  """Chooses the number of shards if it is left open.

  Args:
    job: what to write.
    num_examples: estimate of how many examples there are.

  Raises:
    ConfigurationError: if shards would be too large to be sorted in memory.
  """
  size = num_examples * example_bytes(job.config)
  if not job.num_shards:
    count = min(max(math.ceil(size / _SHARD_BYTES), 1), _MOST_SHARDS)
    return job.with_num_shards(count)
  least = math.ceil(size / _LARGEST_SHARD_BYTES)
  if job.num_shards < least:
    raise errors.ConfigurationError(
      'A shard must fit into memory, where it is put into order: at most 1 GB. '
      f'Received: --num_shards={job.num_shards} for about {size / 1e9:,.1f} '
      f'GB. Set --num_shards to at least {least}, or leave it unset.'
    )
  return job


def example_bytes(config: configs.PretrainingDataConfig) -> int:
  """Estimates the size of a serialized example."""
  features = 6 if config.packing == 'best_fit' else 4
  return features * config.seq_length + 8 * config.max_predictions_per_seq + 200


def refuse_existing(job: shards.ShardJob, overwrite: bool) -> None:
  """Refuses to mix new shards with others.

  Raises:
    ConfigurationError: naming one that exists.
  """
  existing = shards.existing_shards(job.output)
  stale = [path for path in existing if path not in job.paths()]
  if existing and (stale or not overwrite):
    remedy = (
      'Remove them'
      if stale
      else 'Pass --overwrite to replace them, remove them'
    )
    raise errors.ConfigurationError(
      'New shards must not mix with others of the same name. Received: '
      f'--output={job.output}, where {len(existing)} lie, e.g. '
      f'{(stale or existing)[0]}. {remedy}, or choose another --output.'
    )
