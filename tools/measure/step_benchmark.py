"""Times whole train steps of several arms side by side.

  python tools/benchmark_step.py --precision=mixed_bfloat16 \\
    --arms=stock,none,loss --output_json=step.json --chart=step.svg

Arms take turns step by step in one process, so that whatever slows the machine
slows them all. Between the turns a large matrix product is timed as well: its
best rate is the peak of which utilisation is a share. Memory is measured in a
process of its own for each arm.
"""

import argparse
import itertools
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import tabulate
import tensorflow as tf
import tf_keras

from tokendrop_tf import errors, files, layers
from tokendrop_tf.config import configs, rules
from tokendrop_tf.config.setting_flags import SettingFlags
from tokendrop_tf.run import turns
from tools.measure import step_arms, step_profile

SIZES = {  # layers, hidden size, heads
  'narrow12': (12, 128, 2),
  'bert_tiny': (4, 128, 2),
  'bert_small': (4, 512, 8),
  'bert_medium': (8, 512, 8),
  'bert_base': (12, 768, 12),
  'bert_large': (24, 1024, 16),
}
ARMS = step_arms.ARMS
_MODEL = SettingFlags(
  configs.ModelConfig,
  [
    *('vocab_size', 'dropout_rate', 'norm_first', 'attention_block'),
    'recompute_layers',
  ],
  defaults={'vocab_size': 30522},
)
_TOKEN_DROP = SettingFlags(
  configs.TokenDropConfig, ['token_keep_k', 'crossing_layer']
)
_DATA = SettingFlags(
  configs.PretrainingDataConfig,
  ['global_batch_size', 'seq_length', 'max_predictions_per_seq'],
  renamed={'global_batch_size': 'batch_size'},
  defaults={'global_batch_size': 8},
)
# Takes its turns with the arms: the matrix product that gives the peak.
_PRODUCT = 'matrix product'
# Sides of its square matrices.
_PEAK_SIDE = 2048
_PEAK_SIDE_ON_GPU = 8192


def task_config(arguments, vocab_path: str) -> configs.PretrainingTaskConfig:
  """Returns the task that the flags describe.

  Raises:
    errors.ConfigurationError: for flags that make no model.
  """
  num_layers, hidden_size, num_heads = SIZES[arguments.model]
  num_layers = arguments.num_layers or num_layers
  config = configs.PretrainingTaskConfig(
    model=configs.ModelConfig(
      num_layers=num_layers,
      hidden_size=hidden_size,
      num_attention_heads=num_heads,
      intermediate_size=4 * hidden_size,
      max_position_embeddings=arguments.seq_length,
      attention_dropout_rate=arguments.dropout_rate,
      **_MODEL.values(arguments),
    ),
    token_drop=configs.TokenDropConfig(**_TOKEN_DROP.values(arguments)),
    vocabulary=configs.VocabularyConfig(path=vocab_path),
    train_data=configs.PretrainingDataConfig(
      is_training=True, **_DATA.values(arguments)
    ),
  )
  rules.validate_model(config)
  return config


def time_arms(arguments, config) -> tuple[list[dict], float]:
  """Times the arms in turns.

  Args:
    arguments: what `parse_arguments` gives.
    config: what `task_config` gives.

  Returns:
    One dict an arm: `name`, `median_seconds`, `spread_seconds` (half the
    distance of the quartiles), `tokens_per_second`, `utilisation` (operations
    of the arm's matrix products, as a share of the peak), `peak_bytes` (`None`
    until measured), `ratio_to_first`; and the peak, in operations a second.
  """
  side, product = _peak_product(arguments.precision)
  steps = {arm: _stepper(arm, arguments, config) for arm in arguments.arms}
  times = turns.time_in_turns(
    {_PRODUCT: product, **steps}, arguments.steps, arguments.warm_up_steps
  )
  peak = 2 * side**3 / min(times.seconds[_PRODUCT])
  rows = []
  for arm in steps:
    median = times.median(arm)
    operations = arguments.batch_size * step_arms.operations(arm, config)
    rows.append(
      {
        'name': arm,
        'median_seconds': median,
        'spread_seconds': times.spread(arm),
        'tokens_per_second': arguments.batch_size
        * arguments.seq_length
        / median,
        'utilisation': operations / median / peak,
        'peak_bytes': None,
        'ratio_to_first': median / times.median(arguments.arms[0]),
      }
    )
  return rows, peak


def _stepper(arm, arguments, config) -> Callable[[], float]:
  """Returns a function that takes a step of an arm and waits for it."""
  batch = step_arms.make_batch(config, arguments.batch_size, arm)
  step = step_arms.TrainStep(arm, config)
  function = step.function(jit_compile=arguments.xla)
  return lambda: function(batch)['loss'].numpy()


def _peak_product(precision) -> tuple[int, Callable[[], object]]:
  """Returns the side of two matrices, and a function that multiplies them."""
  dtype = tf.bfloat16 if precision == 'mixed_bfloat16' else tf.float32
  gpus = tf.config.list_physical_devices('GPU')
  side = _PEAK_SIDE_ON_GPU if gpus else _PEAK_SIDE
  matrix = tf.cast(tf.random.normal([side, side]), dtype)
  multiply = tf.function(lambda x: tf.matmul(x, x)[0, 0])
  multiply(matrix).numpy()  # Compiles.
  return side, lambda: multiply(matrix).numpy()


def measure_memory(arm: str, arguments) -> int:
  """Returns the peak bytes of an arm, measured in a process of its own."""
  result = subprocess.run(
    [sys.executable, '-m', __name__, *arguments.argv, f'--memory_of={arm}'],
    capture_output=True,
    text=True,
    check=False,
  )
  if result.returncode:
    last = (result.stderr.strip().splitlines() or ['no message'])[-1]
    raise errors.UserError(
      f'The arm {arm} must run by itself. Received: {last}'
    )
  return int(result.stdout.strip().splitlines()[-1])


def _own_memory(arm, arguments, config) -> int:
  """Runs two steps and returns what they took at their peak.

  On a GPU the allocator knows; on CPUs it is the highest resident memory of
  this process less what it held before the model was built.
  """
  before = _resident_peak()
  step = _stepper(arm, arguments, config)
  step()
  step()
  if tf.config.list_physical_devices('GPU'):
    return tf.config.experimental.get_memory_info('GPU:0')['peak']
  return _resident_peak() - before


def _resident_peak():
  """Returns the highest resident memory of this process, in bytes."""
  status = pathlib.Path('/proc/self/status')
  if status.exists():  # What getrusage says may be the parent's.
    [line] = re.findall(r'VmHWM:\s+(\d+) kB', status.read_text())
    return int(line) * 1024
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def time_selection(arguments, config, repeats: int = 200) -> float:
  """Returns the median seconds of selecting, ordering and the table's update.

  These are all operations that a fixed order would not need.
  """
  importance = layers.TokenImportance(arguments.vocab_size)
  order_of = layers.TokenOrder()
  batch = step_arms.make_batch(config, arguments.batch_size)
  sorted_names = ('input_word_ids', 'input_mask', 'input_type_ids')
  losses = tf.random.stateless_uniform(
    tf.shape(batch['masked_lm_ids']), [7, 8], 0.0, 10.0
  )
  draws = itertools.count()

  @tf.function(jit_compile=arguments.xla)
  def select(seed):
    order = order_of(importance(batch['input_word_ids']), seed=seed)
    rows = [tf.gather(batch[n], order, batch_dims=1) for n in sorted_names]
    queries = tf.gather(
      tf.argsort(order), batch['masked_lm_positions'], batch_dims=1
    )
    importance.update(
      batch['masked_lm_ids'], losses, batch['masked_lm_weights']
    )
    return [*rows, queries]

  def run():
    return select(tf.constant([0, next(draws)]))[-1].numpy()

  return turns.time_in_turns({'select': run}, repeats, 5).median('select')


def format_table(rows: Sequence[dict]) -> str:
  """Returns the rows as a table for the terminal."""
  return tabulate.tabulate(
    [
      {
        'arm': row['name'],
        'seconds/step': row['median_seconds'],
        'spread': row['spread_seconds'],
        'tokens/s': row['tokens_per_second'],
        'utilisation': row['utilisation'],
        'peak GiB': row['peak_bytes'] and row['peak_bytes'] / 2**30,
        'ratio': row['ratio_to_first'],
      }
      for row in rows
    ],
    headers='keys',
    floatfmt=('', '.4f', '.4f', ',.0f', '.3f', '.2f', '.3f'),
    missingval='-',
  )


def draw_chart(rows: Sequence[dict], path: str, title: str) -> None:
  """Writes a bar chart of the medians, quartiles as whiskers."""
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(figsize=(7.0, 0.9 + 0.45 * len(rows)))
  names = [row['name'] for row in rows][::-1]
  axes.barh(
    names,
    [row['median_seconds'] for row in rows][::-1],
    xerr=[row['spread_seconds'] for row in rows][::-1],
    color='0.6',
  )
  axes.set_xlabel('seconds a step, median and half the quartile distance')
  axes.set_title(title)
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)
  figure.tight_layout()
  figure.savefig(path)
  plt.close(figure)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line of `tools/benchmark_step.py`."""
  arms = '\n'.join(f'  {n}: {t}' for n, t in step_arms.DESCRIPTIONS.items())
  parser = command_line.ArgumentParser(
    description=f'{__doc__}\nArms:\n{arms}',
  )
  parser.add_argument('--model', choices=sorted(SIZES), default='bert_base')
  parser.add_argument('--num_layers', type=int, help="instead of the model's")
  parser.add_argument(
    '--precision', default='float32', choices=('float32', 'mixed_bfloat16')
  )
  for setting_flags in (_DATA, _TOKEN_DROP, _MODEL):
    setting_flags.add_to(parser)
  parser.add_number('--steps', 7, 'Timed steps of each arm.', least=1)
  parser.add_argument('--warm_up_steps', type=int, default=2)
  parser.add_argument('--arms', default='stock,none,loss')
  parser.add_argument('--xla', action='store_true', help='compile with XLA')
  parser.add_argument(
    '--memory',
    action='store_true',
    help='also measure peak memory, each arm in a process of its own',
  )
  parser.add_argument('--memory_of', default='', help=argparse.SUPPRESS)
  parser.add_argument(
    '--selection',
    action='store_true',
    help='also time selection and table update alone',
  )
  parser.add_argument(
    '--profile',
    action='store_true',
    help='also say where the time of the last arm goes',
  )
  parser.add_argument('--output_json', default='')
  parser.add_argument('--chart', default='', help='a .svg or .png file')
  arguments = parser.parse_args(argv)
  arguments.argv = list(sys.argv[1:] if argv is None else argv)
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
  with tempfile.TemporaryDirectory() as folder:
    vocab_path = step_arms.write_vocabulary(folder, arguments.vocab_size)
    config = task_config(arguments, vocab_path)
    if arguments.memory_of:
      print(_own_memory(arguments.memory_of, arguments, config))
      return
    results = run(arguments, config)
  if arguments.output_json:
    files.write_json(arguments.output_json, results)


def run(arguments, config) -> dict:
  """Measures everything that the flags ask for, printing as it goes."""
  command_line.silence_xla()
  # Before the arms are here: they would take the memory.
  peak_bytes = (
    {arm: measure_memory(arm, arguments) for arm in arguments.arms}
    if arguments.memory
    else {}
  )
  rows, peak = time_arms(arguments, config)
  for row in rows:
    row['peak_bytes'] = peak_bytes.get(row['name'])
  print(format_table(rows))
  print(f'matrix product peak: {peak / 1e9:,.0f} GFLOP/s')
  results = {
    'arms': rows,
    'peak_operations_per_second': peak,
    'arguments': vars(arguments),
  }
  if arguments.selection:
    results['selection_seconds'] = _report_selection(arguments, config, rows)
  if arguments.profile:
    results['profile'] = _report_profile(arguments, config)
  if arguments.chart:
    title = (
      f'{arguments.model}, {arguments.precision}, B {arguments.batch_size}, '
      f'S {arguments.seq_length}, K {arguments.token_keep_k}'
    )
    draw_chart(rows, arguments.chart, title)
  return results


def _report_selection(arguments, config, rows):
  selection = time_selection(arguments, config)
  print(f'selection and table update alone: {1000 * selection:.2f} ms')
  by_name = {row['name']: row['median_seconds'] for row in rows}
  if 'loss' in by_name:
    print(f'  {100 * selection / by_name["loss"]:.2f} % of the loss step')
  return selection


def _report_profile(arguments, config):
  arm = arguments.arms[-1]
  step = _stepper(arm, arguments, config)
  for _ in range(max(arguments.warm_up_steps, 1)):
    step()
  times = step_profile.kinds(step_profile.profile(step))
  print(f'where the threads of {arm} spend their time, by the profiler:')
  print(step_profile.format_table(times))
  return {time.name: time.seconds for time in times}


def console_main() -> None:
  """Entry point of the tool."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
