"""Validation text for the report: passages, and sentences with a [MASK].

Letters: S sequence length, V vocabulary.
"""

import numpy as np
import tensorflow as tf

from tokendrop_tf import dropping
from tokendrop_tf.data import loader, unmasking
from tokendrop_tf.export import load_model
from tokendrop_tf.text import vocabulary as vocabulary_lib

NUM_PASSAGES = 5
NUM_SENTENCES = 2
_ROWS_TO_CHOOSE_FROM = 200


def validation_rows(task) -> np.ndarray:
  """Returns unpadded rows of validation text without its masks, int32 [n, S].

  Args:
    task: a `configs.PretrainingTaskConfig`.
  """
  rows = []
  for batch in loader.load_dataset(task.validation_data, task.vocabulary):
    batch = {name: tensor.numpy() for name, tensor in batch.items()}
    rows += list(unmasking.unmask(batch)[batch['input_mask'].all(axis=1)])
    if len(rows) >= _ROWS_TO_CHOOSE_FROM:
      break
  return np.array(rows, np.int32).reshape([-1, task.validation_data.seq_length])


def passages(
  trained: load_model.LoadedModel, rows: np.ndarray
) -> list[list[tuple[str, bool]]]:
  """Returns passages of text with the tokens that the model would keep.

  Args:
    trained: a model with an importance table.
    rows: int32 [n, S].

  Returns:
    (token, whether it is kept) each, by passage.
  """
  chosen = rows[_spread(len(rows), NUM_PASSAGES)]
  scores = trained.encoder.token_importance(tf.constant(chosen))
  computed = dropping.Dropping.of(trained.params.task).computed(
    scores, seed=(0, 0), ranked=True
  )
  vocabulary = trained.vocabulary
  hidden = {vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id}
  return [
    [
      (vocabulary.tokens[index], bool(is_kept))
      for index, is_kept in zip(ids, kept)
      if index not in hidden
    ]
    for ids, kept in zip(chosen, computed.all(axis=0))
  ]


def _spread(length: int, count: int) -> np.ndarray:
  """Returns at most `count` indices evenly spread over `length`."""
  return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))


def masked_sentences(
  vocabulary: vocabulary_lib.Vocabulary, rows: np.ndarray, counts: np.ndarray
) -> list[tuple[str, str]]:
  """Takes sentences from validation text and masks one word of each.

  The word is a whole one inside a sentence, the most frequent of at least four
  letters, so that a short training has a chance to know it. Text without such
  words has its most frequent token masked.

  Args:
    vocabulary: the vocabulary.
    rows: validation text, int32 [n, S].
    counts: of every token, int64 [V].

  Returns:
    At most `NUM_SENTENCES` pairs of text and the token that was masked.
  """
  found = (
    _mask_a_word(vocabulary, _sentence(vocabulary, row), counts)
    for row in rows[_spread(len(rows), 20)]
  )
  return [pair for pair in found if pair][:NUM_SENTENCES]


def _sentence(vocabulary, row) -> list[int]:
  """Returns the first whole sentence of 8 to 30 tokens, or the first 24."""
  special = set(vocabulary.special_ids)
  begin = None
  for place, index in enumerate(row):
    if index not in special and vocabulary.tokens[index] not in '.!?\u3002':
      continue
    if begin is not None and 8 <= place + 1 - begin <= 30:
      return [int(i) for i in row[begin : place + 1] if i not in special]
    begin = place + 1
  return [int(i) for i in row if i not in special][:24]


def _mask_a_word(vocabulary, ids, counts) -> tuple[str, str] | None:
  tokens = [vocabulary.tokens[i] for i in ids]
  if len(tokens) < 3:
    return None

  def preference(place):
    token = tokens[place]
    is_whole = not (
      token.startswith('##') or tokens[place + 1].startswith('##')
    )
    is_word = is_whole and token.isalpha()
    return (
      is_word and len(token) > 3,
      is_word,
      is_whole,
      counts[ids[place]],
      -place,
    )

  place = max(range(1, len(ids) - 1), key=preference)
  masked = ids[:place] + [vocabulary.mask_id] + ids[place + 1 :]
  return vocabulary.detokenize(masked), tokens[place]
