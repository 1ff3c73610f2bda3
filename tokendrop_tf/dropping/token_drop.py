"""The settings section `token_drop`."""

import dataclasses

from official.modeling import hyperparams

from tokendrop_tf import settings
from tokendrop_tf.dropping import registry


@dataclasses.dataclass
class _TokenDropSettings(hyperparams.Config):
  """Settings of dropping that no plan or importance owns.

  Attributes:
    schedule_steps: steps of the run, of which the keep schedule's shares are.
  """

  policy: str = settings.setting(
    'loss',
    "'loss' keeps tokens with a high running masked-LM loss, 'frequency' rare "
    "tokens, 'scores' those of high scores in a file, 'excess' those whose "
    "loss is far above that of a finished run, 'random' any, 'none' all (plain "
    'BERT).',
    settings.one_of(registry.IMPORTANCES),
  )
  plan: str = settings.setting(
    'crossing',
    "Which rows each layer computes: 'crossing' drops tokens from one layer "
    "on, as published; 'layerwise' drops others in every layer; 'pooled' "
    "crosses with pooled rows in the dropped ones' place; 'mask_later' "
    'crosses, and its first layers do without [MASK].',
    settings.one_of(registry.PLANS),
  )
  token_keep_k: int = settings.setting(
    256, 'K, tokens kept of every sequence.', settings.at_least(1)
  )
  temperature: float = settings.setting(
    0.0,
    '0 keeps the K most important tokens; above 0 the kept tokens are sampled, '
    'the more evenly the higher it is.',
    settings.at_least(0),
  )
  full_step_every: int = settings.setting(
    0, 'Every n-th step drops nothing; 0 is never.', settings.at_least(0)
  )
  keep_schedule: tuple[str, ...] = settings.setting(
    (),
    "Tokens kept over the run, such as ('0:128', '0.5:256', '0.9:all'): from "
    "this share of `trainer.train_steps` on, so many. '0-0.9:128-512' grows "
    'evenly, in at most 7 sizes. Empty keeps `token_keep_k` throughout; '
    'validation with dropping always does.',
  )
  learning_rate_clock: str = settings.setting(
    'steps',
    "What the learning rate's schedule counts: 'steps', or 'layer_tokens', the "
    'tokens that the mean layer computes, of which a growing `keep_schedule` '
    'has fewer at first.',
    settings.one_of(('steps', 'layer_tokens')),
  )
  always_keep_tokens: tuple[str, ...] = settings.setting(
    ('[UNK]', '[CLS]', '[SEP]', '[MASK]'),
    'Tokens, by text, that are kept first.',
  )
  always_drop_tokens: tuple[str, ...] = settings.setting(
    ('[PAD]',), 'Tokens, by text, that are dropped first.'
  )
  allow_lookahead: bool = settings.setting(
    False,
    'Lets causal steps choose what to keep by the importance of all tokens of '
    'a row, later ones among them. Their loss is then no likelihood.',
  )
  schedule_steps: int = 0


TokenDropConfig = registry.with_own_settings(
  'TokenDropConfig',
  _TokenDropSettings,
  'Which tokens skip the middle layers while training.',
)
