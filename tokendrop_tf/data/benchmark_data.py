"""The command that measures the live data pipeline; see `main`."""

import argparse
import statistics
import time
from collections.abc import Iterator

from tokendrop_tf import command_line, configs
from tokendrop_tf.data import data_flags, loader

_DESCRIPTION = """Measures how fast training data are made from text.

Reads, tokenises, packs, masks and batches as in training, and prints tokens
(not padding) per second: the median over several stretches, and their range.

  %(prog)s --input='wiki/*.txt.gz' --vocab_file=runs/vocab.txt
"""


def main(arguments: list[str]) -> None:
  """Measures the pipeline that the flags describe and prints its speed."""
  flags = _parse(arguments)
  vocabulary = configs.VocabularyConfig(
    path=flags.vocab_file, lower_case=flags.lower_case
  )
  with data_flags.flags_in_messages():
    config = data_flags.corpus_config(flags).replace(
      global_batch_size=flags.batch_size,
      seq_length=flags.seq_length,
      max_predictions_per_seq=flags.max_predictions_per_seq,
      packing=flags.packing,
      masking=flags.masking,
    )
    loader.check_dataset(config, vocabulary)
    started = time.perf_counter()
    batches = iter(loader.load_dataset(config, vocabulary))
    next(batches)
  print(f'first batch after {time.perf_counter() - started:.1f} s')
  speeds = []
  for speed in tokens_per_second(batches, flags.seconds, flags.stretches):
    speeds.append(speed)
    print(f'{speed / 1e6:.2f} million tokens/s')
  print(
    f'median {statistics.median(speeds) / 1e6:.2f} million tokens/s '
    f'({min(speeds) / 1e6:.2f} to {max(speeds) / 1e6:.2f}, {len(speeds)} '
    f'stretches of {flags.seconds:g} s), S {flags.seq_length}, B '
    f'{flags.batch_size}, {flags.packing}, masking by {flags.masking}'
  )


def tokens_per_second(
  batches: Iterator, seconds: float, stretches: int
) -> Iterator[float]:
  """Yields the tokens per second of each stretch, after one to warm up.

  Args:
    batches: endless batches with `input_mask`.
    seconds: length of a stretch.
    stretches: how many.
  """
  for stretch in range(stretches + 1):
    started = time.perf_counter()
    tokens, passed = 0, 0.0
    while passed < seconds:
      tokens += int(next(batches)['input_mask'].numpy().sum())
      passed = time.perf_counter() - started
    if stretch:
      yield tokens / passed


_NUMBERS = (
  ('seq_length', 512, 'S, tokens of an example.'),
  ('max_predictions_per_seq', 76, 'P, labels of an example at most.'),
  ('batch_size', 256, 'B, examples of a batch.'),
  ('seconds', 5.0, 'Length of a stretch.'),
  ('stretches', 5, 'Number of stretches, after one to warm up.'),
)


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='benchmark_data.py', description=_DESCRIPTION
  )
  data_flags.add_source_flags(parser)
  data_flags.add_vocabulary_flags(parser)
  data_flags.add_packing_flag(parser)
  parser.add_argument(
    '--masking',
    choices=configs.DATA_MASKINGS,
    default=configs.DATA_MASKINGS[0],
    help='What is masked as one. Default %(default)s.',
  )
  data_flags.add_number_flags(parser, _NUMBERS)
  flags = parser.parse_args(arguments)
  data_flags.check_at_least(
    flags, {'batch_size': 1, 'stretches': 1, 'seconds': 0.1}
  )
  return flags


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
