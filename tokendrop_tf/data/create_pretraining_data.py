"""The command that writes pretraining examples as TFRecords; see `main`."""

import argparse

import tqdm

from tokendrop_tf import command_line
from tokendrop_tf.data import (
  data_flags,
  packing_report,
  shard_flags,
  shard_index,
  shards,
)

_DESCRIPTION = """Writes masked-LM pretraining examples as TFRecord files.

They are the examples that training on the same text with the same settings
and seed makes while it runs, in an order that is uniform over the corpus; the
files are the same whatever the number of processes.

  %(prog)s --input='wiki/*.txt.gz' --vocab_file=runs/vocab.txt \\
      --output=runs/wiki --num_shards=16 --num_processes=4 --num_epochs=5

writes runs/wiki-00000-of-00016.tfrecord and so on, and runs/wiki.index.json
with counts and checksums. Train on them with
train_data.input_path = 'runs/wiki-*.tfrecord'. Interrupted, the same command
goes on where it was.
"""


def main(arguments: list[str]) -> None:
  """Checks the corpus and writes its examples, as the flags say."""
  flags = _parse(arguments)
  with data_flags.flags_in_messages():
    job = shard_flags.job(flags)
    if flags.beam_options is not None:
      index = _write_by_beam(job, flags)
    else:
      if not _goes_on(job, flags.num_processes):
        shard_flags.refuse_existing(job, flags.overwrite)
      index = _write(job, flags.num_processes)
  print(written(index, job))
  if flags.report_packings:
    reports = packing_report.report_packings(job.config, job.vocabulary)
    print(packing_report.format_reports(reports, chosen=job.config.packing))
  if skipped := data_flags.skipped_line():
    print(skipped)


def written(index: shard_index.ShardIndex, job: shards.ShardJob) -> str:
  """Returns what to print about shards that are complete."""
  size = sum(shard.num_bytes for shard in index.shards)
  more = ' ...' if job.num_shards > 1 else ''
  return (
    f'{index.examples:,} examples of {job.config.seq_length} places, '
    f'{index.tokens:,} tokens, in {job.num_shards} files, {size / 1e6:,.1f} '
    f'MB: {job.path(0)}{more}\n{index.path}'
  )


def _goes_on(job, num_processes) -> bool:
  """Whether an interrupted call left work of the same job; tells of it."""
  work = shards.work_folder(job)
  if not work.belongs_to(shards.fingerprint(job, num_processes)):
    return False
  finished = len(work.entries())
  print(f'Going on: {finished} of {job.num_shards} shards are finished.')
  return True


def _write(job: shards.ShardJob, num_processes: int) -> shard_index.ShardIndex:
  with tqdm.tqdm(total=job.estimate, unit=' examples', smoothing=0.05) as bar:
    index = shards.write_shards(job, num_processes, bar.update)
    bar.total = index.examples  # The estimate has served.
    bar.refresh()
  return index


def _write_by_beam(job: shards.ShardJob, flags) -> shard_index.ShardIndex:
  pipeline = data_flags.import_beam_pipeline()
  folder = data_flags.beam_work_dir(flags)
  if not pipeline.goes_on(job, folder):
    shard_flags.refuse_existing(job, flags.overwrite)
  return pipeline.write_shards(
    job, folder, flags.beam_options, lambda line: print(line, flush=True)
  )


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='create_pretraining_data.py', description=_DESCRIPTION
  )
  shard_flags.add_flags(parser)
  data_flags.add_number_flags(
    parser, (('num_processes', 1, 'Processes, at most one a file.'),)
  )
  parser.add_argument(
    '--report_packings',
    action='store_true',
    help='Prints at the end how full sequences are by each --packing.',
  )
  data_flags.add_beam_flags(parser)
  flags = parser.parse_args(arguments)
  shard_flags.check(flags)
  data_flags.check_at_least(flags, {'num_processes': 1})
  return flags


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
