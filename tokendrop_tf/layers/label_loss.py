"""Cross-entropy of labels, and whether they are the likeliest."""

import tensorflow as tf

from tokendrop_tf.layers import random_seeds


def label_loss(
  logits: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the losses of labels, in nats, and hits.

  Where XLA compiles, both come of one pass over the logits in their own dtype,
  summed in float32; without a float32 copy of them, forward or backward, and
  without a search for the place of the maximum.

  Args:
    logits: float [..., V].
    labels: integer [...].

  Returns:
    losses: float32 [...].
    hits: float32 [...], 1 where no logit is above the label's.
  """
  if random_seeds.is_compiled_by_xla():
    return _compiled(logits, labels)
  logits = tf.cast(logits, tf.float32)
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
    labels=labels, logits=logits
  )
  likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)
  return losses, tf.cast(likeliest == tf.cast(labels, tf.int32), tf.float32)


def _compiled(logits, labels):
  labels = tf.cast(labels, tf.int32)[..., tf.newaxis]
  is_label = tf.equal(tf.range(logits.shape[-1], dtype=tf.int32), labels)

  @tf.custom_gradient
  def losses_and_hits(logits):
    wide = tf.cast(logits, tf.float32)
    highest = tf.reduce_max(wide, axis=-1, keepdims=True)
    total = tf.reduce_sum(tf.exp(wide - highest), axis=-1, keepdims=True)
    log_total = highest + tf.math.log(total)
    own = tf.reduce_sum(tf.where(is_label, wide, 0.0), axis=-1, keepdims=True)

    def gradient(upstream, _):
      # softmax - one-hot, rounded once.
      shares = tf.exp(tf.cast(logits, tf.float32) - log_total)
      change = shares - tf.cast(is_label, tf.float32)
      return tf.cast(change * upstream[..., tf.newaxis], logits.dtype)

    losses = tf.squeeze(log_total - own, axis=-1)
    hits = tf.cast(tf.squeeze(own >= highest, axis=-1), tf.float32)
    return (losses, hits), gradient

  return losses_and_hits(logits)
