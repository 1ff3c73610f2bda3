"""Cross-entropy of labels, and whether they are the likeliest."""

import math

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
    losses: float32 [...]; NaN for a label outside the vocabulary.
    hits: float32 [...], 1 where the label is the first of the highest logits.
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
  likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)
  return losses, tf.cast(likeliest == labels, tf.float32)


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
  own = tf.where(_is_label(logits, labels), wide, -math.inf)
  own = tf.reduce_max(own, axis=-1, keepdims=True)
  losses = tf.where(tf.math.is_finite(own), log_total - own, math.nan)
  size = logits.shape[-1]
  entries = tf.where(wide == highest, tf.range(size, dtype=tf.int32), size)
  hits = tf.reduce_min(entries, axis=-1) == labels
  return tf.squeeze(losses, -1), tf.cast(hits, tf.float32), log_total


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
