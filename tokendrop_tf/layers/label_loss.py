"""Cross-entropy of labels, and whether they are the likeliest."""

import tensorflow as tf

from tokendrop_tf.layers import fused, random_seeds


def label_loss(
  logits: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the losses of labels, in nats, and hits.

  Compiled by XLA, with the step or by themselves, both come of one pass over
  the logits in their own dtype, summed in float32; without a float32 copy of
  them, forward or backward, and without a search for the place of the maximum.

  Args:
    logits: float [..., V].
    labels: integer [...].

  Returns:
    losses: float32 [...].
    hits: float32 [...], 1 where no logit is above the label's.
  """
  labels = tf.cast(labels, tf.int32)
  if random_seeds.is_compiled_by_xla():
    return _in_one_pass(logits, labels, _forward, _backward)
  if fused.compiles_islands(logits, labels):
    return _in_one_pass(logits, labels, _compiled_forward, _compiled_backward)
  logits = tf.cast(logits, tf.float32)
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
    labels=labels, logits=logits
  )
  own = tf.gather(logits, labels, axis=-1, batch_dims=labels.shape.rank)
  hits = own >= tf.reduce_max(logits, axis=-1)
  return losses, tf.cast(hits, tf.float32)


def _in_one_pass(logits, labels, forward, backward):
  @tf.custom_gradient
  def losses_and_hits(logits):
    losses, hits, log_total = forward(logits, labels)

    def gradient(upstream, _):
      return backward(logits, labels, log_total, upstream)

    return (losses, hits), gradient

  return losses_and_hits(logits)


def _forward(logits, labels):
  """Returns losses [...], hits [...] and log sum exp of the logits [..., 1]."""
  wide = tf.cast(logits, tf.float32)
  highest = tf.reduce_max(wide, axis=-1, keepdims=True)
  total = tf.reduce_sum(tf.exp(wide - highest), axis=-1, keepdims=True)
  log_total = highest + tf.math.log(total)
  own = tf.where(_is_label(logits, labels), wide, 0.0)
  own = tf.reduce_sum(own, axis=-1, keepdims=True)
  hits = tf.cast(own >= highest, tf.float32)
  return tf.squeeze(log_total - own, -1), tf.squeeze(hits, -1), log_total


def _backward(logits, labels, log_total, upstream):
  """Returns softmax - one-hot, times upstream, rounded once."""
  shares = tf.exp(tf.cast(logits, tf.float32) - log_total)
  change = shares - tf.cast(_is_label(logits, labels), tf.float32)
  return tf.cast(change * upstream[..., tf.newaxis], logits.dtype)


def _is_label(logits, labels):
  entries = tf.range(logits.shape[-1], dtype=tf.int32)
  return tf.equal(entries, labels[..., tf.newaxis])


_compiled_forward = tf.function(_forward, jit_compile=True)
_compiled_backward = tf.function(_backward, jit_compile=True)
