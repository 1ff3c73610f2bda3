"""Labels by importance: two forms of weights, over any importance."""

import itertools

import gin_trees
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import test_importance_masking as rows_of
from tests.tasks import test_masked_lm as tasks
from tests.tasks.test_masked_lm import fixture_vocab_path  # noqa: F401
from tokendrop_tf import dropping, errors, layers
from tokendrop_tf.config import rules
from tokendrop_tf.layers import random_seeds

# The two samplers of Zhang et al. (2023, arXiv 2302.14225).
FREQUENCY = {
  'masking': 'importance',
  'masking_scores': 'frequency',
  'masking_weights': 'exponential',
  'masking_temperature': 2.0,
}
DYNAMIC = {
  'masking': 'importance',
  'masking_scores': 'loss',
  'masking_weights': 'exponential',
}


def inclusion(weights, count):
  """Chance of each item to be among `count` drawn one after another."""
  chances = np.zeros(len(weights))
  for drawn in itertools.permutations(range(len(weights)), count):
    chance, left = 1.0, sum(weights)
    for item in drawn:
      chance *= weights[item] / left
      left -= weights[item]
    chances[list(drawn)] += chance
  return chances


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_two_of_five_are_drawn_with_exponential_weights(temperature):
  importances, count = np.array([4.0, 0.0, 1.0, 2.0, 3.0]), 20_000
  features, _ = rows_of.rows(count, num_labels=2)
  masking = layers.ImportanceMasking(
    rows_of.SPECIAL,
    rows_of.ORDINARY,
    rows_of.MASK,
    temperature=temperature,
    weights='exponential',
  )
  chosen = masking(features, rows_of.table(*importances), tf.constant([1, 2]))
  expected = inclusion(np.exp(importances / temperature), 2)
  error = np.sqrt(expected * (1 - expected) / count)
  found = 2 * rows_of.shares_of_labels(chosen)[:5]
  assert (abs(found - expected) <= 4 * error).all()
  np.testing.assert_array_equal(
    chosen['masked_lm_weights'].numpy().sum(axis=1), 2
  )


def test_equal_importances_mask_evenly_and_power_is_as_it_was():
  seed, importances = tf.constant([3, 4]), tf.fill([6, 9], 2.5)
  keys = [
    random_seeds.sampling_keys(importances, 1.0, seed, is_exponential)
    for is_exponential in (False, True)
  ]
  # One shift for all.
  np.testing.assert_allclose(keys[1] - keys[0], 2.5 - np.log(2.5), rtol=1e-4)
  uniform = random_seeds.global_batch_uniform(tf.constant([6, 9]), seed)
  np.testing.assert_array_equal(
    keys[0], tf.math.log(importances) / 1.0 - tf.math.log(-tf.math.log(uniform))
  )


def test_frequency_gives_weights_of_counts_to_minus_alpha(vocab_path):
  """FWS: max(count, theta) ** -alpha, theta 10, alpha 1 / 2."""
  task = tasks.make_task(vocab_path, 'none', data=FREQUENCY, count_floor=10)
  run = tasks.Run(task, eager=True)
  table = run.model.masking_importance.importances.numpy()
  counts = np.maximum(
    np.arange(tasks.VOCAB_SIZE) + 1.0, 10
  )  # Add-one smoothed.
  weights = np.exp(table / 2.0)
  np.testing.assert_allclose(
    weights / weights[-1], (counts / counts[-1]) ** -0.5, rtol=1e-5
  )
  before = table.copy()
  run.step(tasks.make_batch())
  np.testing.assert_array_equal(run.model.masking_importance.table, before)


def test_plain_bert_masks_by_its_last_losses(vocab_path):
  """DWS: the table is no part of an encoder, which drops nothing."""
  task = tasks.make_task(vocab_path, 'none', data=DYNAMIC, token_loss_beta=0.0)
  run, batch = (
    tasks.Run(task, learning_rate=0.0, eager=True),
    tasks.make_batch(),
  )
  assert run.model.encoder_network.token_importance is None
  labels = task.complete_inputs(batch, run.model, tf.constant(0, tf.int64))
  assert (labels['masked_lm_ids'] != batch['masked_lm_ids']).numpy().any()
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
    labels['masked_lm_ids'], run.model(labels)['mlm_logits']
  ).numpy()
  run.step(batch)
  ids = labels['masked_lm_ids'].numpy()
  is_label = labels['masked_lm_weights'].numpy() > 0
  table = run.model.masking_importance.table.numpy()
  for token in range(tasks.VOCAB_SIZE):
    here = is_label & (ids == token)
    expected = losses[here].mean() if here.any() else 10.0
    assert table[token] == pytest.approx(expected, rel=1e-5), token


def test_one_importance_is_one_table(vocab_path):
  data = {'masking': 'importance'}
  task = tasks.make_task(vocab_path, 'loss', data=data)
  assert not hasattr(task.build_model(), 'masking_importance')
  task = tasks.make_task(vocab_path, 'loss', data=data | DYNAMIC)
  assert not hasattr(task.build_model(), 'masking_importance')
  task = tasks.make_task(vocab_path, 'random', data=DYNAMIC)
  model = task.build_model()
  table = model.encoder_network.token_importance
  assert model.masking_importance is not table
  run = tasks.Run(task, eager=True)
  run.step(tasks.make_batch())
  assert (run.model.masking_importance.table != 10.0).numpy().any()
  assert (run.table == 10.0).numpy().all()


@pytest.mark.parametrize(
  ('bindings', 'message'),
  [
    (("train_data.masking_scores = 'random'",), "masking_scores='random'. Set"),
    (("token_drop.policy = 'random'",), 'masking_scores=None. Set'),
    (
      ("train_data.masking_scores = 'scores'",),
      "policy = 'scores' needs a file of scores",
    ),
  ],
)
def test_what_gives_no_scores_is_refused(bindings, message):
  params = gin_trees.build("train_data.masking = 'importance'", *bindings)
  assert dropping.masking_importance(params.task) is not None
  with pytest.raises(errors.ConfigurationError, match=message):
    rules._check_importance_masking(params.task)
