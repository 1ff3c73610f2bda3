"""Writes what a trained model predicts, in the form that each task submits.

GLUE takes tab-separated `index` and `prediction`; SQuAD one JSON object of
answers by question id.
"""

import json
import os

import numpy as np
import orbit
import tensorflow as tf

from tokendrop_tf import files
from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.finetuning import (
  gather_rows,
  question_task,
  sentence_data,
  squad_answers,
  squad_windows,
)

FOLDER = 'predictions'
ANSWERS_FILE = 'predictions.json'
NBEST_FILE = 'nbest.json'
NULL_ODDS_FILE = 'null_odds.json'
_STSB_RANGE = (0.0, 5.0)


def write_predictions(task, model, strategy, model_dir) -> list[str]:
  """Writes the predictions for what the tree names as test data.

  Of question answering, the answers of the last validation are written, too.
  All workers predict, each its rows, and the chief writes.

  Args:
    task: a task of fine-tuning.
    model: its model, trained.
    strategy: the strategy that it was built under.
    model_dir: the files go into its folder `predictions`.

  Returns:
    The paths.
  """
  is_glue = isinstance(task.task_config, finetuning_configs.GlueTaskConfig)
  texts = (_label_files if is_glue else _answer_files)(task, model, strategy)
  paths = [os.path.join(model_dir, FOLDER, name) for name in texts]
  if strategy.extended.should_save_summary:
    for path, text in zip(paths, texts.values()):
      tf.io.gfile.makedirs(os.path.dirname(path))
      files.write_whole_file(path, text)
  return paths


def _label_files(task, model, strategy):
  """Returns the text of every file by its name."""
  config = task.task_config
  known = sentence_data.task_of(config.glue)
  sources = (
    (config.test_data, 'glue.test_data', known.prediction_file),
    (
      config.mismatched_test_data,
      'glue.mismatched_test_data',
      known.mismatched_file,
    ),
  )
  files = {}
  for data, setting, name in sources:
    if finetuning_configs.has_source(data):
      texts = sentence_data.read_texts(data, config.glue, setting, False)
      logits = predict_logits(task, model, strategy, data, texts)
      files[name] = label_file(texts.indices, logits, config.glue)
  return files


def label_file(
  indices: list[str], logits: np.ndarray, glue: finetuning_configs.GlueConfig
) -> str:
  """Returns the text of a GLUE submission.

  Args:
    indices: what names each row.
    logits: float [N, classes], or [N, 1] of a regression.
    glue: the labels.

  Example:
    label_file(['0'], np.array([[0.1, 2.0]]), glue)
    # 'index\\tprediction\\n0\\tnot_entailment\\n'
  """
  if glue.is_regression:
    numbers = logits[:, 0]
    if glue.task == 'stsb':
      numbers = np.clip(numbers, *_STSB_RANGE)
    values = [f'{number:.3f}' for number in numbers]
  else:
    values = [glue.label_names[place] for place in np.argmax(logits, axis=1)]
  lines = [f'{index}\t{value}' for index, value in zip(indices, values)]
  return '\n'.join(['index\tprediction', *lines]) + '\n'


def predict_logits(task, model, strategy, data, texts) -> np.ndarray:
  """Returns the logits of every row, float32 [N, classes]."""
  maker = sentence_data.SentenceBatches(
    texts, task.task_config.vocabulary, data
  )

  def step(batch):
    return batch['example_id'], model.logits(batch)

  logits, _ = gather_rows.gather(
    _run_over(strategy, maker.dataset, step),
    (texts.num_rows, task.num_classes),
    strategy,
  )
  return logits


def _answer_files(task, model, strategy):
  """Returns the text of every file by its name."""
  config, files = task.task_config, {}
  if task.last_answers is not None:
    files |= _files_of(task.last_answers, 'validation')
  if finetuning_configs.has_source(config.test_data):
    windows = squad_windows.windows_of(
      config.test_data, config.squad, config.vocabulary, 'squad.test_data'
    )
    answers = answer_questions(task, model, strategy, windows)
    files |= _files_of(answers, 'test')
  return files


def answer_questions(task, model, strategy, windows) -> squad_answers.Answers:
  """Returns the answers to the questions of `windows`."""
  config = task.task_config

  def batches(context):
    return squad_windows.window_batches(
      windows, task.vocabulary, config.test_data, context
    )

  def step(batch):
    return (batch['example_id'], *model.logits(batch))

  logits = question_task.stack_logits(
    _run_over(strategy, batches, step), windows, config, strategy
  )
  return squad_answers.find_answers(windows, *logits, config.squad)


def _files_of(answers, folder):
  contents = {ANSWERS_FILE: answers.predictions, NBEST_FILE: answers.nbest}
  if answers.null_odds:
    contents[NULL_ODDS_FILE] = answers.null_odds
  return {
    os.path.join(folder, name): json.dumps(
      content, indent=2, ensure_ascii=False
    )
    + '\n'
    for name, content in contents.items()
  }


def _run_over(strategy, dataset_function, step):
  """Yields `step` of the batches of this worker's devices as numpy arrays.

  Args:
    strategy: deals the rows out.
    dataset_function: from an input context to a dataset.
    step: function of a batch.
  """

  # Orbit tells by the name that a function takes a context.
  def batches(input_context):
    return dataset_function(input_context)

  dataset = orbit.utils.make_distributed_dataset(strategy, batches)

  @tf.function(autograph=False)
  def run(batch):
    return strategy.run(step, args=(batch,))

  for batch in dataset:
    results = run(batch)
    replicas = zip(*map(strategy.experimental_local_results, results))
    for outputs in replicas:
      yield tuple(output.numpy() for output in outputs)
