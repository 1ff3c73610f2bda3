"""The train step of all tasks: one seed, one global mean, one update.

Letters: B batch of a replica, n losses per row.
"""

import functools

import tensorflow as tf
from official.core import base_task

from tokendrop_tf.layers import random_seeds
from tokendrop_tf.tasks import gradient_accumulation, loss_scaler
from tokendrop_tf.text import vocabulary as vocabulary_lib


class SeededTask(base_task.Task):
  """A task whose step is the same on one device and on many.

  The loss of a step is a weighted mean over the global batch, added up over the
  kinds of losses that the task has:

      loss = sum over kinds of sum(weight * loss) / sum(weight)

  So N replicas take the step that one device takes on that batch. (The Model
  Garden's tasks average within a replica and sum over replicas.) Gradients are
  summed over replicas, then clipped, then applied. Every random number follows
  from `task_config.seed` and the step.

  In float16, a `LossScaleOptimizer` multiplies the loss, so that small
  gradients do not vanish, and divides the summed gradients before they are
  clipped. A step whose gradients are not finite only halves the scale.

  A subclass says what the losses are. Its model has `trained_variables`, those
  that the loss reaches, and a `loss_guard.LossGuard`.

  Args:
    params: the task's section of the tree, with `seed` and `vocabulary`.

  Example:
    class MyTask(SeededTask):
      result_names = ('losses', 'hits')

      def loss_weights(self, inputs):
        return {'losses': inputs['masked_lm_weights']}

      def row_results(self, inputs, model, training, seed=None, branch=None):
        return {'losses': ..., 'hits': ...}  # float32 [B, n] each
  """

  # Names of what `row_results` returns.
  result_names: tuple[str, ...] = ()
  # See `configure_step`.
  gradient_accumulation_steps = 1
  all_reduce_dtype = tf.float32

  def __init__(self, params, logging_dir=None, name=None):
    super().__init__(params, logging_dir=logging_dir, name=name)
    self._vocabulary = vocabulary_lib.Vocabulary.from_file(
      params.vocabulary.path, lower_case=params.vocabulary.lower_case
    )

  @property
  def vocabulary(self) -> vocabulary_lib.Vocabulary:
    """The vocabulary that the model's ids refer to."""
    return self._vocabulary

  @classmethod
  def create_optimizer(cls, *args, **kwargs):
    """Returns the optimizer of the Model Garden's factory."""
    optimizer = super().create_optimizer(*args, **kwargs)
    # The step reads the counter: it must exist before a replica's first trace.
    _ = optimizer.iterations
    return optimizer

  def configure_step(
    self, gradient_accumulation_steps=1, all_reduce_dtype=None
  ):
    """Sets how a step is computed, which changes no more than its rounding.

    Args:
      gradient_accumulation_steps: parts of a replica's batch whose gradients
        are taken one after another.
      all_reduce_dtype: in which replicas add gradients; `None` is float32.
    """
    self.gradient_accumulation_steps = gradient_accumulation_steps
    self.all_reduce_dtype = tf.as_dtype(all_reduce_dtype or tf.float32)

  def resume_data(self, step, model_dir, is_chief=True):
    """Lets the training data begin with the batch of step `step` + 1.

    Args:
      step: number of steps taken before.
      model_dir: folder of the run, where facts about the data are kept.
      is_chief: whether this process writes there.
    """

  def train_step(self, inputs, model, optimizer, metrics):
    """Takes one optimizer step.

    Args:
      inputs: this replica's features.
      model: what `build_model` gave.
      optimizer: an optimizer of the Model Garden's factory.
      metrics: what `build_metrics` gave.

    Returns:
      A dict of `loss`, this replica's share of the global loss times the number
      of replicas, float32.
    """
    step = tf.identity(optimizer.iterations)
    inputs = self.complete_inputs(inputs, model, step)
    scaler = loss_scaler.LossScaler(optimizer)
    # 1. Forward and backward.
    loss, results, gradients = self._forward_backward(
      inputs, model, step, scaler
    )
    # 2. Sum over replicas, clip, update the weights.
    norm = self._apply_gradients(gradients, model, optimizer, scaler)
    # 3. Update what learns from losses alone.
    self.after_update(inputs, model, results, scaler.takes_step(norm))
    loss = scaler.checked(loss, norm)
    # 4. Record.
    self.update_metrics(metrics, inputs, results)
    model.loss_guard.watch(loss, norm, step)
    return {self.loss: loss}

  def complete_inputs(self, inputs, model, step):
    """Returns the features with those that are made within the step."""
    del model, step
    return inputs

  def switch(self, step, run):
    """Calls `run(branch)` for the branch that `step` takes.

    A branch is what `row_results` gets under that name: one way to compute a
    step, compiled once. Here there is one, `None`.

    Args:
      step: number of steps taken before, int64 scalar.
      run: function of a branch.
    """
    del step
    return run(None)

  def loss_weights(self, inputs):
    """Returns the weight of every loss, float32 like it, by its name."""
    raise NotImplementedError

  def row_results(self, inputs, model, training, seed=None, branch=None):
    """Returns losses and what else metrics need, by `result_names`.

    Args:
      inputs: features [B, ...].
      model: what `build_model` gave.
      training: whether to drop out.
      seed: int32 [2]; all random numbers follow from it.
      branch: what `switch` chose.

    Returns:
      A dict of float32 [B, ...].
    """
    raise NotImplementedError

  def after_update(self, inputs, model, results, takes_step):
    """Updates state other than weights; here there is none.

    Args:
      inputs: features [B, ...].
      model: what `build_model` gave.
      results: what `row_results` gave.
      takes_step: whether the weights were updated, a bool or a scalar of it.
    """
    del inputs, model, results, takes_step

  def update_metrics(self, metrics, inputs, results):
    """Adds a training batch to `metrics`."""
    raise NotImplementedError

  def _forward_backward(self, inputs, model, step, scaler):
    """Returns loss, per-row results and gradients of this step.

    Gradients are dense, scaled and in the order of `model.trained_variables`.
    """
    seed = random_seeds.fold_in(
      tf.constant([self.task_config.seed, 0], tf.int32), step
    )
    shares = _global_shares(self.loss_weights(inputs))

    def run_rows(rows, branch):
      inputs, shares = rows
      with tf.GradientTape() as tape:
        results = self.row_results(inputs, model, True, seed, branch)
        loss = self._replica_loss(results, shares)
        scaled_loss = scaler.scaled(loss)
      gradients = tape.gradient(scaled_loss, model.trained_variables)
      return loss, results, [tf.convert_to_tensor(g) for g in gradients]

    def run(branch):
      return gradient_accumulation.over_parts(
        functools.partial(run_rows, branch=branch),
        self.gradient_accumulation_steps,
        (inputs, shares),
        model.trained_variables,
        self.result_names,
      )

    loss, results, gradients = self.switch(step, run)
    num_replicas, _ = random_seeds.replica_count_and_id()
    return loss * float(num_replicas), results, gradients

  def _replica_loss(self, results, shares):
    """Returns this replica's part of the global loss; the parts add up."""
    return tf.add_n(
      [
        tf.reduce_sum(tf.math.multiply_no_nan(results[name], share))
        for name, share in shares.items()
      ]
    )

  def _apply_gradients(self, gradients, model, optimizer, scaler):
    """Updates the weights; returns the norm of the global gradients."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
      sent = [tf.cast(g, self.all_reduce_dtype) for g in gradients]
      sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sent)
      gradients = [tf.cast(s, g.dtype) for s, g in zip(sums, gradients)]
    gradients = scaler.unscaled(gradients)
    # The Model Garden's AdamW would clip before it sums over replicas.
    clip_norm = getattr(scaler.inner_optimizer, 'gradient_clip_norm', 0.0)
    norm = tf.linalg.global_norm(gradients)
    if clip_norm > 0.0:
      gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, norm)
    optimizer.apply_gradients(
      zip(gradients, model.trained_variables),
      experimental_aggregate_gradients=False,
    )
    return norm


def _global_shares(weights):
  """Returns weights divided by their sum over the global batch."""
  totals = {name: tf.reduce_sum(weight) for name, weight in weights.items()}
  num_replicas, _ = random_seeds.replica_count_and_id()
  if num_replicas > 1:
    totals = tf.distribute.get_replica_context().all_reduce(
      tf.distribute.ReduceOp.SUM, totals
    )
  return {
    name: tf.math.divide_no_nan(weight, totals[name])
    for name, weight in weights.items()
  }
