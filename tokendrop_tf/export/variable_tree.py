"""Weights under their paths of attributes, without the layers that own them.

Saving a Keras layer saves its functions, losses and configuration too; a tree
of plain objects saves the weights alone, under the names that the Model Garden
and `checkpoint_weights` look for.
"""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from tokendrop_tf.export import load_model
from tokendrop_tf.weights import checkpoint_weights

_TABLE = 'encoder/_token_importance/'
# Weights with a row for every token.
_OF_VOCABULARY = ('encoder/_embedding_layer/embeddings', 'masked_lm/bias')


def exported_variables(
  loaded: load_model.LoadedModel,
) -> dict[str, tf.Variable]:
  """Returns the weights of encoder and masked-LM head by name.

  The importance table belongs to training and is not exported. Of a model that
  states fewer rows for its vocabulary than it has, only so many are.
  """
  variables = checkpoint_weights.named_variables(loaded.encoder, 'encoder')
  if loaded.masked_lm is not None:
    table = loaded.encoder.get_embedding_table()
    head = checkpoint_weights.named_variables(loaded.masked_lm, 'masked_lm')
    variables |= {
      name: variable for name, variable in head.items() if variable is not table
    }
  num_rows = loaded.model_config.vocab_size
  for name in _OF_VOCABULARY:
    if name in variables and variables[name].shape[0] > num_rows:
      variables[name] = tf.Variable(variables[name][:num_rows])
  return {
    name: variable
    for name, variable in variables.items()
    if not name.startswith(_TABLE)
  }


def trim_vocabulary(loaded: load_model.LoadedModel) -> load_model.LoadedModel:
  """Returns a model that states no rows beyond those of its vocabulary."""
  return dataclasses.replace(
    loaded,
    model_config=dataclasses.replace(
      loaded.model_config, vocab_size=loaded.vocabulary.size
    ),
  )


def add_tree(root, variables: Mapping[str, tf.Variable]) -> None:
  """Gives `root` attributes such that every variable lies at its path.

  Args:
    root: a `tf.Module` or `tf.train.Checkpoint`.
    variables: by path of attributes.

  Example:
    root = tf.train.Checkpoint()
    add_tree(root, {'encoder/_pooler_layer/bias': bias})
    root.encoder._pooler_layer.bias is bias  # True
  """
  for path, variable in variables.items():
    *parents, name = path.split('/')
    node = root
    for parent in parents:
      if not hasattr(node, parent):
        setattr(node, parent, tf.train.Checkpoint())
      node = getattr(node, parent)
    setattr(node, name, variable)
