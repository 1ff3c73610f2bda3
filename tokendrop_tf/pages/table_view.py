"""The importance table of a run as the report shows it.

Letter: V vocabulary.
"""

import dataclasses

import numpy as np

from tokendrop_tf import dropping
from tokendrop_tf.export import load_model
from tokendrop_tf.pages import report
from tokendrop_tf.text import vocabulary as vocabulary_lib

NUM_LISTED_TOKENS = 15
MAX_SCATTERED_TOKENS = 1200


@dataclasses.dataclass(frozen=True)
class ImportanceTable:
  """The importance table of a checkpoint.

  Attributes:
    values: float32 [V], in nats.
    counts: of every token in the corpus, int64 [V].
    updates: steps in which the token is a label, on average, [V].
    beta: decay of an entry in one update.
    ordinary_ids: ids of the tokens that are not special.
    tokens: text of every token.
  """

  values: np.ndarray
  counts: np.ndarray
  updates: np.ndarray
  beta: float
  ordinary_ids: np.ndarray
  tokens: tuple[str, ...]

  @classmethod
  def read(cls, trained: load_model.LoadedModel) -> 'ImportanceTable | None':
    """Returns the table; `None` where the model drops without one."""
    task = trained.params.task
    if not dropping.Dropping.of(task).importance.has_scores:
      return None
    vocabulary = trained.vocabulary
    counts = vocabulary_lib.read_token_counts(
      task.vocabulary.counts_path
      or vocabulary_lib.counts_path_for(task.vocabulary.path),
      vocabulary,
    )
    return cls(
      values=trained.encoder.token_importance.importances.numpy(),
      counts=counts,
      updates=expected_updates(
        counts,
        vocabulary.ordinary_ids,
        labels_per_step=task.train_data.global_batch_size
        * task.train_data.max_predictions_per_seq,
        steps=trained.params.trainer.train_steps,
      ),
      beta=task.token_drop.token_loss_beta,
      ordinary_ids=vocabulary.ordinary_ids,
      tokens=vocabulary.tokens,
    )

  @property
  def least_updates(self) -> float:
    """Updates after which the start value has faded to 1 / e."""
    return 1.0 / (1.0 - self.beta)

  @property
  def learnt_ids(self) -> np.ndarray:
    """Ordinary ids whose entry has mostly forgotten the start value."""
    ids = self.ordinary_ids
    return ids[self.updates[ids] >= self.least_updates]

  def scores(self, ids) -> list[report.TokenScore]:
    """Returns the entries of some ids."""
    return [
      report.TokenScore(
        self.tokens[i],
        float(self.values[i]),
        int(self.counts[i]),
        1.0 - float(self.beta ** self.updates[i]),
      )
      for i in ids
    ]

  def lists(self) -> dict[str, list[report.TokenScore]]:
    """Returns both ends of the learnt entries; none if too few are learnt."""
    ids = self.learnt_ids
    if len(ids) < 2 * NUM_LISTED_TOKENS:
      return {}
    ids = ids[np.argsort(self.values[ids], kind='stable')]
    return {
      'Dropped first': self.scores(ids[:NUM_LISTED_TOKENS]),
      'Kept longest': self.scores(ids[::-1][:NUM_LISTED_TOKENS]),
    }

  def sample(self) -> list[report.TokenScore]:
    """Returns tokens of all frequencies, the most frequent first.

    Half of the limit are the most frequent, the others are evenly spaced.
    """
    ids = self.ordinary_ids[self.counts[self.ordinary_ids] > 0]
    ids = ids[np.argsort(-self.counts[ids], kind='stable')]
    if len(ids) > MAX_SCATTERED_TOKENS:
      half = MAX_SCATTERED_TOKENS // 2
      rest = np.linspace(half, len(ids) - 1, half).astype(int)
      ids = np.concatenate([ids[:half], ids[rest]])
    return self.scores(ids)

  def note(self) -> str:
    """Returns how to read the table."""
    learnt, all_ = len(self.learnt_ids), len(self.ordinary_ids)
    text = (
      'Every token has an entry: the running mean of its loss where it was '
      'masked. Tokens with low entries skip the middle layers first. '
      f'{learnt:,} of {all_:,} entries are learnt: their token was a label in '
      f'about {self.least_updates:.0f} steps or more. The others still stand '
      'near the start value, and their tokens are kept before all others.'
    )
    if not self.lists():
      text += (
        ' That is too few to list tokens by their entries: a longer run '
        'learns more of them.'
      )
    return text


def expected_updates(
  counts: np.ndarray, ordinary_ids: np.ndarray, labels_per_step: int, steps: int
) -> np.ndarray:
  """Returns in how many steps a token is a label at least once, on average.

      n[v] = steps * (1 - exp(-labels_per_step * share[v]))

  Args:
    counts: of every token in the corpus, integer [V].
    ordinary_ids: the ids that can be labels.
    labels_per_step: label slots of a global batch.
    steps: train steps.

  Returns:
    float64 [V].
  """
  share = counts / max(counts[ordinary_ids].sum(), 1)
  return steps * -np.expm1(-labels_per_step * share)
