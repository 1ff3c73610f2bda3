"""The gin sections and the experiments they build.

One function per section; its keyword arguments are all the settings that the
section has. The values come from gin and from nowhere else, and nothing below
this module knows of gin.
"""

import functools
import inspect
import types
import typing

import gin
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import optimization

from tokendrop_tf import configs, errors, init_weights
from tokendrop_tf.finetuning import configs as finetuning_configs
from tokendrop_tf.finetuning import glue_tasks

PRETRAINING = 'token_drop_bert/pretraining'
EXPERIMENTS = (PRETRAINING, *finetuning_configs.EXPERIMENTS)
SECTION_MODULE = 'tokendrop_tf'

# Settings that each experiment has a default of its own for.
_UNSET_STEPS = finetuning_configs.STEPS_FROM_EPOCHS
_PRETRAINING_STEPS = {
  'train_steps': 1_000_000,
  'validation_interval': 1000,
  'checkpoint_interval': 1000,
}
_PRETRAINING_WARMUP_STEPS = 10_000
# Fine-tuning after a pretraining without dropout needs some.
_FINETUNING_DROPOUT_RATE = 0.1

_SECTIONS = {}


def section(function):
  """Makes `function` a gin section that checks every value it is given.

  Types come from the annotations: gin takes `'64'` for an int and `1` for a
  bool; here that is an error. An int is accepted for a float, a list for a
  tuple. Ranges come from `configs.RANGES`. gin itself wraps only a collector of
  the values: it appends text of its own to every exception that passes through
  it.

  Example:
    @section
    def model(*, num_layers: int = 12):
      return configs.ModelConfig(num_layers=num_layers)
  """
  signature = inspect.signature(function)
  hints = typing.get_type_hints(function)

  def collect(**settings):
    return settings

  collect.__name__ = function.__name__
  collect.__signature__ = signature
  collect = gin.configurable(function.__name__, module=SECTION_MODULE)(collect)

  @functools.wraps(function)
  def build():
    settings = collect()
    for name, value in settings.items():
      full_name = f'{function.__name__}.{name}'
      settings[name] = _typed(full_name, value, hints[name])
      configs.check_range(full_name, settings[name])
    return function(**settings)

  _SECTIONS[function.__name__] = tuple(signature.parameters)
  return build


def sections():
  """Returns the settings of every section, dict of name to tuple of names."""
  return dict(_SECTIONS)


def experiment_of(bindings) -> str:
  """Returns the experiment whose sections are bound.

  Args:
    bindings: what `gin_support.parse` gave.
  """
  bound = {binding.selector.rsplit('.', 1)[-1] for binding in bindings}
  if squad.__name__ in bound:
    return finetuning_configs.SQUAD
  if bound & {glue.__name__, finetuning.__name__}:
    return finetuning_configs.GLUE
  return PRETRAINING


def _typed(name, value, hint):
  """Returns `value` as the type `hint`, or raises `ConfigurationError`."""
  alternatives = (
    typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  )
  for alternative in alternatives:
    if alternative is float and type(value) is int:
      return float(value)
    if typing.get_origin(alternative) is tuple:
      element = typing.get_args(alternative)[0]
      if isinstance(value, (tuple, list)) and all(
        type(item) is element for item in value
      ):
        return tuple(value)
    elif type(value) is alternative:
      return value
  raise errors.ConfigurationError(
    f'{name} must be {_describe(alternatives)}. Received: {value!r} '
    f'({type(value).__name__}). Set {name}.'
  )


def _describe(alternatives):
  names = {
    int: 'an int',
    float: 'a float',
    str: 'a string in quotes',
    bool: 'True or False',
    type(None): 'None',
  }
  return ' or '.join(
    names.get(alternative, f'a list of {_element_name(alternative)}')
    for alternative in alternatives
  )


def _element_name(alternative):
  arguments = typing.get_args(alternative)
  return 'strings' if arguments and arguments[0] is str else str(alternative)


@section
def model(
  *,
  vocab_size: int | None = None,
  hidden_size: int = 768,
  num_layers: int = 12,
  num_attention_heads: int = 12,
  intermediate_size: int = 3072,
  hidden_activation: str = 'gelu',
  dropout_rate: float = 0.1,
  attention_dropout_rate: float = 0.1,
  max_position_embeddings: int = 512,
  type_vocab_size: int = 2,
  initializer_range: float = 0.02,
  position_initializer: str = 'truncated_normal',
  residual_initializer_scale: float = 1.0,
  norm_first: bool = False,
  mlm_activation: str = 'gelu',
  use_next_sentence_head: bool = False,
) -> configs.ModelConfig:
  """The BERT encoder and its heads; names as in the Model Garden.

  Args:
    vocab_size: entries of the vocabulary; `None` takes the number of lines of
      `vocabulary.path`, a number must equal it.
    hidden_size: H, width of the layers.
    num_layers: L, number of layers.
    num_attention_heads: heads per layer; divides `hidden_size`.
    intermediate_size: width of the feed-forward layers.
    hidden_activation: activation of the feed-forward layers.
    dropout_rate: share of layer outputs dropped in training.
    attention_dropout_rate: share of attention weights dropped in training.
    max_position_embeddings: longest sequence the encoder can ever take, in
      tokens.
    type_vocab_size: number of segment types.
    initializer_range: standard deviation of the initial kernels; 0.02 suits a
      width of 768, narrower models need more.
    position_initializer: 'truncated_normal', as stock, or 'sinusoidal': the
      table starts as sines and cosines of the same standard deviation, so
      that attention to neighbours is learnt for all positions at once.
    residual_initializer_scale: factor on that for the kernels that end a
      residual branch; 1 is stock BERT, 0.2 starts near the identity.
    norm_first: normalises before instead of after each block.
    mlm_activation: activation of the masked-LM head's transform.
    use_next_sentence_head: adds the next-sentence head; the data needs labels.
  """
  return configs.ModelConfig(
    vocab_size=vocab_size or configs.VOCAB_SIZE_FROM_FILE,
    hidden_size=hidden_size,
    num_layers=num_layers,
    num_attention_heads=num_attention_heads,
    intermediate_size=intermediate_size,
    hidden_activation=hidden_activation,
    dropout_rate=dropout_rate,
    attention_dropout_rate=attention_dropout_rate,
    max_position_embeddings=max_position_embeddings,
    type_vocab_size=type_vocab_size,
    initializer_range=initializer_range,
    position_initializer=position_initializer,
    residual_initializer_scale=residual_initializer_scale,
    norm_first=norm_first,
    mlm_activation=mlm_activation,
    use_next_sentence_head=use_next_sentence_head,
  )


@section
def token_drop(
  *,
  policy: str = 'loss',
  token_keep_k: int = 256,
  crossing_layer: int | None = None,
  temperature: float = 0.0,
  full_step_every: int = 0,
  keep_schedule: tuple[str, ...] = (),
  token_loss_init_value: float = 10.0,
  token_loss_beta: float = 0.995,
  always_keep_tokens: tuple[str, ...] = ('[UNK]', '[CLS]', '[SEP]', '[MASK]'),
  always_drop_tokens: tuple[str, ...] = ('[PAD]',),
) -> configs.TokenDropConfig:
  """Which tokens skip the middle layers while training.

  Args:
    policy: 'loss' keeps tokens with a high running masked-LM loss, 'frequency'
      rare tokens, 'random' any, 'none' all (plain BERT).
    token_keep_k: K, tokens kept of every sequence.
    crossing_layer: number, from 1, of the layer that drops; `None` is half of
      the layers, as published.
    temperature: 0 keeps the K most important tokens; above 0 the kept tokens
      are sampled, the more evenly the higher it is.
    full_step_every: every n-th step drops nothing; 0 is never.
    keep_schedule: tokens kept over the training, such as ('0:128', '0.5:256',
      '0.9:all'): from this share of `trainer.train_steps` on, so many. Empty
      keeps `token_keep_k` throughout; validation with dropping always does.
    token_loss_init_value: importance of every token at the start, in nats.
    token_loss_beta: share of the old importance kept in each update.
    always_keep_tokens: tokens, by text, that are kept first.
    always_drop_tokens: tokens, by text, that are dropped first.
  """
  return configs.TokenDropConfig(
    policy=policy,
    token_keep_k=token_keep_k,
    crossing_layer=crossing_layer,
    temperature=temperature,
    full_step_every=full_step_every,
    keep_schedule=keep_schedule,
    token_loss_init_value=token_loss_init_value,
    token_loss_beta=token_loss_beta,
    always_keep_tokens=always_keep_tokens,
    always_drop_tokens=always_drop_tokens,
  )


@section
def vocabulary(
  *,
  path: str = '',
  counts_path: str = '',
  lower_case: bool = True,
) -> configs.VocabularyConfig:
  """The WordPiece vocabulary, as `tools/build_vocab.py` writes it.

  Args:
    path: text file, one token a line; the line number, from 0, is the id.
    counts_path: counts of the tokens in the corpus; empty is the file beside
      `path`. Only `token_drop.policy = 'frequency'` reads it.
    lower_case: lower-cases text and strips accents.
  """
  return configs.VocabularyConfig(
    path=path, counts_path=counts_path, lower_case=lower_case
  )


@section
def train_data(
  *,
  input_path: str = '',
  text_field: str = 'text',
  skip_bad_text: bool = False,
  allow_unknown_tokens: bool = False,
  tfds_name: str = '',
  tfds_split: str = 'train',
  tfds_data_dir: str = '',
  tfds_text_feature: str = 'text',
  global_batch_size: int = 32,
  seq_length: int = 512,
  max_predictions_per_seq: int = 76,
  mask_rate: float = 0.15,
  mask_rate_schedule: tuple[str, ...] = (),
  masking: str = 'token',
  mask_token_share: float = 0.8,
  random_token_share: float = 0.1,
  span_stop_probability: float = 0.2,
  max_span_words: int = 10,
  masking_temperature: float = 1.0,
  packing: str = 'across_documents',
  use_next_sentence_label: bool = False,
  num_epochs: int = 0,
  held_out_documents: int = 0,
  shuffle_buffer_size: int = 4096,
  tf_data_service_address: str = '',
  seed: int | None = None,
) -> configs.PretrainingDataConfig:
  """Training examples: text, a TFDS data set, or TFRecords.

  Without `input_path` and `tfds_name` the documentation strings of the
  installed Python packages are read.

  Args:
    input_path: comma-separated files or globs: `.txt`, `.jsonl`, either with
      `.gz`, `.parquet`, or any name with `.tfrecord` in it.
    text_field: of `.jsonl` the field, of `.parquet` the column, that is text.
    skip_bad_text: leaves lines and rows that are not text out, and counts them,
      instead of refusing their file.
    allow_unknown_tokens: reads text of which the vocabulary does not know most.
    tfds_name: name of a TFDS text data set, instead of `input_path`.
    tfds_split: split of it.
    tfds_data_dir: folder of TFDS data sets; empty is its default.
    tfds_text_feature: name of the feature that holds the text.
    global_batch_size: B, sequences per step over all replicas.
    seq_length: S, tokens per sequence.
    max_predictions_per_seq: P, masked-LM slots per sequence; at least
      `mask_rate * (seq_length - 2)`.
    mask_rate: share of the ordinary tokens that are predicted.
    mask_rate_schedule: mask rates over the training, such as ('0:0.3',
      '0.5:0.15'): from this share of `trainer.train_steps` on, this rate. Empty
      keeps `mask_rate` throughout; validation always does.
    masking: 'token' chooses single tokens, 'whole_word' whole words, 'span'
      runs of words, 'importance' single tokens by the importance table, in the
      train step.
    mask_token_share: share of the predicted tokens that show [MASK].
    random_token_share: share of them that show a random token; the others show
      themselves.
    span_stop_probability: of 'span': probability that a span ends after each of
      its words; their number is geometric.
    max_span_words: of 'span': longest span, in words.
    masking_temperature: of 'importance': tokens are sampled with weights
      importance ** (1 / temperature); the higher, the more evenly.
    packing: 'across_documents' fills every sequence, 'within_documents' starts
      a sequence with every document, 'one_document' cuts off what of a document
      exceeds a sequence, 'best_fit' puts several whole documents into one that
      do not see each other.
    use_next_sentence_label: reads next-sentence labels, from TFRecords only.
    num_epochs: passes over the data; 0 is without end.
    held_out_documents: every n-th document is kept for validation; 0 is none.
    shuffle_buffer_size: sequences among which the next one is drawn.
    tf_data_service_address: 'HOST:PORT' of the dispatcher of a tf.data service
      that makes the batches; see tools/data_service.py and, for what it costs,
      docs/reliability.md. Empty makes them here.
    seed: of document order, masks and shuffling; `None` is `pretraining.seed`.
  """
  return _data_config(
    is_training=True,
    drop_remainder=True,
    input_path=input_path,
    text_field=text_field,
    skip_bad_text=skip_bad_text,
    allow_unknown_tokens=allow_unknown_tokens,
    tfds_name=tfds_name,
    tfds_split=tfds_split,
    tfds_data_dir=tfds_data_dir,
    tfds_text_feature=tfds_text_feature,
    global_batch_size=global_batch_size,
    seq_length=seq_length,
    max_predictions_per_seq=max_predictions_per_seq,
    mask_rate=mask_rate,
    mask_rate_schedule=mask_rate_schedule,
    masking=masking,
    mask_token_share=mask_token_share,
    random_token_share=random_token_share,
    span_stop_probability=span_stop_probability,
    max_span_words=max_span_words,
    masking_temperature=masking_temperature,
    packing=packing,
    use_next_sentence_label=use_next_sentence_label,
    num_epochs=num_epochs,
    held_out_documents=held_out_documents,
    shuffle_buffer_size=shuffle_buffer_size,
    tf_data_service_address=tf_data_service_address or None,
    seed=seed,
  )


@section
def validation_data(
  *,
  input_path: str = '',
  text_field: str | None = None,
  skip_bad_text: bool | None = None,
  allow_unknown_tokens: bool | None = None,
  tfds_name: str = '',
  tfds_split: str = 'validation',
  tfds_data_dir: str = '',
  tfds_text_feature: str = 'text',
  global_batch_size: int | None = None,
  seq_length: int | None = None,
  max_predictions_per_seq: int | None = None,
  mask_rate: float | None = None,
  masking: str | None = None,
  mask_token_share: float | None = None,
  random_token_share: float | None = None,
  span_stop_probability: float | None = None,
  max_span_words: int | None = None,
  packing: str | None = None,
  use_next_sentence_label: bool | None = None,
  held_out_documents: int | None = None,
  seed: int = 0,
) -> dict:
  """Validation examples: one pass, in one order, with one set of masks.

  A setting that is `None` takes the value of `train_data`.

  Args:
    input_path: as in `train_data`.
    text_field: as in `train_data`.
    skip_bad_text: as in `train_data`.
    allow_unknown_tokens: as in `train_data`.
    tfds_name: as in `train_data`.
    tfds_split: split of it.
    tfds_data_dir: as in `train_data`.
    tfds_text_feature: as in `train_data`.
    global_batch_size: sequences per step; the last batch is filled up with
      empty ones.
    seq_length: as in `train_data`, which it must equal.
    max_predictions_per_seq: as in `train_data`, which it must equal.
    mask_rate: as in `train_data`.
    masking: as in `train_data`; 'token' where that is 'importance', and for
      TFRecords.
    mask_token_share: as in `train_data`.
    random_token_share: as in `train_data`.
    span_stop_probability: as in `train_data`.
    max_span_words: as in `train_data`.
    packing: as in `train_data`.
    use_next_sentence_label: as in `train_data`.
    held_out_documents: as in `train_data`: the documents that it leaves out.
    seed: of the masks; fixed, so that runs with several seeds compare.
  """
  return dict(locals())


@section
def optimizer(
  *,
  learning_rate: float = 1e-4,
  warmup_steps: int | None = None,
  decay: str = 'linear',
  end_learning_rate: float = 0.0,
  weight_decay_rate: float = 0.01,
  gradient_clip_norm: float = 1.0,
  beta_1: float = 0.9,
  beta_2: float = 0.999,
  epsilon: float = 1e-7,
) -> dict:
  """AdamW of the Model Garden with warm-up and decay.

  Args:
    learning_rate: peak rate.
    warmup_steps: steps in which the rate rises from 0; below
      `trainer.train_steps`. `None` is 10,000 in pretraining and
      `finetuning.warmup_share` of the steps in fine-tuning.
    decay: 'linear', 'cosine' or 'constant', over `trainer.train_steps`.
    end_learning_rate: rate at the last step.
    weight_decay_rate: of all kernels and embeddings; biases and layer
      normalisation have none.
    gradient_clip_norm: largest global norm of the gradients; 0 is no limit.
    beta_1: decay of the mean of the gradients.
    beta_2: decay of the mean of their squares.
    epsilon: added to the root of that.
  """
  return dict(locals())


@section
def trainer(
  *,
  train_steps: int | None = None,
  steps_per_loop: int = 100,
  validation_interval: int | None = None,
  validation_steps: int = -1,
  checkpoint_interval: int | None = None,
  max_to_keep: int = 5,
  continuous_eval_timeout: int = 3600,
  gradient_accumulation_steps: int = 1,
  async_checkpoints: bool | None = None,
) -> configs.TrainerConfig:
  """How long to train and how often to report, validate and save.

  Args:
    train_steps: length of the training, in steps; `None` is 1,000,000 in
      pretraining and `finetuning.num_epochs` in fine-tuning.
    steps_per_loop: steps per call of the device, and per progress line.
    validation_interval: steps between validations; a multiple of
      `steps_per_loop`. `None` is 1,000 in pretraining, an epoch in fine-tuning.
    validation_steps: batches per validation; -1 is all.
    checkpoint_interval: steps between checkpoints; a multiple of
      `steps_per_loop`. `None` is 1,000 in pretraining, an epoch in fine-tuning.
    max_to_keep: checkpoints kept in `model_dir`.
    continuous_eval_timeout: seconds that continuous_eval waits for a new
      checkpoint.
    gradient_accumulation_steps: takes the gradients of a batch in so many
      parts, one after another, in less memory; the step stays that of the
      whole batch. In pretraining only.
    async_checkpoints: writes checkpoints beside the steps that follow, from a
      copy of the weights in the host's memory. `None` does so wherever one
      process trains: it cannot be done with several workers.
  """
  return configs.TrainerConfig(
    train_steps=train_steps or _UNSET_STEPS,
    steps_per_loop=steps_per_loop,
    summary_interval=steps_per_loop,
    validation_interval=validation_interval or _UNSET_STEPS,
    validation_steps=validation_steps,
    checkpoint_interval=checkpoint_interval or _UNSET_STEPS,
    max_to_keep=max_to_keep,
    continuous_eval_timeout=continuous_eval_timeout,
    gradient_accumulation_steps=gradient_accumulation_steps,
    async_checkpoints=async_checkpoints,
    # Our own action stops at a loss that is not finite.
    recovery_max_trials=-1,
    preemption_on_demand_checkpoint=False,
  )


@section
def runtime(
  *,
  distribution_strategy: str = 'one_device',
  num_gpus: int = 0,
  num_logical_cpu_devices: int = 1,
  worker_timeout_seconds: int = 300,
  tpu: str | None = None,
  mixed_precision_dtype: str = 'float32',
  enable_xla: bool = False,
  all_reduce_alg: str | None = None,
  all_reduce_dtype: str = 'float32',
  num_packs: int = 1,
) -> configs.RuntimeConfig:
  """The devices and the arithmetic.

  Args:
    distribution_strategy: 'one_device', 'mirrored' (several devices of one
      machine), 'multi_worker_mirrored' (several machines, from TF_CONFIG) or
      'tpu'.
    num_gpus: GPUs to use; 0 runs on the CPU.
    num_logical_cpu_devices: parts into which 'mirrored' splits the CPU when
      there is no GPU, each a replica; to try out distribution anywhere.
    worker_timeout_seconds: how long a process of 'multi_worker_mirrored' waits
      for the others to start.
    tpu: name or address of the TPU; 'local' on a TPU VM.
    mixed_precision_dtype: 'float32' or 'bfloat16', of the activations;
      variables stay float32. 'mixed_bfloat16' is the same as 'bfloat16'.
    enable_xla: compiles the train step with XLA (always so on a TPU).
    all_reduce_alg: how replicas add gradients: 'nccl' or 'hierarchical_copy'
      under 'mirrored', 'ring' or 'nccl' under 'multi_worker_mirrored'; `None`
      chooses.
    all_reduce_dtype: in which replicas add gradients; 'bfloat16' sends half as
      much. In pretraining only.
    num_packs: gradients are sent in so many packs.
  """
  return configs.RuntimeConfig(
    distribution_strategy=distribution_strategy,
    num_gpus=num_gpus,
    num_logical_cpu_devices=num_logical_cpu_devices,
    worker_timeout_seconds=worker_timeout_seconds,
    tpu=tpu,
    mixed_precision_dtype=mixed_precision_dtype.removeprefix('mixed_'),
    enable_xla=enable_xla,
    all_reduce_alg=all_reduce_alg,
    all_reduce_dtype=all_reduce_dtype,
    num_packs=num_packs,
  )


@section
def pretraining(*, seed: int = 0, init_checkpoint: str = '') -> dict:
  """What belongs to the run as a whole.

  Args:
    seed: of the initial weights, dropout, tie-breaking and sampling, and of
      the training data unless `train_data.seed` is set.
    init_checkpoint: weights that the training starts from: a model_dir, a
      Model Garden checkpoint, a Hugging Face folder or an exported one; empty
      starts from random weights.
  """
  return {'seed': seed, 'init_checkpoint': init_checkpoint}


@exp_factory.register_config_factory(PRETRAINING)
def pretraining_experiment() -> cfg.ExperimentConfig:
  """Builds the tree of a pretraining run from the gin sections."""
  run = pretraining()
  train = train_data()
  if train.seed is None:
    train.seed = run['seed']
  trainer_config = trainer()
  for name, steps in _PRETRAINING_STEPS.items():
    if getattr(trainer_config, name) == _UNSET_STEPS:
      setattr(trainer_config, name, steps)
  trainer_config.optimizer_config = _optimizer_config(
    trainer_config.train_steps, _PRETRAINING_WARMUP_STEPS, **optimizer()
  )
  token_drop_config = token_drop()
  if token_drop_config.keep_schedule:
    token_drop_config.schedule_steps = trainer_config.train_steps
  if train.mask_rate_schedule:
    train.mask_schedule_steps = trainer_config.train_steps
  return cfg.ExperimentConfig(
    task=configs.PretrainingTaskConfig(
      model=model(),
      token_drop=token_drop_config,
      vocabulary=vocabulary(),
      train_data=train,
      validation_data=_validation_config(train, **validation_data()),
      **run,
    ),
    trainer=trainer_config,
    runtime=runtime(),
  )


def _validation_config(train, input_path, tfds_name, **settings):
  """Fills what validation leaves open with the values of `train`."""
  held_out = settings['held_out_documents'] or train.held_out_documents
  if held_out and not input_path and not tfds_name:
    input_path, tfds_name = train.input_path, train.tfds_name
    settings['tfds_split'] = train.tfds_split
  if settings['masking'] is None and (
    train.masking == 'importance' or '.tfrecord' in input_path
  ):
    settings['masking'] = 'token'
  settings = {
    name: getattr(train, name) if value is None else value
    for name, value in settings.items()
  }
  return _data_config(
    input_path=input_path,
    tfds_name=tfds_name,
    is_training=False,
    drop_remainder=False,
    num_epochs=1,
    shuffle_buffer_size=1,
    **settings,
  )


def _data_config(tfds_split, **settings):
  split = tfds_split if settings['tfds_name'] else ''
  return configs.PretrainingDataConfig(tfds_split=split, **settings)


def _optimizer_config(
  train_steps,
  default_warmup_steps,
  learning_rate,
  warmup_steps,
  decay,
  end_learning_rate,
  **adamw,
):
  """AdamW, schedule and warm-up in the Model Garden's terms."""
  if warmup_steps is None:
    warmup_steps = default_warmup_steps
  schedules = {
    'linear': {
      'type': 'polynomial',
      'polynomial': {
        'initial_learning_rate': learning_rate,
        'decay_steps': train_steps,
        'end_learning_rate': end_learning_rate,
      },
    },
    'cosine': {
      'type': 'cosine',
      'cosine': {
        'initial_learning_rate': learning_rate,
        'decay_steps': train_steps,
        'alpha': end_learning_rate / learning_rate,
      },
    },
    'constant': {
      'type': 'constant',
      'constant': {'learning_rate': learning_rate},
    },
  }
  return optimization.OptimizationConfig(
    {
      'optimizer': {
        'type': 'adamw',
        'adamw': dict(
          adamw, exclude_from_weight_decay=['LayerNorm', 'layer_norm', 'bias']
        ),
      },
      'learning_rate': schedules[decay],
      'warmup': {
        'type': 'polynomial',
        'polynomial': {'warmup_steps': warmup_steps},
      },
    }
  )


@section
def finetuning(
  *,
  init_from: str = '',
  random_init: bool = False,
  num_epochs: float = 3.0,
  warmup_share: float = 0.1,
  dropout_rate: float | None = None,
  attention_dropout_rate: float | None = None,
  seed: int = 0,
) -> dict:
  """Where fine-tuning starts, and how long it takes.

  Args:
    init_from: a model_dir of pretraining or fine-tuning, a Model Garden
      checkpoint, a Hugging Face folder or an exported encoder; sizes and
      vocabulary come from there, too. Empty takes them from the sections
      `model` and `vocabulary`, with random weights.
    random_init: takes sizes and vocabulary of `init_from`, but random weights;
      the baseline that shows what pretraining is worth.
    num_epochs: passes over the training data, unless `trainer.train_steps` is
      set.
    warmup_share: share of the steps in which the rate rises from 0, unless
      `optimizer.warmup_steps` is set.
    dropout_rate: as `model.dropout_rate`, which `None` takes where the sizes
      come from the section `model`; elsewhere `None` is 0.1.
    attention_dropout_rate: the same of attention weights.
    seed: of new weights, dropout and the order of the examples.
  """
  return dict(locals())


@section
def glue(
  *,
  task: str = glue_tasks.CUSTOM,
  train_data: str = '',
  validation_data: str = '',
  mismatched_validation_data: str = '',
  test_data: str = '',
  mismatched_test_data: str = '',
  tfds_data_dir: str = '',
  seq_length: int = 128,
  batch_size: int = 32,
  eval_batch_size: int = 64,
  label_names: tuple[str, ...] = (),
  is_regression: bool = False,
  metric: str = '',
  text_column: str = '',
  text_pair_column: str = '',
  label_column: str = '',
  index_column: str = '',
  column_names: tuple[str, ...] = (),
  malformed_rows: str = 'error',
  trim_padding: bool = True,
) -> dict:
  """A sentence task; `task` gives columns, labels and metric of its own.

  Data are comma-separated TSV or JSONL files and globs, plain or .gz, or
  'tfds:NAME:SPLIT', e.g. 'tfds:glue/rte:train'.

  Args:
    task: 'cola', 'sst2', 'mrpc', 'stsb', 'qqp', 'mnli', 'qnli', 'rte', or
      'custom' for columns that the settings below name.
    train_data: rows to train on.
    validation_data: rows to validate on; of MNLI the matched ones.
    mismatched_validation_data: MNLI's second validation set.
    test_data: rows to write predictions for, in GLUE's submission format.
    mismatched_test_data: MNLI's second test set.
    tfds_data_dir: folder of TFDS data sets; empty is its default.
    seq_length: S, longest sequence in tokens; what exceeds it is cut off.
    batch_size: rows per training step over all replicas.
    eval_batch_size: rows per validation step over all replicas.
    label_names: labels as the files spell them, in the order of their ids;
      empty is the task's own, or all of the training data.
    is_regression: predicts a number ('stsb' always does).
    metric: main metric: 'accuracy', 'f1', 'matthews_corrcoef' or
      'pearson_spearman_corr'; empty is the task's own.
    text_column: column of the text; empty is the task's own.
    text_pair_column: column of the second text of a pair.
    label_column: column of the label.
    index_column: column that names a row in prediction files.
    column_names: columns of files without a header.
    malformed_rows: 'error', or 'skip' rows with another number of columns.
    trim_padding: cuts padding that a whole batch shares, which changes no
      result; off wherever shapes must be static (XLA, TPU).
  """
  return dict(locals())


@section
def squad(
  *,
  version: str = 'v1.1',
  train_data: str = '',
  validation_data: str = '',
  test_data: str = '',
  seq_length: int = 384,
  doc_stride: int = 128,
  query_length: int = 64,
  max_answer_length: int = 30,
  n_best_size: int = 20,
  null_score_threshold: float = 0.0,
  batch_size: int = 32,
  eval_batch_size: int = 64,
  trim_padding: bool = True,
) -> dict:
  """Question answering on SQuAD's JSON, plain or .gz.

  Args:
    version: 'v1.1', or 'v2.0' with unanswerable questions.
    train_data: comma-separated files and globs to train on.
    validation_data: files to validate on.
    test_data: files to write answers to.
    seq_length: S, tokens of a window with its question.
    doc_stride: tokens from the start of a window to that of the next.
    query_length: tokens kept of a question.
    max_answer_length: longest answer, in tokens.
    n_best_size: candidates per question in `nbest.json`.
    null_score_threshold: of v2.0; a question stays unanswered if the score of
      no answer exceeds that of the best one by more.
    batch_size: windows per training step over all replicas.
    eval_batch_size: windows per validation step over all replicas.
    trim_padding: as in `glue`.
  """
  return dict(locals())


@exp_factory.register_config_factory(finetuning_configs.GLUE)
def glue_experiment() -> cfg.ExperimentConfig:
  """Builds the tree of a sentence task from the gin sections.

  `finetuning.resolution.resolve` completes it from the data.
  """
  run, settings = finetuning(), glue()
  known = glue_tasks.resolve(
    settings['task'],
    label_names=settings['label_names'],
    is_regression=settings['is_regression'],
    metric=settings['metric'],
  )
  is_regression = settings['is_regression'] or settings['task'] == 'stsb'
  section_fields = (
    *('task', 'text_column', 'text_pair_column', 'label_column'),
    *('index_column', 'column_names', 'malformed_rows'),
  )
  return _finetuning_experiment(
    run,
    finetuning_configs.GlueTaskConfig(
      glue=finetuning_configs.GlueConfig(
        label_names=known.label_names,
        is_regression=is_regression,
        **{name: settings[name] for name in section_fields},
      ),
      metric_type=known.metric,
      **_finetuning_data('glue', settings, run['seed']),
      **_starting_point(run),
    ),
  )


@exp_factory.register_config_factory(finetuning_configs.SQUAD)
def squad_experiment() -> cfg.ExperimentConfig:
  """Builds the tree of question answering from the gin sections.

  `finetuning.resolution.resolve` completes it from the data.
  """
  run, settings = finetuning(), squad()
  section_fields = ('version', 'doc_stride', 'query_length')
  answer_fields = ('max_answer_length', 'n_best_size')
  return _finetuning_experiment(
    run,
    finetuning_configs.SquadTaskConfig(
      squad=finetuning_configs.SquadConfig(
        null_score_threshold=settings['null_score_threshold'],
        **{name: settings[name] for name in section_fields + answer_fields},
      ),
      # The Model Garden's own names of the same.
      null_score_diff_threshold=settings['null_score_threshold'],
      **{name: settings[name] for name in answer_fields},
      **_finetuning_data('squad', settings, run['seed']),
      **_starting_point(run),
    ),
  )


def _finetuning_experiment(run, task):
  trainer_config = trainer()
  trainer_config.optimizer_config = _optimizer_config(
    trainer_config.train_steps, _UNSET_STEPS, **optimizer()
  )
  task.finetuning = finetuning_configs.FinetuningConfig(
    random_init=run['random_init'],
    num_epochs=run['num_epochs'],
    warmup_share=run['warmup_share'],
  )
  return cfg.ExperimentConfig(
    task=task, trainer=trainer_config, runtime=runtime()
  )


def _finetuning_data(name, settings, seed):
  """Returns the data sections of a task from what its gin section names."""
  sections_of_data = {}
  for key in settings:
    if not key.endswith('_data'):
      continue
    is_training = key == 'train_data'
    batch_size = 'batch_size' if is_training else 'eval_batch_size'
    sections_of_data[key] = finetuning_configs.TextDataConfig(
      is_training=is_training,
      drop_remainder=is_training,
      global_batch_size=settings[batch_size],
      seq_length=settings['seq_length'],
      trim_padding=settings['trim_padding'],
      tfds_data_dir=settings.get('tfds_data_dir', ''),
      seed=seed,
      **finetuning_configs.parse_source(settings[key], f'{name}.{key}'),
    )
  return sections_of_data


def _starting_point(run):
  """Returns sizes and vocabulary: of `init_from`, or of their own sections."""
  source, setting = None, 'finetuning.init_from'
  if run['init_from']:
    source = init_weights.describe(run['init_from'], setting)
  if source is None or source.model is None:
    model_config, default_rate = model(), None
  else:
    model_config, default_rate = source.model, _FINETUNING_DROPOUT_RATE
  rates = {
    name: default_rate if run[name] is None else run[name]
    for name in ('dropout_rate', 'attention_dropout_rate')
  }
  changes = {name: rate for name, rate in rates.items() if rate is not None}
  return {
    'model': model_config.replace(use_next_sentence_head=False, **changes),
    'vocabulary': _starting_vocabulary(source, vocabulary()),
    'init_checkpoint': run['init_from'],
    'seed': run['seed'],
  }


def _starting_vocabulary(source, section_config):
  if source is None or source.lower_case is None:
    if source is not None and source.vocabulary_path:
      section_config.path = section_config.path or source.vocabulary_path
    return section_config
  if not section_config.path:
    return configs.VocabularyConfig(
      path=source.vocabulary_path or '', lower_case=source.lower_case
    )
  if section_config.lower_case != source.lower_case:
    raise errors.ConfigurationError(
      'vocabulary.lower_case must be that of finetuning.init_from. Received: '
      f'{section_config.lower_case}, where {source.path} has '
      f'{source.lower_case}. Set vocabulary.lower_case.'
    )
  return section_config
