"""Cross-entropy and hits, compiled and not, against the definition."""

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import layers

LABELS = tf.constant([[0, 5, 2], [7, 7, 1]])


# Compiled as a part of something, compiled by itself, not compiled.
WAYS = ('whole', 'island', 'shapes unknown')


def run(logits, way):
  shape = [None, None, 8] if way == 'shapes unknown' else logits.shape
  signature = [tf.TensorSpec(shape, logits.dtype)]

  @tf.function(input_signature=signature, jit_compile=way == 'whole')
  def losses_hits_gradient(logits):
    with tf.GradientTape() as tape:
      tape.watch(logits)
      losses, hits = layers.label_loss(logits, LABELS)
      total = tf.reduce_sum(losses * tf.constant([[1.0, 2.0, 0.0]] * 2))
    return losses, hits, tape.gradient(total, logits)

  return losses_hits_gradient(logits)


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_compiled_and_not_agree_with_the_definition(dtype):
  logits = tf.cast(5.0 * tf.random.stateless_normal([2, 3, 8], [1, 2]), dtype)
  wide = tf.cast(logits, tf.float32).numpy()
  own = np.take_along_axis(wide, LABELS.numpy()[..., None], -1)[..., 0]
  expected = np.log(np.exp(wide).sum(-1)) - own
  hits = wide.argmax(-1) == LABELS.numpy()
  tolerance = 1e-5 if dtype == tf.float32 else 1e-2
  gradients = []
  for way in WAYS:
    losses, found, gradient = run(logits, way)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found, hits)
    assert losses.dtype == found.dtype == tf.float32
    assert gradient.dtype == dtype
    gradients.append(tf.cast(gradient, tf.float32))
  for gradient in gradients[1:]:
    np.testing.assert_allclose(gradient, gradients[0], atol=tolerance)


def test_large_logits_stay_finite():
  logits = tf.fill([2, 3, 8], 3e4)
  for way in WAYS:
    losses, _, gradient = run(logits, way)
    np.testing.assert_allclose(losses, np.log(8.0), atol=1e-2)
    assert np.isfinite(gradient).all()


def test_of_equal_logits_the_first_is_the_hit():
  for way in WAYS:
    _, hits, _ = run(tf.zeros([2, 3, 8]), way)
    np.testing.assert_array_equal(hits, LABELS.numpy() == 0)


@pytest.mark.parametrize('way', ['whole', 'island'])
def test_a_label_outside_the_vocabulary_has_no_loss(way):
  # The non-finite guard of a training names the step.
  losses, _, _ = run(tf.zeros([2, 3, 7]), way)
  np.testing.assert_array_equal(np.isnan(losses), LABELS.numpy() >= 7)
