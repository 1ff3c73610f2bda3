"""The transformer block, with separate queries and stateless dropout.

Letters: B batch, T query rows, S rows that are seen, H hidden size.
"""

import tensorflow as tf
import tf_keras
from official.modeling import activations, tf_utils

from tokendrop_tf.layers import fused, projection, random_seeds
from tokendrop_tf.layers.attention import Attention
from tokendrop_tf.layers.dropout import dropout


class _ScaledInitializer(tf_keras.initializers.Initializer):
  """Values of another initializer times a factor."""

  def __init__(self, initializer, scale: float):
    self._initializer = initializer
    self._scale = scale

  def __call__(self, shape, dtype=None, **kwargs):
    return self._scale * self._initializer(shape, dtype=dtype, **kwargs)


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class TransformerBlock(tf_keras.layers.Layer):
  """The Model Garden's `TransformerEncoderBlock`, computed for token dropping.

  Weights, their names in a checkpoint, and results are the Model Garden's. It
  differs in four ways: queries may be fewer rows than keys; the mask is an
  additive bias, which is one number a key unless queries differ in the keys
  they may see; dropout follows from a seed; and the kernels that end a residual
  branch can start smaller, so that a post-norm block begins near the identity.

  Inputs:
    inputs: query rows, [B, T, H].
    key_value: rows to attend to, [B, S, H]; `None` is `inputs`.
    attention_bias: added to the attention logits; see `Attention`.
    training: whether to drop out.
    seed: int32 [2], decides what is dropped out, or [3, 2], one for each place
      that drops out; `None` draws one.

  Output: [B, T, H].

  Args:
    num_attention_heads: heads; divides H.
    inner_dim: width of the feed-forward layer.
    inner_activation: its activation.
    output_dropout: dropout rate of both residual branches.
    attention_dropout: dropout rate of attention probabilities.
    norm_first: normalizes inputs of a residual branch instead of its sum.
    kernel_initializer: of all kernels.
    residual_initializer_scale: factor on the initial attention-output and
      second feed-forward kernels.
    head_offsets: how many places the first heads look away at the start; their
      attention output then keeps its usual size. See `neighbour_start`.
    reach: number of positions in the table, for `head_offsets`.
    attention_block: queries whose attention is computed at a time; 0 is all.
  """

  def __init__(
    self,
    num_attention_heads: int,
    inner_dim: int,
    inner_activation,
    output_dropout: float = 0.0,
    attention_dropout: float = 0.0,
    norm_first: bool = False,
    kernel_initializer='glorot_uniform',
    residual_initializer_scale: float = 1.0,
    head_offsets: tuple[int, ...] = (),
    reach: int = 0,
    attention_block: int = 0,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self._num_heads = num_attention_heads
    self._inner_dim = inner_dim
    self._inner_activation = tf_keras.activations.get(inner_activation)
    self._output_dropout_rate = output_dropout
    self._attention_dropout_rate = attention_dropout
    self._norm_first = norm_first
    self._kernel_initializer = tf_keras.initializers.get(kernel_initializer)
    self._residual_initializer_scale = residual_initializer_scale
    self._head_offsets = tuple(head_offsets)
    self._reach = reach
    self._attention_block = attention_block

  # Attribute names are the Model Garden's: a checkpoint keeps them.

  def build(self, input_shape):
    hidden_size = int(input_shape[-1])
    self._attention_layer = Attention(
      num_heads=self._num_heads,
      dropout=self._attention_dropout_rate,
      kernel_initializer=self._kernel_initializer,
      output_initializer=(
        tf_utils.clone_initializer(self._kernel_initializer)
        if self._head_offsets
        else self._branch_end_initializer()
      ),
      head_offsets=self._head_offsets,
      reach=self._reach,
      block=self._attention_block,
      name='self_attention',
    )
    with tf.name_scope(self._attention_layer.name):
      self._attention_layer.build([None, None, hidden_size])
    self._attention_layer_norm = _create_norm(
      'self_attention_layer_norm', hidden_size
    )
    self._intermediate_dense = projection.Projection(
      (self._inner_dim,),
      kernel_initializer=tf_utils.clone_initializer(self._kernel_initializer),
      name='intermediate',
    )
    self._intermediate_dense.build_named((hidden_size,))
    self._output_dense = projection.Projection(
      (hidden_size,),
      kernel_initializer=self._branch_end_initializer(),
      name='output',
    )
    self._output_dense.build_named((self._inner_dim,))
    self._output_layer_norm = _create_norm('output_layer_norm', hidden_size)
    super().build(input_shape)

  def _branch_end_initializer(self):
    initializer = tf_utils.clone_initializer(self._kernel_initializer)
    if self._residual_initializer_scale == 1.0:
      return initializer
    return _ScaledInitializer(initializer, self._residual_initializer_scale)

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
    attended = self._attention_layer(
      tf.cast(query, dtype),
      tf.cast(key_value, dtype),
      attention_bias=attention_bias,
      seed=seeds[0],
    )
    return self._finish(inputs, attended, seeds, training)

  def extend(self, inputs, cache, place, attention_bias):
    """Computes rows that follow others; see `Attention.extend`."""
    query = inputs
    if self._norm_first:
      query = fused.normalize(
        inputs, self._attention_layer_norm, self.compute_dtype
      )
    attended, cache = self._attention_layer.extend(
      tf.cast(query, self.compute_dtype), cache, place, attention_bias
    )
    return self._finish(inputs, attended, [None] * 3, False), cache

  def _finish(self, inputs, attended, seeds, training):
    # 2. Residual, normalization, feed-forward; before or after each other.
    dtype = self.compute_dtype
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
    rows += dropout(attended, rate, seeds[1])
    normal = fused.normalize(rows, self._output_layer_norm, self.compute_dtype)
    output = self._feed_forward(normal, seeds[2] is not None)
    return rows + dropout(output, rate, seeds[2])

  def _dropout_seeds(self, training, seed):
    if not training:
      return [None] * 3
    if seed is None:
      seed = random_seeds.draw_seed()
    if seed.shape.rank == 2:
      return tf.unstack(seed)
    return random_seeds.split_seed(seed, 3)

  def _feed_forward(self, rows, training):
    """[B, T, H] -> [B, T, H]"""
    inner = self._intermediate_dense(rows)
    if self._inner_activation is activations.gelu:
      inner = fused.gelu(inner, training)
    else:  # In float32 where weights are, as the Model Garden does.
      inner = self._inner_activation(tf.cast(inner, self.variable_dtype))
      inner = tf.cast(inner, self.compute_dtype)
    return self._output_dense(inner)

  def get_config(self):
    return {
      **super().get_config(),
      'num_attention_heads': self._num_heads,
      'inner_dim': self._inner_dim,
      'inner_activation': tf_utils.serialize_activation(
        self._inner_activation, use_legacy_format=True
      ),
      'output_dropout': self._output_dropout_rate,
      'attention_dropout': self._attention_dropout_rate,
      'norm_first': self._norm_first,
      'kernel_initializer': tf_utils.serialize_initializer(
        self._kernel_initializer, use_legacy_format=True
      ),
      'residual_initializer_scale': self._residual_initializer_scale,
      'head_offsets': self._head_offsets,
      'reach': self._reach,
      'attention_block': self._attention_block,
    }


def _create_norm(name, width):
  """Returns a layer normalization in float32, built."""
  norm = tf_keras.layers.LayerNormalization(
    name=name, axis=-1, epsilon=1e-12, dtype=tf.float32
  )
  with tf.name_scope(name):
    norm.build([None, None, width])
  return norm
