"""Importance by chance."""

from tokendrop_tf.dropping.importance import Importance


class AtRandom(Importance):
  """Any tokens are kept, others in every step.

  All entries of the table are equal, and equal scores are ordered at random.
  """

  text = 'at random'
  has_scores = False
