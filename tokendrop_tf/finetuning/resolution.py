"""Completes a fine-tuning tree from files: vocabulary, labels, steps.

After this the tree says everything that the run does, and can be saved.
"""

from tokendrop_tf import configs, errors, init_weights
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.finetuning import configs as finetuning_configs
from tokendrop_tf.finetuning import sentence_data, squad_windows, table_files

_INIT_FROM = 'finetuning.init_from'


def resolve(params, mode, checkpoint=None):
  """Checks files against the tree and fills in what depends on them.

  Fills in `task.model.vocab_size`, `task.glue.label_names`,
  `trainer.train_steps` and the intervals and schedule that follow from it.

  Args:
    params: an `ExperimentConfig` of fine-tuning, not locked.
    mode: the launcher's mode.
    checkpoint: that the run goes on from; it has its weights, then.

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
  configs.validate_schedule(params)


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
      f"'', and none lies beside {task.init_checkpoint!r}. Set vocabulary.path."
    )
  vocabulary = vocabulary_lib.Vocabulary.from_file(
    task.vocabulary.path, task.vocabulary.lower_case
  )
  if task.model.vocab_size not in (
    configs.VOCAB_SIZE_FROM_FILE,
    vocabulary.size,
  ):
    raise errors.ConfigurationError(
      'The vocabulary must be the one of the weights. Received: '
      f'{vocabulary.size:,} tokens in {task.vocabulary.path}, '
      f'{task.model.vocab_size:,} in the model. Set vocabulary.path.'
    )
  task.model.vocab_size = vocabulary.size
  return vocabulary


def _check_initial_weights(task, vocabulary):
  if task.init_checkpoint:
    source = init_weights.check_fits(
      task.init_checkpoint, task.model, _INIT_FROM
    )
    init_weights.check_vocabulary(source, vocabulary, _INIT_FROM)


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
    str(data.input_path),
    sentence_data.layout_of(glue),
    'glue.train_data',
    tfds_name=data.tfds_name,
    tfds_split=data.tfds_split,
    tfds_data_dir=data.tfds_data_dir,
  )


def _resolve_steps(params, num_examples):
  """Turns epochs into steps, where steps have not been set."""
  trainer, task = params.trainer, params.task
  per_epoch = -(-num_examples // task.train_data.global_batch_size)
  unset = finetuning_configs.STEPS_FROM_EPOCHS
  if trainer.train_steps == unset:
    examples = task.finetuning.num_epochs * num_examples
    trainer.train_steps = max(
      1, round(examples / task.train_data.global_batch_size)
    )
  for name in ('validation_interval', 'checkpoint_interval'):
    if getattr(trainer, name) == unset:
      setattr(trainer, name, per_epoch)
  optimizer = trainer.optimizer_config
  if optimizer.warmup.polynomial.warmup_steps == unset:
    optimizer.warmup.polynomial.warmup_steps = int(
      task.finetuning.warmup_share * trainer.train_steps
    )
  rate = optimizer.learning_rate.get()
  if getattr(rate, 'decay_steps', None) == unset:
    rate.decay_steps = trainer.train_steps
