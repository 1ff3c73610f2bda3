"""Files that somebody else has made cannot run code or reach other files."""

import ast
import pathlib
import pickle
import struct

import numpy as np
import pytest
import tensorflow as tf

import tokendrop_tf
from tokendrop_tf import errors
from tokendrop_tf.run import checkpoints
from tokendrop_tf.serving import saved_model_safety, served_model
from tokendrop_tf.weights import load_weights, starting_point

PACKAGE = pathlib.Path(tokendrop_tf.__file__).parent
# What unpacks archives or runs what a file says.
FORBIDDEN_MODULES = {
  *('pickle', 'dill', 'joblib', 'marshal', 'shelve', 'cloudpickle', 'torch'),
  *('tarfile', 'zipfile'),
}
FORBIDDEN_CALLS = {
  *('eval', 'exec', 'yaml.load', 'yaml.full_load', 'yaml.unsafe_load'),
  *('yaml.load_all', 'os.system', 'os.popen', 'shutil.unpack_archive'),
  *('tf_keras.models.load_model', 'tf.keras.models.load_model'),
}


class Marker:
  """Unpickled, it would make a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return (open, (self.path, 'w'))


@pytest.mark.parametrize(
  'path', sorted(PACKAGE.rglob('*.py')), ids=lambda p: str(p.name)
)
def test_no_source_loads_what_can_run(path):
  found = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found += [name.name for name in node.names]
    elif isinstance(node, ast.ImportFrom):
      found.append(node.module or '')
    elif isinstance(node, ast.Call):
      found.append(f'{ast.unparse(node.func)}()')
      found += [
        f'{keyword.arg}=True'
        for keyword in node.keywords
        if isinstance(keyword.value, ast.Constant) and keyword.value.value
      ]
  modules = {name.split('.')[0] for name in found}
  assert not modules & FORBIDDEN_MODULES
  assert not set(found) & {f'{name}()' for name in FORBIDDEN_CALLS}
  assert not set(found) & {'allow_pickle=True', 'shell=True'}


class WritesAFile(tf.Module):
  def __init__(self, path):
    super().__init__()
    self.path = path

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
  def __call__(self, text):
    tf.io.write_file(self.path, 'written')
    return {'text': text}


def save(module, folder):
  tf.saved_model.save(
    module, str(folder), signatures={'serving_default': module.__call__}
  )


def load(folder):
  return served_model.ServedModel(
    served_model.ModelFolder('model', 1, str(folder))
  )


def test_a_model_that_writes_files_is_refused_before_it_runs(tmp_path):
  save(WritesAFile(str(tmp_path / 'written')), tmp_path / 'model')
  with pytest.raises(errors.ConfigurationError, match='WriteFile') as caught:
    load(tmp_path / 'model')
  assert 'neither read nor write files' in str(caught.value)
  assert not (tmp_path / 'written').exists()


class RunsPython(tf.Module):
  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
  def __call__(self, numbers):
    return {'out': tf.numpy_function(np.sin, [numbers], tf.float32)}


def test_a_model_that_runs_python_is_refused(tmp_path):
  save(RunsPython(), tmp_path)
  with pytest.raises(errors.ConfigurationError, match='PyFunc'):
    saved_model_safety.check(str(tmp_path))


class ReachesOut(tf.Module):
  """Answers with what `reach_out` returns, string [B] for text [B]."""

  def __init__(self, reach_out):
    super().__init__()
    self.reach_out = reach_out

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, 'text')])
  def __call__(self, text):
    return {'out': self.reach_out(text)}


def save_somewhere(text):
  raw = tf.raw_ops.SaveV2(
    prefix='anywhere',
    tensor_names=['a'],
    shape_and_slices=[''],
    tensors=[text],
  )
  with tf.control_dependencies([raw]):
    return tf.identity(text)


@tf.function
def _traced_save(text):
  """Bears the name that TensorFlow gives the saver's own function."""
  return save_somewhere(text)


def look_up_in(file_name, text):
  table = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.string)
  filled = tf.raw_ops.InitializeTableFromTextFileV2(
    table_handle=table, filename=file_name, key_index=-1, value_index=-2
  )
  with tf.control_dependencies([filled]):
    return tf.raw_ops.LookupTableFindV2(
      table_handle=table,
      keys=tf.zeros_like(text, tf.int64),
      default_value='',
    )


def with_effect(effect, text):
  with tf.control_dependencies([effect()]):
    return tf.identity(text)


REACHING_OUT = {
  'SaveV2 outside of saving': save_somewhere,
  'SaveV2 outside of saving and restoring': _traced_save,
  'InitializeTableFromTextFileV2 with a file': lambda text: look_up_in(
    '/etc/passwd', text
  ),
  'with a file that is not an asset': lambda text: look_up_in(text[0], text),
  'ImmutableConst': lambda text: tf.raw_ops.ImmutableConst(
    dtype=tf.uint8, shape=[8], memory_region_name='/etc/passwd'
  ),
  'LoadAndRemapMatrix': lambda text: tf.raw_ops.LoadAndRemapMatrix(
    ckpt_path='a',
    old_tensor_name='a',
    row_remapping=[0],
    col_remapping=[0],
    initializing_values=[0.0],
    num_rows=1,
    num_cols=1,
  ),
  'Dataset': lambda text: tf.cast(
    tf.data.TextLineDataset('/etc/passwd').reduce(0, lambda n, _: n + 1),
    tf.int32,
  ),
  'PrintV2': lambda text: with_effect(lambda: tf.print(text), text),
  'Abort': lambda text: with_effect(
    lambda: tf.raw_ops.Abort(error_msg='', exit_without_error=True), text
  ),
  'MatchingFiles': lambda text: tf.raw_ops.MatchingFiles(pattern='/*'),
  'PyFuncStateless': lambda text: tf.numpy_function(
    np.sort, [text], tf.string, stateful=False
  ),
  'RestoreV2': lambda text: tf.raw_ops.RestoreV2(
    prefix='a', tensor_names=['a'], shape_and_slices=[''], dtypes=[tf.string]
  )[0],
}


@pytest.mark.parametrize('found', REACHING_OUT)
def test_a_model_that_reaches_out_is_refused(tmp_path, found):
  save(ReachesOut(REACHING_OUT[found]), tmp_path)
  with pytest.raises(errors.ConfigurationError, match=found) as caught:
    load(tmp_path)
  assert 'neither read nor write files' in str(caught.value)


def edit(folder, change):
  """Lets `change` edit the only MetaGraphDef of a SavedModel."""
  model = saved_model_safety._read(str(folder))
  change(model.meta_graphs[0])
  path = pathlib.Path(folder) / 'saved_model.pb'
  path.write_bytes(model.SerializeToString())


def test_a_second_graph_is_refused(tmp_path):
  """TensorFlow may load another one than the one that is checked."""
  save(ReachesOut(tf.identity), tmp_path)
  saved_model_safety.check(str(tmp_path))
  path = tmp_path / 'saved_model.pb'
  model = saved_model_safety._read(str(tmp_path))
  model.meta_graphs.add().CopyFrom(model.meta_graphs[0])
  path.write_bytes(model.SerializeToString())
  with pytest.raises(errors.ConfigurationError, match='not one graph'):
    load(tmp_path)


def test_saving_is_not_allowed_to_what_a_signature_calls_too(tmp_path):
  def let_the_saver_call_it(meta_graph):
    [name] = (
      function.signature.name
      for function in meta_graph.graph_def.library.function
      if any('anywhere' in str(node.attr) for node in function.node_def)
    )
    [saver] = (
      node
      for node in meta_graph.graph_def.node
      if node.name == meta_graph.saver_def.restore_op_name
    )
    saver.attr['also'].func.name = name

  save(ReachesOut(save_somewhere), tmp_path)
  edit(tmp_path, let_the_saver_call_it)
  with pytest.raises(errors.ConfigurationError, match='SaveV2 outside'):
    saved_model_safety.check(str(tmp_path))


def test_a_function_that_stands_for_the_savers_is_refused(tmp_path):
  def rename(meta_graph):
    for function in meta_graph.graph_def.library.function:
      if 'traced_save' in function.signature.name:
        function.attr['api_implements'].s = b'any'

  save(ReachesOut(tf.strings.lower), tmp_path)
  saved_model_safety.check(str(tmp_path))
  edit(tmp_path, rename)
  with pytest.raises(errors.ConfigurationError, match='V2 outside'):
    saved_model_safety.check(str(tmp_path))


class LooksUp(tf.Module):
  """Has a table that is filled from an asset, and a constant string."""

  def __init__(self, path):
    super().__init__()
    self.table = tf.lookup.StaticVocabularyTable(
      tf.lookup.TextFileInitializer(
        path,
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
      ),
      num_oov_buckets=1,
    )
    self.constant = tf.constant('/etc/passwd')

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, 'text')])
  def __call__(self, text):
    return {'out': self.table.lookup(text + self.constant)}


def test_a_table_is_filled_from_an_asset_only(tmp_path):
  def capture_the_constant(meta_graph):
    objects = meta_graph.object_graph_def
    constant = next(
      number
      for number, node in enumerate(objects.nodes)
      if node.HasField('constant')
    )
    [initializer] = (
      function
      for name, function in objects.concrete_functions.items()
      if 'initializer' in name
    )
    asset = [
      objects.nodes[n].HasField('asset') for n in initializer.bound_inputs
    ]
    initializer.bound_inputs[asset.index(True)] = constant

  vocabulary = tmp_path / 'vocab.txt'
  vocabulary.write_text('a\n')
  save(LooksUp(str(vocabulary)), tmp_path / 'model')
  saved_model_safety.check(str(tmp_path / 'model'))
  edit(tmp_path / 'model', capture_the_constant)
  with pytest.raises(errors.ConfigurationError, match='not an asset of it'):
    saved_model_safety.check(str(tmp_path / 'model'))


def test_an_unknown_operation_is_refused(tmp_path):
  def rename(meta_graph):
    for function in meta_graph.graph_def.library.function:
      for node in function.node_def:
        node.op = node.op.replace('StringLower', 'NoSuchOperation')

  save(ReachesOut(tf.strings.lower), tmp_path)
  edit(tmp_path, rename)
  with pytest.raises(errors.ConfigurationError, match='NoSuchOperation, which'):
    saved_model_safety.check(str(tmp_path))


def test_a_model_of_tensorflow_1_is_refused(tmp_path):
  save(ReachesOut(tf.strings.lower), tmp_path)
  edit(tmp_path, lambda meta_graph: meta_graph.ClearField('object_graph_def'))
  with pytest.raises(errors.ConfigurationError, match='of TensorFlow 2'):
    saved_model_safety.check(str(tmp_path))


def test_no_operation_that_takes_a_file_counts_as_computing():
  words = {'file', 'files', 'filename', 'filenames', 'path', 'url', 'urls'}
  words |= {'address', 'directory', 'prefix', 'prefixes', 'region', 'module'}
  taking_files = []
  for name in dir(tf.raw_ops):
    definition = saved_model_safety.op_def_registry.get(name)
    if definition is None:
      continue
    arguments = (*definition.input_arg, *definition.attr)
    if any(words & set(a.name.lower().split('_')) for a in arguments):
      taking_files.append(name)
  assert {'ReadFile', 'ImmutableConst', 'SaveV2'} < set(taking_files)
  assert not [n for n in taking_files if saved_model_safety._computes(n)]


@pytest.mark.parametrize('name', ['../outside.txt', '/etc/hostname', '..'])
def test_an_asset_outside_the_folder_is_refused(tmp_path, name):
  vocabulary = tmp_path / 'vocab.txt'
  vocabulary.write_text('a\n')
  module = tf.Module()
  module.asset = tf.saved_model.Asset(str(vocabulary))
  tf.saved_model.save(module, str(tmp_path / 'model'))
  saved_model_safety.check(str(tmp_path / 'model'))

  def rename(meta_graph):
    meta_graph.asset_file_def[0].filename = name

  edit(tmp_path / 'model', rename)
  with pytest.raises(errors.ConfigurationError, match='own folder') as caught:
    saved_model_safety.check(str(tmp_path / 'model'))
  assert repr(name) in str(caught.value)


@pytest.mark.parametrize('content', [b'', b'\xff' * 50])
def test_what_is_no_model_is_refused(tmp_path, content):
  (tmp_path / 'saved_model.pb').write_bytes(content)
  with pytest.raises(errors.ConfigurationError, match='complete SavedModel'):
    load(tmp_path)


def safetensors(header: bytes, data=b'') -> bytes:
  return struct.pack('<Q', len(header)) + header + data


@pytest.mark.parametrize(
  'content',
  [
    b'',
    struct.pack('<Q', 2**62) + b'{}',  # A header larger than any memory.
    safetensors(b'{"a"'),
    safetensors(
      b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'
    ),
    safetensors(
      b'{"a": {"dtype": "F32", "shape": [9999], "data_offsets": [0, 4]}}',
      bytes(4),
    ),
    pickle.dumps({'a': 1}),
  ],
  ids=['empty', 'huge', 'cut', 'beyond the end', 'false shape', 'a pickle'],
)
def test_a_damaged_or_hostile_safetensors_file_is_refused(tmp_path, content):
  (tmp_path / 'config.json').write_text(
    '{"model_type": "bert", "vocab_size": 8, "hidden_size": 4,'
    ' "num_hidden_layers": 1, "num_attention_heads": 1,'
    ' "intermediate_size": 8, "hidden_act": "gelu",'
    ' "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,'
    ' "max_position_embeddings": 8, "type_vocab_size": 2,'
    ' "initializer_range": 0.02}'
  )
  (tmp_path / 'model.safetensors').write_bytes(content)
  with pytest.raises(errors.ConfigurationError, match='safetensors') as caught:
    load_weights.read_weights(starting_point.describe(str(tmp_path)))
  assert 'model.safetensors' in str(caught.value)


def test_pickled_weights_are_not_even_opened(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  (tmp_path / 'pytorch_model.bin').write_bytes(
    pickle.dumps(Marker(tmp_path / 'run'))
  )
  with pytest.raises(errors.ConfigurationError):
    load_weights.read_weights(starting_point.describe(str(tmp_path)))
  assert not (tmp_path / 'run').exists()


def test_a_checkpoint_of_another_folder_is_not_followed(tmp_path):
  outside, folder = tmp_path / 'outside', tmp_path / 'folder'
  folder.mkdir()
  path = tf.train.Checkpoint(a=tf.Variable(1.0)).write(str(outside / 'ckpt-1'))
  (folder / 'checkpoint').write_text(f'model_checkpoint_path: "{path}"\n')
  with pytest.raises(errors.ConfigurationError, match='its own folder'):
    starting_point.describe(str(folder))
  assert checkpoints.prefixes(str(folder)) == []
