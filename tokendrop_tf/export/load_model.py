"""A trained model of any kind, with what exporting and serving it needs."""

import dataclasses

import tf_keras

from tokendrop_tf import (
  configs,
  experiments,
  fill_mask,
  init_weights,
  run_folder,
)
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib

PRETRAINING = 'pretraining'
CLASSIFICATION = 'classification'
REGRESSION = 'regression'
QUESTION_ANSWERING = 'question_answering'


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A trained model.

  Attributes:
    kind: 'pretraining', 'classification', 'regression' or
      'question_answering'.
    model: the pretrainer, or the fine-tuned model.
    encoder: the encoder inside.
    masked_lm: the masked-LM head; `None` for a fine-tuned model.
    vocabulary: its vocabulary.
    model_config: sizes of the encoder.
    params: the experiment's tree.
    finetuned: the fine-tuned model with its labels; `None` in pretraining.
    seq_length: S, the longest sequence that it was trained on.
  """

  kind: str
  model: tf_keras.Model
  encoder: encoder_lib.TokenDropBertEncoder
  masked_lm: tf_keras.layers.Layer | None
  vocabulary: vocabulary_lib.Vocabulary
  model_config: configs.ModelConfig
  params: object
  finetuned: object | None
  seq_length: int


def load_model(model_dir: str, vocabulary_path: str = '') -> LoadedModel:
  """Builds the model of a run and restores its newest checkpoint.

  Args:
    model_dir: folder of a pretraining or fine-tuning run.
    vocabulary_path: where the vocabulary lies now, if it has moved.

  Raises:
    ConfigurationError: without a run or a checkpoint in `model_dir`, or if the
      checkpoint is of another architecture.
    DataError: if the vocabulary is not where it was, or has another size.

  Example:
    loaded = load_model('runs/dropping')
    loaded.encoder(features)['sequence_output']  # [B, S, H]
  """
  experiment = run_folder.experiment_of(model_dir)
  run_folder.require_checkpoint(model_dir)
  _check_architecture(model_dir)
  if experiment == experiments.PRETRAINING:
    return _load_pretraining(model_dir, vocabulary_path)
  return _load_finetuned(model_dir, vocabulary_path)


def _check_architecture(model_dir):
  """Compares the checkpoint with the settings that lie beside it."""
  model = init_weights.describe(model_dir, '--model_dir').model
  init_weights.check_fits(model_dir, model, '--model_dir')


def _load_pretraining(model_dir, vocabulary_path):
  trained = fill_mask.load_trained_model(model_dir, vocabulary_path)
  model = trained.model
  _use_trained_pooler(model)
  return LoadedModel(
    kind=PRETRAINING,
    model=model,
    encoder=model.encoder_network,
    masked_lm=model.masked_lm,
    vocabulary=trained.vocabulary,
    model_config=trained.params.task.model,
    params=trained.params,
    finetuned=None,
    seq_length=trained.seq_length,
  )


def _use_trained_pooler(model):
  """Gives the encoder the pooler that the next-sentence head has trained.

  Masked-LM pretraining never reaches the encoder's own, and TF Hub's exporter
  does the same on request.
  """
  for head in model.classification_heads:
    pooler = model.encoder_network.pooler_layer
    pooler.kernel.assign(head.dense.kernel)
    pooler.bias.assign(head.dense.bias)


def _load_finetuned(model_dir, vocabulary_path):
  # Exporting a pretrained model needs nothing of fine-tuning.
  from tokendrop_tf import finetuning  # pylint: disable=import-outside-toplevel

  finetuned = finetuning.load_finetuned(model_dir, vocabulary_path)
  return LoadedModel(
    kind=finetuned.kind,
    model=finetuned.model,
    encoder=finetuned.encoder,
    masked_lm=None,
    vocabulary=finetuned.vocabulary,
    model_config=finetuned.model_config,
    params=finetuned.params,
    finetuned=finetuned,
    seq_length=finetuned.seq_length,
  )
