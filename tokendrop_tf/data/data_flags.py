"""Flags that the commands on data share, and the settings they stand for."""

import argparse
import contextlib
import os
from collections.abc import Iterable, Iterator

from tokendrop_tf import configs, errors
from tokendrop_tf.data import documents

# Names in messages of the package, and what a command calls them.
_FLAG_OF_SETTING = (
  ('vocabulary.path', '--vocab_file'),
  ('vocabulary size', '--vocab_size'),
  ('train_data.input_path', '--input'),
  ('validation_data.input_path', '--input'),
  ('train_data.', '--'),
  ('validation_data.', '--'),
)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say where text comes from."""
  group = parser.add_argument_group(
    'source',
    'With neither --input nor --tfds_name, the documentation '
    'strings of the Python library and the installed packages.',
  )
  group.add_argument(
    '--input',
    default='',
    help='Comma-separated globs of files: text, in which a blank line ends a '
    'document, and .jsonl, either plain or .gz, and .parquet.',
  )
  group.add_argument(
    '--text_field',
    default='text',
    help='Of .jsonl the field, of .parquet the column, that is text. Default '
    '%(default)s.',
  )
  group.add_argument(
    '--skip_bad_text',
    action='store_true',
    help='Leaves out lines and rows that are not text, and says how many, '
    'instead of refusing their file.',
  )
  group.add_argument(
    '--allow_unknown_tokens',
    action='store_true',
    help='Reads text of which the vocabulary does not know most.',
  )
  group.add_argument(
    '--tfds_name', default='', help='TensorFlow Datasets data set.'
  )
  group.add_argument(
    '--tfds_split', default='train', help='Its split. Default %(default)s.'
  )
  group.add_argument(
    '--tfds_text_feature',
    default='text',
    help='Its text feature. Default %(default)s.',
  )
  group.add_argument(
    '--tfds_data_dir', default='', help='Folder of TensorFlow Datasets.'
  )
  group.add_argument(
    '--held_out_documents',
    type=int,
    default=0,
    help='Leaves every n-th document out, for validation. Default 0: none.',
  )


def add_vocabulary_flags(parser: argparse.ArgumentParser) -> None:
  """Adds --vocab_file and --lower_case."""
  parser.add_argument(
    '--vocab_file',
    required=True,
    help='Vocabulary, e.g. written by tools/build_vocab.py.',
  )
  add_case_flag(parser)


def add_case_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --lower_case and --no-lower_case."""
  parser.add_argument(
    '--lower_case',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='Whether text is lower-cased and stripped of accents.',
  )


def add_packing_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --packing."""
  parser.add_argument(
    '--packing',
    choices=configs.PACKINGS,
    default=configs.PACKINGS[0],
    help='How documents become sequences; see docs/data.md. Default '
    '%(default)s.',
  )


def add_masking_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --masking."""
  parser.add_argument(
    '--masking',
    choices=configs.DATA_MASKINGS,
    default=configs.DATA_MASKINGS[0],
    help='What is masked as one. Default %(default)s.',
  )


def add_beam_flags(parser: argparse.ArgumentParser) -> None:
  """Adds --beam_options and --beam_work_dir."""
  group = parser.add_argument_group(
    'Apache Beam', 'Needs: pip install tokendrop_tf[beam]'
  )
  group.add_argument(
    '--beam_options',
    help='Does the work by Apache Beam, with these options of its runner, '
    "e.g. '--runner=DirectRunner --direct_num_workers=4 "
    "--direct_running_mode=multi_processing'. The files are the same.",
  )
  group.add_argument(
    '--beam_work_dir',
    default='',
    help='Folder for files on the way, which all workers reach. By default '
    'beside the output.',
  )


def import_beam_pipeline():
  """Returns the module of the Beam pipelines.

  Raises:
    ConfigurationError: if Beam is not installed.
  """
  try:
    from tokendrop_tf.data import beam_pipeline
  except ImportError as error:
    raise errors.ConfigurationError(
      '--beam_options needs Apache Beam. Received: '
      f"{error}. Install it by pip install 'tokendrop_tf[beam]', or leave "
      '--beam_options unset.'
    ) from error
  return beam_pipeline


def beam_work_dir(flags: argparse.Namespace) -> str:
  """Returns the folder for files on the way."""
  if flags.beam_work_dir:
    return flags.beam_work_dir
  folder, name = os.path.split(flags.output)
  return os.path.join(folder, f'.{name}.beam')


def add_number_flags(
  parser: argparse.ArgumentParser, numbers: Iterable[tuple]
) -> None:
  """Adds a flag for each of (name, default value, help)."""
  for name, default, text in numbers:
    parser.add_argument(
      f'--{name}',
      type=type(default),
      default=default,
      help=f'{text} Default %(default)s.',
    )


def check_at_least(flags: argparse.Namespace, least: dict[str, float]) -> None:
  """Checks that numbers are not too small.

  Raises:
    ConfigurationError: for the first flag below its entry in `least`.
  """
  for name, minimum in least.items():
    if getattr(flags, name) < minimum:
      raise errors.ConfigurationError(
        f'--{name} must be at least {minimum}. Received: '
        f'{getattr(flags, name)}. Set --{name}.'
      )


def corpus_config(flags: argparse.Namespace) -> configs.PretrainingDataConfig:
  """Returns the data section that the source flags describe."""
  return configs.PretrainingDataConfig(
    is_training=True,
    input_path=flags.input,
    text_field=flags.text_field,
    skip_bad_text=flags.skip_bad_text,
    allow_unknown_tokens=flags.allow_unknown_tokens,
    tfds_name=flags.tfds_name,
    tfds_split=flags.tfds_split if flags.tfds_name else '',
    tfds_text_feature=flags.tfds_text_feature,
    tfds_data_dir=flags.tfds_data_dir,
    held_out_documents=flags.held_out_documents,
  )


@contextlib.contextmanager
def flags_in_messages() -> Iterator[None]:
  """Names flags instead of settings in the errors raised inside."""
  try:
    with errors.as_kept():
      yield
  except errors.UserError as error:
    message = str(error)
    for setting, flag in _FLAG_OF_SETTING:
      message = message.replace(setting, flag)
    raise type(error)(message) from error


def skipped_line() -> str:
  """Returns what to print about text that was left out; '' if none was."""
  skipped = documents.skipped()
  if not skipped:
    return ''
  worst = max(skipped, key=skipped.get)
  return (
    f'Left out as not text: {sum(skipped.values()):,} lines or rows of '
    f'{len(skipped)} files, most of them ({skipped[worst]:,}) of {worst}.'
  )
