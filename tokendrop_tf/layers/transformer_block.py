"""The transformer block, with separate queries and stateless dropout."""

import math

import tensorflow as tf
import tf_keras
from official.modeling import tf_utils
from official.nlp.modeling import layers

from tokendrop_tf.layers import random_seeds


class _ScaledInitializer(tf_keras.initializers.Initializer):
  """Values of another initializer times a factor."""

  def __init__(self, initializer, scale: float):
    self._initializer = initializer
    self._scale = scale

  def __call__(self, shape, dtype=None, **kwargs):
    return self._scale * self._initializer(shape, dtype=dtype, **kwargs)


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class TransformerBlock(layers.TransformerEncoderBlock):
  """The Model Garden's `TransformerEncoderBlock`, computed for token dropping.

  Weights, their names in a checkpoint, and results are the Model Garden's. What
  differs: queries may be fewer rows than keys; the mask is one additive bias a
  key instead of a [B, S, S] tensor; dropout follows from a seed; and the
  kernels that end a residual branch can start smaller, so that a post-norm
  block begins near the identity.

  Inputs:
    inputs: query rows, [B, T, H].
    key_value: rows to attend to, [B, S, H]; `None` is `inputs`.
    attention_bias: [B, 1, 1, S], added to the attention logits; `None` is 0.
    training: whether to drop out.
    seed: int32 [2], decides what is dropped out, or [3, 2], one for each place
      that drops out; `None` draws one.

  Output: [B, T, H].

  Args:
    residual_initializer_scale: factor on the initial attention-output and
      second feed-forward kernels.
    **kwargs: arguments of `TransformerEncoderBlock`.
  """

  def __init__(self, *, residual_initializer_scale: float = 1.0, **kwargs):
    super().__init__(**kwargs)
    self._residual_initializer_scale = residual_initializer_scale

  def build(self, input_shape):
    super().build(input_shape)
    hidden_size = int(input_shape[-1])
    self._build_attention_weights(hidden_size)
    self._shrink_residual_start(self._output_dense)
    _build_in_scope(self._attention_layer_norm, [None, None, hidden_size])
    _build_in_scope(self._intermediate_dense, [None, None, hidden_size])
    _build_in_scope(self._output_dense, [None, None, self._inner_dim])
    _build_in_scope(self._output_layer_norm, [None, None, hidden_size])

  def _build_attention_weights(self, hidden_size):
    attention = self._attention_layer
    rows = tf.TensorShape([None, None, hidden_size])
    with tf.name_scope(attention.name):
      # The attention layer is never called: its weights are used directly.
      attention._build_from_signature(query=rows, value=rows)
      self._shrink_residual_start(attention._output_dense)
      _build_in_scope(attention._query_dense, rows)
      _build_in_scope(attention._key_dense, rows)
      _build_in_scope(attention._value_dense, rows)
      _build_in_scope(
        attention._output_dense, [None, None, self._num_heads, self._key_dim]
      )
    attention.built = True

  def _shrink_residual_start(self, dense):
    if self._residual_initializer_scale != 1.0:
      dense.kernel_initializer = _ScaledInitializer(
        tf_utils.clone_initializer(dense.kernel_initializer),
        self._residual_initializer_scale,
      )

  def call(
    self, inputs, key_value=None, attention_bias=None, training=False, seed=None
  ):
    seeds = self._dropout_seeds(training, seed)
    # 1. Attention: from the rows to all that is seen.
    query = self._attention_layer_norm(inputs) if self._norm_first else inputs
    if key_value is None:
      key_value = query
    elif self._norm_first:
      key_value = self._attention_layer_norm(key_value)
    attended = self._attend(
      tf.cast(query, self.compute_dtype),
      tf.cast(key_value, self.compute_dtype),
      attention_bias,
      seeds[0],
    )
    attended = random_seeds.dropout(
      attended, self._output_dropout_rate, seeds[1]
    )
    # 2. Residual and normalization.
    attended = inputs + attended
    if self._norm_first:
      return attended + self._feed_forward(
        self._output_layer_norm(attended), seeds
      )
    attended = self._attention_layer_norm(attended)
    # 3. Feed-forward, residual in float32 and normalization.
    return self._output_layer_norm(
      tf.cast(self._feed_forward(attended, seeds), tf.float32) + attended
    )

  def _dropout_seeds(self, training, seed):
    if not training:
      return [None] * 3
    if seed is None:
      seed = random_seeds.draw_seed()
    if seed.shape.rank == 2:
      return tf.unstack(seed)
    return random_seeds.split_seed(seed, 3)

  def _attend(self, query, key_value, attention_bias, seed):
    """Multi-head attention: [B, T, H], [B, S, H] -> [B, T, H]."""
    attention = self._attention_layer
    scale = 1.0 / math.sqrt(float(self._key_dim))
    # [B, N, T, D], [B, N, S, D], [B, N, S, D]
    query = self._heads(query, attention._query_dense) * scale
    key = self._heads(key_value, attention._key_dense)
    value = self._heads(key_value, attention._value_dense)
    logits = tf.matmul(query, key, transpose_b=True)  # [B, N, T, S]
    if attention_bias is not None:
      logits += tf.cast(attention_bias, logits.dtype)
    probabilities = tf.nn.softmax(logits)
    probabilities = random_seeds.dropout(
      probabilities, self._attention_dropout_rate, seed
    )
    context = tf.matmul(probabilities, value)  # [B, N, T, D]
    context = tf.transpose(context, [0, 2, 1, 3])  # [B, T, N, D]
    return _project(context, attention._output_dense, axes=2)

  def _heads(self, rows, dense):
    """Projects [B, S, H] to heads, [B, N, S, D]."""
    return tf.transpose(_project(rows, dense, axes=1), [0, 2, 1, 3])

  def _feed_forward(self, rows, seeds):
    """[B, T, H] -> [B, T, H]"""
    rows = tf.cast(rows, self.compute_dtype)
    inner = _project(rows, self._intermediate_dense, axes=1)
    inner = self._intermediate_activation_layer(inner)
    inner = tf.cast(inner, self.compute_dtype)
    output = _project(inner, self._output_dense, axes=1)
    return random_seeds.dropout(output, self._output_dropout_rate, seeds[2])

  def get_config(self):
    return {
      **super().get_config(),
      'residual_initializer_scale': self._residual_initializer_scale,
    }


def _build_in_scope(layer, input_shape):
  """Builds `layer` so that its weights carry its name, as calling it would."""
  with tf.name_scope(layer.name):
    layer.build(tf.TensorShape(input_shape))


def _project(rows, dense, axes):
  """Contracts the last `axes` axes of `rows` with a dense layer's kernel.

  One matrix product of two dimensions, whatever the kernel's shape.
  """
  kernel = tf.convert_to_tensor(dense.kernel)
  width = math.prod(kernel.shape[:axes])
  leading = tf.shape(rows)[: rows.shape.rank - axes]
  flat = tf.matmul(
    tf.reshape(rows, [-1, width]), tf.reshape(kernel, [width, -1])
  )
  flat = tf.nn.bias_add(flat, tf.reshape(dense.bias, [-1]))
  return tf.reshape(flat, tf.concat([leading, kernel.shape[axes:]], axis=0))
