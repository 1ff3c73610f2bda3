"""The encoder and its preprocessor as SavedModels in TF Hub's convention.

https://www.tensorflow.org/hub/common_saved_model_apis/text describes both: an
encoder that takes the three inputs and can be trained further through
`hub.KerasLayer(path, trainable=True)`, and a preprocessor from strings to these
inputs. They need TensorFlow (the preprocessor tensorflow-text) to load, not
this package.

Letters: B batch, S sequence length, P prediction slots, H hidden size, V
vocabulary.
"""

import os

import tensorflow as tf
import tf_keras
from official.modeling import tf_utils
from official.nlp.configs import encoders
from official.nlp.modeling import layers as garden_layers
from official.nlp.tools import export_tfhub_lib

from tokendrop_tf import files
from tokendrop_tf.export import garden_checkpoint, load_model, variable_tree
from tokendrop_tf.text import tokenizer_files
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import starting_point

ENCODER_FOLDER = 'encoder'
PREPROCESSOR_FOLDER = 'preprocessor'
SIGNATURE = 'serving_default'

_INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')


class _Callable(tf.train.Checkpoint):
  """Something that can be called once it has been saved and loaded."""

  def __init__(self, function=None, **kwargs):
    super().__init__(**kwargs)
    if function is not None:
      self.__call__ = function

  def set_weights(self, variables):
    """Announces what `hub.KerasLayer` trains and regularizes."""
    variables = list(variables)
    self.variables = variables
    self.trainable_variables = variables
    self.regularization_losses = []


def write_encoder(
  loaded: load_model.LoadedModel, vocabulary_path: str, folder: str
) -> None:
  """Writes the encoder, with the masked-LM head of a pretraining model.

  What is loaded again can be called with a dict of `input_word_ids`,
  `input_mask` and `input_type_ids`, int32 [B, S], any S that the model has
  positions for, and `training`. It returns a dict of `pooled_output` and
  `default`, the same, float32 [B, H], `sequence_output` [B, S, H] and
  `encoder_outputs`, a list of every layer's. Its attribute `mlm` also takes
  `masked_lm_positions`, int32 [B, P], and adds `mlm_logits`, float32 [B, P, V].
  No token is dropped, in training neither.

  Args:
    loaded: the trained model.
    vocabulary_path: file that travels with it as an asset.
    folder: where the SavedModel is written.
  """
  encoder, masked_lm = _stock_layers(loaded)
  variables = {
    name: _variable_at({'encoder': encoder, 'masked_lm': masked_lm}, name)
    for name in variable_tree.exported_variables(loaded)
  }
  root = _Callable(_encoder_function(encoder))
  variable_tree.add_tree(root, variables)
  root.set_weights(
    variable
    for name, variable in variables.items()
    if name.startswith('encoder/')
  )
  if masked_lm is not None:
    root.mlm = _Callable(_masked_lm_function(encoder, masked_lm))
    root.mlm.set_weights(variables.values())
  _add_vocabulary(root, loaded.vocabulary, vocabulary_path)
  tf.saved_model.save(root, folder, signatures={SIGNATURE: _signature(encoder)})
  config = {
    'model': loaded.model_config.as_dict(),
    'lower_case': loaded.vocabulary.lower_case,
  }
  files.write_json(
    os.path.join(folder, starting_point.ENCODER_CONFIG_FILE), config
  )


def _stock_layers(loaded):
  """Returns the Model Garden's encoder and masked-LM head with the weights.

  They compute the same. But whoever trains a SavedModel differentiates and
  distributes it in other ways than ours: it holds stock operations only, not
  the fused ones of our training step.
  """
  encoder = encoders.build_encoder(
    encoders.EncoderConfig(
      type='bert',
      bert=garden_checkpoint.stock_encoder_config(loaded.model_config),
    )
  )
  outputs = encoder(encoder.inputs)
  masked_lm = None
  if loaded.masked_lm is not None:
    masked_lm = garden_layers.MaskedLM(
      embedding_table=encoder.get_embedding_table(),
      activation=tf_utils.get_activation(loaded.model_config.mlm_activation),
    )
    masked_lm(
      outputs['sequence_output'], tf_keras.Input(shape=(None,), dtype=tf.int32)
    )
  layers = {'encoder': encoder, 'masked_lm': masked_lm}
  for name, variable in variable_tree.exported_variables(loaded).items():
    _variable_at(layers, name).assign(variable)
  return encoder, masked_lm


def _variable_at(layers, path):
  """Returns the variable at a path of attributes, as checkpoints name them."""
  first, *rest = path.split('/')
  item = layers[first]
  for name in rest:
    item = tf.train.TrackableView.children(item)[name]
  return item


def _input_specs(*more):
  return {
    name: tf.TensorSpec([None, None], tf.int32, name)
    for name in (*_INPUTS, *more)
  }


def _encoder_function(encoder):
  @tf.function(autograph=False)
  def call(inputs, training=False):
    return _encode(encoder, inputs, training)

  for training in (False, True):
    call.get_concrete_function(_input_specs(), training=training)
  return call


def _encode(encoder, inputs, training):
  outputs = encoder({name: inputs[name] for name in _INPUTS}, training=training)
  outputs['default'] = outputs['pooled_output']
  return outputs


def _masked_lm_function(encoder, masked_lm):
  @tf.function(autograph=False)
  def call(inputs, training=False):
    outputs = _encode(encoder, inputs, training)
    outputs['mlm_logits'] = masked_lm(
      outputs['sequence_output'], inputs['masked_lm_positions']
    )
    return outputs

  specs = _input_specs('masked_lm_positions')
  for training in (False, True):
    call.get_concrete_function(specs, training=training)
  return call


def _signature(encoder):
  """Returns what TF Serving calls; it knows no lists, so not every layer."""

  @tf.function(autograph=False)
  def call(**inputs):
    outputs = _encode(encoder, inputs, training=False)
    del outputs['encoder_outputs']
    return outputs

  return call.get_concrete_function(**_input_specs())


def _add_vocabulary(root, vocabulary, path):
  """Adds what the encoders of TF Hub tell about their vocabulary."""
  root.vocab_file = tf.saved_model.Asset(path)
  root.tokenizer_config_file = tf.saved_model.Asset(
    tokenizer_files.path_for(path)
  )
  root.do_lower_case = tf.Variable(vocabulary.lower_case, trainable=False)


def write_preprocessor(
  vocabulary: vocabulary_lib.Vocabulary,
  vocabulary_path: str,
  folder: str,
  seq_length: int,
) -> None:
  """Writes the preprocessor: from strings to the encoder's inputs.

  What is loaded again can be called with strings [B] and returns the encoder's
  inputs, int32 [B, S]. For pairs or another S, in steps:

      tokens = [preprocessor.tokenize(first), preprocessor.tokenize(second)]
      inputs = preprocessor.bert_pack_inputs(tokens, seq_length=64)

  `tokenize` returns ragged int32 [B, (tokens)]; `tokenize_with_offsets` also
  the first byte of every token and the one past it, ragged int64;
  `tokenize.get_special_tokens_dict()` the ids of the special tokens. Tokens
  are exactly those of pretraining.

  Args:
    vocabulary: the vocabulary.
    vocabulary_path: file that travels with it as an asset.
    folder: where the SavedModel is written.
    seq_length: S where the caller says nothing else.
  """
  tokenizer = vocabulary.tokenizer()
  special_tokens = {
    'start_of_sequence_id': vocabulary.cls_id,
    'end_of_segment_id': vocabulary.sep_id,
    'padding_id': vocabulary.pad_id,
    'mask_id': vocabulary.mask_id,
    'vocab_size': vocabulary.size,
  }
  pack = garden_layers.BertPackInputs(
    seq_length, special_tokens_dict=special_tokens
  )
  texts = [tf.TensorSpec([None], tf.string, 'sentences')]
  root = _Callable(
    tf.function(
      lambda sentences: pack(tokenizer.tokenize(sentences)),
      input_signature=texts,
    )
  )
  root.tokenize = _Callable(
    tf.function(tokenizer.tokenize, input_signature=texts)
  )
  root.tokenize_with_offsets = _Callable(
    tf.function(
      lambda sentences: list(tokenizer.tokenize_with_offsets(sentences)),
      input_signature=texts,
    )
  )
  describe = _Callable(
    tf.function(
      lambda: {name: tf.constant(i) for name, i in special_tokens.items()},
      input_signature=[],
    )
  )
  root.tokenize.get_special_tokens_dict = describe
  root.tokenize_with_offsets.get_special_tokens_dict = describe
  root.bert_pack_inputs = export_tfhub_lib.BertPackInputsSavedModelWrapper(pack)
  _add_vocabulary(root, vocabulary, vocabulary_path)
  tf.saved_model.save(root, folder, signatures={SIGNATURE: root.__call__})
