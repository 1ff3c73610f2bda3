"""Branches of runs: they end where a run from the start would end."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs

from tokendrop_tf import train
from tokendrop_tf.pages import branch
from tokendrop_tf.run import checkpoints, run_folder

SETTINGS = (
  *tiny_runs.MODEL,
  'train_data.global_batch_size = 8',
  'validation_data.global_batch_size = 8',
  'token_drop.token_keep_k = 16',
  "token_drop.keep_schedule = ('0:all', '0.5:16')",
  'optimizer.warmup_steps = 2',
  'trainer.train_steps = 8',
  'trainer.steps_per_loop = 2',
  'trainer.validation_interval = 4',
  'trainer.validation_steps = 2',
  'trainer.checkpoint_interval = 4',
)
PLAIN = "token_drop.policy = 'none'"


def arguments(tiny_corpus, model_dir, *bindings):
  paths = (
    f"vocabulary.path = '{tiny_corpus.vocabulary}'",
    f"train_data.input_path = '{tiny_corpus.train}'",
    f"validation_data.input_path = '{tiny_corpus.valid}'",
  )
  return [
    *(f'--gin_params={b}' for b in (*SETTINGS, *paths, *bindings)),
    f'--model_dir={model_dir}',
  ]


def last_weights(model_dir):
  reader = tf.train.load_checkpoint(checkpoints.newest(str(model_dir)))
  return {
    name: reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if name.startswith('model/') and 'importance' not in name
  }


def test_a_branch_ends_where_a_run_from_the_start_ends(tiny_corpus, tmp_path):
  source, target = str(tmp_path / 'source'), str(tmp_path / 'target')
  whole = str(tmp_path / 'whole')
  train.main(arguments(tiny_corpus, source))
  train.main(arguments(tiny_corpus, whole, PLAIN))
  params = run_folder.load_params(whole)
  gin_text = pathlib.Path(whole, run_folder.GIN_FILE).read_text()
  is_there = branch.branch_run(
    source, target, 4, params, gin_text, ('full_sequence_gap',)
  )
  assert is_there
  train.main(arguments(tiny_corpus, target, PLAIN))
  branched, from_start = last_weights(target), last_weights(whole)
  assert branched.keys() == from_start.keys()
  for name, value in branched.items():
    np.testing.assert_allclose(
      value, from_start[name], rtol=1e-5, atol=1e-6, err_msg=name
    )
  with open(f'{target}/metrics.jsonl', encoding='utf-8') as file:
    records = [json.loads(line) for line in file]
  steps = [r['step'] for r in records if r['kind'] == 'validation']
  assert steps == [4, 8]
  assert not any('full_sequence_gap' in record for record in records)


@pytest.mark.parametrize('has_begun', [False, True])
def test_without_the_checkpoint_nothing_is_made(tmp_path, has_begun):
  target = tmp_path / 'target'
  if has_begun:
    target.mkdir()
    (target / 'params.yaml').write_text('task: {}\n')
  made = branch.branch_run(str(tmp_path), str(target), 4, None, '')
  assert made == has_begun
  assert target.exists() == has_begun
