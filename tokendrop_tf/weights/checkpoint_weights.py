"""Weights in a TensorFlow checkpoint, found by the names of attributes.

A checkpoint stores a graph of objects whose edges are attribute names
(`TrackableObjectGraph`). Our encoder, the Model Garden's `BertEncoderV2` and
its functional `BertEncoder` name their attributes alike, so a weight is named
here by its path of attributes: 'encoder/_pooler_layer/kernel'.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

ENCODER = 'encoder'
MASKED_LM = 'masked_lm'

_GRAPH_KEY = '_CHECKPOINTABLE_OBJECT_GRAPH'
_VALUE = 'VARIABLE_VALUE'
_LAYERS = '_transformer_layers'
# Where an encoder lies below the root: in checkpoints of training runs and
# encoder exports, of whole models, and of the encoders published first.
_ENCODER_ROOTS = (
  ('encoder',),
  ('model', 'encoder_network'),
  ('model', '_network'),
  ('encoder_network',),
  ('_network',),
  ('model', 'encoder'),
  ('model',),
  (),
)
_MASKED_LM_ROOTS = (('masked_lm',), ('model', 'masked_lm'))


def named_variables(root, prefix: str) -> dict[str, tf.Variable]:
  """Returns the variables of `root` by their paths of attributes.

  Args:
    root: a layer or model whose variables exist.
    prefix: first part of every name.

  Returns:
    Every variable once, under the first of its names.

  Example:
    named_variables(encoder, 'encoder')['encoder/_pooler_layer/bias']
  """
  found, seen = {}, set()
  view = tf.train.TrackableView(root)

  def visit(item, path):
    if id(item) in seen:
      return
    seen.add(id(item))
    if isinstance(item, tf.Variable):
      found[path] = item
      return
    for name, child in view.children(item).items():
      # Keras also tracks a weight under its name, where that has a slash.
      if '/' not in name:
        visit(child, f'{path}/{name}')

  visit(root, prefix)
  return found


class CheckpointWeights(Mapping):
  """Weights of a checkpoint by their paths of attributes; read when asked for.

  Keys begin with 'encoder/', 'masked_lm/', or the name of an object below the
  checkpoint's root, such as 'next_sentence.pooler_dense/'. Values are arrays
  with the dtype of the checkpoint.

  Example:
    weights = CheckpointWeights('runs/dropping/ckpt-1000')
    weights['encoder/_pooler_layer/bias']  # float32 [H]
    weights.shape('masked_lm/bias')  # (V,)

  Args:
    path: prefix of the checkpoint's files.

  Raises:
    ValueError: if the checkpoint has no graph of objects (it was written by
      TensorFlow 1), or no BERT encoder.
  """

  def __init__(self, path: str):
    self._reader = tf.train.load_checkpoint(path)
    if not self._reader.has_tensor(_GRAPH_KEY):
      raise ValueError('it is in the format of TensorFlow 1')
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
      self._reader.get_tensor(_GRAPH_KEY)
    )
    self._nodes = graph.nodes
    self._roots = {
      ENCODER: self._first_root(_ENCODER_ROOTS, _LAYERS),
      MASKED_LM: self._first_root(_MASKED_LM_ROOTS, 'dense'),
    }
    if self._roots[ENCODER] is None:
      raise ValueError('it holds no BERT encoder')

  @property
  def num_layers(self) -> int:
    """L, the number of transformer layers."""
    layers = self._follow(self._roots[ENCODER], [_LAYERS])
    return sum(
      child.local_name.isdecimal() for child in self._nodes[layers].children
    )

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a weight without reading it."""
    return tuple(self._reader.get_variable_to_shape_map()[self._key(name)])

  def __getitem__(self, name: str) -> np.ndarray:
    return self._reader.get_tensor(self._key(name))

  def __contains__(self, name) -> bool:
    return self._find(name) is not None

  def __iter__(self):
    """Yields the names below 'encoder' and 'masked_lm', aliases included."""
    for root in (ENCODER, MASKED_LM):
      if self._roots[root] is not None:
        yield from self._walk(self._roots[root], root, ())

  def __len__(self) -> int:
    return sum(1 for _ in self)

  def _walk(self, node, path, above):
    for attribute in self._nodes[node].attributes:
      if attribute.name == _VALUE:
        yield path
    for child in self._nodes[node].children:
      if child.node_id not in above and '/' not in child.local_name:
        yield from self._walk(
          child.node_id, f'{path}/{child.local_name}', (*above, node)
        )

  def _key(self, name):
    key = self._find(name)
    if key is None:
      raise KeyError(name)
    return key

  def _find(self, name):
    """Returns the checkpoint's own key of a weight, or `None`."""
    first, *rest = name.split('/')
    start = self._roots.get(first, self._follow(0, [first]))
    node = None if start is None else self._follow(start, rest)
    if node is None:
      return None
    for attribute in self._nodes[node].attributes:
      if attribute.name == _VALUE:
        return attribute.checkpoint_key
    return None

  def _first_root(self, roots: Sequence[tuple[str, ...]], child: str):
    for path in roots:
      node = self._follow(0, path)
      if node is not None and self._follow(node, [child]) is not None:
        return node
    return None

  def _follow(self, node, names):
    for name in names:
      children = {
        child.local_name: child.node_id for child in self._nodes[node].children
      }
      if name not in children:
        return None
      node = children[name]
    return node
