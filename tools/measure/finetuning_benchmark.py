"""Times fine-tuning steps, data included, against the Model Garden's task.

  python tools/benchmark_finetuning.py --train_data=SST-2/train.tsv \\
    --task=sst2 --vocabulary=runs/vocab.txt --model=narrow12

Arms, in turns in one process, the same rows and the same sizes:
  stock    the Model Garden's task, encoder and optimizer, on TFRecords
  live     this project's task, on text, tokenised in the step's data pipeline
  trimmed  the same without the padding that a batch shares, as it runs
  windows  seconds to make SQuAD's features (with --squad), by us and by the
           Model Garden's preparation of the same file
"""

import os
import tempfile
import time

from tokendrop_tf import (
  command_line,  # Before TensorFlow: sets its log level.
  files,
)

# isort: split
import tabulate
import tensorflow as tf
from official.core import base_task
from official.nlp.configs import encoders
from official.nlp.data import sentence_prediction_dataloader, squad_lib
from official.nlp.tasks import sentence_prediction
from official.nlp.tools import tokenization

from tokendrop_tf.config import configs, finetuning_configs, glue_tasks
from tokendrop_tf.finetuning import sentence_data, sentence_task, squad_windows
from tokendrop_tf.run import turns
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tools.measure import step_arms, step_benchmark

ARMS = ('stock', 'live', 'trimmed')
_MAX_ROWS = 20_000


def main(arguments):
  """Runs the command.

  Args:
    arguments: list of str, the flags; see `--help`.
  """
  flags = _parse(arguments)
  command_line.silence_xla()
  with tempfile.TemporaryDirectory() as folder:
    steps = {arm: _stepper(arm, flags, folder) for arm in ARMS}
    times = turns.time_in_turns(steps, flags.rounds)
  rows = [_row(arm, times, flags) for arm in ARMS]
  print(
    tabulate.tabulate(
      [list(row.values()) for row in rows],
      headers=('arm', 'seconds/step', 'spread', 'examples/s', 'x stock'),
      floatfmt=('', '.4f', '.4f', ',.1f', '.2f'),
    )
  )
  results = {'arms': rows}
  for row in rows:
    row['seconds'] = [s / flags.steps for s in times.seconds[row['name']]]
  if flags.squad:
    results['squad'] = time_windows(flags)
    print(
      f'windows  {results["squad"]["ours_seconds"]:.1f} s, the Model Garden '
      f'{results["squad"]["stock_seconds"]:.1f} s'
    )
  if flags.output_json:
    files.write_json(flags.output_json, results)


def _parse(arguments):
  parser = command_line.ArgumentParser(
    prog='python tools/benchmark_finetuning.py', description=__doc__
  )
  parser.add_argument('--train_data', required=True, help='Rows of the task.')
  parser.add_argument(
    '--task',
    default='sst2',
    choices=sorted(glue_tasks.TASKS),
    help='A GLUE task (default: %(default)s).',
  )
  parser.add_argument('--vocabulary', required=True, help='Its vocabulary.')
  parser.add_argument(
    '--model',
    default='narrow12',
    choices=sorted(step_benchmark.SIZES),
    help='Sizes of the encoder (default: %(default)s).',
  )
  for name, value in (
    ('seq_length', 128),
    ('batch_size', 32),
    ('steps', 20),
    ('rounds', 5),
  ):
    parser.add_argument(
      f'--{name}', type=int, default=value, help='Default %(default)s.'
    )
  parser.add_argument('--squad', default='', help='A SQuAD v1.1 file, plain.')
  parser.add_argument('--output_json', default='', help='Where figures go.')
  return parser.parse_args(arguments)


def _row(arm, times, flags):
  median = times.median(arm) / flags.steps
  return {
    'name': arm,
    'median_seconds': median,
    'spread_seconds': times.spread(arm) / flags.steps,
    'examples_per_second': flags.batch_size / median,
    'speed_relative_to_stock': times.median('stock') / times.median(arm),
  }


def _stepper(arm, flags, folder):
  """Returns a function that takes `--steps` steps of an arm, data included."""
  build = _build_stock if arm == 'stock' else _build_ours
  task, data = build(arm, flags, folder)
  model = task.build_model()
  optimizer = _build_optimizer()
  metrics = task.build_metrics(training=True)
  batches = iter(task.build_inputs(data))

  @tf.function(reduce_retracing=True)
  def run(batches, steps):
    for _ in tf.range(steps):
      task.train_step(next(batches), model, optimizer, metrics)

  def run_and_wait(steps=flags.steps):
    run(batches, tf.constant(steps))
    return optimizer.iterations.numpy()

  run_and_wait(2)  # Compiles.
  return run_and_wait


def _build_optimizer():
  optimizer = base_task.Task.create_optimizer(step_arms.constant_rate_adamw())
  _ = optimizer.iterations  # Creates the counter.
  return optimizer


def _sizes(flags):
  num_layers, hidden_size, num_heads = step_benchmark.SIZES[flags.model]
  return {
    'vocab_size': vocabulary_lib.Vocabulary.from_file(flags.vocabulary).size,
    'num_layers': num_layers,
    'hidden_size': hidden_size,
    'num_attention_heads': num_heads,
    'intermediate_size': 4 * hidden_size,
    'max_position_embeddings': flags.seq_length,
  }


def _glue(flags):
  known = glue_tasks.TASKS[flags.task]
  return finetuning_configs.GlueConfig(
    task=flags.task,
    label_names=known.label_names,
    is_regression=not known.label_names,
    malformed_rows='skip',
  )


def _build_ours(arm, flags, folder):
  del folder
  data = finetuning_configs.TextDataConfig(
    input_path=flags.train_data,
    is_training=True,
    global_batch_size=flags.batch_size,
    seq_length=flags.seq_length,
    trim_padding=arm == 'trimmed',
  )
  glue = _glue(flags)
  config = finetuning_configs.GlueTaskConfig(
    model=configs.ModelConfig(**_sizes(flags)),
    vocabulary=configs.VocabularyConfig(path=flags.vocabulary),
    glue=glue,
    metric_type=glue_tasks.TASKS[flags.task].metric,
    train_data=data,
  )
  return sentence_task.SentenceTask(config), data


def _build_stock(arm, flags, folder):
  del arm
  glue = _glue(flags)
  path = os.path.join(folder, 'train.tfrecord')
  _write_records(path, flags, glue)
  data = sentence_prediction_dataloader.SentencePredictionDataConfig(
    input_path=path,
    is_training=True,
    global_batch_size=flags.batch_size,
    seq_length=flags.seq_length,
    label_type='float' if glue.is_regression else 'int',
  )
  encoder = encoders.BertEncoderConfig(**_sizes(flags))
  config = sentence_prediction.SentencePredictionConfig(
    model=sentence_prediction.ModelConfig(
      num_classes=sentence_task.num_classes(glue),
      use_encoder_pooler=True,
      encoder=encoders.EncoderConfig(type='bert', bert=encoder),
    ),
    metric_type=glue_tasks.TASKS[flags.task].metric,
    train_data=data,
  )
  return sentence_prediction.SentencePredictionTask(config), data


def _write_records(path, flags, glue):
  """Writes what the Model Garden's own preparation of the task writes."""
  data = finetuning_configs.TextDataConfig(
    input_path=flags.train_data,
    is_training=False,
    global_batch_size=512,
    seq_length=flags.seq_length,
    trim_padding=False,
  )
  texts = sentence_data.read_texts(data, glue, '--train_data')
  batches = sentence_data.SentenceBatches(
    texts, configs.VocabularyConfig(path=flags.vocabulary), data
  ).dataset()
  names = {
    'input_ids': 'input_word_ids',
    'input_mask': 'input_mask',
    'segment_ids': 'input_type_ids',
  }
  written = 0
  with tf.io.TFRecordWriter(path) as writer:
    for batch in batches.as_numpy_iterator():
      for row in range(len(batch['example_id'])):
        if batch['example_id'][row] < 0 or written >= _MAX_ROWS:
          return
        features = {new: _ints(batch[old][row]) for new, old in names.items()}
        features['label_ids'] = _label(batch['label_ids'][row], glue)
        example = tf.train.Example(features=tf.train.Features(feature=features))
        writer.write(example.SerializeToString())
        written += 1


def _ints(values):
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _label(value, glue):
  if glue.is_regression:
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
  return _ints([value])


def time_windows(flags) -> dict[str, float]:
  """Returns the seconds that SQuAD's training features take, both ways."""
  lengths = {'seq_length': 384, 'doc_stride': 128, 'query_length': 64}
  began = time.monotonic()
  windows = squad_windows.make_windows(
    flags.squad,
    'v1.1',
    '--squad',
    flags.vocabulary,
    True,
    is_training=True,
    **lengths,
  )
  ours = time.monotonic() - began
  began, count = time.monotonic(), [0]
  squad_lib.convert_examples_to_features(
    squad_lib.read_squad_examples(flags.squad, True, False),
    tokenization.FullTokenizer(flags.vocabulary, do_lower_case=True),
    max_seq_length=lengths['seq_length'],
    doc_stride=lengths['doc_stride'],
    max_query_length=lengths['query_length'],
    is_training=True,
    output_fn=lambda feature: count.__setitem__(0, count[0] + 1),
  )
  return {
    'ours_seconds': ours,
    'stock_seconds': time.monotonic() - began,
    'ours_windows': windows.num_windows,
    'stock_windows': count[0],
  }


def console_main():
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
