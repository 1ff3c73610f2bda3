"""Exports a trained model in one of the forms that others read.

  python tools/export.py --model_dir=runs/dropping \\
      --output_dir=exports/dropping --format=saved_model

  saved_model   encoder and preprocessor for TensorFlow Hub, and text-in models
                for TensorFlow Serving, in folders of their own
  checkpoint    init_checkpoint of the Model Garden's fine-tuning experiments
  hugging_face  a folder for transformers: BertModel and the class of the task

The newest checkpoint of --model_dir is exported, pretrained or fine-tuned. The
folder is built next to --output_dir and renamed when it is complete.
"""

import contextlib
import functools
import os

from tokendrop_tf import (
  command_line,  # Before TensorFlow: sets its log level.
  files,
)

# isort: split
import tensorflow as tf

import tokendrop_tf
from tokendrop_tf import dropping, errors
from tokendrop_tf.export import (
  garden_checkpoint,
  hugging_face,
  load_model,
  saved_model,
  serving_models,
  variable_tree,
)
from tokendrop_tf.run import run_folder
from tokendrop_tf.text import tokenizer_files
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import starting_point

SAVED_MODEL = 'saved_model'
CHECKPOINT = 'checkpoint'
HUGGING_FACE = 'hugging_face'
FORMATS = (SAVED_MODEL, CHECKPOINT, HUGGING_FACE)

_MIN_SEQ_LENGTH = 4  # [CLS], a token, [SEP] and, of a pair, another [SEP].


def main(arguments: list[str]) -> None:
  """Runs the command.

  Raises:
    errors.UserError: for anything that the user can put right; then nothing
      has been written.
  """
  flags = _parse(arguments)
  check_output(flags.output_dir, flags.model_dir, flags.overwrite)
  loaded = load_model.load_model(flags.model_dir, flags.vocabulary)
  if flags.trim_vocabulary:
    loaded = variable_tree.trim_vocabulary(loaded)
  seq_length = _seq_length(flags.seq_length, loaded)
  if flags.format == HUGGING_FACE:
    hugging_face.check_has_such_form(loaded)
  with whole_folder(flags.output_dir) as folder:
    export(loaded, folder, flags.format, seq_length)
  _report(flags, loaded)


def export(
  loaded: load_model.LoadedModel, folder: str, form: str, seq_length: int
) -> None:
  """Writes one form of a trained model.

  Args:
    loaded: the trained model.
    folder: an existing folder.
    form: 'saved_model', 'checkpoint' or 'hugging_face'.
    seq_length: S of preprocessor and text-in models where the caller says
      nothing else.

  Raises:
    ConfigurationError: if the model has no such form.

  Example:
    export(load_model('runs/dropping'), 'exports/dropping', 'checkpoint', 128)
  """
  vocabulary_path = os.path.join(folder, tokenizer_files.VOCABULARY_FILE)
  models = []
  if form != HUGGING_FACE:
    vocabulary_lib.write_vocabulary(vocabulary_path, loaded.vocabulary)
  if form == SAVED_MODEL:
    models = _write_saved_models(loaded, folder, vocabulary_path, seq_length)
  elif form == CHECKPOINT:
    garden_checkpoint.write_checkpoint(loaded, folder)
  else:
    hugging_face.write_folder(loaded, folder)
  _write_description(loaded, folder, form, seq_length, models)


def _write_saved_models(loaded, folder, vocabulary_path, seq_length):
  if loaded.kind == load_model.GENERATION:
    # The stock encoder would see later positions too.
    return serving_models.write_serving_models(loaded, folder, seq_length)
  encoder = os.path.join(folder, saved_model.ENCODER_FOLDER)
  saved_model.write_encoder(loaded, vocabulary_path, encoder)
  saved_model.write_preprocessor(
    loaded.vocabulary,
    vocabulary_path,
    os.path.join(folder, saved_model.PREPROCESSOR_FOLDER),
    seq_length,
  )
  return serving_models.write_serving_models(loaded, folder, seq_length)


def _write_description(loaded, folder, form, seq_length, models):
  description = {
    'format': form,
    'kind': loaded.kind,
    'model': loaded.model_config.as_dict(),
    'lower_case': loaded.vocabulary.lower_case,
    'seq_length': seq_length,
    'label_names': list(loaded.label_names),
    'serving_models': list(models or []),
    'versions': {
      'tokendrop_tf': tokendrop_tf.__version__,
      'tensorflow': tf.__version__,
    },
  }
  files.write_json(
    os.path.join(folder, starting_point.EXPORT_FILE), description
  )


def check_output(output_dir: str, model_dir: str, overwrite: bool) -> None:
  """Checks that writing `output_dir` destroys nothing unasked.

  Raises:
    ConfigurationError: if it is a file, holds something and `overwrite` is
      not given, holds the run or another one, or is not an earlier export.
  """
  if tf.io.gfile.exists(output_dir) and not tf.io.gfile.isdir(output_dir):
    raise errors.ConfigurationError(
      '--output_dir must be a folder. Received: '
      f'{output_dir}, which is a file. Pass another --output_dir.'
    )
  if not tf.io.gfile.isdir(output_dir) or not tf.io.gfile.listdir(output_dir):
    return
  if not overwrite:
    raise errors.ConfigurationError(
      '--output_dir must be new or empty. Received: '
      f'{output_dir}, which is not. Pass --overwrite to replace it, or another '
      '--output_dir.'
    )
  if _is_within(model_dir, output_dir):
    raise _holds_run(output_dir)
  if not tf.io.gfile.exists(
    os.path.join(output_dir, starting_point.EXPORT_FILE)
  ):
    raise errors.ConfigurationError(
      '--overwrite replaces an earlier export and nothing else. Received: '
      f'--output_dir={output_dir}, which has no {starting_point.EXPORT_FILE}. '
      'Pass another --output_dir.'
    )
  for folder, _, _ in tf.io.gfile.walk(output_dir):
    if run_folder.has_configuration(folder):
      raise _holds_run(output_dir)


def _holds_run(output_dir):
  return errors.ConfigurationError(
    '--overwrite must not delete a run. Received: --output_dir='
    f'{output_dir}, which holds one. Pass another --output_dir.'
  )


def _is_within(path, folder):
  path, folder = os.path.realpath(path), os.path.realpath(folder)
  return os.path.commonpath([path, folder]) == folder


@contextlib.contextmanager
def whole_folder(path: str):
  """Gives a folder to fill, which takes the name `path` only when filled.

  What is at `path` is replaced then; after an exception it is as it was.

  Raises:
    ConfigurationError: if nothing can be written there.

  Example:
    with whole_folder('exports/dropping') as folder:
      write(folder)
  """
  path = path.rstrip('/')
  temporary = f'{path}.writing-{os.getpid()}'
  replaced = f'{path}.replaced-{os.getpid()}'
  try:
    tf.io.gfile.makedirs(temporary)
    yield temporary
    if tf.io.gfile.exists(path):
      tf.io.gfile.rename(path, replaced)
    tf.io.gfile.rename(temporary, path)
  except (tf.errors.OpError, OSError) as error:
    raise errors.ConfigurationError(
      '--output_dir must be where a folder can be written, with room for it. '
      f'Received: {path}: {error}. Pass another --output_dir.'
    ) from error
  finally:
    _put_right(path, temporary, replaced)


def _put_right(path, temporary, replaced):
  """Leaves one folder at `path`: the new one, or the old one."""
  if tf.io.gfile.exists(replaced):
    if tf.io.gfile.exists(path):
      tf.io.gfile.rmtree(replaced)
    else:
      tf.io.gfile.rename(replaced, path)
  if tf.io.gfile.exists(temporary):
    tf.io.gfile.rmtree(temporary)


def _seq_length(seq_length, loaded):
  seq_length = loaded.seq_length if seq_length is None else seq_length
  longest = loaded.model_config.max_position_embeddings
  if not _MIN_SEQ_LENGTH <= seq_length <= longest:
    raise errors.ConfigurationError(
      f'--seq_length must be from {_MIN_SEQ_LENGTH} to the longest sequence of '
      f'the model, {longest}. Received: {seq_length}. Pass another '
      '--seq_length.'
    )
  return seq_length


def _report(flags, loaded):
  print(f'{flags.output_dir}: {flags.format} of a {loaded.kind} model')
  for folder, _, names in sorted(tf.io.gfile.walk(flags.output_dir)):
    for name in sorted(names):
      path = os.path.join(folder, name)
      size = tf.io.gfile.stat(path).length
      print(f'  {os.path.relpath(path, flags.output_dir):55} {size:>13,} bytes')

  if loaded.kind == load_model.PRETRAINING:
    if note := dropping.Dropping.of(loaded.params.task).head_note:
      print(f'Note: {note}')
  for command in next_commands(flags.output_dir, flags.format, loaded):
    print(f'Next: {command}')


def next_commands(
  folder: str, form: str, loaded: load_model.LoadedModel
) -> list[str]:
  """Returns what can be typed to use an exported folder."""
  if form == CHECKPOINT:
    return [
      f'--config_file={folder}/{garden_checkpoint.ENCODER_FILE} '
      f'--params_override=task.init_checkpoint={folder} with an experiment of '
      'the Model Garden, e.g. bert/sentence_prediction'
    ]
  if form == HUGGING_FACE:
    name = hugging_face.CLASSES[loaded.kind]
    return [
      f'python -c "from transformers import {name}; '
      f"print({name}.from_pretrained('{folder}'))\""
    ]
  texts = {
    load_model.PRETRAINING: ['A [MASK] text.'],
    load_model.GENERATION: ['A text begins'],
    load_model.QUESTION_ANSWERING: ['Who won?', 'Ada won.'],
  }.get(loaded.kind, ['A text.', 'Another text.'][: 1 + loaded.is_pair])
  tool = {
    load_model.PRETRAINING: 'fill_mask',
    load_model.GENERATION: 'generate',
  }.get(loaded.kind, 'predict')
  quoted = ' '.join(f'"{text}"' for text in texts)
  return [
    f'python tools/{tool}.py --model_dir={folder} {quoted}',
    f'python tools/serve.py --model_dir={folder}',
  ]


def _parse(arguments):
  parser = command_line.ArgumentParser(
    prog='tools/export.py', description=__doc__
  )
  parser.add_argument(
    '--model_dir', required=True, help='Folder of a training run.'
  )
  parser.add_argument(
    '--output_dir', required=True, help='The folder to write.'
  )
  parser.add_argument('--format', required=True, choices=FORMATS)
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='Replace --output_dir, an earlier export.',
  )
  parser.add_argument(
    '--vocabulary',
    default='',
    help='The vocabulary file, where it is not at its old place.',
  )
  parser.add_argument(
    '--trim_vocabulary',
    action='store_true',
    help='Omit the embeddings at the end that stand for no token, of a model '
    'with more rows than its vocabulary has tokens.',
  )
  parser.add_argument(
    '--seq_length',
    type=int,
    default=None,
    help='Tokens per text in preprocessor and text-in models; default is the '
    'length of the training.',
  )
  return parser.parse_args(arguments)


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
