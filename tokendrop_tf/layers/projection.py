"""A dense layer as one matrix product.

Letters: B batch, T rows, H hidden size.
"""

import math

import tensorflow as tf
import tf_keras

from tokendrop_tf.layers import fused, random_seeds


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class Projection(tf_keras.layers.EinsumDense):
  """`EinsumDense` on rows, computed in the way that is fastest where it runs.

  On CPUs that is one product of two dimensions, whatever the kernel's shape;
  compiled by XLA, an einsum that leaves the axes where they are.

  Input: [B, T, H], or [B, T, N, D] with `input_rank` 4.

  Output: [B, T, *output_sides].

  Args:
    output_sides: last sides of the output.
    input_rank: 3 or 4.
    **kwargs: arguments of `EinsumDense`.
  """

  def __init__(
    self, output_sides: tuple[int, ...], input_rank: int = 3, **kwargs
  ):
    contracted, made = 'uv'[: input_rank - 2], 'xyz'[: len(output_sides)]
    super().__init__(
      f'ab{contracted},{contracted}{made}->ab{made}',
      output_shape=(None, *output_sides),
      bias_axes=made,
      **kwargs,
    )

  def call(self, rows):
    kernel = tf.convert_to_tensor(self.kernel)
    if random_seeds.is_compiled_by_xla():
      return tf.einsum(self.equation, rows, kernel) + self.bias
    num_contracted = rows.shape.rank - 2
    width = math.prod(kernel.shape[:num_contracted])
    flat = tf.matmul(
      tf.reshape(rows, [-1, width]), tf.reshape(kernel, [width, -1])
    )
    flat = fused.add_bias(flat, tf.reshape(self.bias, [-1]))
    sides = kernel.shape[num_contracted:]
    return tf.reshape(flat, tf.concat([tf.shape(rows)[:2], sides], axis=0))

  def build_named(self, input_sides: tuple[int, ...]) -> None:
    """Builds the layer so that its weights carry its name, as a call would."""
    with tf.name_scope(self.name):
      self.build(tf.TensorShape([None, None, *input_sides]))
