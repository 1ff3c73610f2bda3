"""Files that a run needs, found again after its folder has been moved.

A run keeps its vocabulary, with its tokenisation and token counts, in
`model_dir`. Relative paths of its data and weights start from the folder that
it was started in, which `params.yaml` records.
"""

import os
from collections.abc import Iterator

import tensorflow as tf

from tokendrop_tf import files
from tokendrop_tf.text import tokenizer_files
from tokendrop_tf.text import vocabulary as vocabulary_lib

_DATA_FIELDS = ('input_path', 'tfds_data_dir')
_WEIGHTS_FIELD = 'init_checkpoint'
_TOKEN_DROP_FIELDS = ('scores_path', 'reference_checkpoint')


def vocabulary_path(model_dir: str) -> str:
  """Returns where a run keeps its vocabulary."""
  return os.path.join(model_dir, tokenizer_files.VOCABULARY_FILE)


def keep_vocabulary(params, model_dir: str) -> None:
  """Copies the vocabulary of a run, and what is next to it, into `model_dir`.

  Args:
    params: the tree of the run.
    model_dir: an existing folder.
  """
  section, path = params.task.vocabulary, vocabulary_path(model_dir)
  if os.path.abspath(section.path) == os.path.abspath(path):
    return
  counts = section.counts_path or vocabulary_lib.counts_path_for(section.path)
  if tf.io.gfile.exists(counts):
    files.write_whole_file(
      vocabulary_lib.counts_path_for(path), files.read_bytes(counts)
    )
  vocabulary_lib.write_vocabulary(
    path,
    vocabulary_lib.Vocabulary.of(section),
  )


def find(params, model_dir: str, started_in: str | None) -> None:
  """Replaces the paths of a saved tree by those where the files are now.

  Args:
    params: the tree of the run, not locked; it is changed.
    model_dir: folder of the run.
    started_in: folder that the run was started in, where it is known.
  """
  task = params.task
  if tf.io.gfile.exists(vocabulary_path(model_dir)):
    task.vocabulary.path = vocabulary_path(model_dir)
    if task.vocabulary.counts_path:
      task.vocabulary.counts_path = vocabulary_lib.counts_path_for(
        task.vocabulary.path
      )
  if started_in in (None, os.getcwd()):
    return
  for section, field in _paths(task):
    parts = str(getattr(section, field)).split(',')
    found = [_find(part.strip(), started_in) for part in parts]
    setattr(section, field, ','.join(found))


def _paths(task) -> Iterator[tuple[object, str]]:
  """Yields the sections of a task and their fields that are set to paths."""
  for name in task.as_dict():
    section = getattr(task, name)
    if name == _WEIGHTS_FIELD and section:
      yield task, name
    elif name.endswith('_data'):
      yield from _set_fields(section, _DATA_FIELDS)
    elif name == 'token_drop':
      yield from _set_fields(section, _TOKEN_DROP_FIELDS)


def _set_fields(section, fields):
  return [(section, field) for field in fields if getattr(section, field, None)]


def _find(path, started_in):
  """Returns the path in the recorded folder, unless nothing is there."""
  if '://' in path or os.path.isabs(path):
    return path
  there = os.path.join(started_in, path)
  # Weights are named by the prefix of their files.
  return there if _exists(there) or not _exists(path) else path


def _exists(path):
  return bool(tf.io.gfile.glob([path, f'{path}.index']))


def are_same(key: str, old: str, new: str) -> bool:
  """Whether two values of a path in the tree mean the same files.

  Args:
    key: where they stand, e.g. 'task.vocabulary.path'.
    old: the path that is kept with the run.
    new: the path that is set now.
  """
  field = key.rsplit('.', 1)[-1]
  if key in ('task.vocabulary.path', 'task.vocabulary.counts_path'):
    return _content(old) == _content(new) is not None
  if field in (*_DATA_FIELDS, _WEIGHTS_FIELD, *_TOKEN_DROP_FIELDS):
    return _absolute(old) == _absolute(new)
  return False


def _content(path):
  return files.read_bytes(path) if path and tf.io.gfile.exists(path) else None


def _absolute(paths):
  return [
    part.strip() if '://' in part else os.path.abspath(part.strip())
    for part in str(paths).split(',')
  ]
