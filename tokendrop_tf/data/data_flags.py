"""Flags that the commands on data share, made from declarations of settings."""

import argparse
import contextlib
import os
from collections.abc import Iterator

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.config.setting_flags import SettingFlags
from tokendrop_tf.data.read import documents

# Names in messages of the package, and what a command calls them.
_FLAG_OF_SETTING = (
  ('vocabulary.path', '--vocab_file'),
  ('vocabulary size', '--vocab_size'),
  ('train_data.input_path', '--input'),
  ('validation_data.input_path', '--input'),
  ('train_data.', '--'),
  ('validation_data.', '--'),
)


_SOURCE = SettingFlags(
  configs.PretrainingDataConfig,
  [
    'input_path',
    'text_field',
    'document_per_line',
    'skip_bad_text',
    'allow_unknown_tokens',
    'tfds_name',
    'tfds_split',
    'tfds_text_feature',
    'tfds_data_dir',
    'held_out_documents',
  ],
  renamed={'input_path': 'input'},
)
_CASE = SettingFlags(configs.VocabularyConfig, ['lower_case'])
_VOCABULARY = SettingFlags(
  configs.VocabularyConfig, ['path'], renamed={'path': 'vocab_file'}
)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say where text comes from."""
  group = parser.add_argument_group(
    'source',
    'With neither --input nor --tfds_name, the documentation strings of the '
    'Python library and the installed packages.',
  )
  _SOURCE.add_to(group)


def add_vocabulary_flags(
  parser: argparse.ArgumentParser, is_required: bool = True
) -> None:
  """Adds --vocab_file and --lower_case."""
  _VOCABULARY.add_to(parser, required=['path'] if is_required else [])
  add_case_flag(parser)


def add_case_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --lower_case and --no-lower_case."""
  _CASE.add_to(parser)


def example_flags(*names: str, **defaults) -> SettingFlags:
  """Returns flags for settings of examples, such as 'seq_length'.

  Args:
    *names: names of settings of `PretrainingDataConfig`.
    **defaults: defaults that are not those of training.
  """
  return SettingFlags(
    configs.PretrainingDataConfig,
    names,
    defaults=defaults,
    # The importance table of a run is not there to choose by.
    choices={'masking': configs.DATA_MASKINGS},
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
    'next to the output.',
  )


def import_beam_pipeline():
  """Returns the module of the Beam pipelines.

  Raises:
    ConfigurationError: if Beam is not installed.
  """
  try:
    from tokendrop_tf.data.shards import beam_pipeline
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


def data_config(
  flags: argparse.Namespace, *examples: SettingFlags, **others
) -> configs.PretrainingDataConfig:
  """Returns the data section that the flags describe.

  Args:
    flags: with the source flags.
    *examples: the flags of examples among them.
    **others: settings that no flag stands for.

  Raises:
    ConfigurationError: naming the first flag that is out of range.
  """
  values = {'is_training': True, **_SOURCE.values(flags)}
  if not flags.tfds_name:
    values['tfds_split'] = ''
  for setting_flags in examples:
    values.update(setting_flags.values(flags))
  return configs.PretrainingDataConfig(**{**values, **others})


def take_from_run(
  flags: argparse.Namespace, given: set[str], task, examples: SettingFlags
) -> None:
  """Gives flags that were not typed the values that a run has.

  Args:
    flags: with source, vocabulary and example flags; changed in place.
    given: names of the flags that were typed.
    task: the run's `configs.PretrainingTaskConfig`.
    examples: the flags of examples.
  """
  sections = [
    (_VOCABULARY, task.vocabulary),
    (_CASE, task.vocabulary),
    (examples, task.train_data),
  ]
  if not given & {'input', 'tfds_name'}:  # Else the run's source is not meant.
    sections.append((_SOURCE, task.train_data))
  for setting_flags, section in sections:
    for flag, value in setting_flags.flag_values(section).items():
      if flag not in given:
        setattr(flags, flag, value)


def vocabulary_config(flags: argparse.Namespace) -> configs.VocabularyConfig:
  """Returns the vocabulary section that the flags describe."""
  return configs.VocabularyConfig(
    **_VOCABULARY.values(flags), **_CASE.values(flags)
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
  """Returns what to print about omitted text; '' if none was."""
  skipped = documents.skipped()
  if not skipped:
    return ''
  worst = max(skipped, key=skipped.get)
  return (
    f'Left out as not text: {sum(skipped.values()):,} lines or rows of '
    f'{len(skipped)} files, most of them ({skipped[worst]:,}) of {worst}.'
  )
