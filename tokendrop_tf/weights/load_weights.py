"""Weights of any form, loaded into a model by name and shape.

A source that does not fit is refused with the first difference, and changes
nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import (
  checkpoint_weights,
  hugging_face_weights,
  position_extension,
  starting_point,
)

# Parts that start as they were built where a source has none: fine-tuning or
# pretraining learns them, or another file gives them.
_OPTIONAL = {
  'encoder/_pooler_layer/': 'pooler',
  'encoder/_token_importance/reference': 'reference',
  'encoder/_token_importance/': 'token_importance',
}


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
  """The result of loading.

  Attributes:
    source: where it came from.
    loaded: parts that were, e.g. ('encoder', 'masked_lm').
    new: parts that the source has not, which stay as they were built.
  """

  source: starting_point.InitialWeights
  loaded: tuple[str, ...]
  new: tuple[str, ...]

  def summary(self) -> str:
    """Returns one line for the user."""
    line = (
      f'weights from {self.source.path} ({self.source.kind}): '
      f'{", ".join(self.loaded)}'
    )
    return f'{line}; new: {", ".join(self.new)}' if self.new else line


def load_encoder(
  encoder: encoder_lib.TokenDropBertEncoder,
  path: str,
  setting: str = starting_point.SETTING,
) -> LoadedWeights:
  """Loads the weights at `path` into an encoder.

  A pooler and an importance table are loaded where the source has them.

  Args:
    encoder: the encoder; its weights need not exist yet.
    path: see `starting_point.describe`.
    setting: name of the setting that gave it, for messages.

  Returns:
    What was loaded.

  Raises:
    ConfigurationError: as `starting_point.describe`; or, if the source has
      other sizes, with the first weight that differs and both shapes.

  Example:
    load_encoder(encoder, 'runs/dropping').summary()
    # 'weights from runs/dropping (run): encoder'
  """
  _create_weights(encoder)
  return _load(
    {'encoder': encoder}, starting_point.describe(path, setting), setting
  )


def load_pretrainer(
  model,
  path: str,
  setting: str = starting_point.SETTING,
  exclude: Sequence[str] = (),
  extension: str = 'refuse',
) -> LoadedWeights:
  """Loads the weights at `path` into a pretraining model, heads included.

  A masked-LM head that the source has not stays as it was built.

  Args:
    model: a `TokenDropPretrainer`.
    path: see `starting_point.describe`.
    setting: name of the setting that gave it, for messages.
    exclude: parts to leave as they are, e.g. ('token_importance',).
    extension: how a position table that is too short is made longer, see
      `position_extension`.

  Returns:
    What was loaded.

  Raises:
    ConfigurationError: as `load_encoder`.
  """
  return _load(
    dict(model.checkpoint_items),
    starting_point.describe(path, setting),
    setting,
    exclude,
    extension,
  )


def check_fits(
  path: str,
  model: configs.ModelConfig,
  setting: str = starting_point.SETTING,
  extension: str = 'refuse',
) -> starting_point.InitialWeights:
  """Checks, before anything is built, that weights at `path` fit a model.

  Args:
    path: see `starting_point.describe`.
    model: sizes of the model that is to start from them.
    setting: name of the setting that gave it, for messages.
    extension: as `load_pretrainer`.

  Returns:
    What `starting_point.describe` returns.

  Raises:
    ConfigurationError: as `load_encoder`.
  """
  source = starting_point.describe(path, setting)
  weights = position_extension.extended(
    read_weights(source, setting), model.max_position_embeddings, extension
  )
  _check_shapes(encoder_shapes(model), weights, source, setting)
  _check_num_layers(model.num_layers, weights, source, setting)
  return source


def check_vocabulary(
  source: starting_point.InitialWeights,
  vocabulary: vocabulary_lib.Vocabulary,
  setting: str = starting_point.SETTING,
) -> None:
  """Checks that ids mean the same tokens there, where the source tells.

  Raises:
    ConfigurationError: if they tokenise text in different ways; or with the
      first token that differs.
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
  theirs = vocabulary_lib.Vocabulary.from_file(path, source.lower_case)
  if theirs.settings != vocabulary.settings:
    raise errors.ConfigurationError(
      f'Weights from {setting} need the tokenisation of their vocabulary. '
      f'Received: {vocabulary.settings} of {vocabulary.path}, where {path} has '
      f"{theirs.settings}. Set vocabulary.path = '{path}'."
    )
  for index, (old, new) in enumerate(zip(theirs.tokens, vocabulary.tokens)):
    if old != new:
      raise errors.ConfigurationError(
        f'Weights from {setting} need their own vocabulary. Received: line '
        f'{index + 1} is {old!r} in {path}, {new!r} in {vocabulary.path}. Set '
        f"vocabulary.path = '{path}', or another {setting}."
      )


def encoder_shapes(model: configs.ModelConfig) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of an encoder's weights by name, without the pooler."""
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


def read_importance_table(
  path: str, setting: str
) -> tuple[vocabulary_lib.Vocabulary, np.ndarray]:
  """Reads the importance table of a run.

  Args:
    path: a model_dir, or a checkpoint in one.
    setting: name of the setting that gave it, for messages.

  Returns:
    The vocabulary, and the importance of each of its tokens, float32 [V].

  Raises:
    ConfigurationError: as `starting_point.describe`, or without a table.

  Example:
    vocabulary, table = read_importance_table('runs/dropping', '--model_dir')
  """
  source = starting_point.describe(path, setting)
  weights = read_weights(source, setting)
  name = 'encoder/_token_importance/table'
  # A table that never moved has one value.
  is_known = name in weights and source.vocabulary_path is not None
  if not is_known or np.ptp(weights[name]) == 0:
    raise errors.ConfigurationError(
      f'{setting} must be a pretraining run with an importance table. '
      f'Received: {path}, which has none. Set {setting}.'
    )
  vocabulary = vocabulary_lib.Vocabulary.from_file(
    source.vocabulary_path, source.lower_case
  )
  return vocabulary, weights[name][: vocabulary.size]


def read_weights(
  source: starting_point.InitialWeights, setting: str = starting_point.SETTING
) -> Mapping[str, np.ndarray]:
  """Opens the weights of a source, by our names.

  Returns:
    A mapping that also has `shape(name)` and `num_layers`.

  Raises:
    ConfigurationError: if they cannot be read.
  """
  if source.kind == starting_point.HUGGING_FACE:
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


def _load(items, source, setting, exclude=(), extension='refuse'):
  weights = position_extension.extended(
    read_weights(source, setting),
    items['encoder'].get_config()['max_sequence_length'],
    extension,
  )
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
  for prefix, part in _OPTIONAL.items():
    if name.startswith(prefix):
      return part
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
  (
    '_embedding_layer',
    'vocabulary.path, model.vocab_size or model.hidden_size',
  ),
  (
    '_position_embedding_layer',
    'model.max_position_embeddings, pretraining.position_extension (for more '
    'positions)',
  ),
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
