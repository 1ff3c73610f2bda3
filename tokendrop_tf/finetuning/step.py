"""The train step that fine-tuning tasks share."""

import tensorflow as tf
import tf_keras

from tokendrop_tf import configs, loss_guard, task
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.layers import random_seeds


def build_encoder(
  model: configs.ModelConfig, vocabulary: vocabulary_lib.Vocabulary, seed: int
) -> encoder_lib.TokenDropBertEncoder:
  """Returns an encoder that drops no tokens, its weights drawn from a seed.

  Args:
    model: sizes and dropout rates.
    vocabulary: the vocabulary of its ids.
    seed: decides the initial weights, those of later heads included.
  """
  tf_keras.utils.set_random_seed(seed)
  return task.build_encoder(
    model, configs.TokenDropConfig(policy='none'), vocabulary
  )


class SeededStep:
  """Mixin for tasks: a step whose every random number follows from the seed.

  The loss of a step is the mean over the global batch; gradients are summed
  over replicas, then clipped, then applied. Variables that the loss does not
  reach keep their values: without a gradient they must not decay either.

  A task says what the loss of every row is:

      def row_losses(self, inputs, model, training, seed):
        # Returns float32 [B] and what the metrics need.
  """

  @classmethod
  def create_optimizer(cls, *args, **kwargs):
    """Returns the optimizer of the Model Garden's factory."""
    optimizer = super().create_optimizer(*args, **kwargs)
    # The step reads the counter: it must exist before a replica's first trace.
    _ = optimizer.iterations
    return optimizer

  def train_step(self, inputs, model, optimizer, metrics):
    """Takes one optimizer step.

    Args:
      inputs: this replica's features and labels.
      model: a model of `finetuning.models`.
      optimizer: an optimizer of the Model Garden's factory.
      metrics: what `build_metrics` gave.

    Returns:
      A dict of `loss`, this replica's mean, float32.
    """
    step = tf.identity(optimizer.iterations)
    seed = random_seeds.fold_in(
      tf.constant([self.task_config.seed, 0], tf.int32), step
    )
    num_replicas, _ = random_seeds.replica_count_and_id()
    with tf.GradientTape() as tape:
      losses, results = self.row_losses(inputs, model, True, seed)
      loss = tf.reduce_mean(losses)
      share = loss / num_replicas
    gradients = tape.gradient(share, model.trainable_variables)
    _apply_gradients(gradients, model, optimizer)
    self.update_metrics(metrics, inputs, results)
    loss_guard.watch(model.first_nonfinite_step, loss, step)
    return {self.loss: loss}


def _apply_gradients(gradients, model, optimizer):
  pairs = [
    (tf.convert_to_tensor(gradient), variable)
    for gradient, variable in zip(gradients, model.trainable_variables)
    if gradient is not None
  ]
  gradients, variables = zip(*pairs)
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync > 1:
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
  # The Model Garden's AdamW would clip before it sums over replicas.
  clip_norm = getattr(optimizer, 'gradient_clip_norm', 0.0)
  if clip_norm > 0.0:
    gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
  optimizer.apply_gradients(
    zip(gradients, variables), experimental_aggregate_gradients=False
  )
