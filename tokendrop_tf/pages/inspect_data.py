"""Shows examples and a summary of training data, on the terminal or a page."""

import argparse
import functools
import itertools
import sys

from tokendrop_tf import command_line, files

# isort: split
from tokendrop_tf import errors
from tokendrop_tf.config import configs, experiments
from tokendrop_tf.data import data_flags, loader, packing_report
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.shards import data_files
from tokendrop_tf.pages import (
  data_summary,
  inspect_page,
  token_view,
)
from tokendrop_tf.run import run_folder
from tokendrop_tf.text import vocabulary as vocabulary_lib

_DESCRIPTION = """Shows what a model is trained on.

Prints examples with their special tokens and their labels, [MASK=word], and a
summary: documents, tokens, unknown tokens, lengths, frequent tokens, masks,
packings. With --model_dir, data, vocabulary and settings are those of the run,
unless a flag says otherwise, and the tokens that its importance table drops are
grey.

  %(prog)s --input='wiki/*.txt.gz' --vocab_file=runs/vocab.txt
  %(prog)s --model_dir=runs/wikipedia --html=runs/wiki.html
"""

_EXAMPLES = data_flags.example_flags(
  'packing',
  'masking',
  'seq_length',
  'max_predictions_per_seq',
  'mask_rate',
  'seed',
)
_BATCH = 64


def main(arguments: list[str]) -> None:
  """Prints examples and a summary, as the flags say."""
  flags = _parse(arguments)
  with data_flags.flags_in_messages():
    config = _config(flags)
    vocabulary = data_flags.vocabulary_config(flags)
    loader.check_dataset(config, vocabulary)
    words = vocabulary_lib.Vocabulary.of(vocabulary)
    dropper = (
      token_view.Dropper.of_run(flags.model_dir, words)
      if flags.model_dir
      else None
    )
    summary, examples = _read(flags, config, vocabulary, words, dropper)
    packing = _packing(config, vocabulary)
  dropped_note = dropper.description if dropper else ''
  _print(summary, words, examples, dropped_note, packing)
  if flags.html:
    title = f'The data of {_source(config)}'
    notes = [f'Vocabulary: {vocabulary.path}, {words.size:,} tokens']
    text = inspect_page.page(
      title, notes, summary, words, examples, dropped_note, packing
    )
    files.write_whole_file(flags.html, text)
    print(f'\n{flags.html}')


def _source(config) -> str:
  paths = data_files.of(config).paths
  if not paths:
    return corpus_lib.open_corpus(config).name
  more = f' and {len(paths) - 1} more' if len(paths) > 1 else ''
  return f'{paths[0]}{more}'


def _read(flags, config, vocabulary, words, dropper):
  """Returns the summary and the examples to show."""
  if data_files.of(config).form != data_files.TEXT:
    summary = data_summary.of_examples(words)
  else:
    corpus = corpus_lib.open_corpus(config)
    summary = data_summary.of_text(corpus, words, flags.max_megabytes * 10**6)
  shown = []
  batches = loader.load_dataset(config, vocabulary).as_numpy_iterator()
  most = -(-max(flags.max_examples, flags.examples) // _BATCH)
  for batch in itertools.islice(batches, most):
    real = batch['input_mask'].any(axis=1)
    batch = {name: value[real] for name, value in batch.items()}
    data_summary.add_examples(summary, batch, words)
    missing = flags.examples - len(shown)
    if missing > 0:
      head = {name: value[:missing] for name, value in batch.items()}
      shown += token_view.views(head, words, dropper)
  return summary, shown


def _packing(config, vocabulary) -> str:
  if data_files.of(config).form != data_files.TEXT:
    return ''
  reports = packing_report.report_packings(config, vocabulary)
  return packing_report.format_reports(reports, config.packing)


def _print(summary, words, examples, dropped_note, packing) -> None:
  colors = sys.stdout.isatty()
  print(summary.as_text(words))
  if packing:
    print(f'\n{packing}')
  if dropped_note:
    how = 'grey' if colors else 'between ~ and ~'
    print(f'\nDropped tokens are {how}: {dropped_note}.')
  for number, tokens in enumerate(examples, start=1):
    print(f'\nExample {number}, {len(tokens)} tokens:')
    print(token_view.as_text(tokens, colors))


def _config(flags) -> configs.PretrainingDataConfig:
  return data_flags.data_config(
    flags,
    _EXAMPLES,
    # Shuffled as in training, so that examples are of several documents.
    num_epochs=1,
    drop_remainder=False,
    global_batch_size=_BATCH,
  )


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='inspect_data.py', description=_DESCRIPTION
  )
  data_flags.add_source_flags(parser)
  data_flags.add_vocabulary_flags(parser, is_required=False)
  _EXAMPLES.add_to(parser)
  for flag, default, least, text in (
    ('--examples', 3, 0, 'Number of examples to show.'),
    ('--max_megabytes', 64, 1, 'Text that the summary reads, about.'),
    ('--max_examples', 2048, 1, 'Examples that the summary reads.'),
  ):
    parser.add_number(flag, default, text, least)
  parser.add_argument(
    '--model_dir',
    default='',
    help='Folder of a run: its data, vocabulary and settings are taken, and '
    'the tokens that its importance table drops are shown.',
  )
  parser.add_argument(
    '--html', default='', help='Writes a page with the same contents.'
  )
  flags = parser.parse_args(arguments)
  if flags.model_dir:
    _take_from_run(flags, _given(parser, arguments))
  if not flags.vocab_file:
    raise errors.ConfigurationError(
      'A vocabulary must be named. Received: none. Set --vocab_file, or '
      '--model_dir to a run that has one.'
    )
  return flags


def _given(parser, arguments) -> set[str]:
  """Returns the names of the flags that were typed."""
  unset = object()
  names = vars(parser.parse_args(arguments))
  flags = parser.parse_args(
    arguments, argparse.Namespace(**dict.fromkeys(names, unset))
  )
  return {name for name, value in vars(flags).items() if value is not unset}


def _take_from_run(flags, given):
  if not run_folder.has_configuration(flags.model_dir):
    raise errors.ConfigurationError(
      '--model_dir must be the folder of a run. Received: '
      f'{flags.model_dir}, without params.yaml. Set --model_dir.'
    )
  task = run_folder.load_params(flags.model_dir, experiments.PRETRAINING).task
  data_flags.take_from_run(flags, given, task, _EXAMPLES)


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
