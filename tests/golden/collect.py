"""Lists of what others rely on: settings, commands, files, keys, signatures.

`assert_kept` compares them with the JSON files next to this one. After an
intended change, write the files again and read the difference:

  WRITE_GOLDEN=1 make test
"""

import argparse
import json
import os
import pathlib
import re
import runpy
import sys

import gin
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import dtypes

from tokendrop_tf import errors, train
from tokendrop_tf.config import gin_reader

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]

# Of nearly every name in a checkpoint.
SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'
# Values of every type and beyond many ranges, as gin text.
PROBES = (
  'None True False -1 0 1 2 3 10 4294967296 -0.5 0.0 0.5 1.0 1.5 20.0 '
  "'' 'x' [] ['x'] [1] [0.5]"
).split()


def read_settings(*bindings: str) -> None:
  """Reads settings as the launcher does."""
  flags = [f'--gin_params={binding}' for binding in bindings]
  train.read_configuration(train.parse_flags(['--model_dir=absent', *flags]))


def defaults(binding: str) -> dict[str, str]:
  """Returns the default of every setting that an experiment reads, as text.

  Args:
    binding: one that names the experiment and sets nothing else than it is.
  """
  read_settings(binding)
  found = {}
  for (_, selector), values in gin.config._OPERATIVE_CONFIG.items():
    section = selector.rsplit('.', 1)[-1]
    for name, value in values.items():
      value = list(value) if isinstance(value, tuple) else value
      found[f'{section}.{name}'] = repr(value)
  gin_reader.clear()
  return dict(sorted(found.items()))


def refusal(setting: str, value: str) -> str:
  """Returns why a setting cannot have a value, '' if it can."""
  try:
    read_settings(f'{setting} = {value}')
  except errors.ConfigurationError as error:
    return str(error)
  finally:
    gin_reader.clear()
  return ''


def values(setting: str) -> list[str]:
  """Returns the accepted among the probes, and the words to choose from."""
  choice = re.search(r'must be one of (.*?)\. ', refusal(setting, "'x'"))
  words = re.findall(r"'[^']*'", choice.group(1)) if choice else []
  return [value for value in (*PROBES, *words) if not refusal(setting, value)]


class _Parsed(BaseException):
  """Carries the parser of a command past everything that would catch it."""


def flags(tool: str) -> dict[str, list[str]]:
  """Returns the flags of a command, each with what argparse knows of it."""

  def stop(self, *_):
    raise _Parsed(self)

  original = argparse.ArgumentParser.parse_known_args, list(sys.argv)
  argparse.ArgumentParser.parse_known_args = stop
  sys.argv = [tool, '--verbose']
  try:
    if tool == 'train':
      train.console_main()
    else:
      runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'), run_name='__main__')
  except _Parsed as caught:
    [parser] = caught.args
  finally:
    argparse.ArgumentParser.parse_known_args, sys.argv = original
  return {
    (action.option_strings or [action.dest])[-1]: [
      f'default {action.default!r}',
      'required' if action.required else 'optional',
      f'values {action.nargs}',
      *(f'choice {choice}' for choice in action.choices or ()),
    ]
    for action in parser._actions
  }


def signatures(folder: pathlib.Path) -> dict[str, dict]:
  """Returns inputs and outputs of every SavedModel below a folder."""
  return {
    str(path.parent.relative_to(folder)): _signatures(path)
    for path in sorted(folder.rglob('saved_model.pb'))
  }


def _signatures(path):
  [graph] = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs
  return {
    name: {
      side: {key: _tensor(info) for key, info in sorted(tensors.items())}
      for side, tensors in (('in', found.inputs), ('out', found.outputs))
    }
    for name, found in sorted(graph.signature_def.items())
    if not name.startswith('__')  # TensorFlow's own.
  }


def _tensor(info) -> str:
  shape = info.tensor_shape
  sizes = '?' if shape.unknown_rank else [size.size for size in shape.dim]
  return f'{dtypes.as_dtype(info.dtype).name} {sizes}'


def files(folder: pathlib.Path) -> list[str]:
  """Returns the files below a folder, events without clock and host."""
  names = (
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_file()
  )
  return sorted({re.sub(r'tfevents\..*', 'tfevents', name) for name in names})


def tensors(checkpoint: str) -> dict[str, str]:
  """Returns type and shape of every tensor of a checkpoint."""
  reader = tf.train.load_checkpoint(checkpoint)
  types = reader.get_variable_to_dtype_map()
  return {
    name.removesuffix(SUFFIX): f'{types[name].name} {shape}'
    for name, shape in sorted(reader.get_variable_to_shape_map().items())
  }


def records(path: pathlib.Path) -> list[dict]:
  """Returns what a file of metrics holds."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def metrics_keys(path: pathlib.Path) -> dict[str, list[str]]:
  """Returns the keys of every kind of record of a `metrics.jsonl`."""
  found = {}
  for record in records(path):
    found.setdefault(record['kind'], set()).update(record)
  return {kind: sorted(keys) for kind, keys in found.items()}


def read(name: str):
  """Returns what a golden file holds."""
  path = FOLDER / f'{name}.json'
  return json.loads(path.read_text()) if path.exists() else {}


def assert_kept(name: str, key: str, now) -> None:
  """Asserts that nothing of a golden list is missing or changed.

  Args:
    name: of the JSON file next to this one.
    key: of the list in that file.
    now: the same list of today, which may hold more.
  """
  golden = read(name)
  if 'WRITE_GOLDEN' in os.environ:
    (FOLDER / f'{name}.json').write_text(_as_text({**golden, key: now}))
  else:
    _assert_kept(golden.get(key, {}), now, key)


def _assert_kept(golden, now, place):
  if isinstance(golden, list):
    assert set(golden) <= set(now), f'{place}: {set(golden) - set(now)} missing'
  elif isinstance(golden, dict):
    for key, value in golden.items():
      assert key in now, f'{place}: {key} is missing'
      _assert_kept(value, now[key], f'{place}, {key}')
  else:
    assert now == golden, place


def _as_text(content) -> str:
  """Returns JSON with short lists and dicts in one line each."""
  text = json.dumps(content, indent=1, sort_keys=True)
  return (
    re.sub(
      r'[\[{][^][{}]{1,400}[\]}]', lambda m: ' '.join(m.group().split()), text
    )
    + '\n'
  )
