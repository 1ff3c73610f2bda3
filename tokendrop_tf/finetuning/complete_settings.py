"""Completes a fine-tuning tree from files: sizes, vocabulary, labels, steps.

After this the tree says everything that the run does, and can be saved.
"""

from tokendrop_tf import errors
from tokendrop_tf.config import configs, experiments, finetuning_configs, rules
from tokendrop_tf.finetuning import sentence_data, squad_windows, table_files
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.text import vocabulary_rows
from tokendrop_tf.weights import load_weights, starting_point

_INIT_FROM = 'finetuning.init_from'
# Fine-tuning after a pretraining without dropout needs some.
_DROPOUT_RATE = 0.1


def take_start(task, values: experiments.Values) -> None:
  """Fills in sizes and vocabulary: of `init_from`, or of their sections.

  Args:
    task: the task of a tree that was built from `values`.
    values: values of the gin sections. The section `model` is read only if
      the sizes come from it, so that gin notices bindings without an effect.

  Raises:
    errors.ConfigurationError: if `init_from` holds no weights, or has a
      vocabulary of another letter case than the section says.
  """
  source = None
  if task.init_checkpoint:
    source = starting_point.describe(task.init_checkpoint, _INIT_FROM)
  if source is None or source.model is None:
    model, default_rate = configs.ModelConfig(**values['model']), None
  else:
    model, default_rate = source.model, _DROPOUT_RATE
  changes = {'use_next_sentence_head': False}
  for name in ('dropout_rate', 'attention_dropout_rate'):
    rate = values['finetuning'][name]
    rate = default_rate if rate is None else rate
    if rate is not None:
      changes[name] = rate
  task.model = model.replace(**changes)
  task.vocabulary = _starting_vocabulary(
    source, configs.VocabularyConfig(**values['vocabulary'])
  )


def _starting_vocabulary(source, vocabulary):
  """Returns the vocabulary to read: as the section says, else of `source`."""
  if source is None:
    return vocabulary
  if source.lower_case is None:
    path = vocabulary.path or source.vocabulary_path or ''
    return vocabulary.replace(path=path)
  if not vocabulary.path:
    vocabulary = vocabulary.replace(path=source.vocabulary_path or '')
  if vocabulary.lower_case is None:
    return vocabulary.replace(lower_case=source.lower_case)
  if vocabulary.lower_case != source.lower_case:
    raise errors.ConfigurationError(
      f'vocabulary.lower_case must be that of {_INIT_FROM}. Received: '
      f'{vocabulary.lower_case}, where {source.path} has '
      f'{source.lower_case}. Set vocabulary.lower_case.'
    )
  return vocabulary


def resolve(params, mode, checkpoint=None):
  """Checks files against the tree and fills in what depends on them.

  Fills in `task.model.vocab_size`, `task.glue.label_names`,
  `trainer.train_steps` and the intervals and schedule that follow from it.

  Args:
    params: an `ExperimentConfig` of fine-tuning, not locked.
    mode: the launcher's mode.
    checkpoint: the one that the run resumes from, which then has the weights.

  Raises:
    errors.UserError: for what does not fit.
  """
  vocabulary = _resolve_vocabulary(params.task)
  is_random = params.task.finetuning.random_init
  if 'train' in mode and not is_random and not checkpoint:
    _check_initial_weights(params.task, vocabulary)
  _resolve_shapes(params)
  if isinstance(params.task, finetuning_configs.GlueTaskConfig):
    _resolve_labels(params.task)
  num_examples = count_training_examples(params.task) if 'train' in mode else 1
  _resolve_steps(params, num_examples)
  rules.validate_schedule(params)


def count_training_examples(task) -> int:
  """Returns N, the rows or windows of an epoch."""
  if isinstance(task, finetuning_configs.GlueTaskConfig):
    return sentence_data.read_texts(
      task.train_data, task.glue, 'glue.train_data'
    ).num_rows
  windows = squad_windows.windows_of(
    task.train_data, task.squad, task.vocabulary, 'squad.train_data'
  )
  if not windows.num_windows:
    raise errors.DataError(
      'squad.train_data must have answers that stand in their paragraphs. '
      f'Received: {windows.data.path}, where none does. Set squad.train_data.'
    )
  return windows.num_windows


def _resolve_vocabulary(task):
  if not task.vocabulary.path:
    raise errors.ConfigurationError(
      'vocabulary.path must name the vocabulary of the weights. Received: '
      f"'', and none is next to {task.init_checkpoint!r}. Set vocabulary.path."
    )
  vocabulary = vocabulary_lib.Vocabulary.of(task.vocabulary)
  task.model.vocab_size = vocabulary_rows.number_of(
    vocabulary, task.model.vocab_size, 'Set vocabulary.path.'
  )
  task.vocabulary.lower_case = vocabulary.lower_case
  return vocabulary


def _check_initial_weights(task, vocabulary):
  if task.init_checkpoint:
    source = load_weights.check_fits(
      task.init_checkpoint, task.model, _INIT_FROM
    )
    load_weights.check_vocabulary(source, vocabulary, _INIT_FROM)


def _resolve_shapes(params):
  """Shapes that change from batch to batch are compiled again and again."""
  runtime = params.runtime
  if runtime.enable_xla or runtime.distribution_strategy == 'tpu':
    for name, section in params.task.as_dict().items():
      if isinstance(section, dict) and 'trim_padding' in section:
        getattr(params.task, name).trim_padding = False


def _resolve_labels(task):
  glue, data = task.glue, task.train_data
  if glue.is_regression or glue.label_names:
    return
  glue.label_names = table_files.distinct_labels(
    table_files.Source.of(data),
    sentence_data.layout_of(glue),
    'glue.train_data',
  )


def _resolve_steps(params, num_examples):
  """Turns epochs into steps, where steps have not been set."""
  trainer, task = params.trainer, params.task
  per_epoch = -(-num_examples // task.train_data.global_batch_size)
  if trainer.train_steps is None:
    examples = task.finetuning.num_epochs * num_examples
    trainer.train_steps = max(
      1, round(examples / task.train_data.global_batch_size)
    )
  for name in ('validation_interval', 'checkpoint_interval'):
    if getattr(trainer, name) is None:
      setattr(trainer, name, per_epoch)
  optimizer = trainer.optimizer_config
  if optimizer.warmup.polynomial.warmup_steps is None:
    optimizer.warmup.polynomial.warmup_steps = int(
      task.finetuning.warmup_share * trainer.train_steps
    )
  rate = optimizer.learning_rate.get()
  if getattr(rate, 'decay_steps', 0) is None:
    rate.decay_steps = trainer.train_steps
