"""Branches of runs: a run that begins where another stood at some step."""

import json
import os

import tensorflow as tf

from tokendrop_tf import files
from tokendrop_tf.data.examples import row_places
from tokendrop_tf.data.read import source_files
from tokendrop_tf.run import checkpoints, metrics_log, run_folder

# What a run knows of the data that it reads in order.
_DATA_FILES = (row_places.COUNTS_FILE, source_files.SOURCES_FILE)


def branch_run(
  source: str,
  target: str,
  step: int,
  params,
  gin_text: str,
  other_metrics: tuple[str, ...] = (),
) -> bool:
  """Makes a run folder that resumes at a step of another run.

  Args:
    source: folder of a run.
    target: folder of the new one; nothing happens if a run has begun in it.
    step: with a checkpoint in `source`.
    params: the experiment's tree of the new run; up to `step` it must compute
      what the old one computed.
    gin_text: the gin text that gives it.
    other_metrics: what the new run does not report; its history omits them.

  Returns:
    Whether the checkpoint was there.
  """
  if run_folder.has_configuration(target):
    return True
  prefix = os.path.join(source, f'ckpt-{step}')
  if prefix not in checkpoints.prefixes(source):
    return False
  tf.io.gfile.makedirs(target)
  names = [os.path.basename(path) for path in tf.io.gfile.glob(f'{prefix}.*')]
  for name in (*names, *_DATA_FILES):
    if tf.io.gfile.exists(os.path.join(source, name)):
      tf.io.gfile.copy(
        os.path.join(source, name), os.path.join(target, name), overwrite=True
      )
  history = metrics_log.read_metrics(
    os.path.join(source, metrics_log.METRICS_FILE)
  )
  lines = [
    json.dumps({k: v for k, v in record.items() if k not in other_metrics})
    for record in history
    if record['step'] <= step
  ]
  files.write_whole_file(
    os.path.join(target, metrics_log.METRICS_FILE), '\n'.join([*lines, ''])
  )
  # Last: a folder with settings is a run that has begun.
  run_folder.save_configuration(params, gin_text, target)
  return True
