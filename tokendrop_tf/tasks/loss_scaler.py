"""The scale that keeps small gradients of float16 from vanishing."""

import tensorflow as tf
import tf_keras


class LossScaler:
  """The loss scale of an optimizer, which is 1 unless it is one of float16.

  Attributes:
    inner_optimizer: what updates the weights.

  Args:
    optimizer: a `LossScaleOptimizer` or any other.
  """

  def __init__(self, optimizer):
    self._optimizer, self.inner_optimizer = None, optimizer
    if isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer):
      self._optimizer = optimizer
      self.inner_optimizer = optimizer.inner_optimizer
      # Before the update, which changes it.
      self._scale = tf.identity(optimizer.loss_scale)

  def scaled(self, loss: tf.Tensor) -> tf.Tensor:
    """Returns the loss times the scale."""
    if self._optimizer is None:
      return loss
    return self._optimizer.get_scaled_loss(loss)

  def unscaled(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns gradients of the scaled loss divided by the scale."""
    if self._optimizer is None:
      return gradients
    return self._optimizer.get_unscaled_gradients(gradients)

  def takes_step(self, norm: tf.Tensor) -> bool | tf.Tensor:
    """Returns whether gradients of this norm are applied."""
    return True if self._optimizer is None else tf.math.is_finite(norm)

  def checked(self, loss: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
    """Returns the loss, NaN if no scale would give finite gradients."""
    if self._optimizer is None:
      return loss
    is_hopeless = ~tf.math.is_finite(norm) & (self._scale <= 1.0)
    return tf.where(is_hopeless, float('nan'), loss)
