"""Refuses SavedModels that would do more than compute.

A SavedModel is a program: TensorFlow has operations that read and write files
and run Python. Those that a BERT never needs are looked for before anything is
loaded. It is a check against what somebody else has put into a model, not a
sandbox: serve models from those you trust.
"""

import os

import tensorflow as tf
from google.protobuf import message as protobuf_message
from tensorflow.core.protobuf import saved_model_pb2

from tokendrop_tf import errors

# Files, Python, and the network.
_FORBIDDEN_PARTS = (
  'ReadFile',
  'WriteFile',
  'MatchingFiles',
  'PyFunc',
  'LineDataset',
  'RecordDataset',
  'RecordReader',
  'LineReader',
  'FileReader',
  'SaveDataset',
  'LoadDataset',
  'Snapshot',
  'CacheDataset',
  'ReaderRead',
  'PrintV2',
  'SummaryWriter',
  'SummaryFile',
  'SummaryDb',
  'LibraryLoader',
  'DataService',
  'RpcClient',
  'RpcServer',
  'BigQuery',
  'Bigtable',
)
# Of every SavedModel, but in its saving and restoring functions only.
_SAVER_OPERATIONS = ('SaveV2', 'RestoreV2', 'MergeV2Checkpoints', 'Save')
_SAVER_FUNCTIONS = ('__inference__traced_save', '__inference__traced_restore')


def check(folder: str) -> None:
  """Checks a SavedModel without loading it.

  Args:
    folder: where its `saved_model.pb` lies.

  Raises:
    errors.ConfigurationError: if it is none, or has an operation that reaches
      beyond it, or an asset outside its folder.

  Example:
    check('exports/base/1')
    model = tf.saved_model.load('exports/base/1')
  """
  for meta_graph in _read(folder).meta_graphs:
    for asset in meta_graph.asset_file_def:
      _check_asset(asset.filename, folder)
    for place, operation in _operations(meta_graph.graph_def):
      if _is_forbidden(place, operation):
        raise errors.ConfigurationError(
          'A model must compute, and neither read nor write files nor run '
          f'Python. Received: {folder}, whose {place or "graph"} has the '
          f'operation {operation}. Export the model with tools/export.py.'
        )


def _read(folder):
  path = os.path.join(folder, 'saved_model.pb')
  model = saved_model_pb2.SavedModel()
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      model.ParseFromString(file.read())
  except (protobuf_message.DecodeError, tf.errors.OpError) as error:
    raise errors.ConfigurationError(
      f'A model must be a complete SavedModel. Received: {path}: {error}. '
      'Export it again with tools/export.py.'
    ) from error
  return model


def _check_asset(name, folder):
  if os.path.basename(name) != name or name in ('', '.', '..'):
    raise errors.ConfigurationError(
      "A model's assets must lie in its own folder. Received: "
      f'{name!r} in {folder}. Export the model with tools/export.py.'
    )


def _operations(graph):
  """Yields (name of the function, operation); '' is the graph itself."""
  for node in graph.node:
    yield '', node.op
  for function in graph.library.function:
    for node in function.node_def:
      yield function.signature.name, node.op


def _is_forbidden(place, operation):
  if operation in _SAVER_OPERATIONS:
    return bool(place) and not place.startswith(_SAVER_FUNCTIONS)
  return any(part in operation for part in _FORBIDDEN_PARTS)
