"""The rules of fine-tuning that span several settings."""

from official.nlp.tasks import sentence_prediction

from tokendrop_tf import errors
from tokendrop_tf.config import finetuning_configs, glue_tasks, rules


def validate_experiment(params):
  """Checks every rule of a fine-tuning tree that needs no file.

  Args:
    params: an `ExperimentConfig` of fine-tuning.

  Raises:
    errors.ConfigurationError: for the first rule that is broken.
  """
  task = params.task
  rules.validate_shared_sections(params)
  _check_length(task)
  if _is_glue(task):
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
  section = 'glue' if _is_glue(params.task) else 'squad'
  for name, data in (
    ('batch_size', params.task.train_data),
    ('eval_batch_size', params.task.validation_data),
  ):
    rules.check_shares(
      f'{section}.{name}', data.global_batch_size, num_replicas
    )


def validate_sources(params, mode):
  """Checks that what `mode` reads is named.

  Raises:
    errors.ConfigurationError: if it is not.
  """
  section = 'glue' if _is_glue(params.task) else 'squad'
  needed = {'train': 'train_data', 'eval': 'validation_data'}
  for word, name in needed.items():
    if word in mode and not finetuning_configs.has_source(
      getattr(params.task, name)
    ):
      raise errors.ConfigurationError(
        f"{section}.{name} must name files, or 'tfds:NAME:SPLIT'. Received: "
        f"'' for --mode={mode}. Set {section}.{name}."
      )


def _check_length(task):
  seq_length = task.train_data.seq_length
  section = 'glue' if _is_glue(task) else 'squad'
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
    if finetuning_configs.has_source(data):
      raise errors.ConfigurationError(
        f"glue.{name} belongs to glue.task = 'mnli'. Received: "
        f'{finetuning_configs.source_name(data)!r} for glue.task = '
        f'{task.glue.task!r}. Leave glue.{name} unset.'
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


def _is_glue(task):
  return isinstance(task, finetuning_configs.GlueTaskConfig)
