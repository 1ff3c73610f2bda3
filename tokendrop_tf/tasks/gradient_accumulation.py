"""Gradients of a batch part by part, in less memory.

Letters: B batch of a replica, N parts.
"""

from collections.abc import Callable

import tensorflow as tf

from tokendrop_tf.layers import random_seeds


def over_parts(
  function: Callable,
  num_parts: int,
  rows,
  variables,
  per_row: tuple[str, ...],
):
  """Calls `function` on each of N equal parts of a batch, one after another.

      sum over parts of function(part) = function(batch)

  holds where the function's first and last results are sums over rows, as a
  loss is whose rows are weighted by their share of the whole batch. What is
  drawn at random for every row of the global batch stays the same; dropout
  draws again for every part.

  Args:
    function: of `rows` to (loss, dict of per-row results, gradients): a scalar,
      float32 [B, n] each, and tensors like `variables`.
    num_parts: N, divides B; 1 calls `function` once, without a loop.
    rows: structure of tensors [B, ...].
    variables: what the gradients belong to.
    per_row: names of the per-row results.

  Returns:
    The results of `function` for the whole batch.

  Example:
    loss, results, gradients = over_parts(
      forward_backward, 4, inputs, model.trainable_variables, ('losses',))
  """
  if num_parts == 1:
    return function(rows)
  parts = tf.nest.map_structure(
    lambda tensor: tf.reshape(tensor, [num_parts, -1, *tensor.shape[1:]]), rows
  )

  def add_part(index, loss, results, gradients):
    part = tf.nest.map_structure(lambda tensor: tensor[index], parts)
    with random_seeds.part_of_batch(num_parts, index):
      part_loss, part_results, part_gradients = function(part)
    results = {
      name: array.write(index, part_results[name])
      for name, array in results.items()
    }
    gradients = [a + b for a, b in zip(gradients, part_gradients)]
    return index + 1, loss + part_loss, results, gradients

  _, loss, results, gradients = tf.while_loop(
    lambda index, *_: index < num_parts,
    add_part,
    (
      tf.constant(0),
      tf.constant(0.0),
      {name: tf.TensorArray(tf.float32, num_parts) for name in per_row},
      [tf.zeros(variable.shape, variable.dtype) for variable in variables],
    ),
    parallel_iterations=1,
    maximum_iterations=num_parts,
  )
  return loss, {n: _rows(a.stack()) for n, a in results.items()}, gradients


def _rows(stacked):
  """[N, B / N, n] -> [B, n]"""
  return tf.reshape(stacked, [-1, *stacked.shape[2:]])
