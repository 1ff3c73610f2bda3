"""Times whole train steps of several arms side by side, in one process.

Arms take turns step by step, so that whatever slows the machine slows them all.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import tensorflow as tf
import tf_keras
from official.modeling import optimization
from official.nlp.configs import bert, encoders
from official.nlp.tasks import masked_lm

from tokendrop_tf import configs, errors
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import task as task_lib

SIZES = {  # layers, hidden size, heads
  'narrow12': (12, 128, 2),
  'bert_tiny': (4, 128, 2),
  'bert_small': (4, 512, 8),
  'bert_medium': (8, 512, 8),
  'bert_base': (12, 768, 12),
  'bert_large': (24, 1024, 16),
}
ARMS = ('stock', 'none', 'loss', 'sampled', 'random', 'fixed_order')
_SPECIAL_TOKENS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


class _FixedOrderEncoder(encoder_lib.TokenDropBertEncoder):
  """Keeps the first K positions: no scores, no sorting, no integer gathers."""

  def _sort(self, inputs, keep_k, seed):
    return inputs, None


class _FixedOrderTask(task_lib.TokenDropPretrainingTask):
  """The token-dropping step without selection and without a table."""

  encoder_class = _FixedOrderEncoder


def _encoder_settings(arguments):
  """Returns the fields of `BertEncoderConfig` that all arms share."""
  num_layers, hidden_size, num_heads = SIZES[arguments.model]
  return {
    'vocab_size': arguments.vocab_size,
    'num_layers': num_layers,
    'hidden_size': hidden_size,
    'num_attention_heads': num_heads,
    'intermediate_size': 4 * hidden_size,
    'max_position_embeddings': arguments.seq_length,
    'dropout_rate': arguments.dropout_rate,
    'attention_dropout_rate': arguments.dropout_rate,
    'norm_first': arguments.norm_first,
  }


def _task_config(arguments, policy, vocab_path, temperature=0.0):
  return configs.PretrainingTaskConfig(
    model=configs.ModelConfig(**_encoder_settings(arguments)),
    token_drop=configs.TokenDropConfig(
      policy=policy,
      token_keep_k=arguments.token_keep_k,
      temperature=temperature,
    ),
    vocabulary=configs.VocabularyConfig(path=vocab_path),
  )


def _stock_config(arguments):
  encoder = encoders.BertEncoderConfig(**_encoder_settings(arguments))
  return masked_lm.MaskedLMConfig(
    model=bert.PretrainerConfig(
      encoder=encoders.EncoderConfig(type='bert', bert=encoder), cls_heads=[]
    ),
    train_data=configs.PretrainingDataConfig(),
  )


def _build_task(arm, arguments, vocab_path):
  if arm == 'stock':
    return masked_lm.MaskedLMTask(_stock_config(arguments))
  if arm == 'fixed_order':
    return _FixedOrderTask(_task_config(arguments, 'random', vocab_path))
  if arm == 'sampled':
    return task_lib.TokenDropPretrainingTask(
      _task_config(arguments, 'loss', vocab_path, temperature=1.0)
    )
  return task_lib.TokenDropPretrainingTask(
    _task_config(arguments, arm, vocab_path)
  )


def _build_optimizer(task):
  return task.create_optimizer(
    optimization.OptimizationConfig(
      {
        'optimizer': {
          'type': 'adamw',
          'adamw': {
            'weight_decay_rate': 0.01,
            'exclude_from_weight_decay': ['LayerNorm', 'layer_norm', 'bias'],
          },
        },
        'learning_rate': {
          'type': 'constant',
          'constant': {'learning_rate': 1e-4},
        },
      }
    )
  )


def make_batch(arguments) -> dict[str, tf.Tensor]:
  """Returns random features: no padding, every label slot in use."""
  shape = [arguments.batch_size, arguments.seq_length]
  slots = [arguments.batch_size, arguments.max_predictions_per_seq]
  uniform = tf.random.stateless_uniform(shape, [1, 2])
  positions = tf.argsort(uniform)[:, : slots[1]]
  ids = tf.random.stateless_uniform(
    shape, [3, 4], len(_SPECIAL_TOKENS), arguments.vocab_size, tf.int32
  )
  return {
    'input_word_ids': ids,
    'input_mask': tf.ones(shape, tf.int32),
    'input_type_ids': tf.zeros(shape, tf.int32),
    'masked_lm_positions': tf.sort(positions),
    'masked_lm_ids': tf.random.stateless_uniform(
      slots, [5, 6], len(_SPECIAL_TOKENS), arguments.vocab_size, tf.int32
    ),
    'masked_lm_weights': tf.ones(slots),
  }


def _make_step(arm, arguments, batch, vocab_path) -> Callable[[], tf.Tensor]:
  task = _build_task(arm, arguments, vocab_path)
  model, optimizer = task.build_model(), _build_optimizer(task)
  metrics = task.build_metrics(training=True)
  function = tf.function(
    lambda: task.train_step(batch, model, optimizer, metrics),
    jit_compile=arguments.xla,
  )
  return lambda: function()['loss'].numpy()


def time_arms(arguments) -> list[dict]:
  """Times the arms in turns.

  Args:
    arguments: what `parse_arguments` gives.

  Returns:
    One dict an arm: `name`, `median_seconds`, `spread_seconds` (half the
    distance of the quartiles), `tokens_per_second`, `ratio_to_first`.
  """
  vocab_path = _write_vocabulary(arguments.vocab_size)
  batch = make_batch(arguments)
  steps = {
    arm: _make_step(arm, arguments, batch, vocab_path) for arm in arguments.arms
  }
  seconds = {arm: [] for arm in steps}
  for i in range(arguments.warm_up_steps + arguments.steps):
    for arm, step in steps.items():
      start = time.perf_counter()
      step()
      if i >= arguments.warm_up_steps:
        seconds[arm].append(time.perf_counter() - start)
  return _summarize(seconds, arguments.batch_size * arguments.seq_length)


def _summarize(seconds, tokens_per_step):
  medians = {arm: statistics.median(values) for arm, values in seconds.items()}
  first = next(iter(medians.values()))
  rows = []
  for arm, values in seconds.items():
    quartiles = (
      statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    )
    rows.append(
      {
        'name': arm,
        'median_seconds': medians[arm],
        'spread_seconds': (quartiles[2] - quartiles[0]) / 2,
        'tokens_per_second': tokens_per_step / medians[arm],
        'ratio_to_first': medians[arm] / first,
      }
    )
  return rows


def time_selection(arguments, repeats: int = 200) -> float:
  """Returns the median seconds of selecting, ordering and the table's update.

  These are all operations that a fixed order would not need.
  """
  vocab_path = _write_vocabulary(arguments.vocab_size)
  task = _build_task('loss', arguments, vocab_path)
  config = task.task_config
  encoder = task_lib.build_encoder(
    config.model, config.token_drop, task.vocabulary
  )
  encoder.token_importance.build(None)
  batch = make_batch(arguments)
  losses = tf.random.stateless_uniform(
    tf.shape(batch['masked_lm_ids']), [7, 8], 0.0, 10.0
  )

  @tf.function(jit_compile=arguments.xla)
  def select(seed):
    features, order = encoder._sort(batch, arguments.token_keep_k, seed)
    rows = encoder._query_rows(batch['masked_lm_positions'], order, False)
    encoder.token_importance.update(
      batch['masked_lm_ids'], losses, batch['masked_lm_weights']
    )
    return list(features.values()) + [rows]

  seconds = []
  for i in range(repeats + 5):
    start = time.perf_counter()
    select(tf.constant([0, i]))[-1].numpy()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[5:])


def _write_vocabulary(vocab_size):
  with tempfile.NamedTemporaryFile(
    'w', suffix='.txt', delete=False, encoding='utf-8'
  ) as file:
    ordinary = (f'token{i}' for i in range(vocab_size - len(_SPECIAL_TOKENS)))
    file.write('\n'.join([*_SPECIAL_TOKENS, *ordinary]) + '\n')
  return file.name


def format_table(rows: Sequence[dict]) -> str:
  """Returns the rows as a table for the terminal."""
  lines = [
    f'{"arm":<14}{"seconds/step":>14}{"spread":>10}{"tokens/s":>12}{"ratio":>8}'
  ]
  for row in rows:
    lines.append(
      f'{row["name"]:<14}{row["median_seconds"]:>14.4f}'
      f'{row["spread_seconds"]:>10.4f}{row["tokens_per_second"]:>12,.0f}'
      f'{row["ratio_to_first"]:>8.3f}'
    )
  return '\n'.join(lines)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line of `tools/benchmark_step.py`."""
  parser = command_line.ArgumentParser(
    description='Times whole train steps of several arms side by side: '
    "stock (the Model Garden's BertEncoderV2 and BertPretrainerV2), none "
    '(ours without dropping), loss (ours with token dropping, ranked), '
    'sampled (the same at temperature 1), random, fixed_order (ours, always '
    'keeping the first K positions).'
  )
  parser.add_argument('--model', choices=sorted(SIZES), default='bert_base')
  parser.add_argument(
    '--precision', default='float32', choices=('float32', 'mixed_bfloat16')
  )
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--seq_length', type=int, default=512)
  parser.add_argument('--token_keep_k', type=int, default=256)
  parser.add_argument('--max_predictions_per_seq', type=int, default=76)
  parser.add_argument('--vocab_size', type=int, default=30522)
  parser.add_argument('--dropout_rate', type=float, default=0.1)
  parser.add_argument('--norm_first', action='store_true')
  parser.add_argument('--steps', type=int, default=7)
  parser.add_argument('--warm_up_steps', type=int, default=2)
  parser.add_argument(
    '--arms',
    default='stock,none,loss',
    help='comma-separated, of: ' + ', '.join(ARMS),
  )
  parser.add_argument('--xla', action='store_true', help='compile with XLA')
  parser.add_argument(
    '--selection',
    action='store_true',
    help='also time selection and table update alone',
  )
  parser.add_argument('--output_json', default='')
  arguments = parser.parse_args(argv)
  arguments.arms = arguments.arms.split(',')
  unknown = [arm for arm in arguments.arms if arm not in ARMS]
  if unknown:
    raise errors.ConfigurationError(
      f'--arms must name arms of {", ".join(ARMS)}. Received: '
      f'{", ".join(unknown)}.'
    )
  return arguments


def main(argv: Sequence[str] | None = None) -> None:
  """Times the arms and prints the table."""
  arguments = parse_arguments(argv)
  tf_keras.mixed_precision.set_global_policy(arguments.precision)
  rows = time_arms(arguments)
  print(format_table(rows))
  results = {'arms': rows, 'arguments': vars(arguments)}
  if arguments.selection:
    selection = time_selection(arguments)
    results['selection_seconds'] = selection
    print(f'selection and table update alone: {1000 * selection:.2f} ms')
    by_name = {row['name']: row['median_seconds'] for row in rows}
    if 'loss' in by_name:
      print(f'  {100 * selection / by_name["loss"]:.2f} % of the loss step')
  if arguments.output_json:
    with open(arguments.output_json, 'w', encoding='utf-8') as file:
      json.dump(results, file, indent=2)


def console_main() -> None:
  """Entry point of the tool."""
  command_line.run_main(main)
