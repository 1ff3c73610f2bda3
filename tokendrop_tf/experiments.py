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

from tokendrop_tf import configs, errors

PRETRAINING = 'token_drop_bert/pretraining'
EXPERIMENTS = (PRETRAINING,)
SECTION_MODULE = 'tokendrop_tf'

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
  tfds_name: str = '',
  tfds_split: str = 'train',
  tfds_data_dir: str = '',
  tfds_text_feature: str = 'text',
  global_batch_size: int = 32,
  seq_length: int = 512,
  max_predictions_per_seq: int = 76,
  mask_rate: float = 0.15,
  packing: str = 'across_documents',
  use_next_sentence_label: bool = False,
  num_epochs: int = 0,
  held_out_documents: int = 0,
  shuffle_buffer_size: int = 4096,
  seed: int | None = None,
) -> configs.PretrainingDataConfig:
  """Training examples: text, a TFDS data set, or TFRecords.

  Without `input_path` and `tfds_name` the documentation strings of the
  installed Python packages are read.

  Args:
    input_path: comma-separated files or globs: `.txt`, `.txt.gz`, or any name
      with `.tfrecord` in it.
    tfds_name: name of a TFDS text data set, instead of `input_path`.
    tfds_split: split of it.
    tfds_data_dir: folder of TFDS data sets; empty is its default.
    tfds_text_feature: name of the feature that holds the text.
    global_batch_size: B, sequences per step over all replicas.
    seq_length: S, tokens per sequence.
    max_predictions_per_seq: P, masked-LM slots per sequence; at least
      `mask_rate * (seq_length - 2)`.
    mask_rate: share of the ordinary tokens that are predicted.
    packing: 'across_documents' fills every sequence, 'within_documents' starts
      a sequence with every document.
    use_next_sentence_label: reads next-sentence labels, from TFRecords only.
    num_epochs: passes over the data; 0 is without end.
    held_out_documents: every n-th document is kept for validation; 0 is none.
    shuffle_buffer_size: sequences among which the next one is drawn.
    seed: of document order, masks and shuffling; `None` is `pretraining.seed`.
  """
  return _data_config(
    is_training=True,
    drop_remainder=True,
    input_path=input_path,
    tfds_name=tfds_name,
    tfds_split=tfds_split,
    tfds_data_dir=tfds_data_dir,
    tfds_text_feature=tfds_text_feature,
    global_batch_size=global_batch_size,
    seq_length=seq_length,
    max_predictions_per_seq=max_predictions_per_seq,
    mask_rate=mask_rate,
    packing=packing,
    use_next_sentence_label=use_next_sentence_label,
    num_epochs=num_epochs,
    held_out_documents=held_out_documents,
    shuffle_buffer_size=shuffle_buffer_size,
    seed=seed,
  )


@section
def validation_data(
  *,
  input_path: str = '',
  tfds_name: str = '',
  tfds_split: str = 'validation',
  tfds_data_dir: str = '',
  tfds_text_feature: str = 'text',
  global_batch_size: int | None = None,
  seq_length: int | None = None,
  max_predictions_per_seq: int | None = None,
  mask_rate: float | None = None,
  packing: str | None = None,
  use_next_sentence_label: bool | None = None,
  held_out_documents: int | None = None,
  seed: int = 0,
) -> dict:
  """Validation examples: one pass, in one order, with one set of masks.

  A setting that is `None` takes the value of `train_data`.

  Args:
    input_path: as in `train_data`.
    tfds_name: as in `train_data`.
    tfds_split: split of it.
    tfds_data_dir: as in `train_data`.
    tfds_text_feature: as in `train_data`.
    global_batch_size: sequences per step; the last batch is filled up with
      empty ones.
    seq_length: as in `train_data`, which it must equal.
    max_predictions_per_seq: as in `train_data`, which it must equal.
    mask_rate: as in `train_data`.
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
  warmup_steps: int = 10000,
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
      `trainer.train_steps`.
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
  train_steps: int = 1000000,
  steps_per_loop: int = 100,
  validation_interval: int = 1000,
  validation_steps: int = -1,
  checkpoint_interval: int = 1000,
  max_to_keep: int = 5,
  continuous_eval_timeout: int = 3600,
) -> cfg.TrainerConfig:
  """How long to train and how often to report, validate and save.

  Args:
    train_steps: length of the training, in steps.
    steps_per_loop: steps per call of the device, and per progress line.
    validation_interval: steps between validations; a multiple of
      `steps_per_loop`.
    validation_steps: batches per validation; -1 is all.
    checkpoint_interval: steps between checkpoints; a multiple of
      `steps_per_loop`.
    max_to_keep: checkpoints kept in `model_dir`.
    continuous_eval_timeout: seconds that continuous_eval waits for a new
      checkpoint.
  """
  return cfg.TrainerConfig(
    train_steps=train_steps,
    steps_per_loop=steps_per_loop,
    summary_interval=steps_per_loop,
    validation_interval=validation_interval,
    validation_steps=validation_steps,
    checkpoint_interval=checkpoint_interval,
    max_to_keep=max_to_keep,
    continuous_eval_timeout=continuous_eval_timeout,
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
  tpu: str | None = None,
  mixed_precision_dtype: str = 'float32',
  enable_xla: bool = False,
  all_reduce_alg: str | None = None,
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
    tpu: name or address of the TPU; 'local' on a TPU VM.
    mixed_precision_dtype: 'float32' or 'bfloat16', of the activations;
      variables stay float32. 'mixed_bfloat16' is the same as 'bfloat16'.
    enable_xla: compiles the train step with XLA (always so on a TPU).
    all_reduce_alg: how replicas add gradients: 'nccl' or 'hierarchical_copy'
      under 'mirrored', 'ring' or 'nccl' under 'multi_worker_mirrored'; `None`
      chooses.
    num_packs: gradients are sent in so many packs.
  """
  return configs.RuntimeConfig(
    distribution_strategy=distribution_strategy,
    num_gpus=num_gpus,
    num_logical_cpu_devices=num_logical_cpu_devices,
    tpu=tpu,
    mixed_precision_dtype=mixed_precision_dtype.removeprefix('mixed_'),
    enable_xla=enable_xla,
    all_reduce_alg=all_reduce_alg,
    num_packs=num_packs,
  )


@section
def pretraining(*, seed: int = 0, init_checkpoint: str = '') -> dict:
  """What belongs to the run as a whole.

  Args:
    seed: of the initial weights, dropout, tie-breaking and sampling, and of
      the training data unless `train_data.seed` is set.
    init_checkpoint: checkpoint whose weights the training starts from; empty
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
  trainer_config.optimizer_config = _optimizer_config(
    train_steps=trainer_config.train_steps, **optimizer()
  )
  return cfg.ExperimentConfig(
    task=configs.PretrainingTaskConfig(
      model=model(),
      token_drop=token_drop(),
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
  train_steps, learning_rate, warmup_steps, decay, end_learning_rate, **adamw
):
  """AdamW, schedule and warm-up in the Model Garden's terms."""
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
