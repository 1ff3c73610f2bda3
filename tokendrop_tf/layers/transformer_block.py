"""The transformer block, with separate queries and stateless dropout."""

import math

import tensorflow as tf
import tf_keras
from official.modeling import activations, tf_utils
from official.nlp.modeling import layers

from tokendrop_tf.layers import fused, random_seeds


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
  differs: queries may be fewer rows than keys; the mask is an additive bias,
  which is one number a key unless queries differ in what they may see; dropout
  follows from a seed; and the kernels that end a residual branch can start
  smaller, so that a post-norm block begins near the identity.

  Inputs:
    inputs: query rows, [B, T, H].
    key_value: rows to attend to, [B, S, H]; `None` is `inputs`.
    attention_bias: [B, 1, 1, S] or [B, 1, T, S], added to the attention logits;
      `None` is 0.
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
    dtype = self.compute_dtype
    # 1. Attention: from the rows to all that is seen.
    query = inputs
    if self._norm_first:
      query = fused.normalize(inputs, self._attention_layer_norm, dtype)
    if key_value is None:
      key_value = query
    elif self._norm_first:
      key_value = fused.normalize(key_value, self._attention_layer_norm, dtype)
    attended = self._attend(
      tf.cast(query, dtype), tf.cast(key_value, dtype), attention_bias, seeds[0]
    )
    # 2. Residual, normalization, feed-forward; before or after each other.
    if self._norm_first:
      return self._finish_norm_first(inputs, attended, seeds)
    attended = fused.add_and_normalize(
      inputs,
      attended,
      self._attention_layer_norm,
      self._output_dropout_rate,
      seeds[1],
      dtype,
    )
    return fused.add_and_normalize(
      attended,
      self._feed_forward(attended, training),
      self._output_layer_norm,
      self._output_dropout_rate,
      seeds[2],
      dtype,
    )

  def _finish_norm_first(self, inputs, attended, seeds):
    rate = self._output_dropout_rate
    rows = tf.cast(inputs, self.compute_dtype)
    rows += random_seeds.dropout(attended, rate, seeds[1])
    normal = fused.normalize(rows, self._output_layer_norm, self.compute_dtype)
    output = self._feed_forward(normal, seeds[2] is not None)
    return rows + random_seeds.dropout(output, rate, seeds[2])

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
    product = _einsum if random_seeds.is_compiled_by_xla() else _matmul
    # [B, T, N, D] where compiled, which chooses the layout; else [B, N, T, D]
    query = product.heads(query, attention._query_dense) * scale
    key = product.heads(key_value, attention._key_dense)
    value = product.heads(key_value, attention._value_dense)
    logits = product.logits(query, key)  # [B, N, T, S]
    if attention_bias is not None:
      logits += tf.cast(attention_bias, logits.dtype)
    probabilities = random_seeds.dropout(
      tf.nn.softmax(logits), self._attention_dropout_rate, seed
    )
    context = product.context(probabilities, value)
    return product.output(context, attention._output_dense)

  def _feed_forward(self, rows, training):
    """[B, T, H] -> [B, T, H]"""
    rows = tf.cast(rows, self.compute_dtype)
    inner = _project(rows, self._intermediate_dense, axes=1)
    if self._intermediate_activation_layer.activation is activations.gelu:
      inner = fused.gelu(inner, training)
    else:
      inner = self._intermediate_activation_layer(inner)
      inner = tf.cast(inner, self.compute_dtype)
    return _project(inner, self._output_dense, axes=1)

  def get_config(self):
    return {
      **super().get_config(),
      'residual_initializer_scale': self._residual_initializer_scale,
    }


def _build_in_scope(layer, input_shape):
  """Builds `layer` so that its weights carry its name, as calling it would."""
  with tf.name_scope(layer.name):
    layer.build(tf.TensorShape(input_shape))


class _matmul:
  """Attention as products of two dimensions and of batches: best on CPUs."""

  @staticmethod
  def heads(rows, dense):
    """[B, S, H] -> [B, N, S, D]"""
    return tf.transpose(_project(rows, dense, axes=1), [0, 2, 1, 3])

  @staticmethod
  def logits(query, key):
    return tf.matmul(query, key, transpose_b=True)

  @staticmethod
  def context(probabilities, value):
    """[B, N, T, S], [B, N, S, D] -> [B, T, N, D]"""
    return tf.transpose(tf.matmul(probabilities, value), [0, 2, 1, 3])

  @staticmethod
  def output(context, dense):
    """[B, T, N, D] -> [B, T, H]"""
    return _project(context, dense, axes=2)


class _einsum:
  """The same with axes left where they are: XLA then needs no copies."""

  @staticmethod
  def heads(rows, dense):
    """[B, S, H] -> [B, S, N, D]"""
    return tf.einsum('bsh,hnd->bsnd', rows, dense.kernel) + dense.bias

  @staticmethod
  def logits(query, key):
    return tf.einsum('btnd,bsnd->bnts', query, key)

  @staticmethod
  def context(probabilities, value):
    """[B, N, T, S], [B, S, N, D] -> [B, T, N, D]"""
    return tf.einsum('bnts,bsnd->btnd', probabilities, value)

  @staticmethod
  def output(context, dense):
    """[B, T, N, D] -> [B, T, H]"""
    return tf.einsum('btnd,ndh->bth', context, dense.kernel) + dense.bias


def _project(rows, dense, axes):
  """Contracts the last `axes` axes of `rows` with a dense layer's kernel.

  One matrix product of two dimensions, whatever the kernel's shape; compiled by
  XLA, no reshape is needed for it.
  """
  kernel = tf.convert_to_tensor(dense.kernel)
  if random_seeds.is_compiled_by_xla() and axes == 1:
    return tf.einsum('bsh,hi->bsi', rows, kernel) + dense.bias
  width = math.prod(kernel.shape[:axes])
  leading = tf.shape(rows)[: rows.shape.rank - axes]
  flat = tf.matmul(
    tf.reshape(rows, [-1, width]), tf.reshape(kernel, [width, -1])
  )
  flat = fused.add_bias(flat, tf.reshape(dense.bias, [-1]))
  return tf.reshape(flat, tf.concat([leading, kernel.shape[axes:]], axis=0))
