"""Importance by scores from a file."""

import dataclasses

from tokendrop_tf import errors, settings
from tokendrop_tf.dropping.importance import Importance


@dataclasses.dataclass(frozen=True)
class ByScores(Importance):
  """Tokens are kept by fixed scores, whatever they were made from.

  Depths fixed in advance by the mutual information of a word and a label, or by
  its masked-LM loss, are those of Liu et al. (2021, arXiv 2004.13542).
  """

  text = 'by scores from a file'

  scores_path: str = settings.setting(
    '',
    "Of policy 'scores': file with the score of every token, as "
    '`tools/score_tokens.py` writes it. Read once, when a run begins.',
  )

  def check(self):
    if not self.scores_path:
      raise errors.ConfigurationError(
        "token_drop.policy = 'scores' needs a file of scores. Received: "
        "token_drop.scores_path=''. Set token_drop.scores_path; "
        'tools/score_tokens.py writes the file.'
      )

  def check_files(self, sources):
    sources.token_scores(self.scores_path)

  def start(self, table, sources):
    table.table.assign(sources.token_scores(self.scores_path))
