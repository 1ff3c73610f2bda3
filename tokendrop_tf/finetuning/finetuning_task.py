"""The part that all fine-tuning tasks share.

Letters: B batch of a replica.
"""

import tensorflow as tf
import tf_keras

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.config import configs
from tokendrop_tf.tasks import base, masked_lm
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import load_weights


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
  return masked_lm.build_encoder(
    model, configs.TokenDropConfig(policy='none'), vocabulary
  )


class FinetuningTask(base.SeededTask):
  """A task on the encoder, always on full sequences.

  The loss of a step is the mean over the rows of the global batch.

  Args:
    params: a task section of `finetuning_configs`, complete.
  """

  def __init__(self, params, logging_dir=None, name=None):
    super().__init__(params, logging_dir=logging_dir, name=name)
    self._first_batch = 0

  def initialize(self, model):
    """Loads the encoder of `init_checkpoint`, unless only its sizes count."""
    source = self.task_config.init_checkpoint
    if source and not self.task_config.finetuning.random_init:
      load_weights.load_encoder(model.encoder_network, source)

  def resume_data(self, step, model_dir, is_chief=True):
    """Lets the training data begin with the batch of step `step` + 1."""
    del model_dir, is_chief
    self._first_batch = step

  def loss_weights(self, inputs):
    """Returns a weight of 1 for every row, float32 [B]."""
    return {'losses': tf.ones(tf.shape(inputs['input_mask'])[:1])}

  def _build_encoder(self):
    config = self.task_config
    return build_encoder(config.model, self._vocabulary, config.seed)
