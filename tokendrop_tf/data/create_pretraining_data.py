"""The command that writes a corpus as packed rows or examples; see `main`."""

import argparse
import functools

import tqdm

from tokendrop_tf import command_line
from tokendrop_tf.data import data_flags, packing_report, shard_flags
from tokendrop_tf.data.shards import shard_job, shard_writer
from tokendrop_tf.data.shards.work_folder import WorkFolder

_DESCRIPTION = """Tokenises, packs and shuffles a corpus once, into shards.

The rows are those that training on the same text makes while it runs, in an
order that is uniform over the corpus; the files are the same whatever the
number of processes. Masks are drawn while a model trains, afresh in every
epoch.

  %(prog)s --input='wiki/*.txt.gz' --vocab_file=runs/vocab.txt \\
      --output=runs/wiki --num_processes=4

writes runs/wiki-00000-of-00003.tokens and so on, and runs/wiki.index.json with
counts and checksums. Train on them with
train_data.input_path = 'runs/wiki-*.tokens'. Interrupted, the same command
resumes. --format=tfrecord writes masked examples for the Model Garden instead.
"""


def main(arguments: list[str]) -> None:
  """Checks the corpus and writes its rows, as the flags say."""
  flags = _parse(arguments)
  with data_flags.flags_in_messages():
    job = shard_flags.job(flags)
    if flags.beam_options is not None:
      written = _write_by_beam(job, flags)
    else:
      written = _write(job, flags)
  print(_summary(written, job))
  if flags.report_packings:
    reports = packing_report.report_packings(job.config, job.vocabulary)
    print(packing_report.format_reports(reports, chosen=job.config.packing))
  if skipped := data_flags.skipped_line():
    print(skipped)


def _summary(written: shard_writer.Written, job: shard_job.ShardJob) -> str:
  """Returns what to print about shards that are complete."""
  more = ' ...' if job.num_shards > 1 else ''
  index = f'\n{job.index}' if job.format == 'tokens' else ''
  return (
    f'{written.rows:,} sequences of {job.config.seq_length} places, '
    f'{written.tokens:,} tokens, in {job.num_shards} files, '
    f'{written.num_bytes / 1e6:,.1f} MB: {job.path(0)}{more}{index}'
  )


def _write(job: shard_job.ShardJob, flags) -> shard_writer.Written:
  work = WorkFolder.next_to(job.output)
  if work.belongs_to(job.fingerprint()):
    finished = sum(
      work.has(f'shard-{shard:05d}.json') for shard in range(job.num_shards)
    )
    print(f'Resuming: {finished} of {job.num_shards} shards are finished.')
  else:
    shard_job.refuse_existing(job, flags.overwrite)
  with tqdm.tqdm(total=job.estimate, unit=' rows', smoothing=0.05) as bar:
    written = shard_writer.write_shards(job, flags.num_processes, bar.update)
    bar.total = bar.n = written.rows  # The estimate has served.
    bar.refresh()
  return written


def _write_by_beam(job: shard_job.ShardJob, flags) -> shard_writer.Written:
  pipeline = data_flags.import_beam_pipeline()
  work = WorkFolder(data_flags.beam_work_dir(flags))
  if not work.belongs_to(job.fingerprint()):
    shard_job.refuse_existing(job, flags.overwrite)
  return pipeline.write_shards(
    job, work, flags.beam_options, lambda line: print(line, flush=True)
  )


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='create_pretraining_data.py', description=_DESCRIPTION
  )
  shard_flags.add_flags(parser)
  parser.add_number(
    '--num_processes', 1, 'Processes that share the work.', least=1
  )
  parser.add_argument(
    '--report_packings',
    action='store_true',
    help='Prints at the end how full sequences are by each --packing.',
  )
  data_flags.add_beam_flags(parser)
  flags = parser.parse_args(arguments)
  shard_flags.check(parser, flags)
  return flags


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
