"""The experiment trees of fine-tuning, each of their settings declared once.

The task configurations are the Model Garden's, with an encoder, a vocabulary,
and the place that texts come from. See `config.configs` for the declarations.
"""

import dataclasses

from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.nlp.tasks import question_answering, sentence_prediction

from tokendrop_tf import errors
from tokendrop_tf.config import configs, glue_tasks
from tokendrop_tf.settings import SEED, SHARE, above, at_least, one_of, setting

SQUAD_VERSIONS = ('v1.1', 'v2.0')
MALFORMED_ROWS = ('error', 'skip')
TFDS_PREFIX = 'tfds:'

_AT_LEAST_8 = at_least(8)


def _source_keys(section):
  return tuple(
    f'task.{section}.{name}'
    for name in ('input_path', 'tfds_name', 'tfds_split')
  )


@dataclasses.dataclass
class FinetuningConfig(hyperparams.Config):
  """Where fine-tuning starts, and how long it takes."""

  random_init: bool = setting(
    False,
    'Takes sizes and vocabulary of `init_from`, but random weights; the '
    'baseline that shows what pretraining is worth.',
  )
  num_epochs: float = setting(
    3.0,
    'Passes over the training data, unless `trainer.train_steps` is set.',
    above(0),
  )
  warmup_share: float = setting(
    0.1,
    'Share of the steps in which the rate rises from 0, unless '
    '`optimizer.warmup_steps` is set.',
    SHARE,
  )


@dataclasses.dataclass
class StartSettings:
  """Settings of the section `finetuning` that the tree keeps elsewhere."""

  init_from: str = setting(
    '',
    'A model_dir of pretraining or fine-tuning, a Model Garden checkpoint, a '
    'Hugging Face folder or an exported encoder; sizes and vocabulary come '
    'from there, too. Empty takes them from the sections `model` and '
    '`vocabulary`, with random weights.',
    keys=('task.init_checkpoint',),
  )
  dropout_rate: float | None = setting(
    None,
    'As `model.dropout_rate`, which `None` takes where the sizes come from '
    'the section `model`; elsewhere `None` is 0.1.',
    SHARE,
    keys=('task.model.dropout_rate',),
  )
  attention_dropout_rate: float | None = setting(
    None,
    'The same of attention weights.',
    SHARE,
    keys=('task.model.attention_dropout_rate',),
  )
  seed: int = setting(
    0,
    'Of new weights, dropout and the order of the examples.',
    SEED,
    keys=('task.*_data.seed',),
  )


@dataclasses.dataclass
class TextDataConfig(cfg.DataConfig):
  """Where rows or questions come from, and how they become batches.

  `input_path` is a comma-separated list of globs; with `tfds_name` and
  `tfds_split`, rows come from TensorFlow Datasets.
  """

  trim_padding: bool = setting(
    True,
    'Cuts padding that a whole batch shares, which changes no result; off '
    'wherever shapes must be static (XLA, TPU).',
    keys=('task.*_data.trim_padding',),
  )
  seq_length: int = 0
  seed: int = 0


@dataclasses.dataclass
class DataSettings:
  """Settings of data that every task has."""

  test_data: str = setting(
    '',
    'Rows or questions to write predictions for; of GLUE in its submission '
    'format.',
    keys=('task.test_data.*',),
    may_change=True,
  )
  train_data: str = setting(
    '', 'Rows or questions to train on.', keys=_source_keys('train_data')
  )
  validation_data: str = setting(
    '',
    'Rows or questions to validate on; of MNLI the matched ones.',
    keys=_source_keys('validation_data'),
  )
  batch_size: int = setting(
    32,
    'Rows or windows per training step over all replicas.',
    at_least(1),
    keys=('task.train_data.global_batch_size',),
  )
  eval_batch_size: int = setting(
    64,
    'Rows or windows per validation step over all replicas.',
    at_least(1),
    keys=('task.*_data.global_batch_size',),
  )


@dataclasses.dataclass
class GlueConfig(hyperparams.Config):
  """A sentence task; `task` gives columns, labels and metric of its own.

  Data are comma-separated TSV or JSONL files and globs, plain or .gz, or
  'tfds:NAME:SPLIT', e.g. 'tfds:glue/rte:train'.
  """

  task: str = setting(
    glue_tasks.CUSTOM,
    "'cola', 'sst2', 'mrpc', 'stsb', 'qqp', 'mnli', 'qnli', 'rte', or 'custom' "
    'for columns that the settings name.',
    one_of((*glue_tasks.TASKS, glue_tasks.CUSTOM)),
  )
  label_names: tuple[str, ...] = setting(
    (),
    'Labels as the files spell them, in the order of their ids; empty is the '
    "task's own, or all of the training data.",
  )
  is_regression: bool = setting(
    False, "Predicts a number ('stsb' always does)."
  )
  text_column: str = setting('', "Column of the text; empty is the task's own.")
  text_pair_column: str = setting('', 'Column of the second text of a pair.')
  label_column: str = setting('', 'Column of the label.')
  index_column: str = setting(
    '', 'Column that names a row in prediction files.'
  )
  column_names: tuple[str, ...] = setting(
    (), 'Columns of files without a header.'
  )
  malformed_rows: str = setting(
    'error',
    "'error', or 'skip' rows with another number of columns.",
    one_of(MALFORMED_ROWS),
  )


@dataclasses.dataclass
class GlueSettings(DataSettings):
  """Settings of the section `glue` that the tree keeps elsewhere."""

  mismatched_test_data: str = setting(
    '',
    "MNLI's second test set.",
    keys=('task.mismatched_test_data.*',),
    may_change=True,
  )
  mismatched_validation_data: str = setting(
    '',
    "MNLI's second validation set.",
    keys=_source_keys('mismatched_validation_data'),
  )
  tfds_data_dir: str = setting(
    '',
    'Folder of TFDS data sets; empty is its default.',
    keys=('task.*_data.tfds_data_dir',),
  )
  seq_length: int = setting(
    128,
    'S, longest sequence in tokens; what exceeds it is cut off.',
    _AT_LEAST_8,
    keys=('task.*_data.seq_length',),
  )
  metric: str = setting(
    '',
    "Main metric: 'accuracy', 'f1', 'matthews_corrcoef' or "
    "'pearson_spearman_corr'; empty is the task's own.",
    keys=('task.metric_type',),
  )


@dataclasses.dataclass
class SquadConfig(hyperparams.Config):
  """Question answering on SQuAD's JSON, plain or .gz."""

  version: str = setting(
    'v1.1',
    "'v1.1', or 'v2.0' with unanswerable questions.",
    one_of(SQUAD_VERSIONS),
  )
  doc_stride: int = setting(
    128,
    'Tokens from the start of a window to that of the next.',
    at_least(1),
  )
  query_length: int = setting(64, 'Tokens kept of a question.', at_least(1))
  max_answer_length: int = setting(
    30,
    'Longest answer, in tokens.',
    at_least(1),
    keys=('task.max_answer_length',),
  )
  n_best_size: int = setting(
    20,
    'Candidates per question in `nbest.json`.',
    at_least(1),
    keys=('task.n_best_size',),
  )
  null_score_threshold: float = setting(
    0.0,
    'Of v2.0: a question stays unanswered if the score of no answer exceeds '
    'that of the best one by more.',
    keys=('task.null_score_diff_threshold',),
  )


@dataclasses.dataclass
class SquadSettings(DataSettings):
  """Settings of the section `squad` that the tree keeps elsewhere."""

  seq_length: int = setting(
    384,
    'S, tokens of a window with its question.',
    _AT_LEAST_8,
    keys=('task.*_data.seq_length',),
  )


def _data_field(is_training):
  return dataclasses.field(
    default_factory=lambda: TextDataConfig(is_training=is_training)
  )


def _field_of(config):
  return dataclasses.field(default_factory=config)


@dataclasses.dataclass
class GlueTaskConfig(sentence_prediction.SentencePredictionConfig):
  """Sentence classification or regression, single texts or pairs.

  Attributes:
    init_checkpoint: `finetuning.init_from`.
    mismatched_validation_data: a second validation set (MNLI), or empty.
    test_data: rows to write predictions for, or empty.
    mismatched_test_data: the second test set of MNLI, or empty.
    seed: `finetuning.seed`.
  """

  model: configs.ModelConfig = _field_of(configs.ModelConfig)
  vocabulary: configs.VocabularyConfig = _field_of(configs.VocabularyConfig)
  finetuning: FinetuningConfig = _field_of(FinetuningConfig)
  glue: GlueConfig = _field_of(GlueConfig)
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
    init_checkpoint: `finetuning.init_from`.
    test_data: questions to write answers to, or empty.
    seed: `finetuning.seed`.
  """

  model: configs.ModelConfig = _field_of(configs.ModelConfig)
  vocabulary: configs.VocabularyConfig = _field_of(configs.VocabularyConfig)
  finetuning: FinetuningConfig = _field_of(FinetuningConfig)
  squad: SquadConfig = _field_of(SquadConfig)
  train_data: TextDataConfig = _data_field(True)
  validation_data: TextDataConfig = _data_field(False)
  test_data: TextDataConfig = _data_field(False)
  seed: int = 0


def has_source(data: TextDataConfig) -> bool:
  """Returns whether a data section names something to read."""
  return bool(data.input_path or data.tfds_name)


def source_name(data: TextDataConfig) -> str:
  """Returns the source of a data section as the user wrote it."""
  if data.tfds_name:
    return f'{TFDS_PREFIX}{data.tfds_name}:{data.tfds_split}'
  return str(data.input_path)


def parse_source(source: str, setting_name: str) -> dict[str, str]:
  """Returns the data section's fields for a source as users write it.

  Args:
    source: files and globs, or 'tfds:NAME:SPLIT'.
    setting_name: name of the setting, for messages.

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
      f"{setting_name} must name a TFDS data set as 'tfds:NAME:SPLIT'. "
      f'Received: {source!r}. Set {setting_name}, e.g. to '
      "'tfds:glue/rte:train'."
    )
  return {'tfds_name': name, 'tfds_split': split}
