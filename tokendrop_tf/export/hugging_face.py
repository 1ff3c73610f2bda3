"""A folder that Hugging Face's transformers load, written without PyTorch.

The folder itself holds exactly what one class expects: `BertForMaskedLM` of a
pretraining model, `BertLMHeadModel` of one that generates text,
`BertForSequenceClassification` or `BertForQuestionAnswering` of a fine-tuned
one. transformers report each weight too many or too few, and of
these classes some have a pooler and some have none; so the encoder alone, as
`BertModel` expects it, lies in the folder `encoder` within.
"""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tokendrop_tf import dropping, errors, files
from tokendrop_tf.export import load_model, variable_tree
from tokendrop_tf.text import tokenizer_files
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import hugging_face_weights

MODEL_CARD_FILE = 'README.md'

_POOLER = 'encoder/_pooler_layer/'
_BASE_CLASS = 'BertModel'
CLASSES = {
  load_model.PRETRAINING: 'BertForMaskedLM',
  load_model.GENERATION: 'BertLMHeadModel',
  load_model.CLASSIFICATION: 'BertForSequenceClassification',
  load_model.REGRESSION: 'BertForSequenceClassification',
  load_model.QUESTION_ANSWERING: 'BertForQuestionAnswering',
}
_PIPELINES = {
  load_model.PRETRAINING: 'fill-mask',
  load_model.GENERATION: 'text-generation',
  load_model.CLASSIFICATION: 'text-classification',
  load_model.REGRESSION: 'text-classification',
  load_model.QUESTION_ANSWERING: 'question-answering',
}
_HAS_POOLER = (load_model.CLASSIFICATION, load_model.REGRESSION)


def check_has_such_form(loaded: load_model.LoadedModel) -> None:
  """Checks that transformers' BERT can compute what the model computes.

  Raises:
    ConfigurationError: with the setting that it has no counterpart for.
  """
  model = loaded.model_config
  width = model.embedding_size or model.hidden_size
  if model.norm_first:
    raise _no_such_form(
      'model.norm_first=True: BertModel normalizes after every residual branch'
    )
  if width != model.hidden_size:
    raise _no_such_form(
      f'model.embedding_size={width} with hidden_size={model.hidden_size}: '
      'BertModel has embeddings of the hidden size'
    )
  if loaded.masked_lm is not None and (
    model.mlm_activation != model.hidden_activation
  ):
    raise _no_such_form(
      f'model.mlm_activation={model.mlm_activation!r} with hidden_activation='
      f'{model.hidden_activation!r}: BertForMaskedLM has one activation'
    )


def _no_such_form(what):
  return errors.ConfigurationError(
    "--format=hugging_face needs a model of the form of transformers' BERT. "
    f'Received: {what}. Pass --format=saved_model or --format=checkpoint.'
  )


def write_folder(loaded: load_model.LoadedModel, folder: str) -> None:
  """Writes configuration, weights, tokenizer and model card.

  Args:
    loaded: the trained model.
    folder: an existing folder.

  Raises:
    ConfigurationError: if transformers' BERT has no such form.
  """
  check_has_such_form(loaded)
  values = {
    name: variable.numpy()
    for name, variable in variable_tree.exported_variables(loaded).items()
  }
  _write_part(
    loaded,
    folder,
    CLASSES[loaded.kind],
    {
      name: value
      for name, value in values.items()
      if loaded.kind in _HAS_POOLER or not name.startswith(_POOLER)
    },
    _head_weights(loaded),
    _head_config(loaded),
  )
  inner = os.path.join(folder, hugging_face_weights.ENCODER_FOLDER)
  tf.io.gfile.makedirs(inner)
  encoder = {
    name: value for name, value in values.items() if name.startswith('encoder/')
  }
  _write_part(loaded, inner, _BASE_CLASS, encoder, {}, _decoder_config(loaded))
  _write_text(folder, MODEL_CARD_FILE, _model_card(loaded))


def _write_part(
  loaded,
  folder: str,
  class_name: str,
  values: Mapping[str, np.ndarray],
  head_weights: Mapping[str, np.ndarray],
  settings: Mapping[str, object],
) -> None:
  """Writes one folder that `from_pretrained` reads."""
  converted = hugging_face_weights.to_hugging_face(
    values, loaded.model_config.num_layers
  )
  if class_name == _BASE_CLASS:
    converted = {
      name.removeprefix('bert.'): value for name, value in converted.items()
    }
  hugging_face_weights.write_safetensors(
    os.path.join(folder, hugging_face_weights.WEIGHTS_FILE),
    converted | dict(head_weights),
  )
  config = {
    'architectures': [class_name],
    **hugging_face_weights.config_of(
      loaded.model_config, loaded.vocabulary.pad_id
    ),
    **settings,
  }
  files.write_json(
    os.path.join(folder, hugging_face_weights.CONFIG_FILE), config
  )
  _write_tokenizer(loaded, folder)


def _write_tokenizer(loaded, folder):
  """Writes what transformers' tokeniser reads.

  It takes control characters and the length of words from tokenizer.json
  alone, and only if no class is named.
  """
  vocabulary = loaded.vocabulary
  _write_text(
    folder,
    tokenizer_files.VOCABULARY_FILE,
    ''.join(f'{token}\n' for token in vocabulary.tokens),
  )
  config = tokenizer_files.as_config(vocabulary.settings)
  if config != tokenizer_files.as_config(
    dataclasses.replace(
      vocabulary.settings, clean_text=True, max_word_length=100
    )
  ):
    config['tokenizer_class'] = 'PreTrainedTokenizerFast'
    _write_text(
      folder,
      tokenizer_files.TOKENIZER_FILE,
      tokenizer_files.as_tokenizer_json(vocabulary.tokens, vocabulary.settings),
    )
  files.write_json(
    os.path.join(folder, tokenizer_files.CONFIG_FILE),
    {
      **config,
      'model_max_length': loaded.model_config.max_position_embeddings,
      'pad_token': vocabulary_lib.PAD,
      'unk_token': vocabulary_lib.UNK,
      'cls_token': vocabulary_lib.CLS,
      'sep_token': vocabulary_lib.SEP,
      'mask_token': vocabulary_lib.MASK,
    },
  )


def _head_weights(loaded) -> dict[str, np.ndarray]:
  """Returns the weights of a fine-tuned head; their kernels are [out, in]."""
  if loaded.kind in _HAS_POOLER:
    kernel, bias = _part(loaded, 'classifier').out_proj.get_weights()
    name = 'classifier'
  elif loaded.kind == load_model.QUESTION_ANSWERING:
    kernel, bias = _part(loaded, 'span_labeling').get_weights()
    name = 'qa_outputs'
  else:
    return {}
  return {
    f'{name}.weight': np.ascontiguousarray(kernel.T),
    f'{name}.bias': bias,
  }


def _part(loaded, name):
  """Returns a head of the Model Garden's model within the loaded one."""
  for model in (loaded.model, *loaded.model.layers):
    if hasattr(model, name):
      return getattr(model, name)
  raise TypeError(f'{type(loaded.model).__name__} has no {name}.')


def _decoder_config(loaded) -> dict[str, object]:
  """Returns what makes transformers' BERT see earlier positions alone."""
  return {'is_decoder': True} if loaded.kind == load_model.GENERATION else {}


def _head_config(loaded) -> dict[str, object]:
  dropout = loaded.model_config.dropout_rate
  if loaded.kind == load_model.REGRESSION:
    return {
      'problem_type': 'regression',
      'id2label': {'0': 'LABEL_0'},
      'label2id': {'LABEL_0': 0},
      'classifier_dropout': dropout,
    }
  if loaded.kind == load_model.CLASSIFICATION:
    names = loaded.label_names
    return {
      'problem_type': 'single_label_classification',
      'id2label': {str(index): name for index, name in enumerate(names)},
      'label2id': {name: index for index, name in enumerate(names)},
      'classifier_dropout': dropout,
    }
  return _decoder_config(loaded)


def _model_card(loaded) -> str:
  model, class_name = loaded.model_config, CLASSES[loaded.kind]
  activation = hugging_face_weights.ACTIVATION_NAMES[model.hidden_activation]
  return f"""---
library_name: transformers
pipeline_tag: {_PIPELINES[loaded.kind]}
tags:
- bert
- token-dropping
---

# BERT, {model.num_layers} layers of {model.hidden_size}

{_origin(loaded)} It is an ordinary BERT, used on full sequences: nothing is
dropped in it.

    from transformers import AutoTokenizer, {class_name}

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = {class_name}.from_pretrained(folder)

The encoder alone, with its pooler:

    from transformers import BertModel

    encoder = BertModel.from_pretrained(folder + '/encoder')

| | |
|---|---|
| layers | {model.num_layers} |
| hidden size | {model.hidden_size} |
| attention heads | {model.num_attention_heads} |
| vocabulary | {loaded.vocabulary.size} tokens, {_casing(loaded)} |
| longest sequence | {model.max_position_embeddings}; trained on up to \
{loaded.seq_length} |
| activation | {activation} |
{_about_labels(loaded)}
Weights are float32. Not stated here, and to be added by whoever publishes it:
training data, intended use, licence.
"""


_PRETRAINED_BY = {
  load_model.PRETRAINING: 'masked-language modelling',
  load_model.GENERATION: 'predicting the next token',
}


def _origin(loaded):
  how = _PRETRAINED_BY.get(loaded.kind)
  if how is None:
    return f'A BERT fine-tuned for {loaded.kind.replace("_", " ")}.'
  task = loaded.params.task
  configured = dropping.Dropping.of(task)
  if not configured.drops:
    return f'A BERT pretrained by {how}.'
  return (
    f'A BERT pretrained by {how} with token dropping '
    f'(arXiv 2203.13240; policy {task.token_drop.policy}, '
    f'{configured.describe_kept()} in the middle layers). '
    f'{configured.head_note}'
  ).strip()


def _casing(loaded):
  return 'lower-cased' if loaded.vocabulary.lower_case else 'cased'


def _about_labels(loaded):
  names = loaded.label_names
  return f'| labels | {", ".join(names)} |\n' if names else ''


def _write_text(folder, name, text):
  files.write_whole_file(os.path.join(folder, name), text)
