"""Labels of the causal objective: at every position the next token.

Letters: B batch, S sequence length, P slots of masked labels.
"""

import tensorflow as tf

from tokendrop_tf.layers import importance_masking


def with_next_tokens(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Returns the features with the next token as the label of every position.

  Masked tokens are put back, so batches of any source serve both objectives.
  The last position, padding, and the last token of a document have no label.

  Args:
    features: with `input_word_ids`, `input_mask` int32 [B, S],
      `masked_lm_positions`, `masked_lm_ids` int32 [B, P], `masked_lm_weights`
      float32 [B, P], and `segment_ids`, int32 [B, S], where rows have several
      documents.

  Returns:
    The same with `masked_lm_positions`, `masked_lm_ids`, `masked_lm_weights`
    [B, S - 1].
  """
  word_ids = importance_masking.unmasked(features)
  has_next = features['input_mask'][:, 1:] > 0
  if 'segment_ids' in features:
    segments = features['segment_ids']
    has_next &= segments[:, 1:] == segments[:, :-1]
  labels = word_ids[:, 1:]
  positions = tf.range(tf.shape(labels)[1], dtype=labels.dtype)
  return {
    **features,
    'input_word_ids': word_ids,
    'masked_lm_positions': tf.broadcast_to(positions, tf.shape(labels)),
    'masked_lm_ids': tf.where(has_next, labels, 0),
    'masked_lm_weights': tf.cast(has_next, features['masked_lm_weights'].dtype),
  }


def with_slots(features: dict[str, tf.Tensor], count: int):
  """Returns the features with so many slots of labels, empty ones at the end.

  Args:
    features: with `masked_lm_positions`, `masked_lm_ids` and
      `masked_lm_weights`, [B, P].
    count: at most as many as there are slots in use, where it is below P.
  """
  return {
    **features,
    **{
      name: fill_up(features[name][:, :count], count)
      for name in ('masked_lm_positions', 'masked_lm_ids', 'masked_lm_weights')
    },
  }


def fill_up(slots: tf.Tensor, count: int) -> tf.Tensor:
  """Returns slots [B, n], n at most `count`, with zeros after them."""
  return tf.pad(slots, [[0, 0], [0, count - slots.shape[1]]])
