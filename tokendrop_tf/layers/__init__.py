"""Keras layers of the token-dropping encoder."""

from tokendrop_tf.layers.attention import Attention
from tokendrop_tf.layers.excess_importance import ExcessImportance
from tokendrop_tf.layers.importance_masking import ImportanceMasking
from tokendrop_tf.layers.label_loss import label_loss
from tokendrop_tf.layers.masked_lm_head import MaskedLMHead
from tokendrop_tf.layers.neighbour_start import FourierInitializer
from tokendrop_tf.layers.next_tokens import with_next_tokens
from tokendrop_tf.layers.position_embedding import (
  IndexedPositionEmbedding,
  SinusoidalInitializer,
)
from tokendrop_tf.layers.token_importance import TokenImportance
from tokendrop_tf.layers.token_order import TokenOrder
from tokendrop_tf.layers.transformer_block import TransformerBlock

__all__ = [
  'Attention',
  'ExcessImportance',
  'FourierInitializer',
  'ImportanceMasking',
  'IndexedPositionEmbedding',
  'MaskedLMHead',
  'SinusoidalInitializer',
  'TokenImportance',
  'TokenOrder',
  'TransformerBlock',
  'label_loss',
  'with_next_tokens',
]
