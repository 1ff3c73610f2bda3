"""Dataclasses of the fine-tuning experiments and the rules that tie them.

The task configurations are the Model Garden's, with the sections of ours that
they need: an encoder, a vocabulary, and where texts come from.
"""

import dataclasses

from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.nlp.tasks import question_answering, sentence_prediction

from tokendrop_tf import configs, errors
from tokendrop_tf.finetuning import glue_tasks

GLUE = 'token_drop_bert/glue'
SQUAD = 'token_drop_bert/squad'
EXPERIMENTS = (GLUE, SQUAD)

SQUAD_VERSIONS = ('v1.1', 'v2.0')
MALFORMED_ROWS = ('error', 'skip')
# `trainer.train_steps` until the training data have been counted.
STEPS_FROM_EPOCHS = 0
TFDS_PREFIX = 'tfds:'


@dataclasses.dataclass
class FinetuningConfig(hyperparams.Config):
  """What fine-tuning of any task needs beside its data.

  Attributes:
    random_init: takes the sizes of `task.init_checkpoint`, not its weights.
    num_epochs: passes over the training data.
    warmup_share: share of the steps in which the rate rises from 0.
  """

  random_init: bool = False
  num_epochs: float = 3.0
  warmup_share: float = 0.1


@dataclasses.dataclass
class TextDataConfig(cfg.DataConfig):
  """Where rows or questions come from, and how they become batches.

  `input_path` is a comma-separated list of globs; with `tfds_name` and
  `tfds_split`, rows come from TensorFlow Datasets.

  Attributes:
    seq_length: S, the longest sequence in tokens.
    trim_padding: cuts padding that a whole batch has in common.
    seed: of the order of the training examples.
  """

  seq_length: int = 128
  trim_padding: bool = True
  seed: int = 0


@dataclasses.dataclass
class GlueConfig(hyperparams.Config):
  """A sentence task: its columns, its labels and its metric.

  Attributes:
    task: a name of `glue_tasks.TASKS`, or 'custom'.
    label_names: labels as the files spell them, in the order of their ids.
    is_regression: predicts a number instead of a label.
    text_column: column of the (first) text; '' is the task's own.
    text_pair_column: column of the second text; '' is the task's own, or none.
    label_column: column of the label; '' is the task's own.
    index_column: column that names a row in prediction files.
    column_names: columns of files without a header.
    malformed_rows: 'error', or 'skip' rows with another number of columns.
  """

  task: str = glue_tasks.CUSTOM
  label_names: tuple[str, ...] = ()
  is_regression: bool = False
  text_column: str = ''
  text_pair_column: str = ''
  label_column: str = ''
  index_column: str = ''
  column_names: tuple[str, ...] = ()
  malformed_rows: str = 'error'


@dataclasses.dataclass
class SquadConfig(hyperparams.Config):
  """Windows over long paragraphs, and how answers are read off.

  Attributes:
    version: 'v1.1', or 'v2.0' with unanswerable questions.
    doc_stride: tokens from the start of a window to that of the next.
    query_length: tokens kept of a question.
    max_answer_length: longest answer, in tokens.
    n_best_size: candidates per question.
    null_score_threshold: a question is left unanswered if the score of no
      answer exceeds that of the best one by more than this.
  """

  version: str = 'v1.1'
  doc_stride: int = 128
  query_length: int = 64
  max_answer_length: int = 30
  n_best_size: int = 20
  null_score_threshold: float = 0.0


_POSITIVE = configs.Range('above 0', lambda value: value > 0)
_COUNT = configs.Range('at least 1', lambda value: value >= 1)
_LENGTH = configs.Range('at least 8', lambda value: value >= 8)
_SHARE = configs.Range('at least 0 and below 1', lambda value: 0 <= value < 1)


def _one_of(choices):
  text = 'one of ' + ', '.join(map(repr, choices))
  return configs.Range(text, lambda value: value in choices)


configs.add_ranges(
  {
    'finetuning.num_epochs': _POSITIVE,
    'finetuning.warmup_share': _SHARE,
    'finetuning.dropout_rate': _SHARE,
    'finetuning.attention_dropout_rate': _SHARE,
    'finetuning.seed': configs.Range(
      'between 0 and 2**31 - 1', lambda value: 0 <= value < 2**31
    ),
    'glue.task': _one_of((*glue_tasks.TASKS, glue_tasks.CUSTOM)),
    'glue.seq_length': _LENGTH,
    'glue.batch_size': _COUNT,
    'glue.eval_batch_size': _COUNT,
    'glue.malformed_rows': _one_of(MALFORMED_ROWS),
    'squad.version': _one_of(SQUAD_VERSIONS),
    'squad.seq_length': _LENGTH,
    'squad.doc_stride': _COUNT,
    'squad.query_length': _COUNT,
    'squad.max_answer_length': _COUNT,
    'squad.n_best_size': _COUNT,
    'squad.batch_size': _COUNT,
    'squad.eval_batch_size': _COUNT,
  }
)


def _data_field(is_training):
  return dataclasses.field(
    default_factory=lambda: TextDataConfig(is_training=is_training)
  )


@dataclasses.dataclass
class GlueTaskConfig(sentence_prediction.SentencePredictionConfig):
  """Sentence classification or regression, single texts or pairs.

  Attributes:
    init_checkpoint: where weights come from; see `init_weights.describe`.
    mismatched_validation_data: a second validation set (MNLI), or empty.
    test_data: rows to write predictions for, or empty.
    mismatched_test_data: the second test set of MNLI, or empty.
    seed: of new weights, dropout and the order of the examples.
  """

  model: configs.ModelConfig = dataclasses.field(
    default_factory=configs.ModelConfig
  )
  vocabulary: configs.VocabularyConfig = dataclasses.field(
    default_factory=configs.VocabularyConfig
  )
  finetuning: FinetuningConfig = dataclasses.field(
    default_factory=FinetuningConfig
  )
  glue: GlueConfig = dataclasses.field(default_factory=GlueConfig)
  train_data: TextDataConfig = _data_field(True)
  validation_data: TextDataConfig = _data_field(False)
  mismatched_validation_data: TextDataConfig = _data_field(False)
  test_data: TextDataConfig = _data_field(False)
  mismatched_test_data: TextDataConfig = _data_field(False)
  seed: int = 0


@dataclasses.dataclass
class SquadTaskConfig(question_answering.QuestionAnsweringConfig):
  """Answers as spans of a paragraph.

  Attributes:
    init_checkpoint: where weights come from; see `init_weights.describe`.
    test_data: questions to write answers to, or empty.
    seed: of new weights, dropout and the order of the examples.
  """

  model: configs.ModelConfig = dataclasses.field(
    default_factory=configs.ModelConfig
  )
  vocabulary: configs.VocabularyConfig = dataclasses.field(
    default_factory=configs.VocabularyConfig
  )
  finetuning: FinetuningConfig = dataclasses.field(
    default_factory=FinetuningConfig
  )
  squad: SquadConfig = dataclasses.field(default_factory=SquadConfig)
  train_data: TextDataConfig = _data_field(True)
  validation_data: TextDataConfig = _data_field(False)
  test_data: TextDataConfig = _data_field(False)
  seed: int = 0


def experiment_name(task) -> str:
  """Returns the experiment that a fine-tuning task section belongs to."""
  return GLUE if isinstance(task, GlueTaskConfig) else SQUAD


def is_finetuning(task) -> bool:
  """Whether a task section is one of fine-tuning."""
  return isinstance(task, (GlueTaskConfig, SquadTaskConfig))


def has_source(data: TextDataConfig) -> bool:
  """Whether a data section names something to read."""
  return bool(data.input_path or data.tfds_name)


def source_name(data: TextDataConfig) -> str:
  """Returns what a data section reads, as the user wrote it."""
  if data.tfds_name:
    return f'{TFDS_PREFIX}{data.tfds_name}:{data.tfds_split}'
  return str(data.input_path)


def parse_source(source: str, setting: str) -> dict[str, str]:
  """Returns the data section's fields for a source as users write it.

  Args:
    source: files and globs, or 'tfds:NAME:SPLIT'.
    setting: name of the setting, for messages.

  Raises:
    errors.ConfigurationError: for a TFDS source without a split.

  Example:
    parse_source('tfds:glue/rte:train', 'glue.train_data')
    # {'tfds_name': 'glue/rte', 'tfds_split': 'train'}
  """
  if not source.startswith(TFDS_PREFIX):
    return {'input_path': source}
  name, _, split = source.removeprefix(TFDS_PREFIX).partition(':')
  if not name or not split:
    raise errors.ConfigurationError(
      f"{setting} must name a TFDS data set as 'tfds:NAME:SPLIT'. Received: "
      f"{source!r}. Set {setting}, e.g. to 'tfds:glue/rte:train'."
    )
  return {'tfds_name': name, 'tfds_split': split}


def validate_experiment(params):
  """Checks every rule of a fine-tuning tree that needs no file.

  Args:
    params: an `ExperimentConfig` whose task is one of this module.

  Raises:
    errors.ConfigurationError: for the first rule that is broken.
  """
  task = params.task
  configs.validate_shared_sections(params)
  _check_length(task)
  if isinstance(task, GlueTaskConfig):
    _check_columns(task.glue)
    _check_labels(task.glue)
    _check_metric(task)
    _check_mismatched(task)
  else:
    _check_windows(task)


def validate_replicas(params, num_replicas):
  """Checks, once the devices are known, that they share the batches evenly.

  Raises:
    errors.ConfigurationError: if `num_replicas` does not divide a batch.
  """
  section = 'glue' if isinstance(params.task, GlueTaskConfig) else 'squad'
  for name, data in (
    ('batch_size', params.task.train_data),
    ('eval_batch_size', params.task.validation_data),
  ):
    if data.global_batch_size % num_replicas:
      raise errors.ConfigurationError(
        f'{section}.{name} must be a multiple of the number of replicas. '
        f'Received: {name}={data.global_batch_size}, {num_replicas} replicas. '
        f'Set {section}.{name}.'
      )


def validate_sources(params, mode):
  """Checks that what `mode` reads is named.

  Raises:
    errors.ConfigurationError: if it is not.
  """
  section = 'glue' if isinstance(params.task, GlueTaskConfig) else 'squad'
  needed = {'train': 'train_data', 'eval': 'validation_data'}
  for word, name in needed.items():
    if word in mode and not has_source(getattr(params.task, name)):
      raise errors.ConfigurationError(
        f"{section}.{name} must name files, or 'tfds:NAME:SPLIT'. Received: "
        f"'' for --mode={mode}. Set {section}.{name}."
      )


def _check_length(task):
  seq_length = task.train_data.seq_length
  section = 'glue' if isinstance(task, GlueTaskConfig) else 'squad'
  if seq_length > task.model.max_position_embeddings:
    raise errors.ConfigurationError(
      f'{section}.seq_length must be at most the longest sequence of the '
      f'model. Received: seq_length={seq_length}, max_position_embeddings='
      f'{task.model.max_position_embeddings}. Set {section}.seq_length.'
    )


def _check_columns(glue):
  if glue.task != glue_tasks.CUSTOM:
    return
  for name in ('text_column', 'label_column'):
    if not getattr(glue, name):
      raise errors.ConfigurationError(
        f"glue.{name} must name a column where glue.task = 'custom'. "
        f"Received: ''. Set glue.{name}, or glue.task."
      )


def _check_labels(glue):
  names = glue.label_names
  if glue.is_regression and names:
    raise errors.ConfigurationError(
      'Regression has no labels. Received: glue.is_regression=True, '
      f'glue.label_names={list(names)}. Set one of the two.'
    )
  if len(set(names)) != len(names) or len(names) == 1:
    raise errors.ConfigurationError(
      'glue.label_names must be at least two labels, each once; [] takes those '
      f'of the training data. Received: {list(names)}. Set glue.label_names.'
    )


def _check_metric(task):
  regression = ('pearson_spearman_corr',)
  fitting = [
    name
    for name in sorted(sentence_prediction.METRIC_TYPES)
    if (name in regression) == task.glue.is_regression
  ]
  if task.metric_type not in fitting:
    kind = 'regression' if task.glue.is_regression else 'classification'
    raise errors.ConfigurationError(
      f'glue.metric must be one of {", ".join(fitting)} for {kind}. Received: '
      f'{task.metric_type!r}. Set glue.metric or glue.is_regression.'
    )


def _check_mismatched(task):
  if task.glue.task == 'mnli':
    return
  for name in ('mismatched_validation_data', 'mismatched_test_data'):
    data = getattr(task, name)
    if has_source(data):
      raise errors.ConfigurationError(
        f"glue.{name} belongs to glue.task = 'mnli'. Received: "
        f'{source_name(data)!r} for glue.task = {task.glue.task!r}. Leave '
        f'glue.{name} unset.'
      )


def _check_windows(task):
  squad, seq_length = task.squad, task.train_data.seq_length
  # [CLS] question [SEP] window [SEP].
  room = seq_length - squad.query_length - 3
  if not squad.doc_stride <= room:
    raise errors.ConfigurationError(
      'squad.doc_stride must be at most squad.seq_length - '
      'squad.query_length - 3, so that windows leave nothing out. Received: '
      f'doc_stride={squad.doc_stride}, seq_length={seq_length}, '
      f'query_length={squad.query_length}. Set squad.doc_stride, or a longer '
      'squad.seq_length.'
    )
