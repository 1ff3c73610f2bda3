"""The settings of a run in its `model_dir`, and what may differ on resuming.

`params.yaml` is the whole experiment tree and `config.gin` the gin text that
gives it again; both are written before the first step. A run resumes only with
the settings that it began with; `may_change` in their declarations marks those
that change no step's result, except by the rounding of other devices.
"""

import os
import re
import sys
import uuid
import zlib

import tensorflow as tf
import yaml

import tokendrop_tf
from tokendrop_tf import errors, files
from tokendrop_tf.config import experiments, sections
from tokendrop_tf.run import checkpoints, run_paths

PARAMS_FILE = 'params.yaml'
GIN_FILE = 'config.gin'

_MODEL_KEYS = (
  'task.model.',
  'task.token_drop.',
  'task.vocabulary.',
  'task.glue.label_names',
  'task.glue.is_regression',
)
# The first lines of `params.yaml`.
_WRITTEN_BY = '# Written by tokendrop_tf '
_STARTED_IN = '# Started in '
_UNKNOWN_WRITER = 'an earlier version'


def check_writable(model_dir):
  """Creates `model_dir` if needed and checks that files can be made in it.

  Raises:
    errors.ConfigurationError: if it is a file or cannot be written.
  """
  # In containers that share it, process numbers and even hosts are alike.
  probe = os.path.join(model_dir, f'.writable-{uuid.uuid4().hex}')
  try:
    if tf.io.gfile.exists(model_dir) and not tf.io.gfile.isdir(model_dir):
      raise errors.ConfigurationError(
        f'--model_dir must be a folder. Received: {model_dir}, which is a '
        'file. Pass another --model_dir.'
      )
    tf.io.gfile.makedirs(model_dir)
    with tf.io.gfile.GFile(probe, 'w') as file:
      file.write('')
    tf.io.gfile.remove(probe)
  except tf.errors.OpError as error:
    raise errors.ConfigurationError(
      f'--model_dir must be a folder that can be written. Received: '
      f'{model_dir}: {error.message}. Pass another --model_dir.'
    ) from error


def has_configuration(model_dir) -> bool:
  """Returns whether a run has begun in `model_dir`."""
  return tf.io.gfile.exists(os.path.join(model_dir, PARAMS_FILE))


def experiment_of(model_dir) -> str:
  """Returns the name of the experiment that the run in `model_dir` is of.

  Raises:
    errors.ConfigurationError: without a readable `params.yaml`.

  Example:
    experiment_of('runs/rte')  # 'token_drop_bert/glue'
  """
  return experiments.of_task(_read_tree(model_dir)[0]['task']).name


def load_params(model_dir, experiment=None):
  """Returns the tree that the run in `model_dir` was started with.

  A setting that the file lacks, because an earlier version wrote it, has its
  default.

  Args:
    model_dir: folder of a run.
    experiment: name of the experiment that it must be of; `None` is any.

  Returns:
    An `ExperimentConfig`, not locked.

  Raises:
    errors.ConfigurationError: without a readable `params.yaml` of that
      experiment, or if it has an unknown setting.
  """
  tree, writer = _read_tree(model_dir)
  found = experiments.of_task(tree['task']).name
  if experiment not in (None, found):
    raise errors.ConfigurationError(
      f'{PARAMS_FILE} must belong to the experiment {experiment}. Received: '
      f'{model_dir}, which is of {found}. Pass another --model_dir or '
      '--experiment.'
    )
  params = experiments.build(found)
  unknown = list(_unknown_keys(tree, params))
  if unknown:
    raise errors.ConfigurationError(
      f'{PARAMS_FILE} must have settings that this version knows. Received: '
      f'{", ".join(unknown)} in {model_dir}, written by {writer}, read by '
      f'tokendrop_tf {tokendrop_tf.__version__}. Use the version that wrote '
      'it, or pass another --model_dir.'
    )
  params.override(tree, is_strict=True)
  find_files(params, model_dir)
  return params


def find_files(params, model_dir):
  """Replaces paths of the run in `model_dir` by those where the files are."""
  text = _read_text(model_dir)
  found = re.search(f'^{_STARTED_IN}(.*)$', text, re.MULTILINE)
  run_paths.find(params, model_dir, found[1] if found else None)


def _unknown_keys(tree, params, prefix=''):
  """Yields the keys of a plain tree that a configuration does not have."""
  for key, value in tree.items():
    known = params.__dict__.get(key)
    if key not in params.__dict__:
      yield f'{prefix}{key}'
    elif isinstance(value, dict) and hasattr(known, 'override'):
      yield from _unknown_keys(value, known, f'{prefix}{key}.')


def check_unchanged(params, model_dir):
  """Refuses to resume a run with other settings.

  Args:
    params: the tree that is about to run.
    model_dir: where it is to run.

  Raises:
    errors.ConfigurationError: listing every setting that differs, old and new.
  """
  if not has_configuration(model_dir):
    checkpoint = checkpoints.newest(model_dir)
    if checkpoint:
      raise errors.ConfigurationError(
        f'--model_dir must be empty or hold a run with its {PARAMS_FILE}. '
        f'Received: {model_dir}, which has the checkpoint '
        f'{os.path.basename(checkpoint)} but no {PARAMS_FILE}. Pass another '
        '--model_dir.'
      )
    return
  differences = _differences(params, model_dir, _may_not_change)
  if differences:
    raise errors.ConfigurationError(
      f'A run resumes only with the settings it began with. {model_dir} has '
      f'others:\n{_table(differences)}\n'
      f'Resume with the old settings: python -m tokendrop_tf.train '
      f'--model_dir={model_dir}\nOr start a new run with the new ones in '
      'another --model_dir.' + _about_train_steps(differences, model_dir)
    )


def check_same_model(params, model_dir):
  """Refuses to evaluate a checkpoint under another model or vocabulary."""
  differences = _differences(
    params, model_dir, lambda key, _: key.startswith(_MODEL_KEYS)
  )
  if differences:
    raise errors.ConfigurationError(
      f'An evaluation needs the model of {model_dir}. Received another:\n'
      f'{_table(differences)}\nLeave --gin_file out to evaluate with the '
      'settings of the run.'
    )


def fingerprint(params) -> int:
  """Returns a checksum of all settings that decide what a run computes.

  Args:
    params: an `ExperimentConfig`.
  """
  setting_of = _setting_finder(params)
  fixed = sorted(
    (key, repr(value))
    for key, value in _flatten(_plain(params.as_dict()))
    if _may_not_change(key, setting_of(key)[1])
  )
  return zlib.crc32(repr(fixed).encode())


def settings_of(params) -> dict[str, object]:
  """Returns the settings that decide what a run computes, by their names.

  Args:
    params: an `ExperimentConfig`.

  Example:
    settings_of(load_params('runs/a'))['train_data.seq_length']  # 128
  """
  setting_of, found = _setting_finder(params), {}
  for key, value in _flatten(_plain(params.as_dict())):
    name, setting = setting_of(key)
    if _may_not_change(key, setting):
      found.setdefault(name, value)
  return found


def save_configuration(params, gin_text, model_dir):
  """Writes `params.yaml` and, unless it is empty, `config.gin`."""
  tree = yaml.safe_dump(_plain(params.as_dict()), sort_keys=True)
  files.write_whole_file(
    os.path.join(model_dir, PARAMS_FILE),
    f'{_WRITTEN_BY}{tokendrop_tf.__version__}\n'
    f'{_STARTED_IN}{os.getcwd()}\n{tree}',
  )
  if gin_text:
    files.write_whole_file(os.path.join(model_dir, GIN_FILE), gin_text)


def require_checkpoint(model_dir) -> str:
  """Returns the newest checkpoint's path; it may be damaged.

  Raises:
    errors.ConfigurationError: if there is none.
  """
  checkpoint = checkpoints.newest(model_dir)
  if not checkpoint:
    raise errors.ConfigurationError(
      f'--model_dir must hold a checkpoint. Received: {model_dir}, which has '
      'none. Train first, or pass another --model_dir.'
    )
  return checkpoint


def require_whole_checkpoint(model_dir) -> str:
  """Returns the path of the newest checkpoint whose checksums hold.

  Tells on stderr which are damaged.

  Raises:
    errors.ConfigurationError: if there is none.
  """
  require_checkpoint(model_dir)
  return checkpoints.newest_whole(
    model_dir, lambda text: print(text, file=sys.stderr)
  )


def gin_file(model_dir) -> str:
  """Returns the path of the gin text that the run in `model_dir` began with.

  Raises:
    errors.ConfigurationError: if there is none.
  """
  path = os.path.join(model_dir, GIN_FILE)
  if not tf.io.gfile.exists(path):
    raise errors.ConfigurationError(
      f'--gin_params without --gin_file needs {path}, which does not exist. '
      'Pass --gin_file.'
    )
  return path


def _read_tree(model_dir):
  """Returns the plain tree as it was saved, and the version that wrote it."""
  path = os.path.join(model_dir, PARAMS_FILE)
  if not tf.io.gfile.exists(path):
    raise errors.ConfigurationError(
      f'--model_dir must hold a run, with its {PARAMS_FILE}. Received: '
      f'{model_dir}, which has none. Pass another --model_dir, or the '
      'settings by --gin_file.'
    )
  try:
    text = _read_text(model_dir)
    tree = yaml.safe_load(text)
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise errors.ConfigurationError(
      f'{PARAMS_FILE} must be YAML, as it was written. Received: {path}: '
      f'{error}. Restore the file, or pass another --model_dir.'
    ) from error
  if not isinstance(tree, dict) or not isinstance(tree.get('task'), dict):
    raise errors.ConfigurationError(
      f'{PARAMS_FILE} must hold an experiment tree. Received: {path}, which '
      'does not. Restore the file, or pass another --model_dir.'
    )
  version = re.match(re.escape(_WRITTEN_BY) + r'(\S+)\n', text)
  return tree, f'tokendrop_tf {version[1]}' if version else _UNKNOWN_WRITER


def _read_text(model_dir) -> str:
  return files.read_bytes(os.path.join(model_dir, PARAMS_FILE)).decode()


def _differences(params, model_dir, is_compared):
  """Returns (setting, old, new) for every compared key that differs."""
  saved = load_params(model_dir)
  old = dict(_flatten(_plain(saved.as_dict())))
  new = dict(_flatten(_plain(params.as_dict())))
  setting_of = _setting_finder(params)
  differences = {}
  for key in sorted(old.keys() | new.keys()):
    pair = (old.get(key, 'unset'), new.get(key, 'unset'))
    if pair[0] == pair[1] or run_paths.are_same(key, *pair):
      continue
    name, setting = setting_of(key)
    if is_compared(key, setting):
      differences.setdefault(name, pair)
  return [(name, *pair) for name, pair in differences.items()]


def _setting_finder(params):
  return sections.finder(experiments.of_task(params.task).sections)


def _may_not_change(key, setting) -> bool:
  if setting is None:
    return not key.startswith('runtime.')
  return not setting.more.get('may_change', False)


def _table(differences):
  return '\n'.join(
    f'  {name}: {old!r} there, {new!r} now' for name, old, new in differences
  )


def _about_train_steps(differences, model_dir):
  if 'trainer.train_steps' not in [name for name, _, _ in differences]:
    return ''
  checkpoint = checkpoints.newest(model_dir)
  if not checkpoint:
    return ''
  is_pretraining = experiment_of(model_dir) == experiments.PRETRAINING
  setting = (
    'pretraining.init_checkpoint' if is_pretraining else 'finetuning.init_from'
  )
  return (
    '\ntrainer.train_steps is the length of the learning-rate schedule, so '
    'it cannot change midway; a new run can begin with these weights:\n'
    f'  --gin_params="{setting} = \'{checkpoint}\'"'
  )


def _plain(value):
  """Turns tuples into lists, which is what YAML has."""
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  return value


def _flatten(tree, prefix=''):
  """Yields ('task.model.num_layers', 12), ..."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _flatten(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value
