"""Finds the newest checkpoint that is whole, and sets damaged ones aside.

TensorFlow keeps a checksum of every tensor in a checkpoint, so one is whole if
all its tensors can be read. Which there are is seen from the files themselves:
the file `checkpoint` that lists them is not synced to disk, so it may be empty
after a power cut, and it could name files of another folder.
"""

import os
import re

import tensorflow as tf

from tokendrop_tf import errors

DAMAGED_PREFIX = 'damaged-'
_STEP_KEY = 'global_step/.ATTRIBUTES/VARIABLE_VALUE'
_NAME = re.compile(r'ckpt-(\d+)\.index')
_NUM_SHARDS = re.compile(r'-of-(\d{5})$')


def damage(prefix: str) -> str:
  """Returns what is wrong with a checkpoint, or '' if it is whole.

  Args:
    prefix: e.g. 'runs/a/ckpt-1000'.

  Example:
    damage('runs/a/ckpt-1000')  # 'shard ckpt-1000.data-00000-of-00001 ...'
  """
  if missing := _missing_shard(prefix):
    return missing
  try:
    reader = tf.train.load_checkpoint(prefix)
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)
  except Exception as error:  # pylint: disable=broad-except
    # TensorFlow reports damage by half a dozen types without a common base.
    return str(getattr(error, 'message', error)).split('\n')[0]
  return ''


def step_of(prefix: str) -> int:
  """Returns the global step at which a checkpoint was written."""
  return int(tf.train.load_checkpoint(prefix).get_tensor(_STEP_KEY))


def prefixes(model_dir: str) -> list[str]:
  """Returns the checkpoints of a run, newest first, whole or not."""
  if not tf.io.gfile.isdir(model_dir):
    return []
  matches = map(_NAME.fullmatch, tf.io.gfile.listdir(model_dir))
  steps = sorted((int(match[1]) for match in matches if match), reverse=True)
  return [os.path.join(model_dir, f'ckpt-{step}') for step in steps]


def newest(model_dir: str) -> str | None:
  """Returns the newest checkpoint of a run, whole or not, `None` without any.

  Example:
    newest('runs/a')  # 'runs/a/ckpt-1000'
  """
  return next(iter(prefixes(model_dir)), None)


def check_not_lost(
  model_dir: str, logged_step: int, validated_step: int, interval: int
) -> None:
  """Refuses to begin a run again whose checkpoints have been deleted.

  A run that was killed before its first checkpoint may begin again. Checkpoints
  are complete before a validation, and one before the next is written.

  Args:
    model_dir: folder of a run without checkpoints.
    logged_step: the last step in its history, 0 without one.
    validated_step: the step of its last validation, 0 without one.
    interval: steps between checkpoints.

  Raises:
    errors.ConfigurationError: if there has been a checkpoint.
  """
  had_one = (
    _recorded(model_dir)
    or validated_step >= interval
    or logged_step > 2 * interval
  )
  if logged_step and had_one:
    raise errors.ConfigurationError(
      'A run resumes from its checkpoints. Received: '
      f'{model_dir}, which has none, where its history reaches step '
      f'{logged_step:,}. Restore a checkpoint, or pass another --model_dir.'
    )


def kept_text(model_dir: str) -> str:
  """Returns a sentence that says where the run in a folder resumes."""
  checkpoint = newest(model_dir)
  if not checkpoint:
    return 'No checkpoint had been written yet.'
  return f'The last checkpoint is {checkpoint}; the same command resumes there.'


def newest_whole(model_dir: str, tell) -> str | None:
  """Returns the newest checkpoint whose checksums hold, `None` without any.

  Args:
    model_dir: folder of the run.
    tell: function of a text; hears of damaged checkpoints.

  Raises:
    errors.ConfigurationError: if there are checkpoints and all are damaged:
      starting again would overwrite what can still be saved.
  """
  found = prefixes(model_dir)
  for index, prefix in enumerate(found):
    what = damage(prefix)
    if not what:
      if index:
        tell(f'Resumes from {prefix} instead.')
      return prefix
    tell(f'The checkpoint {prefix} is damaged and omitted: {what}')
  if found:
    raise errors.ConfigurationError(
      f'--model_dir must hold a checkpoint that is whole. Received: '
      f'{model_dir}, where all of {len(found)} are damaged. Restore one from a '
      'copy, or start in another --model_dir.'
    )
  return None


def set_aside(model_dir: str, newest: str | None) -> None:
  """Renames checkpoints newer than `newest`, and removes unfinished ones.

  Only the process that writes checkpoints may call it.

  Args:
    model_dir: folder of the run.
    newest: the checkpoint that the run resumes from; `None` without any.
  """
  remove_unfinished(model_dir)
  everything = prefixes(model_dir)
  if newest is None:
    _record(model_dir, everything[::-1])
    return
  for prefix in everything[: everything.index(newest)]:
    for path in tf.io.gfile.glob(f'{prefix}.*'):
      folder, name = os.path.split(path)
      tf.io.gfile.rename(
        path, os.path.join(folder, DAMAGED_PREFIX + name), overwrite=True
      )
  _record(model_dir, everything[everything.index(newest) :][::-1])


def remove_unfinished(model_dir: str) -> None:
  """Removes what a checkpoint left that was never completed."""
  for name in tf.io.gfile.listdir(model_dir):
    name = name.rstrip('/')
    if re.fullmatch(r'ckpt-\d+_temp', name):
      tf.io.gfile.rmtree(os.path.join(model_dir, name))


def repair_record(model_dir: str) -> None:
  """Rewrites the list of checkpoints if it cannot be read.

  Args:
    model_dir: folder of a run, which need not exist.
  """
  if _recorded(model_dir) is None:
    _record(model_dir, prefixes(model_dir)[::-1])


def _recorded(model_dir: str) -> list[str] | None:
  """Returns the listed names, oldest first; `None` if they cannot be read."""
  try:
    state = tf.train.get_checkpoint_state(model_dir)
  except ValueError:  # Empty, or no text.
    return None
  paths = state.all_model_checkpoint_paths if state else ()
  return [os.path.basename(path) for path in paths]


def _record(model_dir: str, kept: list[str]) -> None:
  """Writes which checkpoints there are, oldest first, unless it is known.

  A process that was killed may have written a checkpoint and not yet that.
  """
  names = [os.path.basename(prefix) for prefix in kept]
  if not kept:
    _remove_record(model_dir)
    return
  if names == _recorded(model_dir):
    return
  # Either form is written down relative to the folder.
  paths = names if os.path.isabs(model_dir) else kept
  times = [
    tf.io.gfile.stat(f'{prefix}.index').mtime_nsec / 1e9 for prefix in kept
  ]
  tf.compat.v1.train.update_checkpoint_state(
    model_dir,
    paths[-1],
    all_model_checkpoint_paths=paths,
    all_model_checkpoint_timestamps=times,
    last_preserved_timestamp=min(times) - 1.0,
  )


def _remove_record(model_dir: str) -> None:
  path = os.path.join(model_dir, 'checkpoint')
  if tf.io.gfile.exists(path):
    tf.io.gfile.remove(path)


def _missing_shard(prefix: str) -> str:
  folder, name = os.path.split(prefix)
  found = [
    path
    for path in tf.io.gfile.listdir(folder or '.')
    if path.startswith(f'{name}.data-')
  ]
  if not found:
    return f'{name}.data-* is missing'
  match = _NUM_SHARDS.search(found[0])
  wanted = int(match[1]) if match else 0
  for shard in range(wanted):
    path = f'{name}.data-{shard:05d}-of-{wanted:05d}'
    if path not in found:
      return f'{path} is missing'
  return ''
