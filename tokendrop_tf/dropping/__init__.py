"""Token dropping: importances order the rows, plans say which are computed.

README.md in this folder says how to add one of either.
"""

from tokendrop_tf.dropping.configured import Dropping, masking_importance
from tokendrop_tf.dropping.importance import Importance
from tokendrop_tf.dropping.plan import Plan
from tokendrop_tf.dropping.registry import names_with_scores
from tokendrop_tf.dropping.token_drop import TokenDropConfig

__all__ = [
  'Dropping',
  'Importance',
  'Plan',
  'TokenDropConfig',
  'masking_importance',
  'names_with_scores',
]
