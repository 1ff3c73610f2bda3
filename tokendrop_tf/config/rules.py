"""The rules of pretraining that span several settings.

Each is checked before anything is computed. A rule's message says what must
hold, what was received, and which setting to change.
"""

import math

from tokendrop_tf import dropping, errors, schedules
from tokendrop_tf.config import configs, sections
from tokendrop_tf.settings import settings_of
from tokendrop_tf.text import vocabulary_rows

ALL_REDUCE_ALGORITHMS = {
  'mirrored': ('nccl', 'hierarchical_copy'),
  'multi_worker_mirrored': ('ring', 'nccl'),
}


def validate_shared_sections(params):
  """Checks the rules of what every experiment has: model and devices.

  Args:
    params: an `ExperimentConfig` whose task has a `model`.

  Raises:
    errors.ConfigurationError: for the first rule that is broken.
  """
  sections.check_ranges(params, ('model', 'runtime'))
  _check_heads(params.task.model)
  _check_devices(params.runtime)


def validate_schedule(params):
  """Checks the rules of the trainer, once its steps are known.

  Raises:
    errors.ConfigurationError: for the first rule that is broken.
  """
  sections.check_ranges(params, ('trainer',))
  _check_schedule(params.trainer)
  _check_whole_steps(params)
  _check_async_checkpoints(params)


def validate_experiment(params):
  """Checks every rule of a pretraining tree, single settings and combinations.

  Nothing is computed, and no file is looked at.

  Args:
    params: the experiment's `ExperimentConfig`; `task` is a
      `PretrainingTaskConfig`.

  Raises:
    errors.ConfigurationError: for the first rule that is broken: what the rule
      is, what was received, which setting to change.
  """
  sections.check_ranges(params, ('model', 'token_drop', 'trainer', 'runtime'))
  _check_vocabulary_is_named(params.task)
  _check_encoder(params.task)
  dropping.Dropping.of(params.task).check()
  _check_next_sentence(params.task)
  for name in ('train_data', 'validation_data'):
    validate_data(name, getattr(params.task, name))
  _check_importance_masking(params.task)
  _check_consistency_rows(params.task)
  _check_both_data_agree(params.task)
  _check_objective(params.task)
  _check_schedule(params.trainer)
  _check_intervals(params.trainer)
  _check_devices(params.runtime)
  _check_async_checkpoints(params)
  _check_batches(params, _known_replicas(params.runtime))


def validate_data(section, data):
  """Checks the rules of one data section.

  Args:
    section: its name in messages, e.g. 'train_data'.
    data: a `PretrainingDataConfig`.

  Raises:
    errors.ConfigurationError: as `validate_experiment`.
  """
  sections.check_part(data, section)
  _check_slots(section, data)
  _check_source(section, data)
  _check_masking(section, data)
  if data.use_next_sentence_label and not configs.names_tfrecords(
    data.input_path
  ):
    raise errors.ConfigurationError(
      f'{section}.use_next_sentence_label needs TFRecords; other data have no '
      f'labels. Received: {section}.input_path={data.input_path!r}. Set '
      f'{section}.input_path, or leave the label and the head unset.'
    )


def validate_model(task):
  """Checks the model settings, which need neither data nor devices.

  Args:
    task: a `PretrainingTaskConfig`.

  Raises:
    errors.ConfigurationError: as `validate_experiment`.
  """
  sections.check_ranges(task, ('model', 'token_drop', 'train_data'))
  _check_encoder(task)
  dropping.Dropping.of(task).check()


def validate_validation_source(params):
  """Checks that validation reads documents that training does not.

  Raises:
    errors.ConfigurationError: if it has no source of its own and no held-out
      documents.
  """
  train, validation = params.task.train_data, params.task.validation_data
  has_source = bool(validation.input_path or validation.tfds_name)
  if validation.held_out_documents and (
    validation.held_out_documents != train.held_out_documents
  ):
    raise errors.ConfigurationError(
      'validation_data.held_out_documents must equal '
      'train_data.held_out_documents. Received: '
      f'{validation.held_out_documents} and {train.held_out_documents}. '
      'Leave validation_data.held_out_documents unset.'
    )
  if not has_source and not validation.held_out_documents:
    raise errors.ConfigurationError(
      'Validation needs documents that training does not read. Received: '
      'neither validation_data.input_path nor validation_data.tfds_name nor '
      'train_data.held_out_documents. Set one, or pass --mode=train.'
    )


def validate_replicas(params, num_replicas):
  """Checks, once the devices are known, that they share the batches evenly.

  Raises:
    errors.ConfigurationError: if `num_replicas` does not divide a global batch.
  """
  _check_batches(params, num_replicas)


def resolve_vocabulary(params, vocabulary):
  """Checks the tree against the vocabulary and fills in what it says.

  These are `model.vocab_size` and `vocabulary.lower_case`.

  Args:
    params: the experiment's `ExperimentConfig`, not yet locked.
    vocabulary: a `text.vocabulary.Vocabulary`.

  Raises:
    errors.ConfigurationError: if `model.vocab_size` is set and differs.
    errors.DataError: if a pinned token is not in the vocabulary.
  """
  model, token_drop = params.task.model, params.task.token_drop
  model.vocab_size = vocabulary_rows.number_of(
    vocabulary,
    model.vocab_size,
    'Leave model.vocab_size unset, or set vocabulary.path.',
  )
  params.task.vocabulary.lower_case = vocabulary.lower_case
  vocabulary.ids_of(token_drop.always_keep_tokens)
  vocabulary.ids_of(token_drop.always_drop_tokens)


def _check_vocabulary_is_named(task):
  if not task.vocabulary.path:
    raise errors.ConfigurationError(
      'vocabulary.path must name a vocabulary file. Received: '
      f'{task.vocabulary.path!r}. Set vocabulary.path, or write a vocabulary '
      'with tools/build_vocab.py.'
    )


def _check_heads(model):
  if model.hidden_size % model.num_attention_heads:
    raise errors.ConfigurationError(
      'model.hidden_size must be a multiple of model.num_attention_heads. '
      f'Received: hidden_size={model.hidden_size}, '
      f'num_attention_heads={model.num_attention_heads}. Set '
      'model.num_attention_heads.'
    )


def _check_encoder(task):
  model = task.model
  _check_heads(model)
  seq_length = task.train_data.seq_length
  if seq_length > model.max_position_embeddings:
    raise errors.ConfigurationError(
      'train_data.seq_length must be at most model.max_position_embeddings. '
      f'Received: seq_length={seq_length}, max_position_embeddings='
      f'{model.max_position_embeddings}. Set model.max_position_embeddings.'
    )
  if (
    model.attention_start == 'neighbours'
    and model.position_initializer != 'fourier'
  ):
    raise errors.ConfigurationError(
      "model.attention_start = 'neighbours' needs positions that tell "
      'neighbours apart. Received: model.position_initializer='
      f'{model.position_initializer!r}. Set model.position_initializer = '
      "'fourier'."
    )


def _check_slots(section, data):
  """P slots must hold the masked share of S - 2 ordinary tokens."""
  num_slots, ordinary = data.max_predictions_per_seq, data.seq_length - 2
  mask_rate = max(schedules.mask_rates(data).values)
  masked = max(1, math.floor(mask_rate * ordinary))
  if not masked <= num_slots <= ordinary:
    raise errors.ConfigurationError(
      f'{section}.max_predictions_per_seq must hold the masked tokens: at '
      'least mask_rate * (seq_length - 2) and at most seq_length - 2. '
      f'Received: max_predictions_per_seq={num_slots}, where {masked} to '
      f'{ordinary} fit mask_rate={mask_rate}, seq_length='
      f'{data.seq_length}. Set {section}.max_predictions_per_seq.'
    )


def _check_source(section, data):
  if data.input_path and data.tfds_name:
    raise errors.ConfigurationError(
      f'Text must have one source. Received: {section}.input_path='
      f'{data.input_path!r} and {section}.tfds_name={data.tfds_name!r}. Leave '
      'one of them unset.'
    )


def _check_masking(section, data):
  if data.mask_token_share + data.random_token_share > 1:
    raise errors.ConfigurationError(
      f'{section}.mask_token_share and {section}.random_token_share must be at '
      f'most 1 together. Received: {data.mask_token_share} and '
      f'{data.random_token_share}. Set {section}.mask_token_share.'
    )
  if not configs.names_tfrecords(data.input_path):
    return
  if data.masking not in ('token', 'importance'):
    raise errors.ConfigurationError(
      f'{section}.masking = {data.masking!r} masks text; TFRecords have the '
      'masks that they were written with. Received: '
      f'{section}.input_path={data.input_path!r}. Leave {section}.masking '
      'unset, and write the files with --masking of '
      'tools/create_pretraining_data.py.'
    )
  if data.mask_rate_schedule:
    raise errors.ConfigurationError(
      f'{section}.mask_rate_schedule needs text; TFRecords have the masks that '
      f'they were written with. Received: {section}.input_path='
      f'{data.input_path!r}. Set {section}.input_path to text, or leave '
      f'{section}.mask_rate_schedule unset.'
    )


def _check_importance_masking(task):
  if task.validation_data.masking == 'importance':
    raise errors.ConfigurationError(
      'validation_data.masking must be the same for every model, so that '
      "losses compare. Received: 'importance', which each model chooses. Leave "
      'validation_data.masking unset.'
    )
  importance = dropping.masking_importance(task)
  if importance is None:
    return
  if not importance.has_scores:
    raise errors.ConfigurationError(
      "train_data.masking = 'importance' needs the importance table of "
      f'token_drop.policy {dropping.names_with_scores()}. Received: '
      f'token_drop.policy={task.token_drop.policy!r}, '
      f'train_data.masking_scores={task.train_data.masking_scores!r}. Set one '
      'of the two, or another train_data.masking.'
    )
  importance.check()


def _check_consistency_rows(task):
  """Position 0 stands for one of several documents in a row."""
  token_drop, packing = task.token_drop, task.train_data.packing
  if (
    dropping.Dropping.of(task).drops
    and token_drop.consistency_every
    and token_drop.consistency_rows == 'cls'
    and packing == 'best_fit'
  ):
    raise errors.ConfigurationError(
      "token_drop.consistency_rows = 'cls' needs one document in a row. "
      f'Received: train_data.packing={packing!r}. Set '
      "token_drop.consistency_rows = 'mean', or train_data.packing."
    )


def _check_both_data_agree(task):
  for name in ('seq_length', 'max_predictions_per_seq'):
    train = getattr(task.train_data, name)
    validation = getattr(task.validation_data, name)
    if train != validation:
      raise errors.ConfigurationError(
        f'validation_data.{name} must equal train_data.{name}. Received: '
        f'{validation} and {train}. Leave validation_data.{name} unset.'
      )


def _check_next_sentence(task):
  has_head = task.model.use_next_sentence_head
  for section in ('train_data', 'validation_data'):
    data = getattr(task, section)
    has_labels = data.use_next_sentence_label
    if has_head != has_labels:
      raise errors.ConfigurationError(
        'The next-sentence head and its labels go together. Received: '
        f'model.use_next_sentence_head={has_head}, '
        f'{section}.use_next_sentence_label={has_labels}. Set both or '
        'neither.'
      )
    if has_labels and data.packing == 'best_fit':
      raise errors.ConfigurationError(
        f"{section}.packing = 'best_fit' has several documents in a row, and "
        'the next-sentence head reads one [CLS]. Received: '
        f'{section}.use_next_sentence_label=True. Set {section}.packing, or '
        'leave the label and the head unset.'
      )


def _check_objective(task):
  schedule = schedules.OBJECTIVE.parse(task.objective_schedule, task.objective)
  if schedule.values[-1] != task.objective:
    raise errors.ConfigurationError(
      'pretraining.objective_schedule must end with pretraining.objective, '
      'which validation and exports take. Received: objective='
      f'{task.objective!r}, objective_schedule={task.objective_schedule}. Set '
      'pretraining.objective.'
    )
  if schedules.CAUSAL_LM not in schedule.values:
    return
  if task.model.use_next_sentence_head:
    raise errors.ConfigurationError(
      'The next-sentence head reads position 0, which sees no other token in a '
      'causal step. Received: model.use_next_sentence_head=True. Leave it '
      "unset, or set pretraining.objective = 'masked_lm'."
    )
  if set(schedule.values) == {schedules.CAUSAL_LM} and (
    task.train_data.masking == 'importance'
  ):
    raise errors.ConfigurationError(
      "train_data.masking = 'importance' chooses which tokens are predicted; "
      "pretraining.objective = 'causal_lm' predicts all. Received: both. Leave "
      'train_data.masking unset.'
    )


def _check_schedule(trainer):
  rate = trainer.optimizer_config.learning_rate.get()
  warmup = trainer.optimizer_config.warmup.get()
  if warmup is not None and warmup.warmup_steps >= trainer.train_steps:
    raise errors.ConfigurationError(
      'optimizer.warmup_steps must be below trainer.train_steps. Received: '
      f'warmup_steps={warmup.warmup_steps}, train_steps='
      f'{trainer.train_steps}. Set optimizer.warmup_steps.'
    )
  first = getattr(rate, 'initial_learning_rate', None)
  last = getattr(rate, 'end_learning_rate', None)
  if first is not None and last is not None and last > first:
    raise errors.ConfigurationError(
      'optimizer.end_learning_rate must be at most optimizer.learning_rate. '
      f'Received: end_learning_rate={last}, learning_rate={first}. Set '
      'optimizer.end_learning_rate.'
    )


def _check_async_checkpoints(params):
  """Workers would read their shared variables in different orders.

  An optimizer with a loss scale is not one that TensorFlow copies.
  """
  strategy = params.runtime.distribution_strategy
  if params.trainer.async_checkpoints and strategy == 'multi_worker_mirrored':
    raise errors.ConfigurationError(
      'trainer.async_checkpoints cannot be used with several workers. '
      f'Received: runtime.distribution_strategy = {strategy!r}. Leave '
      'trainer.async_checkpoints unset.'
    )
  precision = params.runtime.mixed_precision_dtype
  if params.trainer.async_checkpoints and precision == 'float16':
    raise errors.ConfigurationError(
      'trainer.async_checkpoints cannot be used with a loss scale. Received: '
      "runtime.mixed_precision_dtype = 'float16'. Leave "
      'trainer.async_checkpoints unset.'
    )


def _check_whole_steps(params):
  """Fine-tuning takes its small batches whole."""
  for section, part in (
    ('trainer', params.trainer),
    ('runtime', params.runtime),
  ):
    for setting in settings_of(type(part)).values():
      value = getattr(part, setting.name)
      if setting.more.get('pretraining_only') and value != setting.default:
        name = f'{section}.{setting.name}'
        raise errors.ConfigurationError(
          f'{name} is a setting of pretraining. Received: {value!r} in '
          f'fine-tuning. Leave {name} unset.'
        )


def _check_intervals(trainer):
  """Reports, validation and checkpoints can fall only on the end of a loop."""
  for name in ('validation_interval', 'checkpoint_interval'):
    interval = getattr(trainer, name)
    # An interval beyond the end means: once, at the end.
    if interval < trainer.train_steps and interval % trainer.steps_per_loop:
      raise errors.ConfigurationError(
        f'trainer.{name} must be a multiple of trainer.steps_per_loop. '
        f'Received: {name}={interval}, steps_per_loop='
        f'{trainer.steps_per_loop}. Set trainer.{name} or '
        'trainer.steps_per_loop.'
      )


def _check_devices(runtime):
  strategy, num_cpus = (
    runtime.distribution_strategy,
    runtime.num_logical_cpu_devices,
  )
  if strategy == 'one_device' and runtime.num_gpus > 1:
    raise errors.ConfigurationError(
      "runtime.distribution_strategy = 'one_device' uses at most one GPU. "
      f'Received: runtime.num_gpus={runtime.num_gpus}. Set '
      "runtime.distribution_strategy = 'mirrored'."
    )
  if num_cpus > 1 and (strategy != 'mirrored' or runtime.num_gpus):
    raise errors.ConfigurationError(
      'runtime.num_logical_cpu_devices needs runtime.distribution_strategy = '
      "'mirrored' and runtime.num_gpus = 0. Received: "
      f'num_logical_cpu_devices={num_cpus}, distribution_strategy='
      f'{strategy!r}, num_gpus={runtime.num_gpus}. Leave '
      'runtime.num_logical_cpu_devices unset.'
    )
  if strategy == 'tpu' and runtime.tpu is None:
    raise errors.ConfigurationError(
      "runtime.distribution_strategy = 'tpu' needs runtime.tpu. Received: "
      "None. Set runtime.tpu to the TPU's name, or to 'local' on a TPU VM."
    )
  if strategy == 'tpu' and runtime.mixed_precision_dtype == 'float16':
    raise errors.ConfigurationError(
      "runtime.mixed_precision_dtype = 'float16' is for GPUs. Received: "
      "runtime.distribution_strategy = 'tpu'. Set "
      "runtime.mixed_precision_dtype = 'bfloat16'."
    )
  if num_cpus > 1 and runtime.enable_xla:
    raise errors.ConfigurationError(
      'runtime.enable_xla cannot add gradients across parts of the CPU. '
      f'Received: num_logical_cpu_devices={num_cpus}. Leave one of the two '
      'unset.'
    )
  algorithms = ALL_REDUCE_ALGORITHMS.get(strategy, ())
  if runtime.all_reduce_alg not in (None, *algorithms):
    raise errors.ConfigurationError(
      f'runtime.all_reduce_alg must be one of {(None, *algorithms)} under '
      f'runtime.distribution_strategy = {strategy!r}. Received: '
      f'{runtime.all_reduce_alg!r}. Set runtime.all_reduce_alg.'
    )


def _known_replicas(runtime):
  """Returns the number of replicas as far as the tree tells, else 1."""
  if runtime.distribution_strategy != 'mirrored':
    return 1
  return max(1, runtime.num_gpus, runtime.num_logical_cpu_devices)


def _check_batches(params, num_replicas):
  num_parts = params.trainer.gradient_accumulation_steps
  batch = params.task.train_data.global_batch_size
  if num_parts > 1 and batch % (num_parts * num_replicas):
    raise errors.ConfigurationError(
      'train_data.global_batch_size must be a multiple of '
      'trainer.gradient_accumulation_steps times the number of replicas. '
      f'Received: global_batch_size={batch}, gradient_accumulation_steps='
      f'{num_parts}, {num_replicas} replicas. Set '
      'trainer.gradient_accumulation_steps.'
    )
  for section in ('train_data', 'validation_data'):
    batch = getattr(params.task, section).global_batch_size
    check_shares(f'{section}.global_batch_size', batch, num_replicas)


def check_shares(setting, batch, num_replicas):
  """Checks that replicas share a batch evenly.

  Raises:
    errors.ConfigurationError: naming `setting`, if they do not.
  """
  if batch % num_replicas:
    raise errors.ConfigurationError(
      f'{setting} must be a multiple of the number of replicas. Received: '
      f'{setting.split(".")[1]}={batch}, {num_replicas} replicas. Set '
      f'{setting}.'
    )
