"""The command that trains a vocabulary; see `main`."""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator

from tokendrop_tf import command_line, configs, errors
from tokendrop_tf.data import checks
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib

_DESCRIPTION = """Trains a WordPiece vocabulary and counts its tokens.

Writes OUTPUT, one token a line, and beside it OUTPUT's name with .counts.tsv,
lines of token<TAB>count. The same text gives the same files.

  %(prog)s --input='wiki/*.txt.gz' --vocab_size=8192 --output=runs/vocab.txt
"""


def main(arguments: list[str]) -> None:
  """Trains, counts, and writes a vocabulary, as the flags say."""
  flags = _parse(arguments)
  started = time.monotonic()
  with flags_in_messages():
    config = corpus_config(flags)
    checks.check_text(config)
    documents = corpus_lib.open_corpus(config).documents()
    vocabulary = vocabulary_lib.train_vocabulary(
        documents, flags.vocab_size, flags.lower_case, flags.min_frequency)
  counts = vocabulary_lib.count_tokens(documents, vocabulary)
  vocabulary_lib.write_vocabulary(flags.output, vocabulary.tokens, counts)
  if vocabulary.size < flags.vocab_size:
    print(f'The text supports {vocabulary.size:,} tokens only, fewer than the '
          f'{flags.vocab_size:,} asked for. Give more text, or lower '
          '--min_frequency; models must be built for the smaller number.')
  unknown = counts[vocabulary.unk_id] / max(counts.sum(), 1)
  print(f'{flags.output}: {vocabulary.size:,} tokens\n'
        f'{vocabulary_lib.counts_path_for(flags.output)}: '
        f'{counts.sum():,} tokens counted, {unknown:.2%} unknown\n'
        f'{time.monotonic() - started:.1f} s')


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
      prog='build_vocab.py', description=_DESCRIPTION)
  add_source_flags(parser)
  parser.add_argument(
      '--output', required=True, help='Vocabulary file to write.')
  parser.add_argument(
      '--vocab_size', type=int, default=8192,
      help='Number of tokens, special tokens included. Default %(default)s.')
  parser.add_argument(
      '--min_frequency', type=int, default=2,
      help='Least number of times a merged pair occurs. Default %(default)s.')
  add_case_flag(parser)
  flags = parser.parse_args(arguments)
  if os.path.isdir(flags.output):
    raise errors.ConfigurationError(
        'The output must be a file. Received: '
        f'--output={flags.output}, a folder. Set --output.')
  return flags


def add_source_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say where text comes from."""
  group = parser.add_argument_group(
      'source', 'With neither --input nor --tfds_name, the documentation '
      'strings of the Python library and the installed packages.')
  group.add_argument(
      '--input', default='',
      help='Comma-separated globs of text files, plain or .gz; a blank line '
      'ends a document.')
  group.add_argument(
      '--tfds_name', default='', help='TensorFlow Datasets data set.')
  group.add_argument(
      '--tfds_split', default='train', help='Its split. Default %(default)s.')
  group.add_argument(
      '--tfds_text_feature', default='text',
      help='Its text feature. Default %(default)s.')
  group.add_argument(
      '--tfds_data_dir', default='', help='Folder of TensorFlow Datasets.')
  group.add_argument(
      '--held_out_documents', type=int, default=0,
      help='Leaves every n-th document out, for validation. Default 0: none.')


def add_case_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --lower_case and --no-lower_case."""
  parser.add_argument(
      '--lower_case', action=argparse.BooleanOptionalAction, default=True,
      help='Whether text is lower-cased and stripped of accents.')


def corpus_config(
    flags: argparse.Namespace) -> configs.PretrainingDataConfig:
  """Returns the data section that the source flags describe."""
  return configs.PretrainingDataConfig(
      is_training=True, input_path=flags.input, tfds_name=flags.tfds_name,
      tfds_split=flags.tfds_split if flags.tfds_name else '',
      tfds_text_feature=flags.tfds_text_feature,
      tfds_data_dir=flags.tfds_data_dir,
      held_out_documents=flags.held_out_documents)


@contextlib.contextmanager
def flags_in_messages() -> Iterator[None]:
  """Names flags instead of settings in the errors raised inside."""
  try:
    yield
  except errors.UserError as error:
    message = str(error)
    for setting, flag in (('vocabulary.path', '--vocab_file'),
                          ('vocabulary size', '--vocab_size'),
                          ('train_data.input_path', '--input'),
                          ('validation_data.input_path', '--input'),
                          ('train_data.', '--'), ('validation_data.', '--')):
      message = message.replace(setting, flag)
    raise type(error)(message) from error


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
