"""Where weights can start from, and loading them by name and shape.

| kind | what the path is |
|---|---|
| run | `model_dir` of a training of ours, or a checkpoint in one |
| checkpoint | a Model Garden BERT checkpoint, `--format=checkpoint` of ours |
| hugging_face | a folder with `config.json` and `model.safetensors` |
| saved_model | `--format=saved_model` of ours, or the `encoder` folder in it |

Letters: H hidden size, V vocabulary, L layers.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import yaml

from tokendrop_tf import checkpoints, configs, errors, run_folder
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.export import checkpoint_weights, hugging_face_weights

RUN = 'run'
CHECKPOINT = 'checkpoint'
HUGGING_FACE = 'hugging_face'
SAVED_MODEL = 'saved_model'

SETTING = 'pretraining.init_checkpoint'
# What an export of ours says about itself, beside what it exported.
ENCODER_CONFIG_FILE = 'encoder_config.json'
BERT_CONFIG_FILE = 'bert_config.json'
EXPORT_FILE = 'export.json'
VOCABULARY_FILE = 'vocab.txt'

_ENCODER_FOLDER = 'encoder'
# Starts as it was built where a source has none: fine-tuning or pretraining
# learns it.
_OPTIONAL = ('encoder/_pooler_layer/', 'encoder/_token_importance/')


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


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
  """What was loaded.

  Attributes:
    source: where it came from.
    loaded: parts that were, e.g. ('encoder', 'masked_lm').
    new: parts that the source has not, which stay as they were built.
  """

  source: InitialWeights
  loaded: tuple[str, ...]
  new: tuple[str, ...]

  def summary(self) -> str:
    """Returns one line for the user."""
    line = (
      f'weights from {self.source.path} ({self.source.kind}): '
      f'{", ".join(self.loaded)}'
    )
    return f'{line}; new: {", ".join(self.new)}' if self.new else line


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


def load_encoder(
  encoder: encoder_lib.TokenDropBertEncoder, path: str, setting: str = SETTING
) -> LoadedWeights:
  """Loads the weights at `path` into an encoder.

  A pooler and an importance table are loaded where the source has them.

  Args:
    encoder: the encoder; its weights need not exist yet.
    path: see `describe`.
    setting: name of the setting that gave it, for messages.

  Returns:
    What was loaded.

  Raises:
    ConfigurationError: as `describe`; or if the source has other sizes, with
      the first weight that differs and both shapes.

  Example:
    load_encoder(encoder, 'runs/dropping').summary()
    # 'weights from runs/dropping (run): encoder'
  """
  _create_weights(encoder)
  return _load({'encoder': encoder}, describe(path, setting), setting)


def load_pretrainer(
  model, path: str, setting: str = SETTING, exclude: Sequence[str] = ()
) -> LoadedWeights:
  """Loads the weights at `path` into a pretraining model, heads included.

  A masked-LM head that the source has not stays as it was built.

  Args:
    model: a `TokenDropPretrainer`.
    path: see `describe`.
    setting: name of the setting that gave it, for messages.
    exclude: parts to leave as they are, e.g. ('token_importance',).

  Returns:
    What was loaded.

  Raises:
    ConfigurationError: as `load_encoder`.
  """
  return _load(
    dict(model.checkpoint_items), describe(path, setting), setting, exclude
  )


def check_fits(
  path: str, model: configs.ModelConfig, setting: str = SETTING
) -> InitialWeights:
  """Checks, before anything is built, that weights at `path` fit a model.

  Args:
    path: see `describe`.
    model: sizes of the model that is to start from them.
    setting: name of the setting that gave it, for messages.

  Returns:
    What `describe` returns.

  Raises:
    ConfigurationError: as `load_encoder`.
  """
  source = describe(path, setting)
  weights = read_weights(source, setting)
  _check_shapes(encoder_shapes(model), weights, source, setting)
  _check_num_layers(model.num_layers, weights, source, setting)
  return source


def check_vocabulary(
  source: InitialWeights,
  vocabulary: vocabulary_lib.Vocabulary,
  setting: str = SETTING,
) -> None:
  """Checks that ids mean the same tokens there, where the source tells.

  Raises:
    ConfigurationError: if only one of them lower-cases text; or with the first
      token that differs.
  """
  if source.lower_case not in (None, vocabulary.lower_case):
    raise errors.ConfigurationError(
      f'vocabulary.lower_case must be that of {setting}. Received: '
      f'{vocabulary.lower_case}, where {source.path} has {source.lower_case}. '
      'Set vocabulary.lower_case.'
    )
  path = source.vocabulary_path
  if not path or not tf.io.gfile.exists(path):
    return
  theirs = vocabulary_lib.Vocabulary.from_file(path).tokens
  for index, (old, new) in enumerate(zip(theirs, vocabulary.tokens)):
    if old != new:
      raise errors.ConfigurationError(
        f'Weights from {setting} need their own vocabulary. Received: line '
        f'{index + 1} is {old!r} in {path}, {new!r} in {vocabulary.path}. Set '
        f"vocabulary.path = '{path}', or another {setting}."
      )


def encoder_shapes(model: configs.ModelConfig) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of an encoder's weights by name, pooler left out."""
  hidden, inner = model.hidden_size, model.intermediate_size
  width = model.embedding_size or hidden
  heads = (model.num_attention_heads, hidden // model.num_attention_heads)
  shapes = {
    '_embedding_layer/embeddings': (model.vocab_size, width),
    '_position_embedding_layer/embeddings': (
      model.max_position_embeddings,
      width,
    ),
    '_type_embedding_layer/embeddings': (model.type_vocab_size, width),
    '_embedding_norm_layer/gamma': (width,),
    '_embedding_norm_layer/beta': (width,),
  }
  if width != hidden:
    shapes['_embedding_projection/kernel'] = (width, hidden)
    shapes['_embedding_projection/bias'] = (hidden,)
  for number in range(model.num_layers):
    layer = f'_transformer_layers/{number}'
    for part in ('query', 'key', 'value'):
      dense = f'{layer}/_attention_layer/_{part}_dense'
      shapes[f'{dense}/kernel'] = (hidden, *heads)
      shapes[f'{dense}/bias'] = heads
    shapes[f'{layer}/_attention_layer/_output_dense/kernel'] = (*heads, hidden)
    shapes[f'{layer}/_attention_layer/_output_dense/bias'] = (hidden,)
    shapes[f'{layer}/_intermediate_dense/kernel'] = (hidden, inner)
    shapes[f'{layer}/_intermediate_dense/bias'] = (inner,)
    shapes[f'{layer}/_output_dense/kernel'] = (inner, hidden)
    shapes[f'{layer}/_output_dense/bias'] = (hidden,)
    for norm in ('_attention_layer_norm', '_output_layer_norm'):
      shapes[f'{layer}/{norm}/gamma'] = (hidden,)
      shapes[f'{layer}/{norm}/beta'] = (hidden,)
  return {f'encoder/{name}': shape for name, shape in shapes.items()}


def read_weights(
  source: InitialWeights, setting: str = SETTING
) -> Mapping[str, np.ndarray]:
  """Opens the weights of a source, by our names.

  Returns:
    A mapping that also has `shape(name)` and `num_layers`.

  Raises:
    ConfigurationError: if they cannot be read.
  """
  if source.kind == HUGGING_FACE:
    return hugging_face_weights.HuggingFaceWeights(source.source)
  try:
    return checkpoint_weights.CheckpointWeights(source.source)
  except (ValueError, tf.errors.OpError, RuntimeError) as error:
    raise errors.ConfigurationError(
      f'{setting} must be a checkpoint of a BERT encoder, as the Model Garden '
      f'writes it. Received: {source.source}: {error}. Set {setting}; a '
      'checkpoint of TensorFlow 1 is converted by '
      'official/nlp/tools/tf2_bert_encoder_checkpoint_converter.py.'
    ) from error


def _load(items, source, setting, exclude=()):
  weights = read_weights(source, setting)
  assignments, loaded, new = [], [], []
  for part, variables in _parts(items).items():
    if part in exclude:
      continue
    if part != 'encoder' and not any(name in weights for name in variables):
      new.append(part)
      continue
    shapes = {name: tuple(item.shape) for name, item in variables.items()}
    _check_shapes(shapes, weights, source, setting)
    loaded.append(part)
    assignments += variables.items()
  num_layers = len(items['encoder'].transformer_layers)
  _check_num_layers(num_layers, weights, source, setting)
  # Only now: a source that does not fit changes nothing.
  for name, variable in assignments:
    variable.assign(weights[name])
  return LoadedWeights(source, tuple(loaded), tuple(new))


def _parts(items):
  """Returns {part: {name: variable}}; optional parts of the encoder apart."""
  parts, seen = {}, set()
  for item_name, item in items.items():
    for name, variable in checkpoint_weights.named_variables(
      item, item_name
    ).items():
      # The masked-LM head also has the encoder's embedding table.
      if id(variable) in seen:
        continue
      seen.add(id(variable))
      parts.setdefault(_part_of(name, item_name), {})[name] = variable
  return parts


def _part_of(name, item_name):
  for prefix in _OPTIONAL:
    if name.startswith(prefix):
      return prefix.split('/')[1].strip('_').removesuffix('_layer')
  return item_name


def _check_shapes(shapes, weights, source, setting):
  for name, ours in shapes.items():
    if name not in weights:
      raise _another_architecture(
        f'{name} {list(ours)} in the model, absent there', source, setting, name
      )
    theirs = tuple(weights.shape(name))
    if theirs != ours:
      raise _another_architecture(
        f'{name} {list(theirs)} there, {list(ours)} in the model',
        source,
        setting,
        name,
      )


def _check_num_layers(ours, weights, source, setting):
  if weights.num_layers != ours:
    name = f'encoder/_transformer_layers/{ours}'
    raise _another_architecture(
      f'{name} there, absent in the model, which has {ours} layers',
      source,
      setting,
      name,
    )


_SETTINGS_OF = (
  ('_embedding_layer', 'vocabulary.path or model.hidden_size'),
  ('_position_embedding_layer', 'model.max_position_embeddings'),
  ('_type_embedding_layer', 'model.type_vocab_size'),
  ('_intermediate_dense', 'model.intermediate_size'),
  ('_transformer_layers', 'model.num_layers or model.num_attention_heads'),
)


def _another_architecture(difference, source, setting, name):
  fitting = [
    setting_of for part, setting_of in _SETTINGS_OF if f'/{part}' in name
  ]
  # Of a layer's weights, the first name that says more than 'layer'.
  change = fitting[0] if fitting else 'the sizes of the model'
  return errors.ConfigurationError(
    'Weights must be of the architecture of the model. Received: '
    f'{source.path}, where the first difference is {difference}. Set {change}, '
    f'or another {setting}.'
  )


def _create_weights(encoder):
  if not encoder.built or not encoder.pooler_layer.built:
    encoder(encoder.inputs)


def _describe_hugging_face(path):
  vocabulary = os.path.join(path, VOCABULARY_FILE)
  return InitialWeights(
    path=path,
    kind=HUGGING_FACE,
    source=path,
    model=hugging_face_weights.read_model_config(path),
    vocabulary_path=_if_exists(vocabulary),
    lower_case=hugging_face_weights.read_lower_case(path),
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
    vocabulary_path=_if_exists(os.path.join(folder, 'assets', VOCABULARY_FILE)),
    lower_case=config.get('lower_case'),
  )


def _describe_run(path, checkpoint, tree):
  vocabulary = _section(tree['task'], 'vocabulary')
  return InitialWeights(
    path=path,
    kind=RUN,
    source=checkpoint,
    model=_model_config(tree['task']['model']),
    vocabulary_path=vocabulary.get('path') or None,
    lower_case=vocabulary.get('lower_case'),
  )


def _describe_checkpoint(path, checkpoint, folder):
  export = _read_json(os.path.join(folder, EXPORT_FILE)) or {}
  return InitialWeights(
    path=path,
    kind=CHECKPOINT,
    source=checkpoint,
    model=_checkpoint_model(folder, export),
    vocabulary_path=_if_exists(os.path.join(folder, VOCABULARY_FILE)),
    lower_case=export.get('lower_case'),
  )


# Of the settings that a published BERT checkpoint has beside it.
BERT_CONFIG_NAMES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_attention_heads': 'num_attention_heads',
  'intermediate_size': 'intermediate_size',
  'hidden_activation': 'hidden_act',
  'dropout_rate': 'hidden_dropout_prob',
  'attention_dropout_rate': 'attention_probs_dropout_prob',
  'max_position_embeddings': 'max_position_embeddings',
  'type_vocab_size': 'type_vocab_size',
  'initializer_range': 'initializer_range',
}


def _checkpoint_model(folder, export):
  """Returns the sizes that the files beside a checkpoint state, or `None`."""
  if isinstance(export.get('model'), dict):
    return _model_config(export['model'])
  config = _read_json(os.path.join(folder, BERT_CONFIG_FILE))
  if config is None or not set(BERT_CONFIG_NAMES.values()) <= set(config):
    return None
  return configs.ModelConfig(
    **{ours: config[theirs] for ours, theirs in BERT_CONFIG_NAMES.items()},
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
    least = configs.VOCAB_SIZE_FROM_FILE if name == 'vocab_size' else 1
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
  """Returns the tree of a run of ours in `folder`, or `None`."""
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
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path, 'r') as file:
      content = json.loads(file.read())
    if not isinstance(content, dict):
      raise ValueError(f'it holds a {type(content).__name__}')
    return content
  except ValueError as error:
    raise errors.ConfigurationError(
      f'{os.path.basename(path)} must be a JSON object, as it was written. '
      f'Received: {path}: {error}. Restore the file.'
    ) from error
