"""Train steps to compare: the Model Garden's stock BERT, and ours in variants.

An arm is a name for a way to train the same model on the same batch. The step
benchmark times arms, the TPU tools compile them.

Letters: B batch of a replica, S sequence length, K tokens kept, P prediction
slots, V vocabulary.
"""

import contextlib
import copy
import pathlib
from collections.abc import Callable

import tensorflow as tf
from official.core import base_task
from official.modeling import optimization
from official.nlp.configs import bert, encoders
from official.nlp.tasks import masked_lm

from tokendrop_tf import configs, layers, step_cost
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import task as task_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.layers import fused, random_seeds, transformer_block

STOCK = 'stock'
_SPECIAL_TOKENS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


class _FixedOrderEncoder(encoder_lib.TokenDropBertEncoder):
  """Keeps the first K positions: no scores, no sorting, no integer gathers."""

  def _sort(self, inputs, keep_k, seed):
    return inputs, None


class _FullLastLayerEncoder(encoder_lib.TokenDropBertEncoder):
  """Computes the last layer for all positions and then gathers."""

  def call(self, inputs, output_positions=None, **kwargs):
    outputs = super().call(inputs, **kwargs)
    if output_positions is not None:
      outputs['sequence_output'] = tf.gather(
        outputs['sequence_output'], output_positions, batch_dims=1
      )
    return outputs


class _FullLastLayerTask(task_lib.TokenDropPretrainingTask):
  """The token-dropping step with a last layer for all positions."""

  encoder_class = _FullLastLayerEncoder


class _FixedOrderTask(task_lib.TokenDropPretrainingTask):
  """The token-dropping step without selection and without a table."""

  encoder_class = _FixedOrderEncoder


def _with_policy(config, policy, **token_drop):
  config.token_drop.override({'policy': policy, **token_drop})


def _without_dropout(config):
  _with_policy(config, 'loss')
  config.model.override({'dropout_rate': 0.0, 'attention_dropout_rate': 0.0})


def _with_segments(config):
  _with_policy(config, 'loss')
  config.train_data.override({'packing': 'best_fit'})


def _with_importance_masking(config):
  _with_policy(config, 'loss')
  config.train_data.override({'masking': 'importance'})


def _library_dropout(x, rate, seed):
  if seed is None or rate == 0.0:
    return x
  return tf.nn.experimental.stateless_dropout(
    x, rate=rate, seed=seed, rng_alg='philox'
  )


def _separate_add_and_normalize(residual, branch, norm, rate, seed, dtype):
  return fused._add_and_normalize(
    residual, branch, norm.gamma, norm.beta, seed, norm.epsilon, rate, dtype
  )


def _library_label_loss(logits, labels):
  logits = tf.cast(logits, tf.float32)
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
    labels=labels, logits=logits
  )
  likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)
  return losses, tf.cast(likeliest == labels, tf.float32)


class _TensorBias(encoder_lib._AttentionBias):
  """The mask as a tensor of a number for each query and key."""

  def of_rows(self, num_queries=None, num_keys=None):
    length = num_queries or self._padding.shape[-1]
    return _for_queries(super().of_rows(num_queries, num_keys), length)

  def at(self, queries):
    if queries is None:
      return self.of_rows()
    return _for_queries(super().of_rows(), queries.shape[1])


def _for_queries(bias, length):
  """[B, 1, 1, S] -> [B, 1, T, S]"""
  return tf.tile(bias, [1, 1, length, 1])


def _joined_attend(self, query, key_value, attention_bias, seed):
  """`TransformerBlock._attend` with one product for Q, K and V.

  Queries that differ from the keys, at the crossing and in the last layer, have
  a product of their own.
  """
  attention = self._attention_layer
  denses = [
    attention._query_dense,
    attention._key_dense,
    attention._value_dense,
  ]
  product = transformer_block._matmul
  if query is key_value:
    query, key, value = _joined_heads(query, denses)
  else:
    query = product.heads(query, denses[0])
    key, value = _joined_heads(key_value, denses[1:])
  logits = product.logits(query * self._key_dim**-0.5, key)
  logits += tf.cast(attention_bias, logits.dtype)
  probabilities = random_seeds.dropout(
    tf.nn.softmax(logits), self._attention_dropout_rate, seed
  )
  context = product.context(probabilities, value)
  return product.output(context, attention._output_dense)


def _joined_heads(rows, denses):
  """[B, S, H] -> as many [B, N, S, D]"""
  kernels = [tf.convert_to_tensor(dense.kernel) for dense in denses]
  biases = [tf.reshape(dense.bias, [-1]) for dense in denses]
  width, heads, size = kernels[0].shape
  joined = tf.concat([tf.reshape(k, [width, -1]) for k in kernels], axis=1)
  flat = tf.matmul(tf.reshape(rows, [-1, width]), joined)
  flat = fused.add_bias(flat, tf.concat(biases, axis=0))
  batch, length = rows.shape[:2]
  parts = tf.reshape(flat, [batch, length, len(denses), heads, size])
  return tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))


def _einsum_project(rows, dense, axes):
  left, contracted = 'abcd'[: rows.shape.rank - axes], 'xy'[:axes]
  kept = 'uv'[: dense.kernel.shape.rank - axes]
  equation = f'{left}{contracted},{contracted}{kept}->{left}{kept}'
  return tf.einsum(equation, rows, dense.kernel) + dense.bias


# What an arm changes in the configuration of the run.
_CHANGES = {
  'none': lambda config: _with_policy(config, 'none'),
  'loss': lambda config: _with_policy(config, 'loss', temperature=0.0),
  'sampled': lambda config: _with_policy(config, 'loss', temperature=1.0),
  'random': lambda config: _with_policy(config, 'random'),
  'fixed_order': lambda config: _with_policy(config, 'random'),
  'full_last_layer': lambda config: _with_policy(config, 'loss'),
  'no_dropout': _without_dropout,
  'block_diagonal': _with_segments,
  'importance_masking': _with_importance_masking,
  'configured': lambda config: None,
}
_TASKS = {
  'fixed_order': _FixedOrderTask,
  'full_last_layer': _FullLastLayerTask,
}
# What an arm changes in the code of 'loss' while its step is traced.
_PATCHES = {
  'unfused': [
    (fused, 'gelu', lambda x, training=False: fused._gelu(x)),
    (fused, 'add_and_normalize', _separate_add_and_normalize),
  ],
  'library_dropout': [(random_seeds, 'dropout', _library_dropout)],
  'library_loss': [(layers, 'label_loss', _library_label_loss)],
  'library_bias_gradient': [(fused, 'add_bias', tf.nn.bias_add)],
  'tensor_mask': [(encoder_lib, '_AttentionBias', _TensorBias)],
  'einsum_products': [
    (transformer_block, '_matmul', transformer_block._einsum),
    (transformer_block, '_project', _einsum_project),
  ],
  'joined_heads': [
    (transformer_block.TransformerBlock, '_attend', _joined_attend)
  ],
}
_CHANGES |= {arm: _CHANGES['loss'] for arm in _PATCHES}
DESCRIPTIONS = {
  STOCK: "the Model Garden's BertEncoderV2, BertPretrainerV2 and MaskedLMTask",
  'none': 'ours without dropping',
  'loss': 'ours with token dropping, ranked by loss',
  'sampled': 'the same at temperature 1',
  'random': 'ours, dropping at random',
  'fixed_order': 'ours, always keeping the first K positions',
  'full_last_layer': 'loss with a last layer that computes all positions',
  'unfused': 'loss with GELU and normalization as separate operations',
  'library_dropout': "loss with TensorFlow's stateless dropout",
  'library_loss': "loss with TensorFlow's cross-entropy on float32 logits",
  'library_bias_gradient': "loss with TensorFlow's gradient of biases",
  'tensor_mask': 'loss with a mask of a number for each query and key',
  'einsum_products': 'loss with products as einsums, not of two dimensions',
  'joined_heads': 'loss with one matrix product for queries, keys and values',
  'no_dropout': 'loss without dropout',
  'block_diagonal': 'loss on rows of several documents that stay apart',
  'importance_masking': 'loss with labels chosen in the step by the table',
  'configured': 'ours exactly as configured',
}
ARMS = tuple(DESCRIPTIONS)


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
  config = copy.deepcopy(config)
  _CHANGES[arm](config)
  return _TASKS.get(arm, task_lib.TokenDropPretrainingTask)(config)


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
  if _reads_segments(arm, config):
    batch.update(_segments(shape))
  return batch


def _reads_segments(arm, config) -> bool:
  is_packed = config.train_data.packing == 'best_fit'
  return arm == 'block_diagonal' or (arm == 'configured' and is_packed)


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


def read_vocabulary(
  config: configs.VocabularyConfig,
) -> vocabulary_lib.Vocabulary:
  """Returns the configured vocabulary."""
  return vocabulary_lib.Vocabulary.from_file(config.path, config.lower_case)


def _random_ids(shape, seed, vocab_size):
  return tf.random.stateless_uniform(
    shape, seed, len(_SPECIAL_TOKENS), vocab_size, tf.int32
  )


def write_vocabulary(folder: str, vocab_size: int) -> str:
  """Writes a vocabulary of made-up tokens and returns its path."""
  path = pathlib.Path(folder) / f'vocab_{vocab_size}.txt'
  ordinary = (f'token{i}' for i in range(vocab_size - len(_SPECIAL_TOKENS)))
  path.write_text('\n'.join([*_SPECIAL_TOKENS, *ordinary]) + '\n')
  return str(path)


class TrainStep:
  """One arm's model, optimizer and metrics, and its train step.

  Example:

      step = TrainStep('loss', task_config)
      function = step.function(jit_compile=False)
      loss = function(make_batch(task_config, 8))['loss']

  Args:
    arm: one of `ARMS`.
    config: the run's task.
    optimizer_config: of the Model Garden; `None` is AdamW at a constant rate.
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
    self.metrics = self.task.build_metrics(training=True)
    self._build()

  def _build(self):
    """Creates every variable, so that a trace creates none."""
    _ = self.optimizer.iterations
    if self.arm == STOCK:
      self.model(make_batch(self.config, 1))
    variables = getattr(
      self.model, 'pretraining_variables', self.model.trainable_variables
    )
    self.optimizer._create_all_weights(variables)

  def function(self, jit_compile: bool = False) -> Callable[..., dict]:
    """Returns the step as a `tf.function` of a batch."""

    def step(batch):
      with _patched(self.arm):
        return self.task.train_step(
          batch, self.model, self.optimizer, self.metrics
        )

    return tf.function(step, jit_compile=jit_compile)


@contextlib.contextmanager
def _patched(arm):
  """Applies an arm's changes of the code; tracing happens inside."""
  with contextlib.ExitStack() as stack:
    for module, name, value in _PATCHES.get(arm, ()):
      stack.callback(setattr, module, name, getattr(module, name))
      setattr(module, name, value)
    yield


def operations(arm: str, config: configs.PretrainingTaskConfig) -> int:
  """Returns the operations of one sequence's matrix products in a step.

  Two for each multiply-add, three times the forward pass: the backward pass
  takes twice as much.
  """
  config = copy.deepcopy(config)
  rows = step_cost.predicted_rows(config)
  if arm == STOCK:
    return 6 * step_cost.plain_cost(config).total
  _CHANGES[arm](config)
  if arm == 'full_last_layer':
    rows = None
  if config.token_drop.policy == 'none':
    return 6 * step_cost.plain_cost(config, rows).total
  return 6 * step_cost.dropping_cost(config, rows).total
