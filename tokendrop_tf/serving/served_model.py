"""A SavedModel ready to answer, and where SavedModels lie."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

# Registers the text operations, which the SavedModels hold.
import tensorflow_text  # noqa: F401
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from tokendrop_tf import errors
from tokendrop_tf.export import warm_up
from tokendrop_tf.run import run_folder
from tokendrop_tf.serving import saved_model_safety, status

DEFAULT_SIGNATURE = 'serving_default'
# The same weights again, for servers that do not know text operations.
_NOT_SERVED_UNASKED = ('ids',)
_SAVED_MODEL_FILE = 'saved_model.pb'

Arrays = dict[str, np.ndarray]
Request = warm_up.Request


@dataclasses.dataclass(frozen=True)
class ModelFolder:
  """The folder of one version of a model.

  Attributes:
    name: under which it is served.
    version: its number.
    path: folder of the SavedModel.
  """

  name: str
  version: int
  path: str


def find_models(model_dir: str, names: Sequence[str] = ()) -> list[ModelFolder]:
  """Finds the newest version of every model in a folder.

  Args:
    model_dir: an exported folder with NAME/VERSION/ inside, one NAME/ of it, or
      one NAME/VERSION/.
    names: which to take; none is all, without the copy `ids`.

  Raises:
    ConfigurationError: if there is no model, or none with a given name.

  Example:
    find_models('exports/base', ['fill_mask'])
  """
  found = _models_at(model_dir)
  if not found:
    raise errors.ConfigurationError(
      '--model_dir must be an exported folder, with NAME/VERSION/'
      f'{_SAVED_MODEL_FILE} inside. Received: {model_dir}, which has none. '
      'Write one with tools/export.py --format=saved_model.'
    )
  by_name = {model.name: model for model in found}
  if not names:
    several = len(found) > 1
    return [
      m for m in found if not several or m.name not in _NOT_SERVED_UNASKED
    ]
  unknown = [name for name in names if name not in by_name]
  if unknown:
    raise errors.ConfigurationError(
      f'Models must be among those of {model_dir}: {", ".join(by_name)}. '
      f'Received: {", ".join(unknown)}. Name others.'
    )
  return [by_name[name] for name in names]


def is_run(model_dir: str) -> bool:
  """Whether a folder is a training run rather than an exported folder."""
  return run_folder.has_configuration(model_dir) or not _models_at(model_dir)


def _models_at(path) -> list[ModelFolder]:
  # A bare number as the name would come of a relative path.
  path = os.path.abspath(path) if '://' not in path else path.rstrip('/')
  if _has_model(path):
    parent, version = os.path.split(path)
    if version.isdecimal():
      return [ModelFolder(os.path.basename(parent), int(version), path)]
    return [ModelFolder(version, 1, path)]
  newest = _newest_version(path)
  if newest:
    return [newest]
  models = [_newest_version(child) for child in _folders(path)]
  return [model for model in models if model]


def _newest_version(path) -> ModelFolder | None:
  versions = [
    (int(os.path.basename(child)), child)
    for child in _folders(path)
    if os.path.basename(child).isdecimal() and _has_model(child)
  ]
  if not versions:
    return None
  version, newest = max(versions)
  return ModelFolder(os.path.basename(path), version, newest)


def _folders(path) -> list[str]:
  if not tf.io.gfile.isdir(path):
    return []
  children = (
    os.path.join(path, name.rstrip('/'))
    for name in sorted(tf.io.gfile.listdir(path))
  )
  return [child for child in children if tf.io.gfile.isdir(child)]


def _has_model(path) -> bool:
  return tf.io.gfile.exists(os.path.join(path, _SAVED_MODEL_FILE))


class Signatures:
  """A model as named functions of arrays, loaded or live.

  Args:
    name: under which it is served.
    functions: concrete functions by signature name.
  """

  def __init__(
    self,
    name: str,
    functions: Mapping[str, tf.types.experimental.ConcreteFunction],
  ):
    self.name = name
    self._functions = dict(functions)

  def input_specs(self, signature: str) -> Mapping[str, tf.TensorSpec]:
    """Returns the inputs of a signature, '' being the default one.

    Raises:
      RequestError: 400, without such a signature.
    """
    return self.function(signature).structured_input_signature[1]

  def function(self, signature: str):
    """Returns the concrete function of a signature; see `input_specs`."""
    signature = signature or DEFAULT_SIGNATURE
    if signature not in self._functions:
      raise status.RequestError(
        f'Serving signature name: "{signature}" not found in signature def'
      )
    return self._functions[signature]

  def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Runs a signature.

    Args:
      signature: its name, '' being the default one.
      inputs: arrays by name, with equal first dimensions.

    Raises:
      RequestError: if the model refuses the inputs.
    """
    return self.run(self.function(signature), inputs)

  @staticmethod
  def run(function, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Runs a concrete function of named tensors; see `predict`."""
    specs = function.structured_input_signature[1]
    try:
      outputs = function(
        **{
          name: tf.constant(value, specs[name].dtype)
          for name, value in inputs.items()
        }
      )
    except tf.errors.OpError as error:
      raise status.from_tensorflow(error) from error
    return {name: outputs[name].numpy() for name in sorted(outputs)}


class ServedModel(Signatures):
  """A loaded SavedModel: its signatures, and answers from them.

  Args:
    folder: where it lies.

  Raises:
    ConfigurationError: if it cannot be loaded.

  Example:
    [folder] = find_models('exports/base', ['embeddings'])
    model = ServedModel(folder)
    model.predict('serving_default', {'text': np.array([b'a text'], object)})
  """

  def __init__(self, folder: ModelFolder):
    self.version, self.path = folder.version, folder.path
    saved_model_safety.check(self.path)
    try:
      self.saved_model = tf.saved_model.load(self.path)
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
      raise errors.ConfigurationError(
        'A model must be a complete SavedModel. Received: '
        f'{self.path}: {error}. Export it again with tools/export.py.'
      ) from error
    super().__init__(folder.name, self.saved_model.signatures)

  def warm_up(self) -> int:
    """Runs the requests that travel with the model; returns how many."""
    requests = self.requests()
    for signature, inputs in requests:
      self.predict(signature, inputs)
    return len(requests)

  def requests(self) -> list[Request]:
    """Returns the requests that travel with the model."""
    return list(warm_up.read_requests(self.path))

  @functools.cached_property
  def metadata(self) -> dict:
    """The signatures, as TF Serving's REST interface states them."""
    path = os.path.join(self.path, _SAVED_MODEL_FILE)
    with tf.io.gfile.GFile(path, 'rb') as file:
      saved = saved_model_pb2.SavedModel.FromString(file.read())
    signatures = {
      name: json_format.MessageToDict(
        signature,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
      )
      for name, signature in saved.meta_graphs[0].signature_def.items()
    }
    return {
      'model_spec': {
        'name': self.name,
        'signature_name': '',
        'version': str(self.version),
      },
      'metadata': {'signature_def': {'signature_def': signatures}},
    }


def join_rows(parts: Sequence[Arrays]) -> Arrays:
  """Joins the outputs of pieces of one request.

  What is wider in one piece than in another, such as the slots of the fullest
  text of each, is filled up with zeros or empty strings.
  """
  if len(parts) == 1:
    return parts[0]
  joined = {}
  for name in parts[0]:
    arrays = [part[name] for part in parts]
    shape = np.max([array.shape[1:] for array in arrays], axis=0)
    joined[name] = np.concatenate([_fill_up(a, shape) for a in arrays])
  return joined


def _fill_up(array, shape) -> np.ndarray:
  if tuple(shape) == array.shape[1:]:
    return array
  full = np.zeros([len(array), *shape], array.dtype)
  if array.dtype == object:
    full[...] = b''
  full[tuple(slice(size) for size in array.shape)] = array
  return full


def cut_masks(outputs: Arrays) -> Arrays:
  """Cuts the slots of masks that none of these rows has.

  Rows are answered in batches with the rows of others; how many slots a request
  gets must not depend on them.
  """
  if 'num_masks' not in outputs:
    return outputs
  widest = int(np.max(outputs['num_masks']))
  return {
    name: value[:, :widest] if name in ('tokens', 'scores') else value
    for name, value in outputs.items()
  }
