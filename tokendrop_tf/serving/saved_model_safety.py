"""Refuses SavedModels that would do more than compute.

A SavedModel is a program: TensorFlow has operations that read and write files,
run Python and talk to other machines. Before anything is loaded, every
operation must be one that is known to compute:

* those without a state, as TensorFlow's registry has it, less the few that
  reach out of the model all the same;
* of those with a state, the ones that are named below;
* operations that save and restore, in the functions that the saver calls and
  nothing else does;
* tables that are filled from a file, if the file can only be an asset.

It is a check against what somebody else has put into a model, not a sandbox:
serve models from those you trust.
"""

import functools
import os

import tensorflow as tf

# Registers the text operations, which SavedModels of BERT hold.
import tensorflow_text  # noqa: F401
from google.protobuf import message as protobuf_message
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from tokendrop_tf import errors

# Operations with a state: what our exports and published BERTs need of them.
_STATEFUL = frozenset(
  (
    # Variables.
    *('AssignAddVariableOp', 'AssignSubVariableOp', 'AssignVariableOp'),
    *('DestroyResourceOp', 'DisableCopyOnRead', 'ReadVariableOp'),
    *('ResourceGather', 'ResourceGatherNd', 'ResourceScatterAdd'),
    *('ResourceScatterUpdate', 'VarHandleOp', 'VarIsInitializedOp'),
    'VariableShape',
    # Tables.
    *('AnonymousHashTable', 'AnonymousMutableDenseHashTable'),
    *('AnonymousMutableHashTable', 'AnonymousMutableHashTableOfTensors'),
    *('HashTableV2', 'InitializeTableV2', 'LookupTableExportV2'),
    *('LookupTableFindV2', 'LookupTableImportV2', 'LookupTableInsertV2'),
    *('LookupTableRemoveV2', 'LookupTableSizeV2', 'MutableDenseHashTableV2'),
    *('MutableHashTableOfTensorsV2', 'MutableHashTableV2'),
    # Text.
    *('SentencepieceDetokenizeOp', 'SentencepieceIdToStringOp'),
    *('SentencepieceOp', 'SentencepieceStringToIdOp'),
    *('SentencepieceTokenizeOp', 'SentencepieceTokenizeWithOffsetsOp'),
    *('SentencepieceVocabSizeOp', 'WordpieceTokenizeWithOffsets'),
    # Functions, control flow and checks.
    *('Assert', 'Case', 'CheckNumerics', 'CheckNumericsV2', 'If'),
    *('StatefulPartitionedCall', 'While'),
    # Random numbers.
    *('Multinomial', 'ParameterizedTruncatedNormal', 'RandomGamma'),
    *('RandomPoissonV2', 'RandomShuffle', 'RandomStandardNormal'),
    *('RandomUniform', 'RandomUniformInt', 'RngReadAndSkip', 'RngSkip'),
    *('StatefulStandardNormalV2', 'StatefulTruncatedNormal'),
    *('StatefulUniform', 'StatefulUniformFullInt', 'StatefulUniformInt'),
    *('StatelessRandomGetAlg', 'TruncatedNormal'),
    # Lists.
    *('TensorArrayCloseV3', 'TensorArrayConcatV3', 'TensorArrayGatherV3'),
    *('TensorArrayReadV3', 'TensorArrayScatterV3', 'TensorArraySizeV3'),
    *('TensorArraySplitV3', 'TensorArrayV3', 'TensorArrayWriteV3'),
  )
)
# Without a state by TensorFlow's registry, and yet with files, Python, other
# programs or the end of the process.
_REACHING_OUT = frozenset(
  (
    *('Abort', 'Copy', 'CopyHost', 'GenerateVocabRemapping', 'ImmutableConst'),
    *('InitializeTableFromTextFile', 'MatchingFiles', 'ReadFile'),
    'SymbolicGradient',
  )
)
_REACHING_OUT_PARTS = (
  *('DTensor', 'Dataset', 'Debug', 'Infeed', 'Mlir', 'Proto', 'PyFunc'),
  *('Queue', 'Reader', 'TPU', 'Tpu', 'Xla'),
)
_SAVER_OPERATIONS = ('SaveV2', 'RestoreV2', 'MergeV2Checkpoints')
_TABLE_FROM_FILE = 'InitializeTableFromTextFileV2'
_FILE_NAME_INPUT = 1
# Operations that hand their inputs to a function as its arguments, in order.
_CALLS = ('PartitionedCall', 'StatefulPartitionedCall')


def check(folder: str) -> None:
  """Checks a SavedModel without loading it.

  Args:
    folder: where its `saved_model.pb` lies.

  Raises:
    errors.ConfigurationError: if it is not one, or has an operation that may
      reach beyond it, or an asset outside its folder.

  Example:
    check('exports/base/1')
    model = tf.saved_model.load('exports/base/1')
  """
  meta_graphs = _read(folder).meta_graphs
  # What TensorFlow loads otherwise, it runs parts of by other rules.
  if len(meta_graphs) != 1 or not meta_graphs[0].HasField('object_graph_def'):
    raise errors.ConfigurationError(
      'A model must be a complete SavedModel of TensorFlow 2. Received: '
      f'{folder}, which has not one graph with its objects. Export the model '
      'with tools/export.py.'
    )
  for asset in meta_graphs[0].asset_file_def:
    _check_asset(asset.filename, folder)
  program = _Program(meta_graphs[0])
  for place, node in program.nodes():
    objection = program.objection(place, node)
    if objection is not None:
      raise errors.ConfigurationError(
        'A model must compute, and neither read nor write files nor run '
        f'Python. Received: {folder}, whose {place or "graph"} has the '
        f'operation {node.op}{objection}. Export the model with '
        'tools/export.py.'
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


class _Program:
  """The graph and the functions of a model, and who calls whom.

  A place is the name of a function; '' is the graph itself.

  Args:
    meta_graph: the MetaGraphDef.
  """

  def __init__(self, meta_graph):
    self._graph = meta_graph.graph_def
    self._objects = meta_graph.object_graph_def
    self._saver = meta_graph.saver_def
    self._functions = {
      function.signature.name: function
      for function in self._graph.library.function
    }
    self._uses = self._find_uses()
    self._saver_functions = self._find_saver_functions()

  def nodes(self):
    """Yields (place, node)."""
    for node in self._graph.node:
      yield '', node
    for name, function in self._functions.items():
      for node in function.node_def:
        yield name, node

  def objection(self, place, node) -> str | None:
    """Returns what is wrong with a node, as the end of a message, or `None`."""
    if node.op in _SAVER_OPERATIONS:
      is_saver = place in self._saver_functions
      return None if is_saver else ' outside of saving and restoring'
    if node.op == _TABLE_FROM_FILE:
      try:
        is_asset = self._is_asset(place, node.input[_FILE_NAME_INPUT])
      except IndexError:  # Fewer inputs than it must have.
        is_asset = False
      return None if is_asset else ' with a file that is not an asset of it'
    if _is_registered(node.op):
      return None if _computes(node.op) else ''
    is_call = node.op in self._functions
    return None if is_call else ', which is unknown here'

  def _find_uses(self):
    """Returns {function: [(place, node)]} of the nodes that name it."""
    uses = {name: [] for name in self._functions}
    for place, node in self.nodes():
      for name in _functions_of(node):
        if name in uses:
          uses[name].append((place, node))
    return uses

  def _find_saver_functions(self):
    saver_nodes = {
      self._saver.save_tensor_name.split(':')[0],
      self._saver.restore_op_name,
    }
    roots = {True: set(), False: self._functions_of_objects()}
    for node in self._graph.node:
      roots[node.name in saver_nodes].update(_functions_of(node))
    found = self._reachable(roots[True]) - self._reachable(roots[False])
    # TensorFlow may call one function of such a name for another.
    return {n for n in found if 'api_implements' not in self._functions[n].attr}

  def _functions_of_objects(self):
    """Returns the functions that a loaded model offers, or may call."""
    names = set(self._objects.concrete_functions)
    for item in self._objects.nodes:
      names.add(item.bare_concrete_function.concrete_function_name)
      names.update(item.function.concrete_functions)
    library = self._graph.library
    names.update(gradient.gradient_func for gradient in library.gradient)
    names.update(g.gradient_func for g in library.registered_gradients)
    return names

  def _reachable(self, names):
    found, left = set(), set(names)
    while left:
      name = left.pop()
      if name in found or name not in self._functions:
        continue
      found.add(name)
      for node in self._functions[name].node_def:
        left.update(_functions_of(node))
    return found

  def _is_asset(self, place, tensor, seen=()) -> bool:
    """Whether a tensor can only be the path of an asset of the model."""
    if not place or place in seen:
      return False
    name = tensor.split(':')[0]
    arguments = [a.name for a in self._functions[place].signature.input_arg]
    if name not in arguments:
      return False
    index = arguments.index(name)
    # Nothing of the graph itself is run here: it is for servers without Python.
    callers = [(p, node) for p, node in self._uses[place] if p]
    return self._binds_asset(place, index - len(arguments)) and all(
      node.op in _CALLS
      and self._is_asset(caller, node.input[index], (*seen, place))
      for caller, node in callers
    )

  def _binds_asset(self, name, index_from_end) -> bool:
    """Whether the model's objects call a function with an asset, if at all."""
    if name not in self._functions_of_objects():
      return True
    # Captures are the last arguments. What is none, the caller gives.
    captures = self._objects.concrete_functions[name].bound_inputs
    if -index_from_end > len(captures):
      return False
    return self._objects.nodes[captures[index_from_end]].HasField('asset')


def _functions_of(node):
  """Returns the names of the functions that a node may call."""
  names = [node.op]
  for value in node.attr.values():
    names += [function.name for function in (value.func, *value.list.func)]
  return names


def _is_registered(operation) -> bool:
  return op_def_registry.get(operation) is not None


@functools.cache
def _computes(operation) -> bool:
  """Whether a registered operation is known to do no more."""
  if op_def_registry.get(operation).is_stateful:
    return operation in _STATEFUL
  return not (
    operation in _REACHING_OUT
    or operation.startswith('_')  # TensorFlow's own, in no SavedModel.
    or any(part in operation for part in _REACHING_OUT_PARTS)
  )
