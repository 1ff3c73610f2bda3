"""Element-wise parts of a block in one pass over memory each.

TensorFlow's CPU kernels write every intermediate tensor: GELU and its gradient
take some twenty passes, dropout, residual and normalization thirty. Here each
is one function, computed in float32 and rounded once, with a gradient that
recomputes instead of remembering. While training in a graph on CPUs, with
static shapes, they are compiled by XLA one by one, because compiling matrix
products there as well is slower; where everything is compiled, they are merely
inlined.
"""

import math

import tensorflow as tf
import tf_keras

from tokendrop_tf.layers import random_seeds
from tokendrop_tf.layers.dropout import dropout

# gelu(x) = x / 2 (1 + tanh(a x + b x^3)), the approximation that BERT uses
# (Hendrycks and Gimpel, 2016, arXiv 1606.08415, section 2).
_GELU_A = math.sqrt(2.0 / math.pi)
_GELU_B = _GELU_A * 0.044715


def gelu(x: tf.Tensor, training: bool = False) -> tf.Tensor:
  """Returns GELU, tanh approximation, in the dtype of `x`."""
  if not (training and compiles_islands(x)):
    return _gelu(x)

  @tf.custom_gradient
  def island(x):
    return _compiled_gelu(x), lambda upstream: _compiled_gelu_grad(x, upstream)

  return island(x)


def add_bias(rows: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
  """Returns `rows + bias`.

  On CPUs the gradient of the bias is a matrix product with ones: TensorFlow's
  kernel adds up thousands of bfloat16 rows in bfloat16, which loses the smaller
  ones.

  Args:
    rows: [N, H].
    bias: [H].
  """
  if not _runs_cpu_kernels():
    return tf.nn.bias_add(rows, bias)

  @tf.custom_gradient
  def add(rows, bias):
    def gradient(upstream):
      ones = tf.ones([1, tf.shape(upstream)[0]], upstream.dtype)
      return upstream, tf.squeeze(tf.matmul(ones, upstream), axis=0)

    return tf.nn.bias_add(rows, bias), gradient

  return add(rows, bias)


def add_and_normalize(
  residual: tf.Tensor,
  branch: tf.Tensor,
  norm: tf_keras.layers.Layer,
  rate: float,
  seed: tf.Tensor | None,
  dtype: tf.DType,
) -> tf.Tensor:
  """Returns layer normalization of `residual + dropout(branch)`.

  Args:
    residual: [B, T, H].
    branch: [B, T, H].
    norm: a built `LayerNormalization` over the last axis.
    rate: dropout rate of the branch.
    seed: int32 [2]; `None` drops nothing.
    dtype: of the result; statistics are float32.
  """
  scale = tf.convert_to_tensor(norm.gamma)
  shift = tf.convert_to_tensor(norm.beta)
  arguments = (norm.epsilon, rate, dtype)
  if seed is None or not compiles_islands(residual, branch):
    return _add_and_normalize(residual, branch, scale, shift, seed, *arguments)

  @tf.custom_gradient
  def island(residual, branch, scale, shift):
    def gradient(upstream):
      return _compiled_normalize_grad(
        residual, branch, scale, seed, upstream, *arguments
      )

    result = _compiled_normalize(
      residual, branch, scale, shift, seed, *arguments
    )
    return result, gradient

  return island(residual, branch, scale, shift)


def normalize(x: tf.Tensor, norm, dtype: tf.DType) -> tf.Tensor:
  """Returns layer normalization of `x`, computed in float32."""
  standard, _ = _standardize(tf.cast(x, tf.float32), norm.epsilon)
  return tf.cast(standard * norm.gamma + norm.beta, dtype)


def compiles_islands(*tensors: tf.Tensor) -> bool:
  """Returns whether functions of these tensors are compiled one by one."""
  # Shapes that vary would be compiled again each, and dropout needs them.
  return (
    all(tensor.shape.is_fully_defined() for tensor in tensors)
    and not tf.executing_eagerly()
    and _runs_cpu_kernels()
  )


def _runs_cpu_kernels():
  return not (
    random_seeds.is_compiled_by_xla() or tf.config.list_physical_devices('GPU')
  )


def _gelu(x):
  wide = tf.cast(x, tf.float32)
  return tf.cast(0.5 * wide * (1.0 + tf.tanh(_gelu_argument(wide))), x.dtype)


def _gelu_argument(x):
  return x * (_GELU_A + _GELU_B * x * x)


@tf.function(jit_compile=True)
def _compiled_gelu(x):
  return _gelu(x)


@tf.function(jit_compile=True)
def _compiled_gelu_grad(x, upstream):
  wide = tf.cast(x, tf.float32)
  tanh = tf.tanh(_gelu_argument(wide))
  inner = (1.0 - tanh * tanh) * (_GELU_A + 3.0 * _GELU_B * wide * wide)
  slope = 0.5 * (1.0 + tanh + wide * inner)
  return tf.cast(tf.cast(upstream, tf.float32) * slope, x.dtype)


def _sum(residual, branch, rate, seed):
  branch = dropout(branch, rate, seed)
  return tf.cast(residual, tf.float32) + tf.cast(branch, tf.float32)


def _standardize(total, epsilon):
  """Returns rows of mean 0 and variance 1, and the factor that made them."""
  centred = total - tf.reduce_mean(total, axis=-1, keepdims=True)
  variance = tf.reduce_mean(centred * centred, axis=-1, keepdims=True)
  factor = tf.math.rsqrt(variance + epsilon)
  return centred * factor, factor


def _add_and_normalize(
  residual, branch, scale, shift, seed, epsilon, rate, dtype
):
  standard, _ = _standardize(_sum(residual, branch, rate, seed), epsilon)
  return tf.cast(standard * scale + shift, dtype)


_compiled_normalize = tf.function(_add_and_normalize, jit_compile=True)


@tf.function(jit_compile=True)
def _compiled_normalize_grad(
  residual, branch, scale, seed, upstream, epsilon, rate, dtype
):
  """Returns the gradients of residual, branch, scale and shift.

  With y = x' scale + shift and x' = (x - mean) f:
      dx = f (d - mean(d) - x' mean(d x')),  d = dy scale
  """
  del dtype
  total = _sum(residual, branch, rate, seed)
  standard, factor = _standardize(total, epsilon)
  upstream = tf.cast(upstream, tf.float32)
  scaled = upstream * scale
  mean = tf.reduce_mean(scaled, axis=-1, keepdims=True)
  along = tf.reduce_mean(scaled * standard, axis=-1, keepdims=True)
  change = factor * (scaled - mean - standard * along)
  # Dropout is its own gradient.
  return (
    tf.cast(change, residual.dtype),
    dropout(tf.cast(change, branch.dtype), rate, seed),
    tf.reduce_sum(upstream * standard, axis=[0, 1]),
    tf.reduce_sum(upstream, axis=[0, 1]),
  )
