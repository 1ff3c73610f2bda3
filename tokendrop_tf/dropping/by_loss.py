"""Importance by the running loss of each token."""

import dataclasses

from tokendrop_tf import settings
from tokendrop_tf.dropping.importance import Importance


@dataclasses.dataclass(frozen=True)
class ByLoss(Importance):
  """Tokens whose masked-LM loss runs high are kept; see `TokenImportance`."""

  text = 'by running loss'
  learns = True

  token_loss_init_value: float = settings.setting(
    10.0,
    'Importance of every token at the start, in nats.',
    settings.at_least(0),
  )
  token_loss_beta: float = settings.setting(
    0.995,
    'Share of the old importance that an update keeps.',
    settings.SHARE,
  )

  def _table_arguments(self):
    return {
      'init_value': self.token_loss_init_value,
      'beta': self.token_loss_beta,
    }

  def update(self, table, batch, slots):
    table.update(
      batch['masked_lm_ids'], slots['losses'], batch['masked_lm_weights']
    )
