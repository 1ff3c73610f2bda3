"""The command that measures the data pipeline and tools; see `main`."""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator

from tokendrop_tf import command_line, errors, files
from tokendrop_tf.data import data_flags, loader
from tools.measure import tool_speeds

_DESCRIPTION = """Measures how fast training data are made from text.

  live    reads, tokenises, packs, masks and batches as in training
  create  tools/create_pretraining_data.py, one process
  peer    the Model Garden's create_pretraining_data, on the beginning of the
          same text
  vocab   tools/build_vocab.py, in both sizes

and prints tokens (not padding) per second, or seconds: the median over several
stretches or repeats, and their range. Tools take turns with the peer.

  %(prog)s --input='wiki/*.txt.gz' --vocab_file=runs/vocab.txt \\
      --output_json=data.json
"""

MEASURES = ('live', 'create', 'peer', 'vocab')
VOCAB_SIZES = (8192, 32768)


def main(arguments: list[str]) -> None:
  """Measures the pipeline that the flags describe and prints its speed."""
  flags = _parse(arguments)
  vocabulary = data_flags.vocabulary_config(flags)
  with data_flags.flags_in_messages():
    config = data_flags.data_config(
      flags, _EXAMPLES, global_batch_size=flags.batch_size
    )
    loader.check_dataset(config, vocabulary)
    found = {}
    if 'live' in flags.measure:
      found['live'] = _measure_live(config, vocabulary, flags)
    found |= _measure_tools(config, vocabulary, flags)
  print()
  for line in summary(found):
    print(line)
  if flags.output_json:
    files.write_json(flags.output_json, found)


def _measure_live(config, vocabulary, flags) -> list[float]:
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
  return speeds


def _measure_tools(config, vocabulary, flags) -> dict[str, list[float]]:
  """Times the tools that are asked for, turn by turn."""
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    text = os.path.join(folder, 'text.txt')
    if 'peer' in flags.measure:
      size = tool_speeds.write_slice(config, text, flags.peer_megabytes * 10**6)
      print(f'The peer reads the first {size / 1e6:.1f} MB.', flush=True)
    for number in range(flags.repeats):
      for name, value in _one_turn(
        config, vocabulary, flags, text, os.path.join(folder, str(number))
      ):
        found.setdefault(name, []).append(value)
        unit = 's' if 'vocab' in name else 'tokens/s'
        print(f'{name}: {value:,.1f} {unit}', flush=True)
  return found


def _one_turn(config, vocabulary, flags, text, folder):
  os.mkdir(folder)
  source = _source_flags(flags)
  if 'create' in flags.measure:
    lengths = [
      f'--vocab_file={vocabulary.path}',
      f'--seq_length={config.seq_length}',
      f'--packing={config.packing}',
    ]
    yield 'create', tool_speeds.create_speed([*source, *lengths], folder)
  if 'peer' in flags.measure:
    yield 'peer', tool_speeds.peer_speed(text, vocabulary, config, folder)
  if 'vocab' in flags.measure:
    for size in VOCAB_SIZES:
      yield (
        f'vocab {size}',
        tool_speeds.vocabulary_seconds(source, size, folder),
      )


def _source_flags(flags) -> list[str]:
  """Returns the flags that name the source, for another tool."""
  given = [
    f'--{name}={getattr(flags, name)}'
    for name in (
      'input',
      'text_field',
      'tfds_name',
      'tfds_split',
      'tfds_text_feature',
      'tfds_data_dir',
      'held_out_documents',
    )
  ]
  switches = [
    f'--{name}'
    for name in ('document_per_line', 'skip_bad_text', 'allow_unknown_tokens')
    if getattr(flags, name)
  ]
  if flags.lower_case is not None:
    switches.append('--lower_case' if flags.lower_case else '--no-lower_case')
  return [*given, *switches]


def summary(found: dict[str, list[float]]) -> list[str]:
  """Returns a line for each figure: median, range, and ratio to the peer.

  Args:
    found: figures by name: tokens per second, or of a vocabulary seconds.
  """
  lines = []
  peer = statistics.median(found['peer']) if 'peer' in found else None
  for name, values in found.items():
    median = statistics.median(values)
    unit, scale = ('s', 1) if 'vocab' in name else ('million tokens/s', 1e6)
    ratio = ''
    if peer and name in ('live', 'create'):
      ratio = f', {median / peer:.0f} times the peer'
    lines.append(
      f'{name:<12}{median / scale:>8.2f} {unit} ({min(values) / scale:.2f} to '
      f'{max(values) / scale:.2f}, {len(values)} times){ratio}'
    )
  return lines


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


_EXAMPLES = data_flags.example_flags(
  'packing', 'masking', 'seq_length', 'max_predictions_per_seq'
)


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='benchmark_data.py', description=_DESCRIPTION
  )
  data_flags.add_source_flags(parser)
  data_flags.add_vocabulary_flags(parser)
  _EXAMPLES.add_to(parser)
  for flag, default, least, text in (
    ('--batch_size', 256, 1, 'B, examples of a batch.'),
    ('--seconds', 5.0, 0.1, 'Length of a stretch.'),
    ('--stretches', 5, 1, 'Number of stretches, after one to warm up.'),
    ('--repeats', 3, 1, 'Times that each tool is run.'),
    ('--peer_megabytes', 4, 1, 'Text that the peer reads, about.'),
  ):
    parser.add_number(flag, default, text, least)
  parser.add_argument(
    '--measure',
    type=lambda text: text.split(','),
    default=list(MEASURES),
    help='What to measure, of live,create,peer,vocab. Default: all.',
  )
  parser.add_argument(
    '--output_json', default='', help='Writes the figures to this file.'
  )
  flags = parser.parse_args(arguments)
  unknown = [name for name in flags.measure if name not in MEASURES]
  if unknown:
    raise errors.ConfigurationError(
      f'--measure must be of {", ".join(MEASURES)}. Received: '
      f'{", ".join(unknown)}. Set --measure.'
    )
  return flags


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
