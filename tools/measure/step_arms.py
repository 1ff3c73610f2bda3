"""Train steps to compare: the Model Garden's stock BERT, and ours in variants.

An arm is a name for a way to train the same model on the same batch. The step
benchmark times arms, the TPU tools compile them.

Letters: B batch of a replica, S sequence length, P prediction slots, V
vocabulary.
"""

import copy
import pathlib
from collections.abc import Callable

import tensorflow as tf
from official.core import base_task
from official.modeling import optimization
from official.nlp.configs import bert, encoders
from official.nlp.tasks import masked_lm

from tokendrop_tf.config import configs
from tokendrop_tf.dropping import Dropping, cost
from tokendrop_tf.dropping.step import Step
from tokendrop_tf.tasks import masked_lm as task_lib
from tokendrop_tf.text import vocabulary as vocabulary_lib

STOCK = 'stock'
DESCRIPTIONS = {
  STOCK: "the Model Garden's BertEncoderV2, BertPretrainerV2 and MaskedLMTask",
  'none': 'ours without dropping',
  'loss': 'ours with token dropping, ranked by loss',
  'sampled': 'the same at temperature 1',
  'random': 'ours, dropping at random',
  'layerwise': 'ours, other tokens at random in every layer',
  'windows': 'the same as stretches of one random order',
  'halving': 'loss with half the tokens again after every third layer',
  'pooled': 'loss with 8 pooled rows for the dropped ones',
  'no_dropout': 'loss without dropout',
  'consistency': 'loss, the step of both passes that would be every tenth',
  'mask_later': 'loss, with [MASK]s that join at the layer that drops',
  'label_selection': 'excess over a reference, with half of the labels',
  'block_diagonal': 'loss on rows of several documents that stay apart',
  'importance_masking': 'loss with labels chosen in the step by the table',
  'weighted_masking': 'none with labels chosen by a table of its own',
  'configured': 'ours exactly as configured',
}
ARMS = tuple(DESCRIPTIONS)
# Settings that an arm changes in the task of the run, by section.
_CHANGES = {
  'none': {'token_drop': {'policy': 'none'}},
  'loss': {'token_drop': {'policy': 'loss', 'temperature': 0.0}},
  'sampled': {'token_drop': {'policy': 'loss', 'temperature': 1.0}},
  'random': {'token_drop': {'policy': 'random'}},
  'layerwise': {'token_drop': {'plan': 'layerwise', 'policy': 'random'}},
  'windows': {
    'token_drop': {
      'plan': 'layerwise',
      'policy': 'random',
      'layer_subsets': 'windows',
      'always_keep_tokens': (),
      'always_drop_tokens': (),
    }
  },
  'halving': {'token_drop': {'policy': 'loss', 'halve_every': 3}},
  'pooled': {
    'token_drop': {'policy': 'loss', 'plan': 'pooled', 'summary_rows': 8}
  },
  'no_dropout': {
    'token_drop': {'policy': 'loss'},
    'model': {'dropout_rate': 0.0, 'attention_dropout_rate': 0.0},
  },
  'consistency': {'token_drop': {'policy': 'loss', 'consistency_every': 1}},
  'mask_later': {'token_drop': {'policy': 'loss', 'plan': 'mask_later'}},
  'label_selection': {
    'token_drop': {
      'policy': 'excess',
      'reference_checkpoint': 'none',  # Not read: a reference of 0.
      'label_keep_share': 0.5,
    }
  },
  'block_diagonal': {
    'token_drop': {'policy': 'loss'},
    'train_data': {'packing': 'best_fit'},
  },
  'importance_masking': {
    'token_drop': {'policy': 'loss'},
    'train_data': {'masking': 'importance'},
  },
  'weighted_masking': {
    'token_drop': {'policy': 'none'},
    'train_data': {
      'masking': 'importance',
      'masking_scores': 'loss',
      'masking_weights': 'exponential',
    },
  },
  'configured': {},
}


def arm_config(
  arm: str, config: configs.PretrainingTaskConfig
) -> configs.PretrainingTaskConfig:
  """Returns a copy of the run's task with the settings of one of our arms."""
  config = copy.deepcopy(config)
  config.override(_CHANGES[arm])
  return config


def build_task(
  arm: str, config: configs.PretrainingTaskConfig
) -> base_task.Task:
  """Returns the task of an arm.

  Args:
    arm: one of `ARMS`.
    config: the run's task; `model.vocab_size` is set and `vocabulary.path`
      exists. It is not changed.
  """
  if arm == STOCK:
    return masked_lm.MaskedLMTask(_stock_config(config))
  return task_lib.TokenDropPretrainingTask(arm_config(arm, config))


def _stock_config(config):
  model = config.model
  fields = encoders.BertEncoderConfig().as_dict()
  encoder = encoders.BertEncoderConfig(
    **{name: getattr(model, name) for name in fields}
  )
  heads = []
  if model.use_next_sentence_head:
    heads.append(
      bert.ClsHeadConfig(
        inner_dim=model.hidden_size,
        num_classes=2,
        dropout_rate=model.dropout_rate,
        name=task_lib.NEXT_SENTENCE,
      )
    )
  return masked_lm.MaskedLMConfig(
    model=bert.PretrainerConfig(
      encoder=encoders.EncoderConfig(type='bert', bert=encoder),
      cls_heads=heads,
      mlm_activation=model.mlm_activation,
      mlm_initializer_range=model.initializer_range,
    ),
    train_data=configs.PretrainingDataConfig(),
  )


def constant_rate_adamw(
  learning_rate: float = 1e-4,
) -> optimization.OptimizationConfig:
  """Returns the AdamW of BERT with a constant learning rate."""
  return optimization.OptimizationConfig(
    {
      'optimizer': {
        'type': 'adamw',
        'adamw': {
          'weight_decay_rate': 0.01,
          'gradient_clip_norm': 1.0,
          'exclude_from_weight_decay': ['LayerNorm', 'layer_norm', 'bias'],
        },
      },
      'learning_rate': {
        'type': 'constant',
        'constant': {'learning_rate': learning_rate},
      },
    }
  )


def make_batch(
  config: configs.PretrainingTaskConfig,
  batch_size: int,
  arm: str = 'configured',
) -> dict[str, tf.Tensor]:
  """Returns random features: no padding, every label slot in use.

  Args:
    config: gives S, P, V and whether there are next-sentence labels.
    batch_size: B.
    arm: the arm that reads them: some read segments.
  """
  data, vocab_size = config.train_data, config.model.vocab_size
  shape = [batch_size, data.seq_length]
  slots = [batch_size, data.max_predictions_per_seq]
  positions = tf.argsort(tf.random.stateless_uniform(shape, [1, 2]))
  batch = {
    'input_word_ids': _random_ids(shape, [3, 4], vocab_size),
    'input_mask': tf.ones(shape, tf.int32),
    'input_type_ids': tf.zeros(shape, tf.int32),
    'masked_lm_positions': tf.sort(positions[:, : slots[1]]),
    'masked_lm_ids': _random_ids(slots, [5, 6], vocab_size),
    'masked_lm_weights': tf.ones(slots),
  }
  if config.model.use_next_sentence_head:
    batch['next_sentence_labels'] = tf.zeros([batch_size, 1], tf.int32)
  if arm != STOCK and arm_config(arm, config).train_data.packing == 'best_fit':
    batch.update(_segments(shape))
  return batch


def _segments(shape) -> dict[str, tf.Tensor]:
  """Returns four documents a row: of a half, a quarter and two eighths of S."""
  column = tf.range(shape[1])
  starts = [shape[1] * eighths // 8 for eighths in (0, 4, 6, 7)]
  number = tf.searchsorted(starts, column, side='right')
  places = column - tf.gather(starts, number - 1)
  return {
    'segment_ids': tf.broadcast_to(number, shape),
    'position_ids': tf.broadcast_to(places, shape),
  }


def _random_ids(shape, seed, vocab_size):
  first = len(vocabulary_lib.SPECIAL_TOKENS)
  return tf.random.stateless_uniform(shape, seed, first, vocab_size, tf.int32)


def write_vocabulary(folder: str, vocab_size: int) -> str:
  """Writes a vocabulary of made-up tokens and returns its path."""
  path = pathlib.Path(folder) / f'vocab_{vocab_size}.txt'
  special = vocabulary_lib.SPECIAL_TOKENS
  ordinary = (f'token{i}' for i in range(vocab_size - len(special)))
  path.write_text('\n'.join([*special, *ordinary]) + '\n')
  return str(path)


class TrainStep:
  """The model, optimizer and metrics of an arm, and its train step.

  Args:
    arm: one of `ARMS`.
    config: the run's task.
    optimizer_config: of the Model Garden; `None` is AdamW at a constant rate.

  Example:
    step = TrainStep('loss', task_config)
    function = step.function(jit_compile=False)
    loss = function(make_batch(task_config, 8))['loss']
  """

  def __init__(
    self,
    arm: str,
    config: configs.PretrainingTaskConfig,
    optimizer_config: optimization.OptimizationConfig | None = None,
  ):
    self.arm = arm
    self.config = config
    self.task = build_task(arm, config)
    self.model = self.task.build_model()
    self.optimizer = self.task.create_optimizer(
      optimizer_config or constant_rate_adamw()
    )
    _ = self.optimizer.iterations  # Creates the counter.
    self.metrics = self.task.build_metrics(training=True)
    if arm == STOCK:  # Ours has its variables already.
      self.model(make_batch(config, 1, arm))

  def function(self, jit_compile: bool = False) -> Callable[..., dict]:
    """Returns the step as a `tf.function` of a batch."""
    return tf.function(
      lambda batch: self.task.train_step(
        batch, self.model, self.optimizer, self.metrics
      ),
      jit_compile=jit_compile,
    )


def operations(arm: str, config: configs.PretrainingTaskConfig) -> int:
  """Returns the operations of one sequence's matrix products in a step.

  Two for each multiply-add, three times the forward pass: the backward pass
  takes twice as much.
  """
  if arm == STOCK:
    return 6 * cost.step_cost(config, keep_k=None).total
  config = arm_config(arm, config)
  configured = Dropping.of(config)
  first, *others = configured.kinds.kinds
  causal = configured.kinds.schedule.values[-1].causal
  kind = Step(configured.keep_k, causal=causal) if others else first
  return 6 * cost.kind_cost(config, kind)
