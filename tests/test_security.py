"""Files that somebody else has made cannot run code or reach other files."""

import ast
import pathlib
import pickle
import struct

import numpy as np
import pytest
import tensorflow as tf

import tokendrop_tf
from tokendrop_tf import checkpoints, errors, init_weights, saved_model_safety
from tokendrop_tf.serving import served_model

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


class SavesWhereItLikes(tf.Module):
  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
  def __call__(self, numbers):
    tf.raw_ops.SaveV2(
      prefix='anywhere',
      tensor_names=['a'],
      shape_and_slices=[''],
      tensors=[numbers],
    )
    return {'out': numbers}


def test_a_model_that_saves_by_itself_is_refused(tmp_path):
  save(SavesWhereItLikes(), tmp_path)
  with pytest.raises(errors.ConfigurationError, match='SaveV2'):
    saved_model_safety.check(str(tmp_path))


@pytest.mark.parametrize('name', ['../outside.txt', '/etc/hostname', '..'])
def test_an_asset_outside_the_folder_is_refused(tmp_path, name):
  vocabulary = tmp_path / 'vocab.txt'
  vocabulary.write_text('a\n')
  module = tf.Module()
  module.asset = tf.saved_model.Asset(str(vocabulary))
  tf.saved_model.save(module, str(tmp_path / 'model'))
  saved_model_safety.check(str(tmp_path / 'model'))
  path = tmp_path / 'model' / 'saved_model.pb'
  model = saved_model_safety._read(str(tmp_path / 'model'))
  model.meta_graphs[0].asset_file_def[0].filename = name
  path.write_bytes(model.SerializeToString())
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
    init_weights.read_weights(init_weights.describe(str(tmp_path)))
  assert 'model.safetensors' in str(caught.value)


def test_pickled_weights_are_not_even_opened(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  (tmp_path / 'pytorch_model.bin').write_bytes(
    pickle.dumps(Marker(tmp_path / 'run'))
  )
  with pytest.raises(errors.ConfigurationError):
    init_weights.read_weights(init_weights.describe(str(tmp_path)))
  assert not (tmp_path / 'run').exists()


def test_a_checkpoint_of_another_folder_is_not_followed(tmp_path):
  outside, folder = tmp_path / 'outside', tmp_path / 'folder'
  folder.mkdir()
  path = tf.train.Checkpoint(a=tf.Variable(1.0)).write(str(outside / 'ckpt-1'))
  (folder / 'checkpoint').write_text(f'model_checkpoint_path: "{path}"\n')
  with pytest.raises(errors.ConfigurationError, match='its own folder'):
    init_weights.describe(str(folder))
  assert checkpoints.prefixes(str(folder)) == []
