"""Shows what a finished run drops, how it came to, and what dropping changes.

Letters: n sequences, S sequence length, V vocabulary, L layers, H hidden size.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence

from tokendrop_tf import command_line, files

# isort: split
import numpy as np
import tensorflow as tf

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import errors
from tokendrop_tf.dropping import Dropping
from tokendrop_tf.export import load_model
from tokendrop_tf.pages import markup, report, token_view, validation_text
from tokendrop_tf.run import checkpoints
from tokendrop_tf.text import vocabulary as vocabulary_lib

_DESCRIPTION = """Shows what a pretraining run has learnt to drop.

Writes one page: which kinds of tokens skip layers; how the ranking of tokens
moved from checkpoint to checkpoint; and, layer by layer, how far the hidden
states with and without dropping lie apart.

  %(prog)s --model_dir=runs/dropping --html=runs/dropping.html \\
      --words names=names.txt --words verbs=verbs.txt
"""

# Words of English that carry grammar more than content.
FUNCTION_WORDS = (
  'a an the this that these those he she it they we you i him her them us me '
  'his its their our your my and or but nor so yet if because although while '
  'when where who whom whose which what how than as of in on at by for with '
  'from to into onto over under between through during before after about '
  'against without within not no is are was were be been being am do does did '
  'have has had will would shall should can could may might must there here'
).split()
# Kinds that the token's text tells, in the order in which they are tried after
# the lists of words.
SUBWORDS, NUMBERS, MARKS, CAPITALS, OTHERS = (
  'pieces within words (##)',
  'numbers',
  'marks',
  'words with a capital letter',
  'other words',
)
_MOST_MOVED = 12
_ROWS_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of tokens.

  Attributes:
    name: its name.
    count: how often its tokens occur in the text that was read.
    dropped: share of these that skip a layer.
    importance: mean of their entries in the table, in nats.
  """

  name: str
  count: int
  dropped: float
  importance: float


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The ranking of the tokens at a checkpoint.

  Attributes:
    step: of the checkpoint.
    agreement: Spearman's rank correlation with the last checkpoint, over the
      ordinary tokens; NaN where the one table or the other has no order.
  """

  step: int
  agreement: float


def main(arguments: list[str]) -> None:
  """Reads a run and writes the page, as the flags say."""
  flags = _parse(arguments)
  loaded = load_model.load_model(flags.model_dir)
  task = loaded.params.task
  if loaded.masked_lm is None or not Dropping.of(task).drops:
    raise errors.ConfigurationError(
      '--model_dir must be a pretraining run that drops tokens. Received: '
      f'{flags.model_dir}, which does not. Set --model_dir.'
    )
  rows = validation_text.validation_rows(task)[: flags.num_rows]
  if not len(rows):
    raise errors.DataError(
      'The validation text of the run must fill a sequence. Received: '
      f'{flags.model_dir}, whose text is shorter. Set --model_dir.'
    )
  computed = computed_places(loaded, rows)
  kinds = kinds_of_tokens(loaded, rows, computed, _word_lists(flags.words))
  tables = tables_of_run(flags.model_dir, loaded.vocabulary)
  similarities = similarity_by_layer(loaded, rows, computed)
  files.write_whole_file(
    flags.html, _page(flags.model_dir, loaded, kinds, tables, similarities)
  )
  print(flags.html)


def computed_places(loaded: load_model.LoadedModel, rows) -> np.ndarray:
  """Returns which positions are computed, bool [L, n, S].

  Args:
    loaded: the model.
    rows: token ids, int32 [n, S].
  """
  scores = loaded.encoder.token_importance(tf.constant(rows))
  return Dropping.of(loaded.params.task).computed(scores, seed=(0, 0))


def kinds_of_tokens(
  loaded: load_model.LoadedModel,
  rows: np.ndarray,
  computed: np.ndarray,
  word_lists: Mapping[str, Sequence[str]],
) -> list[Kind]:
  """Returns which kinds of tokens are dropped, the most dropped first.

  Args:
    loaded: the model.
    rows: token ids, int32 [n, S].
    computed: as of `computed_places`.
    word_lists: words by the name of their kind, which come before the kinds
      that the text tells.
  """
  vocabulary = loaded.vocabulary
  names = np.array(
    [kind_of(token, word_lists) for token in vocabulary.tokens], object
  )
  names[list(vocabulary.special_ids)] = ''
  importances = loaded.encoder.token_importance.importances.numpy()
  dropped = ~computed.all(axis=0)
  found = []
  for name in dict.fromkeys(names[rows.ravel()]):
    here = names[rows] == name
    if name:
      found.append(
        Kind(
          name,
          int(here.sum()),
          float(dropped[here].mean()),
          float(importances[rows[here]].mean()),
        )
      )
  return sorted(found, key=lambda kind: -kind.dropped)


def kind_of(token: str, word_lists: Mapping[str, Sequence[str]]) -> str:
  """Returns the kind of a token.

  Example:
    kind_of('##ing', {})  # 'pieces within words (##)'
  """
  for name, words in word_lists.items():
    if token in words or token.lower() in words:
      return name
  if token.startswith('##'):
    return SUBWORDS
  if any(character.isdigit() for character in token):
    return NUMBERS
  if not any(character.isalpha() for character in token):
    return MARKS
  return CAPITALS if token[0].isupper() else OTHERS


def tables_of_run(
  model_dir: str, vocabulary: vocabulary_lib.Vocabulary
) -> dict[int, np.ndarray]:
  """Returns the table, float32 [V], at every checkpoint of a run, by step."""
  return {
    checkpoints.step_of(prefix): token_view.read_table(prefix, vocabulary)
    for prefix in reversed(checkpoints.prefixes(model_dir))
    if not checkpoints.damage(prefix)
  }


def rankings(
  tables: Mapping[int, np.ndarray], ordinary_ids: np.ndarray
) -> list[Ranking]:
  """Returns how the ranking of the tokens came to that of the last table.

  Args:
    tables: float [V] by step, in their order.
    ordinary_ids: the tokens that are ranked.
  """
  last = _ranks(list(tables.values())[-1][ordinary_ids])
  return [
    Ranking(step, _correlation(_ranks(table[ordinary_ids]), last))
    for step, table in tables.items()
  ]


def most_moved(
  tables: Mapping[int, np.ndarray], vocabulary: vocabulary_lib.Vocabulary
) -> list[tuple[str, int]]:
  """Returns tokens whose place moved most between first and last checkpoint.

  Returns:
    (token, places that it moved up), the largest moves first.
  """
  ids, values = vocabulary.ordinary_ids, list(tables.values())
  first, last = values[0], values[-1]
  moves = _ranks(last[ids]) - _ranks(first[ids])
  order = np.argsort(-abs(moves), kind='stable')[:_MOST_MOVED]
  return [(vocabulary.tokens[ids[i]], round(moves[i])) for i in order]


def _ranks(values) -> np.ndarray:
  """Returns the place of each value, lowest 0; equal values share the mean."""
  _, inverse, counts = np.unique(
    values, return_inverse=True, return_counts=True
  )
  ends = np.cumsum(counts)
  return ((ends - counts + ends - 1) / 2)[inverse]


def _correlation(first, second) -> float:
  first, second = first - first.mean(), second - second.mean()
  norm = np.sqrt((first**2).sum() * (second**2).sum())
  return float((first * second).sum() / norm) if norm else float('nan')


def similarity_by_layer(
  loaded: load_model.LoadedModel, rows: np.ndarray, computed: np.ndarray
) -> np.ndarray:
  """Compares the hidden states of the full and of the dropping pass.

  Args:
    loaded: the model.
    rows: token ids, int32 [n, S].
    computed: as of `computed_places`.

  Returns:
    float64 [L, 2], the mean cosine of the two states of a position: of the
    positions that every layer computes, and of all others.
  """
  encoder = encoder_lib.TokenDropBertEncoder.from_config(
    {**loaded.encoder.get_config(), 'return_all_encoder_outputs': True}
  )
  encoder(encoder.inputs)
  encoder.set_weights(loaded.encoder.get_weights())
  cosines = []
  for first in range(0, len(rows), _ROWS_AT_ONCE):
    ids = tf.constant(rows[first : first + _ROWS_AT_ONCE])
    features = {
      'input_word_ids': ids,
      'input_mask': tf.ones_like(ids),
      'input_type_ids': tf.zeros_like(ids),
    }
    full, dropping = (
      tf.stack(
        encoder(features, drop_tokens=drops, seed=tf.constant((0, 0)))[
          'encoder_outputs'
        ]
      )
      for drops in (False, True)
    )
    cosines.append(
      tf.reduce_sum(
        tf.nn.l2_normalize(full, axis=-1)
        * tf.nn.l2_normalize(dropping, axis=-1),
        axis=-1,
      ).numpy()
    )
  cosines = np.concatenate(cosines, axis=1)
  kept = computed.all(axis=0)
  return np.stack(
    [cosines[:, chosen].mean(axis=1) for chosen in (kept, ~kept)], axis=1
  )


def _page(model_dir, loaded, kinds, tables, similarities) -> str:
  vocabulary = loaded.vocabulary
  ordered = rankings(tables, vocabulary.ordinary_ids)
  return markup.page(
    'run',
    title=f'What {model_dir} drops',
    note=f'Tokens are dropped {Dropping.of(loaded.params.task).describe()}. '
    f'Read from {loaded.checkpoint} and validation text of the run.',
    kinds=report.text_table(
      [
        ('kind', 'in the text', 'dropped', 'mean importance'),
        *(
          (k.name, f'{k.count:,}', f'{k.dropped:.0%}', f'{k.importance:.2f}')
          for k in kinds
        ),
      ]
    ),
    rankings=report.text_table(
      [
        ('step', 'rank correlation with the last'),
        *((f'{r.step:,}', f'{r.agreement:.3f}') for r in ordered),
      ]
    ),
    moved=report.facts_table(
      [
        (token, f'{abs(places):,} places {"up" if places > 0 else "down"}')
        for token, places in most_moved(tables, vocabulary)
      ]
    ),
    similarities=report.text_table(
      [
        ('layer', 'kept', 'dropped'),
        *(
          (str(layer), f'{kept:.4f}', f'{dropped:.4f}')
          for layer, (kept, dropped) in enumerate(similarities, start=1)
        ),
      ]
    ),
  )


def _word_lists(pairs: Sequence[str]) -> dict[str, frozenset[str]]:
  """Returns the lists of words that --words names, then function words."""
  lists = {}
  for pair in pairs:
    name, _, path = pair.partition('=')
    if not path or not tf.io.gfile.exists(path):
      raise errors.ConfigurationError(
        '--words must be NAME=FILE, a file of one word a line. Received: '
        f'{pair!r}. Set --words.'
      )
    text = files.read_bytes(path).decode('utf-8', errors='replace')
    lists[name] = frozenset(text.lower().split('\n')) - {''}
  return {**lists, 'function words': frozenset(FUNCTION_WORDS)}


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = command_line.ArgumentParser(
    prog='inspect_run.py', description=_DESCRIPTION
  )
  parser.add_argument(
    '--model_dir', required=True, help='Folder of a pretraining run.'
  )
  parser.add_argument('--html', required=True, help='The page to write.')
  parser.add_argument(
    '--words',
    action='append',
    default=[],
    metavar='NAME=FILE',
    help='A kind of words of your own, one word a line; may be given again. '
    'Words of no list are told apart by their text.',
  )
  parser.add_number(
    '--num_rows', 128, 'Sequences of validation text to read.', least=1
  )
  return parser.parse_args(arguments)


def console_main() -> None:
  """Entry point of the installed command."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
