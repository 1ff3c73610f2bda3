"""The command that trains a vocabulary; see `main`."""

import argparse
import functools
import os
import time

from tokendrop_tf import command_line, errors

# isort: split
import tensorflow as tf

from tokendrop_tf.data import checks, data_flags
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.read import sampling
from tokendrop_tf.text import tokenization, vocabulary_training
from tokendrop_tf.text import vocabulary as vocabulary_lib

_DESCRIPTION = """Trains a WordPiece vocabulary and counts its tokens.

Writes OUTPUT, one token a line, and next to it OUTPUT's name with .counts.tsv,
lines of token<TAB>count, and with .tokenizer_config.json, its letter case and
accents, which all tools read there. The same text gives the same files.

  %(prog)s --input='wiki/*.txt.gz' --vocab_size=8192 --output=runs/vocab.txt
"""


def main(arguments: list[str]) -> None:
  """Trains, counts, and writes a vocabulary, as the flags say."""
  flags = _parse(arguments)
  started = time.monotonic()
  with data_flags.flags_in_messages():
    config = data_flags.data_config(flags)
    checks.check_text(config)
    vocabulary, counts = _train(config, flags)
  vocabulary_lib.write_vocabulary(flags.output, vocabulary, counts)
  if vocabulary.size < flags.vocab_size:
    print(
      f'The text supports {vocabulary.size:,} tokens only, fewer than the '
      f'{flags.vocab_size:,} asked for. Give more text, or lower '
      '--min_frequency; models must be built for the smaller number.'
    )
  unknown = counts[vocabulary.unk_id] / max(counts.sum(), 1)
  if warning := sampling.markup_warning(vocabulary.tokens, counts):
    print(warning)
  if skipped := data_flags.skipped_line():
    print(skipped)
  print(
    f'{flags.output}: {vocabulary.size:,} tokens\n'
    f'{vocabulary_lib.counts_path_for(flags.output)}: '
    f'{counts.sum():,} tokens counted, {unknown:.2%} unknown\n'
    f'{time.monotonic() - started:.1f} s'
  )


def _train(config, flags):
  """Returns the vocabulary and its token counts."""
  corpus = corpus_lib.open_corpus(config)
  share = flags.sample_megabytes * 1e6 / max(corpus.num_bytes(), 1)
  if share < 1:
    print(f'Training on {share:.1%} of the documents, counting in all.')
  if flags.beam_options is not None:
    return _train_by_beam(config, flags, share)
  vocabulary = vocabulary_training.train_vocabulary(
    sampling.documents(corpus, share),
    flags.vocab_size,
    _settings(flags),
    flags.min_frequency,
  )
  counts = vocabulary_training.count_tokens(corpus.documents(), vocabulary)
  return vocabulary, counts


def _settings(flags):
  """Returns the tokenisation that the vocabulary is made for."""
  lower_case = flags.lower_case is not False
  strip_accents = flags.strip_accents
  return tokenization.TokenizationSettings(
    lower_case, lower_case if strip_accents is None else strip_accents
  )


def _train_by_beam(config, flags, share):
  folder = data_flags.beam_work_dir(flags)
  pipeline = data_flags.import_beam_pipeline()
  tf.io.gfile.makedirs(folder)
  try:
    return pipeline.build_vocabulary(
      config,
      folder,
      flags.vocab_size,
      share,
      _settings(flags),
      flags.min_frequency,
      flags.beam_options,
    )
  finally:
    tf.io.gfile.rmtree(folder)


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='build_vocab.py', description=_DESCRIPTION
  )
  data_flags.add_source_flags(parser)
  parser.add_argument(
    '--output', required=True, help='Vocabulary file to write.'
  )
  parser.add_argument(
    '--vocab_size',
    type=int,
    default=8192,
    help='Number of tokens, special tokens included. Default %(default)s.',
  )
  parser.add_argument(
    '--min_frequency',
    type=int,
    default=2,
    help='Least number of times a merged pair occurs. Default %(default)s.',
  )
  parser.add_number(
    '--sample_megabytes',
    256,
    'Trains on about so much text: a sample of the documents, the same each '
    'time.',
    least=1,
  )
  data_flags.add_case_flag(parser)
  parser.add_argument(
    '--strip_accents',
    action=argparse.BooleanOptionalAction,
    default=None,
    help='Strips accents. By default where text is lower-cased.',
  )
  data_flags.add_beam_flags(parser)
  flags = parser.parse_args(arguments)
  if os.path.isdir(flags.output):
    raise errors.ConfigurationError(
      'The output must be a file. Received: '
      f'--output={flags.output}, a folder. Set --output.'
    )
  return flags


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
