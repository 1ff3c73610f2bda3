"""Takes back what TensorBoard files tell beyond the step a run resumes from."""

import os

import tensorflow as tf

_UNFINISHED = '.writing'


def forget_after(folder: str, step: int) -> None:
  """Removes the events of all steps above `step`, and what was cut off.

  Without this, a resumed run would draw its curve twice over the steps between
  its last checkpoint and its end.

  Args:
    folder: folder of event files; may be absent.
    step: the last step to keep.

  Example:
    forget_after('runs/a/train', 1000)
  """
  if not tf.io.gfile.isdir(folder):
    return
  for name in sorted(tf.io.gfile.listdir(folder), reverse=True):
    path = os.path.join(folder, name)
    if _UNFINISHED in name:
      tf.io.gfile.remove(path)
    # Files follow each other in time: before one that is kept as it is, all
    # others are.
    elif 'tfevents' in name and not _forget_in_file(path, step):
      return


def _forget_in_file(path, step) -> bool:
  """Returns whether all that `path` held may have been too new."""
  kept, has_steps, is_whole = [], False, True
  try:
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      is_kept = event.step <= step
      is_whole &= is_kept
      has_steps |= is_kept and bool(event.summary.value)
      if is_kept:
        kept.append(record)
  except (tf.errors.DataLossError, tf.errors.OutOfRangeError):
    is_whole = False
  if not has_steps:
    tf.io.gfile.remove(path)
  elif not is_whole:
    _write(path, kept)
  return not (has_steps and is_whole)


def _write(path, records):
  unfinished = path + _UNFINISHED
  with tf.io.TFRecordWriter(unfinished) as writer:
    for record in records:
      writer.write(record)
  tf.io.gfile.rename(unfinished, path, overwrite=True)
