"""A checkpoint for the Model Garden's own fine-tuning experiments.

`bert/sentence_prediction` and `bert/squad` take the folder, or the prefix in
it, as `task.init_checkpoint`, and `encoder.yaml` as `--config_file`.
"""

import json
import os

import tensorflow as tf
import yaml
from official.nlp.configs import encoders

from tokendrop_tf import files
from tokendrop_tf.config import configs
from tokendrop_tf.export import load_model, variable_tree
from tokendrop_tf.weights import hugging_face_weights, starting_point

PREFIX = 'bert_model.ckpt'
ENCODER_FILE = 'encoder.yaml'


def write_checkpoint(loaded: load_model.LoadedModel, folder: str) -> None:
  """Writes weights and the sizes that the Model Garden has to be told.

  Args:
    loaded: the trained model.
    folder: an existing folder.
  """
  root = tf.train.Checkpoint()
  variables = variable_tree.exported_variables(loaded)
  variable_tree.add_tree(root, variables)
  if loaded.masked_lm is not None:
    # Under this name too, as the Model Garden's head tracks it.
    root.masked_lm.embedding_table = variables[
      'encoder/_embedding_layer/embeddings'
    ]
  for name, item in _head_items(loaded).items():
    setattr(root, name, item)
  root.write(os.path.join(folder, PREFIX))
  # What `tf.train.latest_checkpoint(folder)` reads; relative, so it can move.
  _write(
    folder,
    'checkpoint',
    f'model_checkpoint_path: "{PREFIX}"\n'
    f'all_model_checkpoint_paths: "{PREFIX}"\n',
  )
  _write(folder, ENCODER_FILE, _stock_section(loaded.model_config))
  _write(
    folder, starting_point.BERT_CONFIG_FILE, _bert_config(loaded.model_config)
  )


def _head_items(loaded):
  """Returns what `init_cls_pooler` of the stock task looks for."""
  items = dict(getattr(loaded.model, 'checkpoint_items', {}))
  return {
    name: item
    for name, item in items.items()
    if name not in ('encoder', 'masked_lm')
  }


def _write(folder, name, text):
  files.write_whole_file(os.path.join(folder, name), text)


def stock_encoder_config(
  model: configs.ModelConfig,
) -> encoders.BertEncoderConfig:
  """Returns the Model Garden's own configuration of the same encoder.

  Example:
    encoders.build_encoder(
      encoders.EncoderConfig(type='bert', bert=stock_encoder_config(model))
    )
  """
  names = encoders.BertEncoderConfig().as_dict()
  settings = model.as_dict()
  return encoders.BertEncoderConfig(**{name: settings[name] for name in names})


def _stock_section(model):
  encoder = {'type': 'bert', 'bert': stock_encoder_config(model).as_dict()}
  return yaml.safe_dump({'task': {'model': {'encoder': encoder}}})


def _bert_config(model):
  """Returns the settings as published BERT checkpoints state them."""
  config = {
    theirs: getattr(model, ours)
    for ours, theirs in hugging_face_weights.CONFIG_NAMES.items()
  }
  if model.embedding_size:
    config['embedding_size'] = model.embedding_size
  return json.dumps(config, indent=2) + '\n'
