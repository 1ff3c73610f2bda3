"""Dataclasses of the experiment tree and the rules that tie their fields.

The tree is the Model Garden's `ExperimentConfig`; this module adds the sections
that token dropping needs and `validate_experiment`, which checks every rule
that spans more than one field before anything is computed.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf
from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.nlp.configs import encoders

from tokendrop_tf import errors, keep_schedule
from tokendrop_tf.data import mask_rates
from tokendrop_tf.data import vocabulary as vocabulary_lib

POSITION_INITIALIZERS = ('truncated_normal', 'sinusoidal')
POLICIES = ('loss', 'frequency', 'random', 'none')
PACKINGS = (
  'across_documents',
  'within_documents',
  'one_document',
  'best_fit',
)
# Masks that data are made with; 'importance' chooses in the train step.
DATA_MASKINGS = ('token', 'whole_word', 'span')
MASKINGS = (*DATA_MASKINGS, 'importance')
DECAYS = ('linear', 'cosine', 'constant')
ALL_REDUCE_DTYPES = ('float32', 'bfloat16')
STRATEGIES = ('one_device', 'mirrored', 'multi_worker_mirrored', 'tpu')
PRECISIONS = ('float32', 'bfloat16', 'mixed_bfloat16')
ACTIVATIONS = ('gelu', 'relu', 'swish', 'tanh')
ALL_REDUCE_ALGORITHMS = {
  'mirrored': ('nccl', 'hierarchical_copy'),
  'multi_worker_mirrored': ('ring', 'nccl'),
}
VOCAB_SIZE_FROM_FILE = 0  # `model.vocab_size` until the file has been read.


@dataclasses.dataclass
class ModelConfig(encoders.BertEncoderConfig):
  """A BERT encoder with its masked-LM head; field names are the Model Garden's.

  Attributes:
    position_initializer: 'truncated_normal', as stock, or 'sinusoidal'.
    residual_initializer_scale: factor on the initial standard deviation of the
      kernels that end a residual branch (attention output, second
      feed-forward).
    mlm_activation: activation of the masked-LM head's transform.
    use_next_sentence_head: adds the next-sentence classification head.
  """

  position_initializer: str = 'truncated_normal'
  residual_initializer_scale: float = 1.0
  mlm_activation: str = 'gelu'
  use_next_sentence_head: bool = False


@dataclasses.dataclass
class TokenDropConfig(hyperparams.Config):
  """What is dropped, when, and by which importance.

  Attributes:
    policy: 'loss', 'frequency', 'random' or 'none' (plain BERT).
    token_keep_k: tokens kept in the middle layers of every sequence.
    crossing_layer: number, from 1, of the layer whose queries are the first
      kept rows only; `None` is `num_layers // 2`, as published.
    temperature: 0 keeps the K highest scores; t > 0 samples K tokens without
      replacement with weights importance ** (1 / t).
    full_step_every: every n-th step runs without dropping; 0 is never.
    keep_schedule: 'SHARE:K' entries, see `keep_schedule`; empty keeps
      `token_keep_k` throughout.
    schedule_steps: length of the training, of which the shares are.
    token_loss_init_value: start of the importance table, in nats.
    token_loss_beta: decay of the table's moving average, in [0, 1).
    always_keep_tokens: tokens, by text, that sort before all others.
    always_drop_tokens: tokens, by text, that sort after all others.
  """

  policy: str = 'loss'
  token_keep_k: int = 256
  crossing_layer: int | None = None
  temperature: float = 0.0
  full_step_every: int = 0
  keep_schedule: tuple[str, ...] = ()
  schedule_steps: int = 0
  token_loss_init_value: float = 10.0
  token_loss_beta: float = 0.995
  always_keep_tokens: tuple[str, ...] = ('[UNK]', '[CLS]', '[SEP]', '[MASK]')
  always_drop_tokens: tuple[str, ...] = ('[PAD]',)


@dataclasses.dataclass
class VocabularyConfig(hyperparams.Config):
  """The WordPiece vocabulary.

  Attributes:
    path: text file, one token a line, the line number is the id.
    counts_path: token counts of the corpus, tab-separated `token<TAB>count`;
      empty is the file that `tools/build_vocab.py` writes beside `path`.
    lower_case: whether text is lower-cased and stripped of accents.
  """

  path: str = ''
  counts_path: str = ''
  lower_case: bool = True


@dataclasses.dataclass
class PretrainingDataConfig(cfg.DataConfig):
  """Pretraining examples: from text, TFDS or TFRecords.

  `input_path` is a comma-separated list of globs. Files whose name contains
  `.tfrecord` hold examples; `.jsonl`, `.jsonl.gz` and `.parquet` hold records
  with a text; all others are text, plain or `.gz`. With neither
  `input_path` nor `tfds_name`, the embedded corpus of documentation strings is
  read.

  Attributes:
    seq_length: S, positions per example.
    max_predictions_per_seq: P, masked-LM slots per example.
    mask_rate: share of the ordinary tokens that become labels.
    masking: 'token', 'whole_word', 'span' or 'importance'.
    mask_token_share: share of the labels that are replaced by [MASK].
    random_token_share: share of the labels replaced by a random token.
    span_stop_probability: of 'span': of a span to end after each word.
    max_span_words: of 'span': words of a span at most.
    masking_temperature: of 'importance': tokens become labels with weights
      importance ** (1 / temperature).
    mask_rate_schedule: 'SHARE:RATE' entries, see `data.mask_rates`; empty keeps
      `mask_rate` throughout.
    mask_schedule_steps: length of the training, of which the shares are.
    packing: one of `PACKINGS`, see `data.packing`.
    use_next_sentence_label: reads next-sentence labels (TFRecords only).
    text_field: of JSON lines the field, of Parquet the column, that is text.
    skip_bad_text: leaves out lines and rows that are not text.
    allow_unknown_tokens: reads text of which most is unknown to the vocabulary.
    tfds_text_feature: name of the text feature of the TFDS data set.
    seed: seed of document order, masks and shuffling.
    num_epochs: passes over the corpus; 0 is without end.
    held_out_documents: of text, every n-th document belongs to validation and
      is left out of training; 0 is none.
  """

  seq_length: int = 512
  max_predictions_per_seq: int = 76
  mask_rate: float = 0.15
  masking: str = 'token'
  mask_token_share: float = 0.8
  random_token_share: float = 0.1
  span_stop_probability: float = 0.2
  max_span_words: int = 10
  masking_temperature: float = 1.0
  mask_rate_schedule: tuple[str, ...] = ()
  mask_schedule_steps: int = 0
  packing: str = 'across_documents'
  use_next_sentence_label: bool = False
  text_field: str = 'text'
  skip_bad_text: bool = False
  allow_unknown_tokens: bool = False
  tfds_text_feature: str = 'text'
  seed: int = 0
  num_epochs: int = 0
  held_out_documents: int = 0
  shuffle_buffer_size: int = 4096


@dataclasses.dataclass
class PretrainingTaskConfig(cfg.TaskConfig):
  """Masked-LM pretraining with token dropping."""

  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  token_drop: TokenDropConfig = dataclasses.field(
    default_factory=TokenDropConfig
  )
  vocabulary: VocabularyConfig = dataclasses.field(
    default_factory=VocabularyConfig
  )
  train_data: PretrainingDataConfig = dataclasses.field(
    default_factory=lambda: PretrainingDataConfig(is_training=True)
  )
  validation_data: PretrainingDataConfig = dataclasses.field(
    default_factory=lambda: PretrainingDataConfig(is_training=False)
  )
  seed: int = 0


@dataclasses.dataclass
class TrainerConfig(cfg.TrainerConfig):
  """The Model Garden's trainer section.

  Attributes:
    gradient_accumulation_steps: parts of a replica's batch whose gradients are
      taken one after another.
    async_checkpoints: whether checkpoints are written beside the steps; `None`
      is wherever a single process trains.
  """

  gradient_accumulation_steps: int = 1
  async_checkpoints: bool | None = None


@dataclasses.dataclass
class RuntimeConfig(cfg.RuntimeConfig):
  """The Model Garden's runtime section.

  Attributes:
    num_logical_cpu_devices: parts into which the CPU is split, each a replica
      of MirroredStrategy, where no GPU is used.
    worker_timeout_seconds: how long a process of 'multi_worker_mirrored' waits
      for the others to start.
    all_reduce_dtype: 'float32' or 'bfloat16', in which replicas add gradients.
  """

  num_logical_cpu_devices: int = 1
  worker_timeout_seconds: int = 300
  all_reduce_dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class Range:
  """The values that one setting may take.

  Attributes:
    text: completes 'must be ...'.
    contains: function of a value to bool.
  """

  text: str
  contains: Callable[[object], bool]


def _at_least(minimum):
  return Range(f'at least {minimum}', lambda value: value >= minimum)


def _one_of(choices):
  return Range(
    'one of ' + ', '.join(map(repr, choices)), lambda value: value in choices
  )


_POSITIVE = Range('above 0', lambda value: value > 0)
_SHARE = Range('at least 0 and below 1', lambda value: 0 <= value < 1)
_SEED = Range('between 0 and 2**31 - 1', lambda value: 0 <= value < 2**31)

_WHOLE_SHARE = Range('between 0 and 1', lambda value: 0 <= value <= 1)

_DATA_RANGES = {
  'global_batch_size': _at_least(1),
  'seq_length': _at_least(3),  # [CLS], one token, [SEP].
  'max_predictions_per_seq': _at_least(1),
  'mask_rate': Range('above 0 and below 1', lambda value: 0 < value < 1),
  'masking': _one_of(MASKINGS),
  'mask_token_share': _WHOLE_SHARE,
  'random_token_share': _WHOLE_SHARE,
  'span_stop_probability': Range(
    'above 0 and at most 1', lambda value: 0 < value <= 1
  ),
  'max_span_words': _at_least(1),
  'packing': _one_of(PACKINGS),
  'num_epochs': _at_least(0),
  'held_out_documents': Range(
    '0, or at least 2', lambda value: value == 0 or value >= 2
  ),
  'shuffle_buffer_size': _at_least(1),
  'seed': _SEED,
}

# One entry per setting that has a range of its own, by its name in gin.
RANGES = {
  'model.vocab_size': _at_least(0),
  'model.hidden_size': _at_least(1),
  'model.num_layers': _at_least(1),
  'model.num_attention_heads': _at_least(1),
  'model.intermediate_size': _at_least(1),
  'model.hidden_activation': _one_of(ACTIVATIONS),
  'model.mlm_activation': _one_of(ACTIVATIONS),
  'model.dropout_rate': _SHARE,
  'model.attention_dropout_rate': _SHARE,
  'model.max_position_embeddings': _at_least(3),
  'model.type_vocab_size': _at_least(1),
  'model.initializer_range': Range(
    'above 0 and at most 1', lambda value: 0 < value <= 1
  ),
  'model.residual_initializer_scale': Range(
    'above 0 and at most 10', lambda value: 0 < value <= 10
  ),
  'model.position_initializer': _one_of(POSITION_INITIALIZERS),
  'token_drop.policy': _one_of(POLICIES),
  'token_drop.token_keep_k': _at_least(1),
  'token_drop.crossing_layer': _at_least(1),
  'token_drop.temperature': _at_least(0),
  'token_drop.full_step_every': _at_least(0),
  'token_drop.token_loss_init_value': _at_least(0),
  'token_drop.token_loss_beta': _SHARE,
  **{f'train_data.{name}': rule for name, rule in _DATA_RANGES.items()},
  **{f'validation_data.{name}': rule for name, rule in _DATA_RANGES.items()},
  'train_data.masking_temperature': _POSITIVE,
  'optimizer.learning_rate': _POSITIVE,
  'optimizer.warmup_steps': _at_least(0),
  'optimizer.decay': _one_of(DECAYS),
  'optimizer.end_learning_rate': _at_least(0),
  'optimizer.weight_decay_rate': _at_least(0),
  'optimizer.gradient_clip_norm': _at_least(0),
  'optimizer.beta_1': _SHARE,
  'optimizer.beta_2': _SHARE,
  'optimizer.epsilon': _POSITIVE,
  'trainer.train_steps': _at_least(1),
  'trainer.steps_per_loop': _at_least(1),
  'trainer.validation_interval': _at_least(1),
  'trainer.validation_steps': Range(
    'above 0, or -1 for all', lambda value: value == -1 or value > 0
  ),
  'trainer.checkpoint_interval': _at_least(1),
  'trainer.max_to_keep': _at_least(1),
  'trainer.gradient_accumulation_steps': _at_least(1),
  'trainer.continuous_eval_timeout': _at_least(1),
  'runtime.distribution_strategy': _one_of(STRATEGIES),
  'runtime.num_gpus': _at_least(0),
  'runtime.num_logical_cpu_devices': _at_least(1),
  'runtime.worker_timeout_seconds': _at_least(1),
  'runtime.all_reduce_dtype': _one_of(ALL_REDUCE_DTYPES),
  'runtime.mixed_precision_dtype': _one_of(PRECISIONS),
  'runtime.num_packs': _at_least(1),
  'pretraining.seed': _SEED,
}


def check_range(name, value):
  """Checks one setting by itself.

  Args:
    name: its name in gin, e.g. 'model.num_layers'.
    value: its value; `None`, where a setting allows it, is always in range.

  Raises:
    errors.ConfigurationError: if the value lies outside `RANGES[name]`.
  """
  rule = RANGES.get(name)
  if rule is None or value is None or rule.contains(value):
    return
  raise errors.ConfigurationError(
    f'{name} must be {rule.text}. Received: {value!r}. Set {name}.'
  )


def add_ranges(ranges):
  """Adds the ranges of sections that another module defines.

  Args:
    ranges: dict of a setting's name in gin to its `Range`.
  """
  RANGES.update(ranges)


def validate_shared_sections(params):
  """Checks the rules of what every experiment has: model and devices.

  Args:
    params: an `ExperimentConfig` whose task has a `model`.

  Raises:
    errors.ConfigurationError: for the first rule that is broken.
  """
  check_ranges({'model': params.task.model, 'runtime': params.runtime})
  _check_heads(params.task.model)
  _check_devices(params.runtime)


def validate_schedule(params):
  """Checks the rules of the trainer, once its steps are known.

  Raises:
    errors.ConfigurationError: for the first rule that is broken.
  """
  check_ranges({'trainer': params.trainer})
  _check_schedule(params.trainer)
  _check_whole_steps(params)
  _check_async_checkpoints(params)


def validate_experiment(params):
  """Checks every rule of a pretraining tree, single settings and combinations.

  Nothing is computed and, the vocabulary's counts aside, no file is looked at.

  Args:
    params: the experiment's `ExperimentConfig`; `task` is a
      `PretrainingTaskConfig`.

  Raises:
    errors.ConfigurationError: for the first rule that is broken: what the rule
      is, what was received, which setting to change.
  """
  _check_ranges(params)
  _check_vocabulary_is_named(params.task)
  _check_encoder(params.task)
  _check_layout(params.task)
  _check_pins(params.task.token_drop)
  for name in ('train_data', 'validation_data'):
    _check_slots(name, getattr(params.task, name))
    _check_source(name, getattr(params.task, name))
    _check_masking(name, getattr(params.task, name))
  _check_importance_masking(params.task)
  _check_both_data_agree(params.task)
  _check_next_sentence(params.task)
  _check_schedule(params.trainer)
  _check_intervals(params.trainer)
  _check_devices(params.runtime)
  _check_data_service(params.task)
  _check_async_checkpoints(params)
  _check_batches(params, _known_replicas(params.runtime))


def validate_model(task):
  """Checks what of a task has nothing to do with data and devices.

  Args:
    task: a `PretrainingTaskConfig`.

  Raises:
    errors.ConfigurationError: as `validate_experiment`.
  """
  check_ranges(
    {
      'model': task.model,
      'token_drop': task.token_drop,
      'train_data': task.train_data,
    }
  )
  _check_encoder(task)
  _check_layout(task)


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
  """Checks the tree against the vocabulary and fills in `model.vocab_size`.

  Args:
    params: the experiment's `ExperimentConfig`, not yet locked.
    vocabulary: a `data.vocabulary.Vocabulary`.

  Raises:
    errors.ConfigurationError: if `model.vocab_size` is set and differs.
    errors.DataError: if a pinned token is not in the vocabulary.
  """
  model, token_drop = params.task.model, params.task.token_drop
  if model.vocab_size not in (VOCAB_SIZE_FROM_FILE, vocabulary.size):
    raise errors.ConfigurationError(
      'model.vocab_size must equal the number of tokens in vocabulary.path. '
      f'Received: model.vocab_size={model.vocab_size}, but '
      f'{params.task.vocabulary.path} has {vocabulary.size}. Leave '
      'model.vocab_size unset, or set vocabulary.path.'
    )
  model.vocab_size = vocabulary.size
  vocabulary.ids_of(token_drop.always_keep_tokens)
  vocabulary.ids_of(token_drop.always_drop_tokens)


def crossing_layer(task):
  """Returns the number, from 1, of the layer whose queries are kept rows."""
  if task.token_drop.crossing_layer is None:
    return task.model.num_layers // 2
  return task.token_drop.crossing_layer


def _check_ranges(params):
  check_ranges(
    {
      'model': params.task.model,
      'token_drop': params.task.token_drop,
      'train_data': params.task.train_data,
      'validation_data': params.task.validation_data,
      'trainer': params.trainer,
      'runtime': params.runtime,
    }
  )


def check_ranges(sections):
  """Checks every setting that has a range of its own.

  Args:
    sections: dict of a section's name in gin to its dataclass.

  Raises:
    errors.ConfigurationError: for the first value outside its range.
  """
  for name in RANGES:
    section, setting = name.split('.')
    if section in sections:
      check_range(name, getattr(sections[section], setting))


def _check_vocabulary_is_named(task):
  if not task.vocabulary.path:
    raise errors.ConfigurationError(
      'vocabulary.path must name a vocabulary file. Received: '
      f'{task.vocabulary.path!r}. Set vocabulary.path, or write a vocabulary '
      'with tools/build_vocab.py.'
    )
  if task.token_drop.policy != 'frequency':
    return
  counts_path = task.vocabulary.counts_path or vocabulary_lib.counts_path_for(
    task.vocabulary.path
  )
  if not tf.io.gfile.exists(counts_path):
    raise errors.ConfigurationError(
      "token_drop.policy = 'frequency' needs the token counts of the corpus. "
      f'Received: {counts_path}, which does not exist. Write it with '
      'tools/build_vocab.py, or set vocabulary.counts_path.'
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


def _check_layout(task):
  """Dropping needs a layer to drop in, and no more tokens than there are."""
  if task.token_drop.policy == 'none':
    return
  keep_k, seq_length = task.token_drop.token_keep_k, task.train_data.seq_length
  num_layers, crossing = task.model.num_layers, crossing_layer(task)
  if num_layers < 3:
    raise errors.ConfigurationError(
      'model.num_layers must be at least 3 to drop tokens: one layer on the '
      'kept tokens with a full one before and after. Received: '
      f'num_layers={num_layers}. Set model.num_layers, or token_drop.policy '
      "= 'none'."
    )
  if keep_k > seq_length:
    raise errors.ConfigurationError(
      'token_drop.token_keep_k must be at most train_data.seq_length. '
      f'Received: token_keep_k={keep_k}, seq_length={seq_length}. Set '
      'token_drop.token_keep_k.'
    )
  keep_schedule.validate(task.token_drop, seq_length)
  if not 1 <= crossing <= num_layers - 1:
    raise errors.ConfigurationError(
      'token_drop.crossing_layer must be between 1 and model.num_layers - 1. '
      f'Received: crossing_layer={crossing}, num_layers={num_layers}. Set '
      'token_drop.crossing_layer.'
    )


def _check_pins(token_drop):
  both = sorted(
    set(token_drop.always_keep_tokens) & set(token_drop.always_drop_tokens)
  )
  if both:
    raise errors.ConfigurationError(
      'A token must not be in both token_drop.always_keep_tokens and '
      f'token_drop.always_drop_tokens. Received in both: {", ".join(both)}. '
      'Remove it from one.'
    )


def _check_slots(section, data):
  """P slots must hold the masked share of S - 2 ordinary tokens."""
  num_slots, ordinary = data.max_predictions_per_seq, data.seq_length - 2
  mask_rate = mask_rates.highest(data)
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
      f'{section} must have one source. Received: input_path='
      f'{data.input_path!r} and tfds_name={data.tfds_name!r}. Leave one of '
      f'{section}.input_path and {section}.tfds_name unset.'
    )


def _check_masking(section, data):
  if data.mask_token_share + data.random_token_share > 1:
    raise errors.ConfigurationError(
      f'{section}.mask_token_share and {section}.random_token_share must be at '
      f'most 1 together. Received: {data.mask_token_share} and '
      f'{data.random_token_share}. Set {section}.mask_token_share.'
    )
  if data.mask_rate_schedule and data.tf_data_service_address:
    raise errors.ConfigurationError(
      f'{section}.mask_rate_schedule needs the number of the step, which the '
      'workers of a tf.data service do not know. Received: '
      f'{section}.tf_data_service_address={data.tf_data_service_address!r}. '
      'Leave one of the two unset.'
    )
  if '.tfrecord' not in str(data.input_path):
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
      "validation_data.masking = 'importance' would make every model's "
      'validation another. Received: it. Leave validation_data.masking unset.'
    )
  policy = task.token_drop.policy
  if task.train_data.masking == 'importance' and policy not in (
    'loss',
    'frequency',
  ):
    raise errors.ConfigurationError(
      "train_data.masking = 'importance' needs the importance table of "
      "token_drop.policy 'loss' or 'frequency'. Received: token_drop.policy="
      f'{policy!r}. Set token_drop.policy, or another train_data.masking.'
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
        'leave the label and the head out.'
      )
    if has_labels and '.tfrecord' not in str(data.input_path):
      raise errors.ConfigurationError(
        f'{section}.use_next_sentence_label needs TFRecords; text has no '
        f'labels. Received: {section}.input_path={data.input_path!r}. Set '
        f'{section}.input_path, or leave the label and the head out.'
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


def _check_data_service(task):
  address = task.train_data.tf_data_service_address
  if address:
    check_address('train_data.tf_data_service_address', address)
  if address and not task.train_data.num_epochs == 0:
    raise errors.ConfigurationError(
      'tf.data service mixes passes over the data, which have no end to count. '
      f'Received: train_data.num_epochs={task.train_data.num_epochs}, '
      f'tf_data_service_address={address!r}. Leave train_data.num_epochs '
      'unset.'
    )


def check_address(setting, address):
  """Checks that an address is 'HOST:PORT'.

  Args:
    setting: its name, for the message.
    address: str.

  Raises:
    errors.ConfigurationError: if it is not.
  """
  host, _, port = address.rpartition(':')
  if not host or '/' in host or not port.isdigit() or int(port) >= 2**16:
    raise errors.ConfigurationError(
      f"{setting} must be 'HOST:PORT'. Received: {address!r}. Set {setting}."
    )


def has_async_checkpoints(params) -> bool:
  """Returns whether checkpoints are written beside the steps."""
  if params.trainer.async_checkpoints is None:
    return params.runtime.distribution_strategy != 'multi_worker_mirrored'
  return params.trainer.async_checkpoints


def _check_async_checkpoints(params):
  """Workers would read their shared variables in different orders."""
  strategy = params.runtime.distribution_strategy
  if params.trainer.async_checkpoints and strategy == 'multi_worker_mirrored':
    raise errors.ConfigurationError(
      'trainer.async_checkpoints cannot be used with several workers. '
      f'Received: runtime.distribution_strategy = {strategy!r}. Leave '
      'trainer.async_checkpoints unset.'
    )


def _check_whole_steps(params):
  """Fine-tuning takes its small batches whole."""
  for setting, value, default in (
    (
      'trainer.gradient_accumulation_steps',
      params.trainer.gradient_accumulation_steps,
      1,
    ),
    ('runtime.all_reduce_dtype', params.runtime.all_reduce_dtype, 'float32'),
  ):
    if value != default:
      raise errors.ConfigurationError(
        f'{setting} is a setting of pretraining. Received: {value!r} in '
        f'fine-tuning. Leave {setting} unset.'
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
    if batch % num_replicas:
      raise errors.ConfigurationError(
        f'{section}.global_batch_size must be a multiple of the number of '
        f'replicas. Received: global_batch_size={batch}, {num_replicas} '
        f'replicas. Set {section}.global_batch_size.'
      )
