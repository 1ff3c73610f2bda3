"""Keras layers of the token-dropping encoder."""

from tokendrop_tf.layers.importance_masking import ImportanceMasking
from tokendrop_tf.layers.label_loss import label_loss
from tokendrop_tf.layers.masked_lm import MaskedLMHead
from tokendrop_tf.layers.position_embedding import (
  IndexedPositionEmbedding,
  SinusoidalInitializer,
)
from tokendrop_tf.layers.token_importance import TokenImportance
from tokendrop_tf.layers.token_order import TokenOrder
from tokendrop_tf.layers.transformer_block import TransformerBlock

__all__ = [
  'ImportanceMasking',
  'IndexedPositionEmbedding',
  'MaskedLMHead',
  'SinusoidalInitializer',
  'TokenImportance',
  'TokenOrder',
  'TransformerBlock',
  'label_loss',
]
