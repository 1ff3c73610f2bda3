"""Loads a fine-tuned model with what is needed to use it."""

import dataclasses

import tensorflow as tf
import tf_keras

from tokendrop_tf import configs, errors, run_folder
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import experiments as _experiments  # noqa: F401  (registers)
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.finetuning import configs as finetuning_configs
from tokendrop_tf.finetuning import question_task, sentence_data, sentence_task

CLASSIFICATION = 'classification'
REGRESSION = 'regression'
QUESTION_ANSWERING = 'question_answering'


@dataclasses.dataclass(frozen=True)
class FinetunedModel:
  """A fine-tuned model, weights restored.

  Attributes:
    kind: 'classification', 'regression' or 'question_answering'.
    model: from a dict of `input_word_ids`, `input_mask`, `input_type_ids`,
      int32 [B, S], to logits, float32 [B, classes] or [B, 1]; of question
      answering to a dict of `start_logits`, `end_logits`, float32 [B, S].
    encoder: the encoder inside.
    label_names: names of the classes; () for other kinds.
    is_pair: whether a sentence task takes two texts.
    seq_length: S, the longest sequence that it was fine-tuned on.
    vocabulary: its vocabulary.
    model_config: its sizes.
    params: the experiment's tree.
    checkpoint: where the weights came from.
    doc_stride: tokens between windows; `None` but for question answering, and
      so are the following.
    query_length: tokens kept of a question.
    max_answer_length: longest answer, in tokens.
    n_best_size: candidates per window.
    null_score_threshold: of SQuAD v2.0; `None` also for v1.1.
  """

  kind: str
  model: tf_keras.Model
  encoder: encoder_lib.TokenDropBertEncoder
  label_names: tuple[str, ...]
  is_pair: bool
  seq_length: int
  vocabulary: vocabulary_lib.Vocabulary
  model_config: configs.ModelConfig
  params: object
  checkpoint: str
  doc_stride: int | None = None
  query_length: int | None = None
  max_answer_length: int | None = None
  n_best_size: int | None = None
  null_score_threshold: float | None = None


def load_finetuned(model_dir: str, vocabulary_path: str = '') -> FinetunedModel:
  """Builds the model of a fine-tuning run and restores its newest checkpoint.

  Args:
    model_dir: folder of a fine-tuning run.
    vocabulary_path: where the vocabulary lies now, if it has moved.

  Raises:
    errors.ConfigurationError: without a run of fine-tuning or a checkpoint in
      `model_dir`.
    errors.DataError: if the vocabulary is not where it was, or has another
      size.

  Example:
    tuned = load_finetuned('runs/rte')
    tuned.label_names  # ('entailment', 'not_entailment')
  """
  params = _load_params(model_dir)
  checkpoint = run_folder.require_whole_checkpoint(model_dir)
  task_config = params.task
  if vocabulary_path:
    task_config.vocabulary.path = vocabulary_path
  vocabulary = _read_vocabulary(task_config)
  is_glue = isinstance(task_config, finetuning_configs.GlueTaskConfig)
  task_class = (
    sentence_task.SentenceTask if is_glue else question_task.QuestionTask
  )
  trained = task_class(task_config).build_model()
  status = tf.train.Checkpoint(model=trained).read(checkpoint)
  status.assert_existing_objects_matched().expect_partial()
  details = _sentence_details if is_glue else _question_details
  return FinetunedModel(
    encoder=trained.encoder_network,
    seq_length=task_config.train_data.seq_length,
    vocabulary=vocabulary,
    model_config=task_config.model,
    params=params,
    checkpoint=checkpoint,
    **details(task_config, trained),
  )


def _load_params(model_dir):
  experiment = run_folder.experiment_of(model_dir)
  if experiment not in finetuning_configs.EXPERIMENTS:
    raise errors.ConfigurationError(
      f'--model_dir must be of fine-tuning. Received: {model_dir}, which is of '
      f'{experiment}. Pass another --model_dir.'
    )
  return run_folder.load_params(experiment, model_dir)


def _read_vocabulary(task_config):
  path = task_config.vocabulary.path
  if not tf.io.gfile.exists(path):
    raise errors.DataError(
      'The vocabulary of the run must be where it was, or be named. Received: '
      f'{path}, which does not exist. Set --vocabulary.'
    )
  vocabulary = vocabulary_lib.Vocabulary.from_file(
    path, task_config.vocabulary.lower_case
  )
  if vocabulary.size != task_config.model.vocab_size:
    raise errors.DataError(
      'The vocabulary must be the one of the training. Received: '
      f'{vocabulary.size:,} tokens in {path}, '
      f'{task_config.model.vocab_size:,} in the model. Set --vocabulary.'
    )
  return vocabulary


def _sentence_details(task_config, trained):
  glue = task_config.glue
  return {
    'kind': REGRESSION if glue.is_regression else CLASSIFICATION,
    'model': _in_float32(trained, lambda logits: logits),
    'label_names': tuple(glue.label_names),
    'is_pair': bool(sentence_data.task_of(glue).pair_columns),
  }


def _question_details(task_config, trained):
  squad = task_config.squad
  with_null = squad.version == 'v2.0'
  return {
    'kind': QUESTION_ANSWERING,
    'model': _in_float32(
      trained,
      lambda logits: {'start_logits': logits[0], 'end_logits': logits[1]},
    ),
    'label_names': (),
    'is_pair': False,
    'doc_stride': squad.doc_stride,
    'query_length': squad.query_length,
    'max_answer_length': squad.max_answer_length,
    'n_best_size': squad.n_best_size,
    'null_score_threshold': squad.null_score_threshold if with_null else None,
  }


def _in_float32(trained, named):
  """Returns a model of the same weights whose outputs are float32."""
  inputs = trained.encoder_network.inputs
  logits = tf.nest.map_structure(
    lambda tensor: tf.cast(tensor, tf.float32), trained(inputs)
  )
  return tf_keras.Model(inputs=inputs, outputs=named(logits))
