"""The command that shows examples of a data source; see `main`."""

import argparse
import itertools
import sys

from tokendrop_tf import command_line

# isort: split
from tokendrop_tf import configs, errors, run_folder
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import (
  data_flags,
  data_summary,
  inspect_page,
  loader,
  packing_report,
  records,
  token_view,
)
from tokendrop_tf.data import vocabulary as vocabulary_lib

_DESCRIPTION = """Shows what a model is trained on.

Prints examples with their special tokens and their labels, [MASK=word], and a
summary: documents, tokens, unknown tokens, lengths, frequent tokens, masks,
packings. With --model_dir, what the run's importance table drops is grey.

  %(prog)s --input='wiki/*.txt.gz' --vocab_file=runs/vocab.txt
  %(prog)s --input='runs/wiki-*.tfrecord' --vocab_file=runs/vocab.txt \\
      --model_dir=runs/wikipedia --html=runs/wiki.html
"""

_NUMBERS = (
  ('examples', 3, 'Number of examples to show.'),
  ('seq_length', 512, 'S, tokens of an example.'),
  ('max_predictions_per_seq', 76, 'P, labels of an example at most.'),
  ('mask_rate', 0.15, 'Share of the ordinary tokens that are labels.'),
  ('seed', 0, 'Seed of the order and the masks.'),
  ('max_megabytes', 64, 'Text that the summary reads, about.'),
  ('max_examples', 2048, 'Examples that the summary reads.'),
)
_BATCH = 64


def main(arguments: list[str]) -> None:
  """Prints examples and a summary, as the flags say."""
  flags = _parse(arguments)
  with data_flags.flags_in_messages():
    config = _config(flags)
    vocabulary = configs.VocabularyConfig(
      path=flags.vocab_file, lower_case=flags.lower_case
    )
    loader.check_dataset(config, vocabulary)
    words = vocabulary_lib.Vocabulary.from_file(
      vocabulary.path, vocabulary.lower_case
    )
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
    vocabulary_lib.write_whole_file(flags.html, text)
    print(f'\n{flags.html}')


def _source(config) -> str:
  files = records.record_files(config)
  if not files:
    return corpus_lib.open_corpus(config).name
  more = f' and {len(files) - 1} more' if len(files) > 1 else ''
  return f'{files[0]}{more}'


def _read(flags, config, vocabulary, words, dropper):
  """Returns the summary and the examples to show."""
  if records.record_files(config):
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
  if records.record_files(config):
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
  return data_flags.corpus_config(flags).replace(
    # Shuffled as in training, so that the examples are not all of one document.
    is_training=True,
    num_epochs=1,
    drop_remainder=False,
    global_batch_size=_BATCH,
    packing=flags.packing,
    masking=flags.masking,
    seq_length=flags.seq_length,
    max_predictions_per_seq=flags.max_predictions_per_seq,
    mask_rate=flags.mask_rate,
    seed=flags.seed,
  )


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='inspect_data.py', description=_DESCRIPTION
  )
  data_flags.add_source_flags(parser)
  data_flags.add_vocabulary_flags(parser)
  data_flags.add_packing_flag(parser)
  data_flags.add_masking_flag(parser)
  data_flags.add_number_flags(parser, _NUMBERS)
  parser.add_argument(
    '--model_dir',
    default='',
    help='Folder of a run: what its importance table drops is shown.',
  )
  parser.add_argument(
    '--html', default='', help='Writes a page with the same contents.'
  )
  flags = parser.parse_args(arguments)
  data_flags.check_at_least(
    flags, {'examples': 0, 'max_megabytes': 1, 'max_examples': 1}
  )
  if flags.model_dir and not run_folder.has_configuration(flags.model_dir):
    raise errors.ConfigurationError(
      '--model_dir must be the folder of a run. Received: '
      f'{flags.model_dir}, without params.yaml. Set --model_dir.'
    )
  return flags


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
