"""The command that writes pretraining examples as TFRecords; see `main`."""

import argparse
import os

import tqdm

from tokendrop_tf import command_line, configs, errors
from tokendrop_tf.data import checks, data_flags, shards

_DESCRIPTION = """Writes masked-LM pretraining examples as TFRecord files.

They are the examples that training on the same text with the same settings
and seed makes while it runs, whatever the number of processes.

  %(prog)s --input='wiki/*.txt.gz' --vocab_file=runs/vocab.txt \\
      --output=runs/wiki --num_shards=16 --num_processes=4 --num_epochs=5

writes runs/wiki-00000-of-00016.tfrecord and so on. Train on them with
train_data.input_path = 'runs/wiki-*.tfrecord'.
"""


def main(arguments: list[str]) -> None:
  """Checks the corpus and writes its examples, as the flags say."""
  flags = _parse(arguments)
  job = _job(flags)
  with data_flags.flags_in_messages():
    _refuse_existing(job, flags.overwrite)
    checks.refuse_records(job.config)
    checks.check_dataset(job.config, job.vocabulary)
    total = _write(job, flags.num_processes)
  paths = job.paths()
  size = sum(os.path.getsize(path) for path in paths if os.path.exists(path))
  print(
    f'{total:,} examples of {flags.seq_length} tokens in {len(paths)} '
    f'files, {size / 1e6:,.1f} MB: {paths[0]}{" ..." * (len(paths) > 1)}'
  )


def _write(job: shards.ShardJob, num_processes: int) -> int:
  estimate = shards.estimate_examples(job)
  with tqdm.tqdm(total=estimate, unit=' examples', smoothing=0.05) as bar:
    total = shards.write_shards(job, num_processes, bar.update)
    bar.total = total  # The estimate has served.
    bar.refresh()
  return total


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='create_pretraining_data.py', description=_DESCRIPTION
  )
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
  parser.add_argument(
    '--gzip', action='store_true', help='Compresses the files.'
  )
  data_flags.add_number_flags(parser, _NUMBERS)
  flags = parser.parse_args(arguments)
  _check_numbers(flags)
  return flags


_NUMBERS = (
  ('seq_length', 512, 'S, tokens of an example.'),
  ('max_predictions_per_seq', 76, 'P, labels of an example at most.'),
  ('mask_rate', 0.15, 'Share of the ordinary tokens that are labels.'),
  ('num_epochs', 1, 'Times that the corpus is written, each with new masks.'),
  ('seed', 0, 'Seed of the order and the masks.'),
  (
    'shuffle_buffer_size',
    4096,
    'Examples that are shuffled together, as in training.',
  ),
  ('num_shards', 1, 'Number of files.'),
  ('num_processes', 1, 'Processes that write, at most one a file.'),
)


_LEAST = {
  'num_epochs': 1,
  'num_shards': 1,
  'num_processes': 1,
  'shuffle_buffer_size': 1,
  'held_out_documents': 0,
  'seed': 0,
}


def _check_numbers(flags: argparse.Namespace) -> None:
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


def _job(flags: argparse.Namespace) -> shards.ShardJob:
  config = data_flags.corpus_config(flags).replace(
    is_training=not flags.held_out,
    global_batch_size=1,
    packing=flags.packing,
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


def _refuse_existing(job: shards.ShardJob, overwrite: bool) -> None:
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


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
