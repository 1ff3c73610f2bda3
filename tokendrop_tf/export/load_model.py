"""A trained model of any kind, with what exporting and serving it needs."""

import dataclasses

import tensorflow as tf
import tf_keras
from official.core import task_factory

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import errors, schedules
from tokendrop_tf.config import configs, experiments, finetuning_configs
from tokendrop_tf.finetuning import (
  question_task,  # noqa: F401  (registers)
  sentence_data,
  sentence_task,  # noqa: F401  (registers)
)
from tokendrop_tf.run import run_folder
from tokendrop_tf.tasks import masked_lm as _masked_lm  # noqa: F401  (registers)
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.text import vocabulary_rows
from tokendrop_tf.weights import load_weights

PRETRAINING = 'pretraining'
GENERATION = 'generation'
CLASSIFICATION = 'classification'
REGRESSION = 'regression'
QUESTION_ANSWERING = 'question_answering'


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A pretrained or fine-tuned model, weights restored.

  Attributes:
    kind: 'pretraining', 'generation' (of a causal pretraining),
      'classification', 'regression' or 'question_answering'.
    model: the pretrainer; or, fine-tuned, from a dict of `input_word_ids`,
      `input_mask`, `input_type_ids`, int32 [B, S], to logits, float32
      [B, classes] or [B, 1]; of question answering to a dict of `start_logits`,
      `end_logits`, float32 [B, S].
    encoder: the encoder inside.
    vocabulary: its vocabulary.
    model_config: sizes of the encoder.
    params: the experiment's tree.
    checkpoint: the checkpoint that the weights came from.
    seq_length: S, the longest sequence that it was trained on.
    masked_lm: the masked-LM head; `None` for a fine-tuned model.
    label_names: names of the classes; () for other kinds.
    is_pair: whether a sentence task takes two texts.
    doc_stride: tokens between windows; this and the following are `None` but
      for question answering.
    query_length: tokens kept of a question.
    max_answer_length: longest answer, in tokens.
    n_best_size: candidates per window.
    null_score_threshold: of SQuAD v2.0; `None` also for v1.1.
  """

  kind: str
  model: tf_keras.Model
  encoder: encoder_lib.TokenDropBertEncoder
  vocabulary: vocabulary_lib.Vocabulary
  model_config: configs.ModelConfig
  params: object
  checkpoint: str
  seq_length: int
  masked_lm: tf_keras.layers.Layer | None = None
  label_names: tuple[str, ...] = ()
  is_pair: bool = False
  doc_stride: int | None = None
  query_length: int | None = None
  max_answer_length: int | None = None
  n_best_size: int | None = None
  null_score_threshold: float | None = None


def load_model(model_dir: str, vocabulary_path: str = '') -> LoadedModel:
  """Builds the model of a run and restores its newest whole checkpoint.

  Args:
    model_dir: folder of a pretraining or fine-tuning run.
    vocabulary_path: where the vocabulary lies now, if it has moved.

  Raises:
    ConfigurationError: without a run or a checkpoint in `model_dir`, or if the
      checkpoint is of another architecture.
    UserError: if the vocabulary is not where it was, or has another size.

  Example:
    loaded = load_model('runs/dropping')
    loaded.encoder(features)['sequence_output']  # [B, S, H]
  """
  params = run_folder.load_params(model_dir)
  checkpoint = run_folder.require_whole_checkpoint(model_dir)
  task_config = params.task
  load_weights.check_fits(checkpoint, task_config.model, '--model_dir')
  if vocabulary_path:
    task_config.vocabulary.path = vocabulary_path
    task_config.vocabulary.counts_path = ''
  vocabulary = _read_vocabulary(task_config)
  model = task_factory.get_task(task_config).build_model()
  status = tf.train.Checkpoint(model=model).read(checkpoint)
  status.assert_existing_objects_matched().expect_partial()
  return LoadedModel(
    encoder=model.encoder_network,
    vocabulary=vocabulary,
    model_config=task_config.model,
    params=params,
    checkpoint=checkpoint,
    seq_length=task_config.train_data.seq_length,
    **_details(task_config, model),
  )


def load_finetuned(model_dir: str, vocabulary_path: str = '') -> LoadedModel:
  """Loads the model of a fine-tuning run; see `load_model`.

  Raises:
    ConfigurationError: also if the run is of pretraining.

  Example:
    tuned = load_finetuned('runs/rte')
    tuned.label_names  # ('entailment', 'not_entailment')
  """
  experiment = run_folder.experiment_of(model_dir)
  if experiment == experiments.PRETRAINING:
    raise errors.ConfigurationError(
      f'--model_dir must be of fine-tuning. Received: {model_dir}, which is of '
      f'{experiment}. Pass another --model_dir.'
    )
  return load_model(model_dir, vocabulary_path)


def _read_vocabulary(task_config) -> vocabulary_lib.Vocabulary:
  path = task_config.vocabulary.path
  if not tf.io.gfile.exists(path):
    raise errors.DataError(
      'The vocabulary of the run must be where it was, or be named. Received: '
      f'{path}, which does not exist. Set --vocabulary.'
    )
  vocabulary = vocabulary_lib.Vocabulary.of(task_config.vocabulary)
  vocabulary_rows.number_of(
    vocabulary, task_config.model.vocab_size, 'Set --vocabulary.'
  )
  return vocabulary


def _details(task_config, model) -> dict[str, object]:
  """Returns the fields that depend on the kind of the model."""
  if isinstance(task_config, finetuning_configs.GlueTaskConfig):
    glue = task_config.glue
    return {
      'kind': REGRESSION if glue.is_regression else CLASSIFICATION,
      'model': _in_float32(model, lambda logits: logits),
      'label_names': tuple(glue.label_names),
      'is_pair': bool(sentence_data.task_of(glue).pair_columns),
    }
  if isinstance(task_config, finetuning_configs.SquadTaskConfig):
    squad = task_config.squad
    with_null = squad.version == 'v2.0'
    return {
      'kind': QUESTION_ANSWERING,
      'model': _in_float32(
        model,
        lambda logits: {'start_logits': logits[0], 'end_logits': logits[1]},
      ),
      'doc_stride': squad.doc_stride,
      'query_length': squad.query_length,
      'max_answer_length': squad.max_answer_length,
      'n_best_size': squad.n_best_size,
      'null_score_threshold': squad.null_score_threshold if with_null else None,
    }
  _use_trained_pooler(model)
  is_causal = task_config.objective == schedules.CAUSAL_LM
  kind = GENERATION if is_causal else PRETRAINING
  return {'kind': kind, 'model': model, 'masked_lm': model.masked_lm}


def _use_trained_pooler(model):
  """Gives the encoder the pooler that the next-sentence head has trained.

  Masked-LM pretraining never reaches the encoder's own, and TF Hub's exporter
  does the same on request.
  """
  for head in model.classification_heads:
    pooler = model.encoder_network.pooler_layer
    pooler.kernel.assign(head.dense.kernel)
    pooler.bias.assign(head.dense.bias)


def _in_float32(model, named):
  """Returns a model of the same weights whose outputs are float32."""
  inputs = model.encoder_network.inputs
  logits = tf.nest.map_structure(
    lambda tensor: tf.cast(tensor, tf.float32), model(inputs)
  )
  return tf_keras.Model(inputs=inputs, outputs=named(logits))
