"""Places that weights can start from: their form, sizes and vocabulary.

| kind | what the path is |
|---|---|
| run | `model_dir` of a run, or a checkpoint in one |
| checkpoint | a Model Garden BERT checkpoint, or an export of that form |
| hugging_face | a folder with `config.json` and `model.safetensors` |
| saved_model | an export of that form, or the `encoder` folder in it |
"""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf
import yaml

from tokendrop_tf import errors, files
from tokendrop_tf.config import configs
from tokendrop_tf.run import checkpoints, run_folder, run_paths
from tokendrop_tf.text import tokenizer_files
from tokendrop_tf.weights import hugging_face_weights

RUN = 'run'
CHECKPOINT = 'checkpoint'
HUGGING_FACE = 'hugging_face'
SAVED_MODEL = 'saved_model'

SETTING = 'pretraining.init_checkpoint'
# Files that describe an export, next to what was exported.
ENCODER_CONFIG_FILE = 'encoder_config.json'
BERT_CONFIG_FILE = 'bert_config.json'
EXPORT_FILE = 'export.json'

_ENCODER_FOLDER = 'encoder'


@dataclasses.dataclass(frozen=True)
class InitialWeights:
  """A place that weights can start from.

  Attributes:
    path: as it was given.
    kind: 'run', 'checkpoint', 'hugging_face' or 'saved_model'.
    source: the checkpoint's prefix, or the folder with the weights.
    model: sizes of the encoder; `None` where only the weights tell.
    vocabulary_path: its vocabulary, where there is one.
    lower_case: whether the vocabulary is of lower-cased text; `None` where it
      is not said.
  """

  path: str
  kind: str
  source: str
  model: configs.ModelConfig | None = None
  vocabulary_path: str | None = None
  lower_case: bool | None = None


def describe(path: str, setting: str = SETTING) -> InitialWeights:
  """Finds out what lies at `path`.

  Args:
    path: a folder or the prefix of a checkpoint; see the table above.
    setting: name of the setting that gave it, for messages.

  Raises:
    ConfigurationError: if nothing there holds weights, a Hugging Face folder
      is of another architecture, or the sizes stated there are none.

  Example:
    describe('runs/dropping').model.hidden_size  # 128
  """
  source = _describe(path, setting)
  if source.model is not None:
    _check_sizes(source.model, path)
  return source


def _describe(path, setting) -> InitialWeights:
  path = path.rstrip('/')
  folder = path if tf.io.gfile.isdir(path) else os.path.dirname(path)
  if folder == path:
    if hugging_face_weights.is_hugging_face_folder(path):
      return _describe_hugging_face(path)
    for inner in (path, os.path.join(path, _ENCODER_FOLDER)):
      if tf.io.gfile.exists(os.path.join(inner, 'saved_model.pb')):
        return _describe_saved_model(path, inner, setting)
  checkpoint = _find_checkpoint(path)
  if checkpoint is None:
    raise errors.ConfigurationError(
      f'{setting} must be a model_dir, a Model Garden checkpoint, a Hugging '
      'Face folder or an exported encoder. Received: '
      f'{path!r}, which has no checkpoint. Set {setting}.'
    )
  tree = _run_tree(folder)
  if tree is not None:
    return _describe_run(path, checkpoint, tree)
  return _describe_checkpoint(path, checkpoint, folder)


def _describe_hugging_face(path):
  vocabulary = tokenizer_files.find_vocabulary(path)
  said = vocabulary and tokenizer_files.read(vocabulary)
  return InitialWeights(
    path=path,
    kind=HUGGING_FACE,
    source=path,
    model=hugging_face_weights.read_model_config(path),
    vocabulary_path=vocabulary,
    lower_case=said[0].lower_case if said else None,
  )


def _describe_saved_model(path, folder, setting):
  config = _read_json(os.path.join(folder, ENCODER_CONFIG_FILE))
  if config is None or not isinstance(config.get('model'), dict):
    raise errors.ConfigurationError(
      f'{setting} must, of SavedModels, be one that tools/export.py wrote. '
      f'Received: {folder}, which has no {ENCODER_CONFIG_FILE} with the sizes. '
      f'Set {setting}.'
    )
  return InitialWeights(
    path=path,
    kind=SAVED_MODEL,
    source=os.path.join(folder, 'variables', 'variables'),
    model=_model_config(config['model']),
    vocabulary_path=_if_exists(
      os.path.join(folder, 'assets', tokenizer_files.VOCABULARY_FILE)
    ),
    lower_case=config.get('lower_case'),
  )


def _describe_run(path, checkpoint, tree):
  vocabulary = _section(tree['task'], 'vocabulary')
  return InitialWeights(
    path=path,
    kind=RUN,
    source=checkpoint,
    model=_model_config(tree['task']['model']),
    vocabulary_path=_if_exists(
      run_paths.vocabulary_path(os.path.dirname(checkpoint))
    )
    or vocabulary.get('path')
    or None,
    lower_case=vocabulary.get('lower_case'),
  )


def _describe_checkpoint(path, checkpoint, folder):
  export = _read_json(os.path.join(folder, EXPORT_FILE)) or {}
  return InitialWeights(
    path=path,
    kind=CHECKPOINT,
    source=checkpoint,
    model=_checkpoint_model(folder, export),
    vocabulary_path=_if_exists(
      os.path.join(folder, tokenizer_files.VOCABULARY_FILE)
    ),
    lower_case=export.get('lower_case'),
  )


def _checkpoint_model(folder, export):
  """Returns the sizes that the files next to a checkpoint state, or `None`."""
  if isinstance(export.get('model'), dict):
    return _model_config(export['model'])
  config = _read_json(os.path.join(folder, BERT_CONFIG_FILE))
  names = hugging_face_weights.CONFIG_NAMES
  if config is None or not set(names.values()) <= set(config):
    return None
  return configs.ModelConfig(
    **{ours: config[theirs] for ours, theirs in names.items()},
    mlm_activation=config['hidden_act'],
  )


def _model_config(settings):
  """Returns the `ModelConfig` of a saved section, of this or an older form."""
  known = {field.name for field in dataclasses.fields(configs.ModelConfig)}
  return configs.ModelConfig(
    **{name: value for name, value in settings.items() if name in known}
  )


_COUNTS = (
  *('hidden_size', 'num_layers', 'num_attention_heads', 'intermediate_size'),
  *('max_position_embeddings', 'type_vocab_size', 'vocab_size'),
)
_RATES = ('dropout_rate', 'attention_dropout_rate', 'initializer_range')


def _check_sizes(model, path):
  """Checks what a file of others says of a model."""
  for name in _COUNTS:
    value = getattr(model, name)
    if value is None and name == 'vocab_size':
      continue  # That of the vocabulary.
    least = 0 if name == 'vocab_size' else 1
    if not isinstance(value, int) or value < least:
      raise errors.ConfigurationError(
        f'Sizes of a model must be whole numbers of at least {least}. '
        f'Received: {name} = {value!r} in {path}. Restore its files.'
      )
  for name in _RATES:
    value = getattr(model, name)
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
      raise errors.ConfigurationError(
        'Rates of a model must be numbers from 0 to 1. Received: '
        f'{name} = {value!r} in {path}. Restore its files.'
      )
  if model.hidden_size % model.num_attention_heads:
    raise errors.ConfigurationError(
      'hidden_size must be a multiple of num_attention_heads. Received: '
      f'hidden_size = {model.hidden_size}, num_attention_heads = '
      f'{model.num_attention_heads} in {path}. Restore its files.'
    )


def _run_tree(folder):
  """Returns the tree of this project's run in `folder`, or `None`."""
  if not run_folder.has_configuration(folder):
    return None
  with tf.io.gfile.GFile(os.path.join(folder, run_folder.PARAMS_FILE)) as file:
    try:
      tree = yaml.safe_load(file.read())
    except (yaml.YAMLError, UnicodeDecodeError):
      return None
  # The Model Garden's own runs have the encoder one level deeper.
  model = _section(_section(tree, 'task'), 'model')
  return tree if 'hidden_size' in model else None


def _section(tree, name) -> dict:
  section = tree.get(name) if isinstance(tree, dict) else None
  return section if isinstance(section, dict) else {}


def _find_checkpoint(path) -> str | None:
  """Returns the prefix of the checkpoint at `path`, or `None`."""
  if tf.io.gfile.exists(f'{path}.index'):
    return path
  if not path or not tf.io.gfile.isdir(path):
    return None
  try:
    newest = tf.train.latest_checkpoint(path)
  except (ValueError, UnicodeDecodeError):
    # A power cut leaves an empty file, which says no more than none.
    newest = checkpoints.newest(path)
  if newest:
    _require_inside(newest, path)
    return newest
  # Published checkpoints come without the file that names the newest one.
  return _only(sorted(tf.io.gfile.glob(os.path.join(path, '*.index'))))


def _require_inside(checkpoint, folder):
  """A copied folder must not have this machine read other files."""
  if os.path.abspath(os.path.dirname(checkpoint)) != os.path.abspath(folder):
    raise errors.ConfigurationError(
      "The file 'checkpoint' must name checkpoints in its own folder. "
      f'Received: {checkpoint} in {folder}. Name the checkpoint itself.'
    )


def _only(indices: Sequence[str]) -> str | None:
  return indices[0].removesuffix('.index') if len(indices) == 1 else None


def _if_exists(path) -> str | None:
  return path if tf.io.gfile.exists(path) else None


def _read_json(path):
  """Returns the object in a JSON file, or `None` without one."""
  return files.read_json_object(path) if tf.io.gfile.exists(path) else None
