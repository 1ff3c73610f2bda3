"""A tiny pretrained run and tiny tasks, for tests of fine-tuning."""

import gin_trees
import pytest
import tensorflow as tf
import tiny_runs
from tiny_tasks import WORDS, tiny_tasks, words  # noqa: F401  (fixtures)

from tokendrop_tf.config import gin_reader
from tokendrop_tf.run import run_folder
from tokendrop_tf.tasks import masked_lm as task_lib

PRETRAINED = (
  *tiny_runs.MODEL,
  'model.initializer_range = 0.2',
  'model.dropout_rate = 0.0',
  'token_drop.token_keep_k = 16',
)


@pytest.fixture(scope='session')
def pretrained(tiny_corpus, tmp_path_factory) -> str:
  """A model_dir as pretraining leaves it, weights drawn at random."""
  folder = str(tmp_path_factory.mktemp('pretrained'))
  params = gin_trees.build(
    *PRETRAINED, f"vocabulary.path = '{tiny_corpus.vocabulary}'"
  )
  params.task.model.vocab_size = len(WORDS) + 5
  run_folder.save_configuration(params, '', folder)
  model = task_lib.TokenDropPretrainingTask(params.task).build_model()
  tf.train.CheckpointManager(
    tf.train.Checkpoint(model=model, **model.checkpoint_items), folder, 1
  ).save()
  gin_reader.clear()
  return folder
