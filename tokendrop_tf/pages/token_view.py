"""Examples as a reader sees them: what each token is, and what it was."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tokendrop_tf import dropping, errors
from tokendrop_tf.run import checkpoints, run_folder
from tokendrop_tf.text import vocabulary as vocabulary_lib

_TABLE_KEY = '_token_importance/table/.ATTRIBUTES/VARIABLE_VALUE'

# What a label has in its place.
MASKED, RANDOM, KEPT = 'masked', 'random', 'kept'


@dataclasses.dataclass(frozen=True)
class TokenView:
  """One token of an example.

  Attributes:
    text: what the model reads.
    label: what it is to predict; '' for other tokens.
    fate: `MASKED`, `RANDOM` or `KEPT`; '' for other tokens.
    is_special: whether it is one of the special tokens.
    is_dropped: whether the middle layers pass it by.
    document: number of its segment, from 1; 0 where rows have none.
  """

  text: str
  label: str = ''
  fate: str = ''
  is_special: bool = False
  is_dropped: bool = False
  document: int = 0


@dataclasses.dataclass(frozen=True)
class Dropper:
  """The importance table of a run, and how the run drops by it.

  Attributes:
    table: float32 [V], in nats, pinned tokens at infinity.
    dropping: the run's dropping; if it samples, one sample of many is shown.
    checkpoint: where the table came from.
  """

  table: np.ndarray
  dropping: dropping.Dropping
  checkpoint: str

  @classmethod
  def of_run(
    cls, model_dir: str, words: vocabulary_lib.Vocabulary
  ) -> 'Dropper | None':
    """Reads the newest checkpoint of a pretraining run.

    Returns:
      `None` where the run drops without an importance table, or nothing.

    Raises:
      ConfigurationError: without a checkpoint, or for another vocabulary.
    """
    task = run_folder.load_params(model_dir).task
    drop, configured = task.token_drop, dropping.Dropping.of(task)
    if not configured.importance.has_scores:
      return None
    checkpoint = run_folder.require_whole_checkpoint(model_dir)
    table = read_table(checkpoint, words)
    table[list(words.ids_of(drop.always_keep_tokens))] = np.inf
    table[list(words.ids_of(drop.always_drop_tokens))] = -np.inf
    return cls(table, configured, checkpoint)

  @property
  def description(self) -> str:
    """Says in one line what is shown as dropped."""
    return (
      f'{self.checkpoint}, step {checkpoints.step_of(self.checkpoint):,}: '
      f'{self.dropping.keep_k} tokens of a sequence are kept, '
      f'{self.dropping.describe_choice()}'
    )

  def dropped(self, word_ids) -> np.ndarray:
    """Says which positions are dropped, bool [B, S], of ids int32 [B, S]."""
    scores = tf.gather(self.table, word_ids)
    return ~self.dropping.computed(scores, seed=(0, 0)).all(axis=0)


def read_table(checkpoint: str, words: vocabulary_lib.Vocabulary) -> np.ndarray:
  """Returns the importances in a checkpoint of a run, float32 [V], in nats.

  Raises:
    ConfigurationError: if they are of another vocabulary.
  """
  reader = tf.train.load_checkpoint(checkpoint)
  names = [
    name
    for name in reader.get_variable_to_shape_map()
    if name.endswith(_TABLE_KEY)
  ]
  table = np.array(reader.get_tensor(names[0])) if names else np.zeros([0])
  reference = names[0].replace('/table/', '/reference/') if names else ''
  if reader.has_tensor(reference):
    table = np.maximum(table - reader.get_tensor(reference), 0.0)
  if len(table) != words.size:
    raise errors.ConfigurationError(
      'The vocabulary must be the one of the run. Received: '
      f'{words.size:,} tokens in {words.path}, {len(table):,} in the table of '
      f'{checkpoint}. Set --vocab_file.'
    )
  return table


def views(
  features: dict[str, np.ndarray],
  words: vocabulary_lib.Vocabulary,
  dropper: Dropper | None = None,
) -> list[list[TokenView]]:
  """Returns the tokens of examples, without the padding at their end.

  Args:
    features: arrays [B, n] as training reads them.
    words: the vocabulary.
    dropper: marks what a run drops.
  """
  word_ids = features['input_word_ids']
  dropped = dropper.dropped(word_ids) if dropper else np.zeros_like(word_ids)
  return [
    _row_view({name: value[row] for name, value in features.items()}, words, d)
    for row, d in enumerate(dropped)
  ]


def _row_view(row, words, dropped) -> list[TokenView]:
  filled = row['masked_lm_weights'] > 0
  labels = dict(
    zip(
      row['masked_lm_positions'][filled].tolist(),
      row['masked_lm_ids'][filled].tolist(),
      strict=True,
    )
  )
  segments = row.get('segment_ids', np.zeros_like(row['input_mask']))
  return [
    _token_view(
      words, int(shown), labels.get(position), bool(is_dropped), int(segment)
    )
    for position, (shown, is_token, is_dropped, segment) in enumerate(
      zip(
        row['input_word_ids'],
        row['input_mask'],
        dropped,
        segments,
        strict=True,
      )
    )
    if is_token
  ]


def _token_view(words, shown, label, is_dropped, segment) -> TokenView:
  fate = ''
  if label is not None:
    fate = KEPT if shown == label else RANDOM
    fate = MASKED if shown == words.mask_id else fate
  return TokenView(
    text=words.tokens[shown],
    label='' if label is None else words.tokens[label],
    fate=fate,
    is_special=shown in words.special_ids,
    is_dropped=is_dropped,
    document=segment,
  )


def as_text(tokens: Sequence[TokenView], colors: bool) -> str:
  """Returns an example for the terminal, subwords joined to words.

  Args:
    tokens: the example.
    colors: dropped tokens are grey, special ones bold and labels inverse; else
      they stand between `~` and `~`, and labels in brackets.
  """
  parts = []
  for token in tokens:
    joins = token.text.startswith('##')
    text = token.text.removeprefix('##')
    if token.fate:
      text = f'[{token.text}={token.label}]'
      joins = False
    if colors:
      text = f'\033[{_color(token)}m{text}\033[0m'
    elif token.is_dropped:
      text = f'~{text}~'
    parts.append(text if joins else f' {text}')
  return ''.join(parts).strip()


def _color(token: TokenView) -> str:
  if token.is_dropped:
    return '90'
  if token.fate:
    return '7'
  return '1' if token.is_special else '0'
