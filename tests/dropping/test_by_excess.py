"""Excess over a reference: its table, the labels that it selects."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import test_masked_lm as tasks
from tests.tasks.test_masked_lm import fixture_vocab_path  # noqa: F401
from tokendrop_tf import errors

REFERENCE = np.random.default_rng(3).uniform(1, 9, tasks.VOCAB_SIZE)


def save(model, folder, vocab_path):
  """Writes a checkpoint with its vocabulary, as an earlier run's."""
  folder.mkdir()
  shutil.copy(vocab_path, folder / 'vocab.txt')
  return tf.train.Checkpoint(model=model, **model.checkpoint_items).write(
    str(folder / 'ckpt')
  )


@pytest.fixture(scope='module', name='reference')
def fixture_reference(vocab_path, tmp_path_factory):
  model = tasks.make_task(vocab_path).build_model()
  model.encoder_network.token_importance.table.assign(REFERENCE)
  folder = tmp_path_factory.mktemp('excess') / 'reference'
  return save(model, folder, vocab_path)


def make_run(vocab_path, reference, learning_rate=0.0, **settings):
  task = tasks.make_task(
    vocab_path, 'excess', reference_checkpoint=reference, **settings
  )
  return tasks.Run(task, learning_rate, eager=True)


def importance_of(run):
  return run.model.encoder_network.token_importance


def kept_by_hand(excess, ids, weights, share):
  """Returns the weights with the tokens of least excess taken off."""
  room, kept = share * weights.sum(), np.zeros_like(weights)
  for token in sorted(range(len(excess)), key=lambda i: (-excess[i], i)):
    is_token = ids == token
    total = weights[is_token].sum()
    if total > 0:
      kept[is_token] = weights[is_token] * min(max(room / total, 0), 1)
      room -= total
  return kept


def test_the_table_is_above_a_reference_that_never_moves(vocab_path, reference):
  run = make_run(vocab_path, reference, token_loss_beta=0.0)
  importance, batch = importance_of(run), tasks.make_batch()
  np.testing.assert_allclose(importance.reference, REFERENCE, rtol=1e-6)
  np.testing.assert_allclose(importance.importances, 10 - REFERENCE, rtol=1e-5)
  run.step(batch)
  np.testing.assert_allclose(importance.reference, REFERENCE, rtol=1e-6)
  table = importance.table.numpy()
  assert (table != 10.0).any()
  excess = np.maximum(table - REFERENCE, 0)
  assert (excess == 0).any()
  np.testing.assert_allclose(importance.importances, excess, atol=1e-5)
  ids = tf.constant([[5, 6, 0, 2]])
  scores = importance(ids).numpy()[0]
  np.testing.assert_allclose(scores[:2], excess[5:7], atol=1e-5)
  assert list(scores[2:]) == [-np.inf, np.inf]


def test_a_run_against_itself_has_no_importance_to_order_by(
  vocab_path, reference, tmp_path
):
  run = make_run(vocab_path, reference)
  run.step(tasks.make_batch())
  own = save(run.model, tmp_path / 'own', vocab_path)
  twin = make_run(vocab_path, own)
  importance_of(twin).table.assign(importance_of(run).table)
  np.testing.assert_array_equal(importance_of(twin).importances, 0.0)


def test_weights_to_start_from_do_not_bring_a_reference(
  vocab_path, reference, tmp_path
):
  run = make_run(vocab_path, reference)
  importance_of(run).reference.assign(tf.zeros(tasks.VOCAB_SIZE))
  importance_of(run).table.assign(tf.range(30.0))
  task = tasks.make_task(vocab_path, 'excess', reference_checkpoint=reference)
  for policy in ('excess', 'loss'):
    source = run.model
    if policy == 'loss':
      source = tasks.make_task(vocab_path).build_model()
      source.encoder_network.token_importance.table.assign(tf.range(30.0))
    path = save(source, tmp_path / policy, vocab_path)
    task.task_config.override({'init_checkpoint': path})
    model = task.build_model()
    task.initialize(model)
    found = model.encoder_network.token_importance
    np.testing.assert_array_equal(found.table, np.arange(30))
    np.testing.assert_allclose(found.reference, REFERENCE, rtol=1e-6)


@pytest.mark.parametrize('share', [0.3, 0.75])
def test_labels_of_highest_excess_are_trained_on(vocab_path, reference, share):
  """The step of hand-masked labels; the table learns from all of them."""
  batch = tasks.make_batch()
  ids, weights = (
    batch[name].numpy() for name in ('masked_lm_ids', 'masked_lm_weights')
  )
  kept = kept_by_hand(10 - REFERENCE, ids, weights, share)
  assert kept.sum() == pytest.approx(share * weights.sum())
  ours = make_run(vocab_path, reference, 1e-2, label_keep_share=share)
  by_hand = make_run(vocab_path, reference, 1e-2)
  whole = make_run(vocab_path, reference, 0.0)
  losses = [
    float(ours.step(batch)),
    float(by_hand.step({**batch, 'masked_lm_weights': tf.constant(kept)})),
    float(whole.step(batch)),
  ]
  assert losses[0] == pytest.approx(losses[1], rel=1e-6)
  assert losses[0] != pytest.approx(losses[2], rel=1e-3)
  for found, expected in zip(
    ours.model.trainable_variables, by_hand.model.trainable_variables
  ):
    np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=found.name)
  np.testing.assert_allclose(
    importance_of(ours).table, importance_of(whole).table, rtol=1e-6
  )


def test_replicas_and_xla_select_what_one_device_selects(
  vocab_path, reference, four_replicas
):
  settings = {'label_keep_share': 0.5, 'reference_checkpoint': reference}
  alone = make_run(vocab_path, reference, label_keep_share=0.5)
  select, batch = alone.task._dropping.importance, tasks.make_batch()
  expected = select.trained_weights(importance_of(alone), batch)
  compiled = tf.function(select.trained_weights, jit_compile=True)
  np.testing.assert_allclose(
    compiled(importance_of(alone), batch), expected, atol=1e-6
  )
  with four_replicas.scope():
    task = tasks.make_task(vocab_path, 'excess', **settings)
    model = task.build_model()
    task.initialize(model)
  table = model.encoder_network.token_importance
  parts = four_replicas.experimental_distribute_values_from_function(
    lambda context: {
      name: tf.split(value, 4)[context.replica_id_in_sync_group]
      for name, value in batch.items()
    }
  )
  found = four_replicas.run(
    tf.function(lambda part: select.trained_weights(table, part)), args=(parts,)
  )
  together = tf.concat(four_replicas.experimental_local_results(found), axis=0)
  np.testing.assert_allclose(together, expected, atol=1e-6)


def test_all_labels_need_no_selection(vocab_path, reference):
  run = make_run(vocab_path, reference)
  inputs = tasks.make_batch()
  assert run.task.complete_inputs(inputs, run.model, 0) is inputs


def test_a_reference_that_is_none_is_refused(vocab_path, reference, tmp_path):
  task = tasks.make_task(vocab_path, 'excess')
  with pytest.raises(errors.ConfigurationError, match='needs the table of a'):
    task._dropping.check()
  without = tasks.make_task(vocab_path, 'random').build_model()
  path = save(without, tmp_path / 'random', vocab_path)
  with pytest.raises(errors.ConfigurationError, match='which has none. Set'):
    make_run(vocab_path, path)
  other = tmp_path / 'other'
  shutil.copytree(tmp_path / 'random', other)
  (other / 'vocab.txt').write_text(
    (other / 'vocab.txt').read_text().replace('w7\n', 'x7\n')
  )
  with pytest.raises(errors.ConfigurationError, match="line 13 is 'x7'"):
    make_run(vocab_path, str(other / 'ckpt'))
