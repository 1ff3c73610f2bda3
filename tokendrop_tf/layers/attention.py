"""Multi-head attention of some rows to others.

Letters: B batch, T query rows, S rows that are seen, N heads, D width of a
head, H hidden size.
"""

import math

import tensorflow as tf
import tf_keras
from official.modeling import tf_utils

from tokendrop_tf.layers import (
  attention_blocks,
  neighbour_start,
  projection,
  random_seeds,
)
from tokendrop_tf.layers.dropout import dropout


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class Attention(tf_keras.layers.Layer):
  """Scaled dot-product attention with an additive bias and stateless dropout.

      softmax(Q K' / sqrt(D) + bias) V, joined over the heads

  Weights, and their names in a checkpoint, are those of Keras'
  `MultiHeadAttention`: kernels [H, N, D] of queries, keys and values, [N, D, H]
  of the output.

  Inputs:
    query: [B, T, H].
    key_value: [B, S, H].
    attention_bias: [B, 1, 1, S] or [B, 1, T, S], added to the logits of all
      heads; `None` is 0. With `block`, also a function of places among the
      queries, int32 [b], to their bias, [B, 1, b, S].
    seed: int32 [2], decides what is dropped out; `None` drops nothing.

  Output: [B, T, H].

  Args:
    num_heads: N, divides H.
    dropout: dropout rate of the probabilities.
    kernel_initializer: of queries, keys and values.
    output_initializer: of the output kernel.
    head_offsets: how many places the first heads look away at the start; see
      `neighbour_start`.
    reach: number of positions in the table, for `head_offsets`.
    block: b, queries that are computed at a time, in memory linear in S; 0
      computes all at once. Dropout then draws for every block.
  """

  def __init__(
    self,
    num_heads: int,
    dropout: float = 0.0,
    kernel_initializer='glorot_uniform',
    output_initializer='glorot_uniform',
    head_offsets: tuple[int, ...] = (),
    reach: int = 0,
    block: int = 0,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self._num_heads = num_heads
    self._dropout_rate = dropout
    self._kernel_initializer = tf_keras.initializers.get(kernel_initializer)
    self._output_initializer = tf_keras.initializers.get(output_initializer)
    self._head_offsets = tuple(head_offsets)
    self._reach = reach
    self._block = block

  def build(self, input_shape):
    hidden_size = int(input_shape[-1])
    heads = (self._num_heads, hidden_size // self._num_heads)

    def create(name, head_offsets=()):
      initializer = tf_utils.clone_initializer(self._kernel_initializer)
      if head_offsets:
        initializer = neighbour_start.NeighbourKernel(
          head_offsets, self._reach, initializer
        )
      dense = projection.Projection(
        heads, kernel_initializer=initializer, name=name
      )
      dense.build_named((hidden_size,))
      return dense

    self._query_dense = create('query', self._head_offsets)
    self._key_dense = create('key', (0,) * len(self._head_offsets))
    self._value_dense = create('value')
    self._output_dense = projection.Projection(
      (hidden_size,),
      input_rank=4,
      kernel_initializer=self._output_initializer,
      name='attention_output',
    )
    self._output_dense.build_named(heads)
    super().build(input_shape)

  def call(self, query, key_value, attention_bias=None, seed=None):
    keys, values = self._key_dense(key_value), self._value_dense(key_value)
    return self._attend(query, keys, values, attention_bias, seed)

  def extend(self, query, cache, place, attention_bias):
    """Lets rows that follow others attend to these and to themselves.

    Args:
      query: [B, T, H].
      cache: keys and values of the rows before, [B, M, N, D] each.
      place: how many rows there are before, int32 scalar.
      attention_bias: [B or 1, 1, T, M].

    Returns:
      [B, T, H], and the cache with the keys and values of these rows.
    """
    new = (self._key_dense(query), self._value_dense(query))
    keys, values = (_written(*pair, place) for pair in zip(cache, new))
    attended = self._attend(query, keys, values, attention_bias, None)
    return attended, (keys, values)

  def _attend(self, query, keys, values, attention_bias, seed):
    product = _einsum if random_seeds.is_compiled_by_xla() else _matmul
    scale = 1.0 / math.sqrt(float(query.shape[-1] // self._num_heads))

    def attend(queries, keys, values, bias, seed):
      queries = product.heads(queries) * scale
      logits = product.logits(queries, keys)  # [B, N, T, S]
      if bias is not None:
        logits += tf.cast(bias, logits.dtype)
      probabilities = dropout(tf.nn.softmax(logits), self._dropout_rate, seed)
      return product.context(probabilities, values)

    queries = self._query_dense(query)
    keys, values = product.heads(keys), product.heads(values)
    if not self._block:
      context = attend(queries, keys, values, attention_bias, seed)
    else:
      context = attention_blocks.attend_in_blocks(
        attend,
        queries,
        keys,
        values,
        _bias_at(attention_bias),
        seed,
        self._block,
      )
    return self._output_dense(context)

  def get_config(self):
    return {
      **super().get_config(),
      'num_heads': self._num_heads,
      'dropout': self._dropout_rate,
      'kernel_initializer': tf_utils.serialize_initializer(
        self._kernel_initializer, use_legacy_format=True
      ),
      'output_initializer': tf_utils.serialize_initializer(
        self._output_initializer, use_legacy_format=True
      ),
      'head_offsets': self._head_offsets,
      'reach': self._reach,
      'block': self._block,
    }


def _written(cache, rows, place):
  """Returns the cache [B, M, N, D] with rows [B, T, N, D] from `place` on."""
  after = place + tf.shape(rows)[1]
  rows = tf.cast(rows, cache.dtype)
  whole = tf.concat([cache[:, :place], rows, cache[:, after:]], axis=1)
  whole.set_shape(cache.shape)
  return whole


def _bias_at(bias):
  """Returns a function of places among the queries to their bias."""
  if bias is None or callable(bias):
    return bias or (lambda places: None)
  if bias.shape[2] == 1:
    return lambda places: bias
  return lambda places: tf.gather(bias, places, axis=2)


class _matmul:
  """Products of two dimensions for every head: best on CPUs."""

  @staticmethod
  def heads(rows):
    """[B, S, N, D] -> [B, N, S, D]"""
    return tf.transpose(rows, [0, 2, 1, 3])

  @staticmethod
  def logits(queries, keys):
    return tf.matmul(queries, keys, transpose_b=True)

  @staticmethod
  def context(probabilities, values):
    """[B, N, T, S], [B, N, S, D] -> [B, T, N, D]"""
    return tf.transpose(tf.matmul(probabilities, values), [0, 2, 1, 3])


class _einsum:
  """The same with axes left where they are: XLA then needs no copies."""

  @staticmethod
  def heads(rows):
    return rows

  @staticmethod
  def logits(queries, keys):
    return tf.einsum('btnd,bsnd->bnts', queries, keys)

  @staticmethod
  def context(probabilities, values):
    """[B, N, T, S], [B, S, N, D] -> [B, T, N, D]"""
    return tf.einsum('bnts,bsnd->btnd', probabilities, values)
