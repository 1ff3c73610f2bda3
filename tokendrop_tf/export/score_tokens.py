"""The command that writes a score for every token; see `main`.

Letters: B batch, S sequence length, P prediction slots, V vocabulary, N
documents, C labels.
"""

import argparse
import copy
import math
from collections.abc import Iterable, Iterator, Sequence

from tokendrop_tf import command_line, errors

# isort: split
import numpy as np
import tensorflow as tf

from tokendrop_tf import layers
from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.data import loader, unmasking
from tokendrop_tf.dropping import by_frequency
from tokendrop_tf.export import load_model
from tokendrop_tf.finetuning import sentence_data, table_files
from tokendrop_tf.text import token_scores
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import load_weights

_DESCRIPTION = """Writes a score for every token of a vocabulary.

token_drop.policy = 'scores' with token_drop.scores_path keeps the tokens of
high scores. --method says what the scores are:

  frequency           rarity in the corpus, -log p in nats, from the counts next
                      to --vocab_file; as token_drop.policy = 'frequency'
  mutual_information  how much a word tells of the label, in bits, from
                      --labelled_text
  masked_lm_loss      mean loss, in nats, where a trained model (--model_dir)
                      has to guess the token, each place of the text in turn
  run_table           the importance table of a run (--model_dir)

  %(prog)s --method=frequency --vocab_file=vocab.txt --output=scores.tsv
"""
# Of masked LM: every seventh token is asked for at once, as about 15 % are.
_STRIDE = 7


def main(arguments: list[str]) -> None:
  """Computes the scores and writes their file, as the flags say."""
  flags = _parse(arguments)
  vocabulary, scores = METHODS[flags.method](flags)
  token_scores.write_token_scores(flags.output, vocabulary, scores)
  ids = vocabulary.ordinary_ids[np.argsort(scores[vocabulary.ordinary_ids])]
  ends = [
    ', '.join(f'{vocabulary.tokens[i]} {scores[i]:.4g}' for i in part)
    for part in (ids[:5], ids[::-1][:5])
  ]
  print(
    f'{flags.output}: {vocabulary.size:,} scores\n'
    f'dropped first  {ends[0]}\nkept longest   {ends[1]}'
  )


def _frequency(flags):
  vocabulary = _vocabulary(flags)
  counts = vocabulary_lib.read_token_counts(
    vocabulary_lib.counts_path_for(flags.vocab_file), vocabulary
  )
  return vocabulary, by_frequency.unigram_surprisal(counts).numpy()


def _mutual_information(flags):
  vocabulary = _vocabulary(flags)
  _require(flags, 'labelled_text')
  glue = finetuning_configs.GlueConfig(
    task='custom',
    text_column=flags.text_column,
    label_column=flags.label_column,
  )
  source = table_files.Source(flags.labelled_text)
  layout = sentence_data.layout_of
  glue.label_names = table_files.distinct_labels(
    source, layout(glue), '--labelled_text'
  )
  rows = table_files.read(source, layout(glue), '--labelled_text')
  documents = vocabulary.tokenizer().tokenize(rows.texts).to_list()
  scores = mutual_information(documents, rows.labels, vocabulary.size)
  scores[list(vocabulary.special_ids)] = 0.0
  return vocabulary, scores


def mutual_information(
  documents: Sequence[Sequence[int]], labels: Sequence[int], vocab_size: int
) -> np.ndarray:
  """Returns how much it tells of a label whether a document has a token.

  With x, y in {0, 1}, whether token v is in a document and whether its label is
  c, and the four counts of each (v, c) begun at 1:

      MI(v; c) = sum over x, y of p(x, y) log2(p(x, y) / (p(x) p(y)))
      MI(v) = sum over c of p(c) MI(v; c)

  Args:
    documents: token ids of each, N in all.
    labels: of each, from 0 to C - 1.
    vocab_size: V.

  Returns:
    float64 [V], in bits.
  """
  labels = np.asarray(labels)
  num_labels = labels.max() + 1
  present = np.zeros([num_labels, vocab_size])
  for ids, label in zip(documents, labels, strict=True):
    present[label, np.unique(np.array(ids, int))] += 1
  of_label = np.bincount(labels, minlength=num_labels)[:, np.newaxis]
  of_token = present.sum(axis=0)
  neither = len(labels) - of_label - of_token + present
  joint = np.array(
    [[neither, of_label - present], [of_token - present, present]]
  )
  joint = (joint + 1) / (len(labels) + 4)  # [x, y, C, V]
  independent = joint.sum(axis=0, keepdims=True) * joint.sum(
    axis=1, keepdims=True
  )
  by_label = (joint * np.log2(joint / independent)).sum(axis=(0, 1))
  return (of_label / len(labels) * by_label).sum(axis=0)


def _masked_lm_loss(flags):
  _require(flags, 'model_dir')
  loaded = load_model.load_model(flags.model_dir)
  if loaded.masked_lm is None:
    raise errors.ConfigurationError(
      '--method=masked_lm_loss needs a run of pretraining. Received: '
      f'--model_dir={flags.model_dir}, which is of {loaded.kind}. Set '
      '--model_dir.'
    )
  task = loaded.params.task
  data = copy.deepcopy(task.validation_data)
  if flags.input:
    data.override(
      {'input_path': flags.input, 'tfds_name': '', 'held_out_documents': 0}
    )
  num_batches = math.ceil(flags.num_rows / data.global_batch_size)
  batches = loader.load_dataset(data, task.vocabulary).take(num_batches)
  return loaded.vocabulary, masked_lm_loss(loaded, batches)


def masked_lm_loss(
  loaded: load_model.LoadedModel, batches: Iterable
) -> np.ndarray:
  """Returns the mean loss of every token where it is hidden by [MASK].

  Every ordinary token of the text is hidden once, each seventh place at a time,
  on full sequences. Tokens that do not occur get the highest of the means: as
  far as is known, they are the hardest. Special tokens get 0.

  Args:
    loaded: a pretrained model.
    batches: features of the data loader; their own masks are taken off.

  Returns:
    float64 [V], in nats.
  """
  vocabulary = loaded.vocabulary
  sums = np.zeros([2, vocabulary.size])

  @tf.function
  def losses_of(features):
    outputs = loaded.model(features, training=False, drop_tokens=False)
    return layers.label_loss(outputs['mlm_logits'], features['masked_lm_ids'])[
      0
    ]

  for batch in batches:
    for features in _passes(batch, vocabulary):
      weights = features['masked_lm_weights'].numpy().ravel()
      ids = features['masked_lm_ids'].numpy().ravel()
      losses = losses_of(features).numpy().ravel()
      for row, values in enumerate((weights * losses, weights)):
        sums[row] += np.bincount(ids, values, minlength=vocabulary.size)
  means = sums[0] / np.maximum(sums[1], 1)
  scores = np.where(sums[1] > 0, means, means.max())
  scores[list(vocabulary.special_ids)] = 0.0
  return scores


def _passes(batch, vocabulary) -> Iterator[dict[str, tf.Tensor]]:
  """Yields the batch with other ordinary tokens hidden each time."""
  ids = unmasking.unmask({name: item.numpy() for name, item in batch.items()})
  ordinary = np.isin(ids, vocabulary.ordinary_ids)
  for first in range(_STRIDE):
    # The same P for each: places beyond the end have no weight.
    places = first + _STRIDE * np.arange(math.ceil(ids.shape[1] / _STRIDE))
    is_there = places < ids.shape[1]
    places = np.where(is_there, places, 0)
    weights = ordinary[:, places] & is_there
    masked = ids.copy()
    masked[:, places] = np.where(weights, vocabulary.mask_id, ids[:, places])
    yield {
      **batch,
      'input_word_ids': tf.constant(masked),
      'masked_lm_positions': tf.constant(
        np.broadcast_to(places, weights.shape), tf.int32
      ),
      'masked_lm_ids': tf.constant(ids[:, places]),
      'masked_lm_weights': tf.constant(weights, tf.float32),
    }


def _run_table(flags):
  _require(flags, 'model_dir')
  return load_weights.read_importance_table(flags.model_dir, '--model_dir')


METHODS = {
  'frequency': _frequency,
  'mutual_information': _mutual_information,
  'masked_lm_loss': _masked_lm_loss,
  'run_table': _run_table,
}


def _vocabulary(flags):
  _require(flags, 'vocab_file')
  return vocabulary_lib.Vocabulary.from_file(flags.vocab_file)


def _require(flags, name):
  if not getattr(flags, name):
    raise errors.ConfigurationError(
      f'--method={flags.method} needs --{name}. Received: none. Set --{name}.'
    )


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='score_tokens.py', description=_DESCRIPTION
  )
  parser.add_argument(
    '--method', required=True, choices=METHODS, help='Meaning of the scores.'
  )
  parser.add_argument('--output', required=True, help='File to write.')
  parser.add_argument(
    '--vocab_file',
    default='',
    help='Vocabulary of frequency and mutual_information; the other methods '
    'take that of the run.',
  )
  parser.add_argument(
    '--labelled_text',
    default='',
    help='Of mutual_information: comma-separated .tsv or .jsonl files.',
  )
  parser.add_argument(
    '--text_column', default='text', help='Its text. Default %(default)s.'
  )
  parser.add_argument(
    '--label_column', default='label', help='Its label. Default %(default)s.'
  )
  parser.add_argument(
    '--model_dir', default='', help='Run of masked_lm_loss and run_table.'
  )
  parser.add_argument(
    '--input',
    default='',
    help='Text of masked_lm_loss; by default the validation text of the run.',
  )
  parser.add_number(
    '--num_rows', 1024, 'Sequences of it that are read, at most.', least=1
  )
  return parser.parse_args(arguments)


def console_main() -> None:
  """Entry point of the installed command."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
