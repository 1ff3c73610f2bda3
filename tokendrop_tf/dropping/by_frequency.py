"""Importance by rarity in the corpus."""

import dataclasses

import tensorflow as tf

from tokendrop_tf import settings
from tokendrop_tf.dropping.importance import Importance


@dataclasses.dataclass(frozen=True)
class ByFrequency(Importance):
  """Rare tokens are kept; the table is the surprisal of a unigram model."""

  text = 'by rarity in the corpus'
  needs_counts = True

  count_floor: int = settings.setting(
    0,
    "Of the importance 'frequency': tokens that occur less often count as if "
    'they occurred so often.',
    settings.at_least(0),
  )

  def start(self, table, sources):
    table.table.assign(
      unigram_surprisal(sources.token_counts(), self.count_floor)
    )


def unigram_surprisal(counts, floor: int = 0) -> tf.Tensor:
  """Returns -log p of every vocabulary entry, add-one smoothed.

  It is the MLM loss of a unigram model, so a table of it has the unit, nats,
  and the direction of the table that training fills.

  Args:
    counts: occurrences in the corpus, integer [V].
    floor: the least count, smoothed.

  Returns:
    float32 [V], in nats.
  """
  counts = tf.maximum(tf.cast(counts, tf.float64) + 1.0, float(floor))
  surprisal = tf.math.log(tf.reduce_sum(counts)) - tf.math.log(counts)
  return tf.cast(surprisal, tf.float32)
