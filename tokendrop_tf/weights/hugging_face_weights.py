"""Weights and settings between our names and those of Hugging Face's BERT.

A weight is named here by its path of attributes, see `checkpoint_weights`;
there as in the state of `transformers.BertForPreTraining`. PyTorch is not
needed: safetensors files are read and written as NumPy arrays.

Letters: H hidden size, N heads, D = H / N, V vocabulary.
"""

import os
import re
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors
import tensorflow as tf
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from tokendrop_tf import errors, files
from tokendrop_tf.config import configs

CONFIG_FILE = 'config.json'
WEIGHTS_FILE = 'model.safetensors'
INDEX_FILE = f'{WEIGHTS_FILE}.index.json'
# Of safetensors; its NumPy reader knows no bfloat16.
_DTYPES = {
  'F32': np.float32,
  'F16': np.float16,
  'BF16': ml_dtypes.bfloat16,
  'I64': np.int64,
}
# Beside a model with a head: the same encoder alone, for `BertModel`.
ENCODER_FOLDER = 'encoder'

LAYER_NORM_EPSILON = 1e-12
# The Model Garden's gelu is the tanh approximation, which is 'gelu_new' there.
# Their 'gelu' is the exact one; it differs from ours by less than 5e-4.
ACTIVATION_NAMES = {
  'gelu': 'gelu_new',
  'relu': 'relu',
  'swish': 'silu',
  'tanh': 'tanh',
}
ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_fast': 'gelu',
  'gelu_new': 'gelu',
  'gelu_pytorch_tanh': 'gelu',
  'relu': 'relu',
  'silu': 'swish',
  'swish': 'swish',
  'tanh': 'tanh',
}

# Settings of our encoders, and what `config.json` and the `bert_config.json` of
# published checkpoints call them.
CONFIG_NAMES = {
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

_LAYER_NAME = re.compile(r'bert\.encoder\.layer\.(\d+)\.')

# Conversions of our weights to theirs. Their dense kernels are [out, in].
_SAME = 'same'
_TRANSPOSED = 'kernel [in, out]'
_FROM_HEADS = 'kernel [N, D, H]'
_TO_HEADS = 'kernel [H, N, D]'
_HEADS_BIAS = 'bias [N, D]'


def _dense(theirs, ours, kernel=_TRANSPOSED, bias=_SAME):
  return {
    f'{ours}/kernel': (f'{theirs}.weight', kernel),
    f'{ours}/bias': (f'{theirs}.bias', bias),
  }


def _norm(theirs, ours):
  return {
    f'{ours}/gamma': (f'{theirs}.weight', _SAME),
    f'{ours}/beta': (f'{theirs}.bias', _SAME),
  }


def _embedding(theirs, ours):
  return {f'{ours}/embeddings': (f'{theirs}.weight', _SAME)}


def _layer(number):
  theirs = f'bert.encoder.layer.{number}'
  ours = f'encoder/_transformer_layers/{number}'
  names = {}
  for part in ('query', 'key', 'value'):
    names |= _dense(
      f'{theirs}.attention.self.{part}',
      f'{ours}/_attention_layer/_{part}_dense',
      _TO_HEADS,
      _HEADS_BIAS,
    )
  return (
    names
    | _dense(
      f'{theirs}.attention.output.dense',
      f'{ours}/_attention_layer/_output_dense',
      _FROM_HEADS,
    )
    | _norm(
      f'{theirs}.attention.output.LayerNorm', f'{ours}/_attention_layer_norm'
    )
    | _dense(f'{theirs}.intermediate.dense', f'{ours}/_intermediate_dense')
    | _dense(f'{theirs}.output.dense', f'{ours}/_output_dense')
    | _norm(f'{theirs}.output.LayerNorm', f'{ours}/_output_layer_norm')
  )


def _embeddings():
  theirs = 'bert.embeddings'
  return (
    _embedding(f'{theirs}.word_embeddings', 'encoder/_embedding_layer')
    | _embedding(
      f'{theirs}.position_embeddings', 'encoder/_position_embedding_layer'
    )
    | _embedding(
      f'{theirs}.token_type_embeddings', 'encoder/_type_embedding_layer'
    )
    | _norm(f'{theirs}.LayerNorm', 'encoder/_embedding_norm_layer')
  )


def _all_names(num_layers):
  """Returns {our name: (their name, form)} of everything in `_PARTS`."""
  names = _embeddings()
  for number in range(num_layers):
    names |= _layer(number)
  return (
    names
    | _dense('bert.pooler.dense', 'encoder/_pooler_layer')
    | _dense('cls.predictions.transform.dense', 'masked_lm/dense')
    | _norm('cls.predictions.transform.LayerNorm', 'masked_lm/layer_norm')
    | {'masked_lm/bias': ('cls.predictions.bias', _SAME)}
  )


def to_hugging_face(
  weights: Mapping[str, np.ndarray], num_layers: int
) -> dict[str, np.ndarray]:
  """Returns weights under Hugging Face's names, in their layout.

  Args:
    weights: arrays by our names; those without a counterpart there (such as
      the importance table) must have been omitted.
    num_layers: L.

  Returns:
    float32 arrays, contiguous, by their names.

  Example:
    to_hugging_face({'masked_lm/bias': bias}, 12)
    # {'cls.predictions.bias': bias}
  """
  names = _all_names(num_layers)
  converted = {}
  for name, value in weights.items():
    theirs, form = names[name]
    converted[theirs] = np.ascontiguousarray(
      _to_their_layout(np.asarray(value, np.float32), form)
    )
  return converted


def _to_their_layout(value, form):
  if form == _TRANSPOSED:
    return value.T
  if form == _TO_HEADS:
    return value.reshape(value.shape[0], -1).T
  if form == _FROM_HEADS:
    return value.reshape(-1, value.shape[-1]).T
  if form == _HEADS_BIAS:
    return value.reshape(-1)
  return value


def _to_our_layout(value, form, num_heads):
  if form == _TRANSPOSED:
    return value.T
  if form == _TO_HEADS:
    return value.T.reshape(value.shape[1], num_heads, -1)
  if form == _FROM_HEADS:
    return value.T.reshape(num_heads, -1, value.shape[0])
  if form == _HEADS_BIAS:
    return value.reshape(num_heads, -1)
  return value


def _can_be_of_form(shape, form, num_heads) -> bool:
  """Returns whether `_to_our_layout` takes an array of theirs."""
  if form == _SAME:
    return True
  if len(shape) != (1 if form == _HEADS_BIAS else 2) or 0 in shape:
    return False
  if form == _TRANSPOSED:
    return True
  return shape[-1 if form == _FROM_HEADS else 0] % num_heads == 0


def write_safetensors(path: str, weights: Mapping[str, np.ndarray]) -> None:
  """Writes arrays to a safetensors file as transformers expects it."""
  # transformers refuses a file that does not say which framework wrote it; 'pt'
  # stands for its own layout.
  data = safetensors_numpy.save(dict(weights), metadata={'format': 'pt'})
  files.write_whole_file(path, data)


def config_of(model: configs.ModelConfig, pad_id: int) -> dict:
  """Returns the settings of `config.json` for one of our encoders."""
  return {
    'model_type': 'bert',
    **{theirs: getattr(model, ours) for ours, theirs in CONFIG_NAMES.items()},
    'hidden_act': ACTIVATION_NAMES[model.hidden_activation],
    'layer_norm_eps': LAYER_NORM_EPSILON,
    'pad_token_id': pad_id,
    'position_embedding_type': 'absolute',
    'tie_word_embeddings': True,
  }


def is_hugging_face_folder(folder: str) -> bool:
  """Returns whether `folder` looks like one that transformers saved."""
  path = os.path.join(folder, CONFIG_FILE)
  if not tf.io.gfile.exists(path):
    return False
  return any(
    tf.io.gfile.exists(os.path.join(folder, name))
    for name in (
      WEIGHTS_FILE,
      'pytorch_model.bin',
      INDEX_FILE,
    )
  )


def read_model_config(folder: str) -> configs.ModelConfig:
  """Returns the sizes that `config.json` states.

  Raises:
    ConfigurationError: if the folder holds another architecture than BERT, or
      a variant that our encoder cannot compute.
  """
  path = os.path.join(folder, CONFIG_FILE)
  config = files.read_json_object(path)
  for name, expected in _REQUIRED_SETTINGS.items():
    value = config.get(name, expected)
    if value != expected:
      raise _another_architecture(f'{path} has {name} = {value!r}')
  activation = config.get('hidden_act', 'gelu')
  if not isinstance(activation, str) or activation not in ACTIVATIONS:
    raise _another_architecture(f'{path} has hidden_act = {activation!r}')
  values = _DEFAULTS | config
  try:
    sizes = {ours: values[theirs] for ours, theirs in CONFIG_NAMES.items()}
  except KeyError as error:
    raise _another_architecture(f'{path} has no {error.args[0]}') from error
  names = {
    name: ACTIVATIONS[activation]
    for name in ('hidden_activation', 'mlm_activation')
  }
  return configs.ModelConfig(**(sizes | names))


_DEFAULTS = {
  'hidden_act': 'gelu',
  'hidden_dropout_prob': 0.1,
  'attention_probs_dropout_prob': 0.1,
  'initializer_range': 0.02,
}
_REQUIRED_SETTINGS = {
  'model_type': 'bert',
  'position_embedding_type': 'absolute',
  'is_decoder': False,
  'add_cross_attention': False,
  'tie_word_embeddings': True,
  'layer_norm_eps': LAYER_NORM_EPSILON,
}


class HuggingFaceWeights(Mapping):
  """Weights of a Hugging Face BERT folder under our names, in our layout.

  With or without the prefix 'bert.', and with the `gamma` and `beta` of old
  files. A pooler that the file omits is taken from the folder `encoder` within,
  where our exports have one.

  Example:
    weights = HuggingFaceWeights('bert-base-uncased')
    weights['encoder/_pooler_layer/kernel']  # float32 [H, H]

  Args:
    folder: with `config.json` and `model.safetensors`.

  Raises:
    ConfigurationError: if it is of another architecture, its output embeddings
      are not tied to the input embeddings, or it lacks a weight or has one that
      does not go with `config.json`.
  """

  def __init__(self, folder: str):
    self.folder = folder
    self.model = read_model_config(folder)
    self._tensors = _canonical(_read_tensors(folder))
    self._read_inner_pooler()
    self._names = {
      ours: (theirs, form)
      for ours, (theirs, form) in _all_names(self.model.num_layers).items()
      if theirs in self._tensors
    }
    self._require_encoder()
    self._require_layouts()
    self._require_tied()
    self._require_whole_head()

  @property
  def num_layers(self) -> int:
    """L, the number of transformer layers in the file."""
    matches = map(_LAYER_NAME.match, self._tensors)
    return max((1 + int(match[1]) for match in matches if match), default=0)

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a weight in our layout."""
    return self[name].shape

  def __getitem__(self, name: str) -> np.ndarray:
    theirs, form = self._names[name]
    return _to_our_layout(
      self._tensors[theirs], form, self.model.num_attention_heads
    )

  def __iter__(self):
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def _read_inner_pooler(self):
    inner = os.path.join(self.folder, ENCODER_FOLDER)
    name = 'bert.pooler.dense.weight'
    if name in self._tensors or not is_hugging_face_folder(inner):
      return
    for name, value in _canonical(_read_tensors(inner)).items():
      if name.startswith('bert.pooler.'):
        self._tensors[name] = value

  def _require_encoder(self):
    for name, (theirs, _) in _all_names(self.model.num_layers).items():
      is_optional = name.startswith(('masked_lm/', 'encoder/_pooler_layer/'))
      if theirs not in self._tensors and not is_optional:
        raise errors.ConfigurationError(
          'A Hugging Face folder must hold every weight of the encoder. '
          f'Received: {self.folder}, whose {WEIGHTS_FILE} lacks {theirs}. Save '
          'the model again with save_pretrained.'
        )

  def _require_layouts(self):
    for theirs, form in self._names.values():
      value = self._tensors[theirs]
      if value.dtype != np.float32 or not _can_be_of_form(
        value.shape, form, self.model.num_attention_heads
      ):
        raise errors.ConfigurationError(
          f'Weights must go with their {CONFIG_FILE}. Received: {self.folder}, '
          f'where {theirs} is {value.dtype} {list(value.shape)}. Save the '
          'model again with save_pretrained.'
        )

  def _require_tied(self):
    decoder = self._tensors.get('cls.predictions.decoder.weight')
    embeddings = self._tensors['bert.embeddings.word_embeddings.weight']
    if decoder is not None and not np.array_equal(decoder, embeddings):
      raise errors.ConfigurationError(
        'The output embeddings must be tied to the input embeddings, as in '
        f'BERT. Received: {self.folder}, where cls.predictions.decoder.weight '
        'differs from bert.embeddings.word_embeddings.weight. Give a folder '
        'of a tied model.'
      )

  def _require_whole_head(self):
    head = [
      theirs
      for name, (theirs, _) in _all_names(0).items()
      if name.startswith('masked_lm/')
    ]
    missing = [name for name in head if name not in self._tensors]
    if missing and len(missing) < len(head):
      raise errors.ConfigurationError(
        'A Hugging Face folder must hold the whole masked-LM head, or nothing '
        f'of it. Received: {self.folder}, whose {WEIGHTS_FILE} lacks '
        f'{missing[0]}. Save the model again with save_pretrained.'
      )


def _canonical(tensors):
  """Adds the prefix 'bert.' and renames `gamma`, `beta` and the head's bias."""
  if not any(name.startswith('bert.') for name in tensors):
    heads = ('cls.', 'classifier.', 'qa_outputs.')
    tensors = {
      name if name.startswith(heads) else f'bert.{name}': value
      for name, value in tensors.items()
    }
  renamed = {}
  for name, value in tensors.items():
    for old, new in (
      ('LayerNorm.gamma', 'LayerNorm.weight'),
      ('LayerNorm.beta', 'LayerNorm.bias'),
    ):
      name = name.replace(old, new)
    renamed[name] = value
  if 'cls.predictions.decoder.bias' in renamed:
    renamed.setdefault(
      'cls.predictions.bias', renamed['cls.predictions.decoder.bias']
    )
  return renamed


def _read_tensors(folder):
  """Returns the float32 arrays of one file, or of those that an index lists."""
  tensors = {}
  for name in _weight_files(folder):
    tensors |= _read_file(os.path.join(folder, name))
  return {
    name: value.astype(np.float32)
    if value.dtype in (np.float16, ml_dtypes.bfloat16)
    else value
    for name, value in tensors.items()
  }


def _weight_files(folder) -> list[str]:
  if tf.io.gfile.exists(os.path.join(folder, WEIGHTS_FILE)):
    return [WEIGHTS_FILE]
  index = os.path.join(folder, INDEX_FILE)
  if not tf.io.gfile.exists(index):
    raise errors.ConfigurationError(
      f'A Hugging Face folder must hold its weights in {WEIGHTS_FILE}, or in '
      f'files that {INDEX_FILE} lists. Received: {folder}, which has neither. '
      'Save the model with save_pretrained of a recent transformers.'
    )
  weight_map = files.read_json_object(index).get('weight_map')
  if not isinstance(weight_map, dict) or not weight_map:
    raise errors.ConfigurationError(
      f'{INDEX_FILE} must map weights to files under "weight_map". Received: '
      f'{index}, which does not. Restore the file.'
    )
  names = sorted({str(name) for name in weight_map.values()})
  for name in names:
    path = os.path.join(folder, name)
    # Files next to the index, and nothing else on this machine.
    if os.path.basename(name) != name or not tf.io.gfile.exists(path):
      raise errors.ConfigurationError(
        f'{INDEX_FILE} must list files beside it. Received: {name!r} in '
        f'{index}, which is not there. Copy the whole folder.'
      )
  return names


def _read_file(path):
  try:
    tensors = safetensors.deserialize(files.read_bytes(path))
    return {
      name: np.frombuffer(entry['data'], _DTYPES[entry['dtype']]).reshape(
        entry['shape']
      )
      for name, entry in tensors
    }
  except (SafetensorError, KeyError) as error:
    raise errors.ConfigurationError(
      f'{os.path.basename(path)} must be a safetensors file of float32, '
      f'float16 or bfloat16 weights. Received: {path}: {error}. Save the model '
      'again with save_pretrained.'
    ) from error


def _another_architecture(what):
  return errors.ConfigurationError(
    'A Hugging Face folder must hold a BERT encoder with absolute positions, '
    'tied embeddings, layer_norm_eps 1e-12 and one of the activations '
    f'{", ".join(ACTIVATIONS)}. Received: {what}. Give a folder of such a '
    'model.'
  )
