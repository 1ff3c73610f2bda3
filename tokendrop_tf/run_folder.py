"""What a run keeps in its `model_dir` beside checkpoints and summaries.

`params.yaml` is the whole experiment tree and `config.gin` the gin text that
gives it again; both are written before the first step. A run goes on only under
the tree that it began with.
"""

import os
import sys
import uuid
import zlib

import tensorflow as tf
import yaml
from official.core import exp_factory

from tokendrop_tf import checkpoints, errors
from tokendrop_tf.data import vocabulary as vocabulary_lib

PARAMS_FILE = 'params.yaml'
GIN_FILE = 'config.gin'

# What may differ when a run goes on: it changes no step's result, except by the
# rounding of other devices. `trainer.train_steps` is not among them: it is the
# length of the learning-rate schedule.
_MAY_CHANGE = (
  'task.mismatched_test_data.',
  'task.test_data.',
  'task.train_data.tf_data_service_address',
  'trainer.async_checkpoints',
  'trainer.checkpoint_interval',
  'trainer.continuous_eval_timeout',
  'trainer.gradient_accumulation_steps',
  'trainer.max_to_keep',
  'trainer.steps_per_loop',
  'trainer.summary_interval',
  'trainer.validation_interval',
  'runtime.',
)
_MUST_STAY = ('runtime.mixed_precision_dtype',)
# Keys of the optimizer's tree that are not called as the setting is.
_OPTIMIZER_SETTINGS = {
  'alpha': 'optimizer.end_learning_rate',
  'decay_steps': 'trainer.train_steps',
  'initial_learning_rate': 'optimizer.learning_rate',
  'type': 'optimizer.decay',
}
_MODEL_KEYS = (
  'task.model.',
  'task.token_drop.',
  'task.vocabulary.',
  'task.glue.label_names',
  'task.glue.is_regression',
)
# Sections of the tree that say which experiment it belongs to; without one of
# them it is pretraining.
_EXPERIMENT_OF_SECTION = {
  'glue': 'token_drop_bert/glue',
  'squad': 'token_drop_bert/squad',
}
_PRETRAINING = 'token_drop_bert/pretraining'


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
  task = _read_tree(model_dir).get('task') or {}
  for section, experiment in _EXPERIMENT_OF_SECTION.items():
    if section in task:
      return experiment
  return _PRETRAINING


def load_params(experiment, model_dir):
  """Returns the tree that the run in `model_dir` was started with.

  Args:
    experiment: name of a registered experiment.
    model_dir: folder of a run.

  Returns:
    An `ExperimentConfig`, not locked.

  Raises:
    errors.ConfigurationError: without a readable `params.yaml` of that
      experiment.
  """
  params = exp_factory.get_exp_config(experiment)
  try:
    params.override(_read_tree(model_dir), is_strict=True)
  except KeyError as error:
    raise errors.ConfigurationError(
      f'{PARAMS_FILE} must belong to the experiment {experiment}. Received: '
      f'{model_dir}: {error.args[0]}. Pass another --model_dir or '
      '--experiment.'
    ) from error
  return params


def check_unchanged(params, model_dir):
  """Refuses to go on with a run under another configuration.

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
  differences = _differences(params, model_dir, _is_fixed)
  if differences:
    raise errors.ConfigurationError(
      f'A run goes on only with the settings it began with. {model_dir} has '
      f'others:\n{_table(differences)}\n'
      f'Go on with the old settings: python -m tokendrop_tf.train '
      f'--model_dir={model_dir}\nOr start anew with the new ones in another '
      '--model_dir.' + _about_train_steps(differences, model_dir)
    )


def check_same_model(params, model_dir):
  """Refuses to evaluate a checkpoint under another model or vocabulary."""
  differences = _differences(
    params, model_dir, lambda key: key.startswith(_MODEL_KEYS)
  )
  if differences:
    raise errors.ConfigurationError(
      f'An evaluation needs the model of {model_dir}. Received another:\n'
      f'{_table(differences)}\nLeave --gin_file out to evaluate with the '
      'settings of the training.'
    )


def fingerprint(params) -> int:
  """Returns a checksum of all settings that decide what a run computes.

  Args:
    params: an `ExperimentConfig`.
  """
  fixed = sorted(
    (key, repr(value))
    for key, value in _flatten(_plain(params.as_dict()))
    if _is_fixed(key)
  )
  return zlib.crc32(repr(fixed).encode())


def save_configuration(params, gin_text, model_dir):
  """Writes `params.yaml` and, unless it is empty, `config.gin`."""
  tree = yaml.safe_dump(_plain(params.as_dict()), sort_keys=True)
  vocabulary_lib.write_whole_file(os.path.join(model_dir, PARAMS_FILE), tree)
  if gin_text:
    vocabulary_lib.write_whole_file(os.path.join(model_dir, GIN_FILE), gin_text)


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
  path = os.path.join(model_dir, PARAMS_FILE)
  if not tf.io.gfile.exists(path):
    raise errors.ConfigurationError(
      f'--model_dir must hold a run, with its {PARAMS_FILE}. Received: '
      f'{model_dir}, which has none. Pass another --model_dir, or the '
      'settings by --gin_file.'
    )
  try:
    with tf.io.gfile.GFile(path, 'r') as file:
      tree = yaml.safe_load(file.read())
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise errors.ConfigurationError(
      f'{PARAMS_FILE} must be YAML, as it was written. Received: {path}: '
      f'{error}. Restore the file, or pass another --model_dir.'
    ) from error
  if not isinstance(tree, dict):
    raise errors.ConfigurationError(
      f'{PARAMS_FILE} must hold an experiment tree. Received: {path}, which '
      'does not. Restore the file, or pass another --model_dir.'
    )
  return tree


def _differences(params, model_dir, is_compared):
  """Returns (setting, old, new) for every compared key that differs."""
  old = dict(_flatten(_read_tree(model_dir)))
  new = dict(_flatten(_plain(params.as_dict())))
  section = next(
    (
      name
      for name in _EXPERIMENT_OF_SECTION
      if any(key.startswith(f'task.{name}.') for key in new)
    ),
    '',
  )
  differences = {}
  for key in sorted(old.keys() | new.keys()):
    pair = (old.get(key, 'unset'), new.get(key, 'unset'))
    if is_compared(key) and pair[0] != pair[1]:
      differences.setdefault(_gin_name(key, section), pair)
  return [(name, *pair) for name, pair in differences.items()]


def _is_fixed(key):
  return key in _MUST_STAY or not key.startswith(_MAY_CHANGE)


def _gin_name(key, section=''):
  """Returns the setting that a key of the tree comes from.

  Args:
    key: e.g. 'task.model.num_layers'.
    section: 'glue' or 'squad' in a tree of fine-tuning.
  """
  if key.startswith('trainer.optimizer_config.'):
    setting = key.rsplit('.', 1)[-1]
    return _OPTIMIZER_SETTINGS.get(setting, f'optimizer.{setting}')
  if section:
    return _finetuning_gin_name(key.removeprefix('task.'), section)
  if key in ('task.seed', 'task.init_checkpoint'):
    return key.replace('task.', 'pretraining.')
  return key.removeprefix('task.')


# Keys of a fine-tuning tree that are not called as the setting is.
_FINETUNING_SETTINGS = {
  'seed': 'finetuning.seed',
  'init_checkpoint': 'finetuning.init_from',
  'metric_type': 'glue.metric',
  'null_score_diff_threshold': 'squad.null_score_threshold',
}


def _finetuning_gin_name(key, section):
  """Returns the setting of a key below `task`; `section` is glue or squad."""
  if key in _FINETUNING_SETTINGS:
    return _FINETUNING_SETTINGS[key]
  data, _, field = key.partition('.')
  if not data.endswith('_data'):
    return key if field else f'{section}.{key}'
  if field in ('input_path', 'tfds_name', 'tfds_split'):
    return f'{section}.{data}'
  if field == 'global_batch_size':
    kind = 'batch_size' if data == 'train_data' else 'eval_batch_size'
    return f'{section}.{kind}'
  return 'finetuning.seed' if field == 'seed' else f'{section}.{field}'


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
  is_pretraining = experiment_of(model_dir) == _PRETRAINING
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
