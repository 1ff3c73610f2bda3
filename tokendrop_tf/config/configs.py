"""The experiment tree of pretraining, each of its settings declared once.

The tree is the Model Garden's `ExperimentConfig`. Fields made by `setting` are
the settings of gin; the others hold what the program works out.
`config.sections` says which gin section each class belongs to, and reads
these of a declaration:

  keys: further keys of the tree that hold the setting's value.
  may_change: whether a run may resume with another value.
  inherits: the setting whose value `None` takes, which is then the default.
  validation: see `ABSENT`.
  pretraining_only: whether fine-tuning refuses another value than the default.
  validation_doc: note on the setting in `validation_data`.
"""

import dataclasses
import re

from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.nlp.configs import encoders

from tokendrop_tf import schedules
from tokendrop_tf.dropping import TokenDropConfig, registry
from tokendrop_tf.settings import (
  SEED,
  SHARE,
  Range,
  above,
  above_and_at_most,
  above_and_below,
  at_least,
  between,
  one_of,
  setting,
)

POSITION_INITIALIZERS = ('truncated_normal', 'sinusoidal', 'fourier')
POSITION_EXTENSIONS = ('refuse', 'tile', 'interpolate')
ATTENTION_STARTS = ('random', 'neighbours')
PACKINGS = (
  'across_documents',
  'within_documents',
  'one_document',
  'best_fit',
)
# Masks that data are made with; 'importance' chooses in the train step.
DATA_MASKINGS = ('token', 'whole_word', 'span')
MASKINGS = (*DATA_MASKINGS, 'importance')
MASKING_WEIGHTS = ('power', 'exponential')
DECAYS = ('linear', 'cosine', 'constant')
ALL_REDUCE_DTYPES = ('float32', 'bfloat16')
STRATEGIES = ('one_device', 'mirrored', 'multi_worker_mirrored', 'tpu')
PRECISIONS = ('float32', 'bfloat16', 'mixed_bfloat16', 'float16')
ACTIVATIONS = ('gelu', 'relu', 'swish', 'tanh')

_TFRECORD_NAME = re.compile(r'\.tf_?record|\.tfr(\.gz)?(,|$)')
_OPTIMIZER_KEYS = 'trainer.optimizer_config.*.'
# `validation=` of a data setting that `validation_data` does not have; any
# other value is its default there, in place of the value of `train_data`.
ABSENT = 'absent'


def names_tfrecords(input_path: str) -> bool:
  """Returns whether a list of names or globs is of TFRecords."""
  return bool(_TFRECORD_NAME.search(input_path))


@dataclasses.dataclass
class ModelConfig(encoders.BertEncoderConfig):
  """The BERT encoder and its heads; names as in the Model Garden."""

  vocab_size: int | None = setting(
    None,
    'Entries of the vocabulary; `None` takes the number of lines of '
    '`vocabulary.path`, a number must equal it.',
    at_least(1),
  )
  hidden_size: int = setting(768, 'H, width of the layers.', at_least(1))
  num_layers: int = setting(12, 'L, number of layers.', at_least(1))
  num_attention_heads: int = setting(
    12, 'Heads per layer; divides `hidden_size`.', at_least(1)
  )
  intermediate_size: int = setting(
    3072, 'Width of the feed-forward layers.', at_least(1)
  )
  hidden_activation: str = setting(
    'gelu', 'Activation of the feed-forward layers.', one_of(ACTIVATIONS)
  )
  dropout_rate: float = setting(
    0.1, 'Share of layer outputs dropped in training.', SHARE
  )
  attention_dropout_rate: float = setting(
    0.1, 'Share of attention weights dropped in training.', SHARE
  )
  max_position_embeddings: int = setting(
    512, 'Longest sequence that the encoder can take, in tokens.', at_least(3)
  )
  type_vocab_size: int = setting(2, 'Number of segment types.', at_least(1))
  initializer_range: float = setting(
    0.02,
    'Standard deviation of the initial kernels; 0.02 suits a width of 768, '
    'narrower models need more.',
    above_and_at_most(0, 1),
  )
  position_initializer: str = setting(
    'truncated_normal',
    "'truncated_normal', as in BERT, or 'sinusoidal': the table starts as "
    'sines and cosines of the same standard deviation, so that attention to '
    "neighbours is learnt for all positions at once; 'fourier': waves that "
    "tell neighbours apart, for `attention_start = 'neighbours'`.",
    one_of(POSITION_INITIALIZERS),
  )
  attention_start: str = setting(
    'random',
    "'random', as in BERT, or 'neighbours': some heads of the first two layers "
    'start by looking one and two places back and ahead, so that the model '
    'reads early. Initial values only.',
    one_of(ATTENTION_STARTS),
  )
  residual_initializer_scale: float = setting(
    1.0,
    'Factor on `initializer_range` for the kernels that end a residual branch '
    '(attention output, second feed-forward); 1 is BERT, 0.2 starts near the '
    'identity.',
    above_and_at_most(0, 10),
  )
  norm_first: bool = setting(
    False, 'Normalises before instead of after each block.'
  )
  attention_block: int = setting(
    0,
    'Queries whose attention is computed at a time, in memory linear in S and '
    'again for the gradient; 0 is all at once. For long sequences.',
    at_least(0),
    may_change=True,
  )
  recompute_layers: bool = setting(
    False,
    'Computes every layer again for its gradient instead of remembering what '
    'is in between: less memory for one more forward pass.',
    may_change=True,
  )
  mlm_activation: str = setting(
    'gelu',
    "Activation of the masked-LM head's transform.",
    one_of(ACTIVATIONS),
  )
  use_next_sentence_head: bool = setting(
    False, 'Adds the next-sentence head; the data need labels.'
  )


@dataclasses.dataclass
class VocabularyConfig(hyperparams.Config):
  """The WordPiece vocabulary, as `tools/build_vocab.py` writes it."""

  path: str = setting(
    '', 'Text file, one token a line; the line number, from 0, is the id.'
  )
  counts_path: str = setting(
    '',
    'Counts of the tokens in the corpus, `token<TAB>count`; empty is the file '
    "next to `path`. Only the importance 'frequency' reads it.",
  )
  lower_case: bool | None = setting(
    None,
    'Lower-cases text and strips accents; `None`: as the file next to `path` '
    'says, else `True`.',
  )


@dataclasses.dataclass
class PretrainingDataConfig(cfg.DataConfig):
  """Pretraining examples: text, a TFDS data set, or TFRecords.

  Without `input_path` and `tfds_name` the documentation strings of the
  installed Python packages are read.
  """

  input_path: str = setting(
    '',
    'Comma-separated files or globs: `.tokens` of '
    'tools/create_pretraining_data.py, text, `.jsonl`, either with `.gz`, '
    '`.parquet`, or any name with `.tfrecord` in it.',
    validation='',
  )
  text_field: str = setting(
    'text', 'Of `.jsonl` the field, of `.parquet` the column, that is text.'
  )
  document_per_line: bool = setting(
    False, 'Of text files, every line is a document.'
  )
  skip_bad_text: bool = setting(
    False,
    'Omits lines and rows that are not text, and counts them, instead of '
    'refusing their file.',
  )
  allow_unknown_tokens: bool = setting(
    False, 'Reads text of which the vocabulary does not know most.'
  )
  tfds_name: str = setting(
    '',
    'Name of a TFDS text data set, instead of `input_path`.',
    validation='',
  )
  tfds_split: str = setting(
    'train', 'Split of the TFDS data set.', validation='validation'
  )
  tfds_data_dir: str = setting(
    '', 'Folder of TFDS data sets; empty is its default.', validation=''
  )
  tfds_text_feature: str = setting(
    'text', 'Feature of the TFDS data set that is text.', validation='text'
  )
  global_batch_size: int = setting(
    32,
    'B, sequences per step over all replicas.',
    at_least(1),
    validation_doc='The last batch is filled up with empty sequences.',
  )
  # [CLS], one token, [SEP].
  seq_length: int = setting(512, 'S, tokens per sequence.', at_least(3))
  max_predictions_per_seq: int = setting(
    76,
    'P, masked-LM slots per sequence; at least `mask_rate * (seq_length - 2)`.',
    at_least(1),
  )
  mask_rate: float = setting(
    0.15,
    'Share of the ordinary tokens that are predicted.',
    above_and_below(0, 1),
  )
  mask_rate_schedule: tuple[str, ...] = setting(
    (),
    "Mask rates over the run, such as ('0:0.3', '0.5:0.15'): from this share "
    'of `trainer.train_steps` on, this rate. Empty keeps `mask_rate` '
    'throughout; validation always does.',
    validation=ABSENT,
  )
  masking: str = setting(
    'token',
    "'token' chooses single tokens, 'whole_word' whole words, 'span' runs of "
    "words, 'importance' single tokens by the importance table, in the train "
    'step.',
    one_of(MASKINGS),
    validation_doc="'token' where that is 'importance', and for TFRecords.",
  )
  mask_token_share: float = setting(
    0.8, 'Share of the predicted tokens that show [MASK].', between(0, 1)
  )
  random_token_share: float = setting(
    0.1,
    'Share of the predicted tokens that show a random token; the others show '
    'themselves.',
    between(0, 1),
  )
  span_stop_probability: float = setting(
    0.2,
    "Of masking 'span': probability that a span ends after each of its words; "
    'their number is geometric.',
    above_and_at_most(0, 1),
  )
  max_span_words: int = setting(
    10, "Of masking 'span': longest span, in words.", at_least(1)
  )
  masking_temperature: float = setting(
    1.0,
    "Of masking 'importance': tokens are sampled with weights importance ** "
    '(1 / temperature); the higher, the more evenly.',
    above(0),
    validation=ABSENT,
  )
  masking_weights: str = setting(
    'power',
    "Of masking 'importance': 'power' weights as above, or 'exponential' ones, "
    'exp(importance / temperature).',
    one_of(MASKING_WEIGHTS),
    validation=ABSENT,
  )
  masking_scores: str | None = setting(
    None,
    "Of masking 'importance': the importance to choose by, a value of "
    '`token_drop.policy` that has scores; `None` is that policy itself.',
    one_of(registry.IMPORTANCES),
    validation=ABSENT,
  )
  packing: str = setting(
    'across_documents',
    "'across_documents' fills every sequence, 'within_documents' starts a "
    "sequence with every document, 'one_document' also cuts off what exceeds "
    "one sequence, 'best_fit' puts several whole documents into one sequence, "
    'which do not see each other.',
    one_of(PACKINGS),
  )
  use_next_sentence_label: bool = setting(
    False, 'Reads next-sentence labels, from TFRecords only.'
  )
  num_epochs: int = setting(
    0,
    'Passes over the data; 0 is without end.',
    at_least(0),
    validation=ABSENT,
  )
  held_out_documents: int = setting(
    0,
    'Keeps every n-th document of text for validation; 0 keeps none.',
    Range('0, or at least 2', lambda value: value == 0 or value >= 2),
  )
  shuffle_buffer_size: int = setting(
    4096,
    'Of text and TFRecords: sequences among which the next one is drawn.',
    at_least(1),
    validation=ABSENT,
  )
  seed: int = setting(
    0,
    'Of document order, masks and shuffling.',
    SEED,
    inherits='pretraining.seed',
    validation=0,
    validation_doc='Of the masks; fixed, so that runs with several seeds '
    'compare.',
  )
  mask_schedule_steps: int = 0  # `trainer.train_steps`, with a schedule.


@dataclasses.dataclass
class OptimizerSettings:
  """AdamW of the Model Garden with warm-up and decay."""

  learning_rate: float = setting(
    1e-4,
    'Peak rate.',
    above(0),
    keys=(_OPTIMIZER_KEYS + 'initial_learning_rate',),
  )
  warmup_steps: int | None = setting(
    None,
    'Steps in which the rate rises from 0; below `trainer.train_steps`. `None` '
    'is 10,000 in pretraining and `finetuning.warmup_share` of the steps in '
    'fine-tuning.',
    at_least(0),
  )
  decay: str = setting(
    'linear',
    "'linear', 'cosine' or 'constant', over `trainer.train_steps`.",
    one_of(DECAYS),
    keys=(_OPTIMIZER_KEYS + 'type',),
  )
  end_learning_rate: float = setting(
    0.0,
    'Rate at the last step.',
    at_least(0),
    keys=(_OPTIMIZER_KEYS + 'alpha',),
  )
  weight_decay_rate: float = setting(
    0.01,
    'Weight decay of all kernels and embeddings; biases and layer '
    'normalisation have none.',
    at_least(0),
  )
  gradient_clip_norm: float = setting(
    1.0, 'Largest global norm of the gradients; 0 sets no limit.', at_least(0)
  )
  beta_1: float = setting(0.9, 'Decay of the mean of the gradients.', SHARE)
  beta_2: float = setting(0.999, 'Decay of the mean of their squares.', SHARE)
  epsilon: float = setting(
    1e-7, 'Added to the root of the mean of the squares.', above(0)
  )


@dataclasses.dataclass
class TrainerConfig(cfg.TrainerConfig):
  """Length of a run, and how often it reports, validates and saves."""

  train_steps: int | None = setting(
    None,
    'Length of the run, in steps; `None` is 1,000,000 in pretraining and '
    '`finetuning.num_epochs` in fine-tuning.',
    at_least(1),
    keys=(_OPTIMIZER_KEYS + 'decay_steps',),
  )
  steps_per_loop: int = setting(
    100,
    'Steps per call of the device, and per progress line.',
    at_least(1),
    keys=('trainer.summary_interval',),
    may_change=True,
  )
  validation_interval: int | None = setting(
    None,
    'Steps between validations; a multiple of `steps_per_loop`. `None` is '
    '1,000 in pretraining, an epoch in fine-tuning.',
    at_least(1),
    may_change=True,
  )
  validation_steps: int = setting(
    -1,
    'Batches per validation; -1 is all.',
    Range('above 0, or -1 for all', lambda value: value == -1 or value > 0),
  )
  checkpoint_interval: int | None = setting(
    None,
    'Steps between checkpoints; a multiple of `steps_per_loop`. `None` is '
    '1,000 in pretraining, an epoch in fine-tuning.',
    at_least(1),
    may_change=True,
  )
  max_to_keep: int = setting(
    5, 'Checkpoints kept in `model_dir`.', at_least(1), may_change=True
  )
  continuous_eval_timeout: int = setting(
    3600,
    'Seconds that continuous_eval waits for a new checkpoint.',
    at_least(1),
    may_change=True,
  )
  gradient_accumulation_steps: int = setting(
    1,
    'Takes the gradients of a batch in so many parts, one after another, in '
    'less memory; the step stays that of the whole batch. In pretraining only.',
    at_least(1),
    pretraining_only=True,
    may_change=True,
  )
  async_checkpoints: bool | None = setting(
    None,
    'Writes checkpoints while the next steps run, from a copy of the weights '
    "in the host's memory. `None` does so wherever one process trains: it "
    "cannot be done with several workers, nor in 'float16'.",
    may_change=True,
  )
  # The package's own action stops at a loss that is not finite.
  recovery_max_trials: int = -1
  preemption_on_demand_checkpoint: bool = False


@dataclasses.dataclass
class RuntimeConfig(cfg.RuntimeConfig):
  """The devices and the arithmetic."""

  distribution_strategy: str = setting(
    'one_device',
    "'one_device', 'mirrored' (several devices of one machine), "
    "'multi_worker_mirrored' (several machines, from TF_CONFIG) or 'tpu'.",
    one_of(STRATEGIES),
    may_change=True,
  )
  num_gpus: int = setting(
    0, 'GPUs to use; 0 runs on the CPU.', at_least(0), may_change=True
  )
  num_logical_cpu_devices: int = setting(
    1,
    "Parts into which 'mirrored' splits the CPU when there is no GPU, each a "
    'replica; to try out distribution anywhere.',
    at_least(1),
    may_change=True,
  )
  worker_timeout_seconds: int = setting(
    300,
    "Seconds that a process of 'multi_worker_mirrored' waits for the others "
    'to start.',
    at_least(1),
    may_change=True,
  )
  tpu: str | None = setting(
    None,
    "Name or address of the TPU; 'local' on a TPU VM.",
    may_change=True,
  )
  mixed_precision_dtype: str = setting(
    'float32',
    "'float32', 'bfloat16' or, for GPUs without bfloat16, 'float16' with a "
    "loss scale: of the activations; variables stay float32. 'mixed_bfloat16' "
    "is the same as 'bfloat16'.",
    one_of(PRECISIONS),
  )
  enable_xla: bool = setting(
    False,
    'Compiles the train step with XLA (always so on a TPU).',
    may_change=True,
  )
  all_reduce_alg: str | None = setting(
    None,
    "How replicas add gradients: 'nccl' or 'hierarchical_copy' under "
    "'mirrored', 'ring' or 'nccl' under 'multi_worker_mirrored'; `None` "
    'chooses.',
    may_change=True,
  )
  all_reduce_dtype: str = setting(
    'float32',
    "Type in which replicas add gradients; 'bfloat16' sends half as much. In "
    'pretraining only.',
    one_of(ALL_REDUCE_DTYPES),
    pretraining_only=True,
    may_change=True,
  )
  num_packs: int = setting(
    1, 'Packs in which gradients are sent.', at_least(1), may_change=True
  )


def _section_of(config, **settings):
  return dataclasses.field(default_factory=lambda: config(**settings))


@dataclasses.dataclass
class PretrainingTaskConfig(cfg.TaskConfig):
  """The run as a whole; of the tree, masked-LM pretraining with its parts."""

  seed: int = setting(
    0,
    'Of the initial weights, dropout, tie-breaking and sampling, and of the '
    'training data unless `train_data.seed` is set.',
    SEED,
  )
  init_checkpoint: str = setting(
    '',
    'Weights that the run starts from: a model_dir, a Model Garden checkpoint, '
    'a Hugging Face folder or an exported one; empty starts from random '
    'weights.',
  )
  position_extension: str = setting(
    'refuse',
    "What becomes of `init_checkpoint`'s positions where "
    "`model.max_position_embeddings` is more: 'refuse' the weights, 'tile' "
    "repeats the table, 'interpolate' stretches it.",
    one_of(POSITION_EXTENSIONS),
  )
  objective: str = setting(
    schedules.MASKED_LM,
    "'masked_lm' predicts masked tokens from all others, 'causal_lm' every "
    'token from those before it, to generate text. Validation and exports '
    'always take it.',
    one_of(schedules.OBJECTIVES),
  )
  objective_schedule: tuple[str, ...] = setting(
    (),
    "Objectives over the run, such as ('0:causal_lm', '0.2:masked_lm'): from "
    'this share of `trainer.train_steps` on, this one; the last must be '
    '`objective`. Empty keeps `objective` throughout.',
  )
  model: ModelConfig = _section_of(ModelConfig)
  token_drop: TokenDropConfig = _section_of(TokenDropConfig)
  vocabulary: VocabularyConfig = _section_of(VocabularyConfig)
  train_data: PretrainingDataConfig = _section_of(
    PretrainingDataConfig, is_training=True
  )
  validation_data: PretrainingDataConfig = _section_of(
    PretrainingDataConfig, is_training=False
  )


def has_async_checkpoints(params) -> bool:
  """Returns whether checkpoints are written while the next steps run."""
  if params.trainer.async_checkpoints is None:
    # TensorFlow does not copy the optimizer that holds a loss scale.
    return (
      params.runtime.distribution_strategy != 'multi_worker_mirrored'
      and params.runtime.mixed_precision_dtype != 'float16'
    )
  return params.trainer.async_checkpoints
