"""Losses that need no model: what a validation loss is read against.

Letter: V vocabulary.
"""

import dataclasses

import numpy as np

from tokendrop_tf import layers
from tokendrop_tf.config import configs
from tokendrop_tf.data import loader
from tokendrop_tf.text import vocabulary as vocabulary_lib

MAX_LABELS = 2_000_000
# A model reads once its validation loss is so many nats below the loss that
# needs no context.
READING_GAIN = 0.05


@dataclasses.dataclass(frozen=True)
class Baselines:
  """Two validation losses that can be reached without a look at the text.

  Attributes:
    unigram_entropy: of a model that knows how frequent every token is, in nats.
    context_free_loss: of one that also looks at the masked position itself,
      which may show its own token; below it, a model uses the context.
  """

  unigram_entropy: float
  context_free_loss: float

  @property
  def reading_loss(self) -> float:
    """The loss below which a model reads, in nats."""
    return self.context_free_loss - READING_GAIN


def read_baselines(
  config: configs.PretrainingDataConfig,
  vocabulary: configs.VocabularyConfig,
  causal: bool = False,
) -> Baselines:
  """Counts the labels of a data set and returns their baselines.

  Args:
    config: the validation data; at most its first `MAX_LABELS` labels are
      counted.
    vocabulary: the vocabulary section.
    causal: whether the labels are the next tokens. No position then shows its
      own label, and both losses are one.

  Example:
    read_baselines(params.task.validation_data, params.task.vocabulary)
    # Baselines(unigram_entropy=6.1, context_free_loss=5.6)
  """
  words = vocabulary_lib.Vocabulary.of(vocabulary)
  counts = np.zeros(words.size, np.float64)
  for batch in loader.load_dataset(config, vocabulary):
    if causal:
      batch = layers.with_next_tokens(batch)
    counts += np.bincount(
      batch['masked_lm_ids'].numpy().ravel(),
      weights=batch['masked_lm_weights'].numpy().ravel(),
      minlength=words.size,
    )
    if counts.sum() >= MAX_LABELS:
      break
  shares = counts / counts.sum()
  return Baselines(
    unigram_entropy=entropy(shares),
    context_free_loss=context_free_loss(
      shares,
      len(words.ordinary_ids),
      1.0 if causal else config.mask_token_share,
      config.random_token_share,
    ),
  )


def context_free_loss(
  shares: np.ndarray,
  num_ordinary: int,
  mask_token_share: float = 0.8,
  random_token_share: float = 0.1,
) -> float:
  """Returns the least loss of a model that sees no token but the masked one.

  A label position shows [MASK], or a token that is the label or any other with
  equal chance. Where it shows [MASK], such a model can do no better than the
  entropy H(y) of the labels; where it shows a token x, no better than H(y | x):

      loss = 0.8 H(y) + 0.2 H(y | x),  H(y | x) = H(y) + H(x | y) - H(x)

  A loss above this is reached without a look at the text around a token.

  Args:
    shares: of every token among the labels, [V], sum 1.
    num_ordinary: tokens that a random replacement is drawn from.
    mask_token_share: share of the labels that show [MASK], 0.8 above.
    random_token_share: share of them that show a random token, 0.1 above.
  """
  labels = entropy(shares)
  seen = 1.0 - mask_token_share
  if seen <= 0.0:
    return labels
  other = random_token_share / seen / num_ordinary
  shown = 1.0 - random_token_share / seen
  token_of_label = entropy(np.array([shown + other])) + (
    num_ordinary - 1
  ) * entropy(np.array([other]))
  # Labels are ordinary tokens, and every other ordinary token can be drawn.
  drawn_only = num_ordinary - np.count_nonzero(shares)
  token = entropy(shown * shares[shares > 0] + other) + (
    drawn_only * entropy(np.array([other]))
  )
  return float(
    mask_token_share * labels + seen * (labels + token_of_label - token)
  )


def entropy(shares: np.ndarray) -> float:
  """Returns -sum of p log p over the shares p above 0, in nats."""
  shares = shares[shares > 0]
  return float(-np.sum(shares * np.log(shares)))
