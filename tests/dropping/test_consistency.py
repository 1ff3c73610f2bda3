"""Consistency steps: both passes, and what draws them together."""

import gin_trees
import numpy as np
import pytest
import tensorflow as tf

from tests import test_encoder as encoders
from tests.dropping.test_cost import make_task as make_base_task
from tests.tasks import test_masked_lm as tasks
from tests.tasks.test_masked_lm import fixture_vocab_path  # noqa: F401
from tokendrop_tf import errors
from tokendrop_tf.config import rules
from tokendrop_tf.dropping import Dropping, TokenDropConfig, consistency, cost
from tokendrop_tf.dropping.consistency import Consistency, ConsistencyStep
from tokendrop_tf.dropping.step import FULL, Step
from tokendrop_tf.dropping.steps import StepKinds

SEED = tf.constant([1, 2])
SUMMARIES = ('cls', 'mean')


def kinds(*entries, **settings):
  return StepKinds(
    TokenDropConfig(token_keep_k=6, keep_schedule=entries, **settings), True
  )


class TestKinds:
  def test_a_run_without_them_has_no_trace_of_them(self):
    without = kinds(full_step_every=3)
    assert without.kinds == [Step(6), FULL]
    assert without.result_names == ()

  def test_every_nth_step_goes_before_full_ones_and_skips_full_stretches(self):
    chosen = kinds(
      *('0:4', '0.5:all'),
      schedule_steps=16,
      consistency_every=4,
      full_step_every=3,
    )
    hybrid = ConsistencyStep(4, Consistency(consistency_every=4))
    assert chosen.kinds == [Step(4), FULL, hybrid]
    assert chosen.result_names == hybrid.RESULTS

    @tf.function
    def number(step):
      return chosen.switch(
        step, lambda kind: tf.constant(chosen.kinds.index(kind))
      )

    found = [int(number(tf.constant(step, tf.int64))) for step in range(16)]
    assert found == [0, 0, 1, 2, 0, 1, 0, 2, *[1] * 8]
    shares = {}
    for share, kind in chosen.shares:
      shares[kind] = shares.get(kind, 0) + share
    assert shares[hybrid] == pytest.approx(1 / 8)
    assert shares[Step(4)] == pytest.approx((1 - 1 / 4 - 1 / 3 + 1 / 12) / 2)
    assert sum(shares.values()) == pytest.approx(1)

  def test_every_tenth_costs_less_than_a_seventh_more_at_base_size(self):
    plain = cost.step_cost(make_base_task(), None, 76).total
    dropping = cost.mean_cost(make_base_task())
    task = make_base_task(consistency_every=10)
    hybrid = cost.mean_cost(task) - 0.9 * dropping
    # One row more in the last layer of both passes.
    assert hybrid == pytest.approx(0.1 * (plain + dropping), rel=1e-3)
    assert 1.13 < cost.mean_cost(task) / dropping < 1.15
    mean = make_base_task(consistency_every=10, consistency_rows='mean')
    assert cost.mean_cost(mean) > cost.mean_cost(task)

  def test_what_does_not_fit_is_refused(self):
    section = TokenDropConfig(consistency_every=5, full_step_every=10)
    with pytest.raises(errors.ConfigurationError, match='Received: 10 and 5'):
      Dropping(section, 12, 512).check()
    packed = (
      'token_drop.consistency_every = 10',
      "train_data.packing = 'best_fit'",
    )
    params = gin_trees.build(*packed)
    with pytest.raises(errors.ConfigurationError, match='one document in a'):
      rules._check_consistency_rows(params.task)
    mean = "token_drop.consistency_rows = 'mean'"
    rules._check_consistency_rows(gin_trees.build(*packed, mean).task)

  def test_they_are_said_in_words(self):
    section = TokenDropConfig(token_keep_k=64, consistency_every=10)
    assert 'one step in 10 with and without dropping' in (
      Dropping(section, 12, 128).describe()
    )


class TestDivergence:
  def test_it_is_that_of_softmax_over_the_units(self):
    full, dropping = np.random.default_rng(0).normal(size=[2, 3, 2, 16])
    p, q = (
      np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
      for x in (full, dropping)
    )
    found = consistency.divergence(
      tf.constant(full, tf.float32), tf.constant(dropping, tf.float32), False
    )
    np.testing.assert_allclose(
      found, (p * np.log(p / q)).sum(axis=-1), atol=1e-6
    )

  def test_the_target_gets_a_gradient_only_where_both_move(self):
    draw = np.random.default_rng(1)
    full, dropping = (tf.Variable(draw.normal(size=[1, 8])) for _ in range(2))
    for moves_both in (False, True):
      with tf.GradientTape(persistent=True) as tape:
        value = consistency.divergence(full, dropping, moves_both)
      gradient = tape.gradient(value, full)
      assert (gradient is not None) == moves_both
      assert tape.gradient(value, dropping) is not None
    step = 1e-2 * np.eye(8)
    differences = [
      (
        consistency.divergence(full + change, dropping, True)
        - consistency.divergence(full - change, dropping, True)
      )[0]
      / 2e-2
      for change in step
    ]
    np.testing.assert_allclose(gradient[0], differences, atol=2e-4)


def reference_rows(encoder, stock, features, keep_k, crossing_layer):
  """Dropping in reading order, before and after the last layer, [B, S, H]."""
  last = stock._transformer_layers[-1]

  class Identity:
    """In the place of the last layer."""

    def __call__(self, inputs):
      return inputs[0]

  stock._transformer_layers[-1] = Identity()
  try:
    before = encoders.reference_with_dropping(
      encoder, stock, features, None, keep_k, crossing_layer
    )
  finally:
    stock._transformer_layers[-1] = last
  to_all = tf.cast(features['input_mask'][:, None, :], tf.float32)
  return before, last([before, to_all])


@pytest.mark.parametrize('summary', SUMMARIES)
def test_summaries_are_those_of_a_plain_computation(tmp_path, summary):
  """In reading order: gather, stock layers, scatter."""
  encoder = encoders.make_encoder(return_all_encoder_outputs=False)
  stock = encoders.make_stock_twin(encoder, tmp_path)
  features = encoders.make_features()
  positions = tf.constant([[1, 3], [2, 0], [4, 4]])
  mask = tf.cast(features['input_mask'], tf.float32)[:, :, None]
  with tf.GradientTape(persistent=True) as tape:
    ours = encoder(
      features,
      output_positions=positions,
      drop_tokens=True,
      return_pooled_output=False,
      summary=summary,
    )
    both = reference_rows(encoder, stock, features, 5, 2)
    expected = tf.stack(
      [
        rows[:, 0]
        if summary == 'cls'
        else tf.reduce_sum(rows * mask, axis=1) / tf.reduce_sum(mask, axis=1)
        for rows in both
      ],
      axis=1,
    )
    values = [tf.reduce_sum(x**2) for x in (ours['summaries'], expected)]
  encoders.assert_close(ours['summaries'], expected)
  encoders.assert_close(
    ours['sequence_output'], tf.gather(both[1], positions, batch_dims=1)
  )
  kernels = [
    model.transformer_layers[0]._intermediate_dense.kernel
    for model in (encoder, stock)
  ]
  gradients = [tape.gradient(v, k) for v, k in zip(values, kernels)]
  encoders.assert_close(gradients[0], gradients[1], 1e-4)


def make_task(vocab_path, **settings):
  """Sampled tokens, which the seed decides."""
  return tasks.make_task(
    vocab_path, 'random', **{'consistency_every': 1, **settings}
  )


def gradients_of(task, model, batch, branch):
  """Returns loss and gradients of a step of a kind, by the weighted means."""
  weights = task.loss_weights(batch)
  with tf.GradientTape() as tape:
    results = task.row_results(batch, model, True, SEED, branch)
    loss = tf.add_n(
      [
        tf.reduce_sum(results[name] * weight) / tf.reduce_sum(weight)
        for name, weight in weights.items()
      ]
    )
  return loss, tape.gradient(loss, model.trained_variables), results


def assert_same_gradients(found, expected, atol):
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(
      tf.convert_to_tensor(ours), theirs, rtol=1e-4, atol=atol
    )


class TestStep:
  @pytest.fixture(scope='class')
  def model(self, vocab_path):
    return make_task(vocab_path).build_model()

  def test_without_weight_it_mixes_the_losses_of_two_separate_steps(
    self, vocab_path, model
  ):
    """The loss of the full pass is that of full sequences."""
    task = make_task(vocab_path, consistency_weight=0.0, full_loss_weight=0.3)
    [kind], batch = task._dropping.kinds.kinds, tasks.make_batch()
    loss, found, results = gradients_of(task, model, batch, kind)
    apart = [gradients_of(task, model, batch, step) for step in (Step(6), FULL)]
    assert abs(float(apart[0][0] - apart[1][0])) > 1e-3
    assert float(loss) == pytest.approx(
      0.7 * float(apart[0][0]) + 0.3 * float(apart[1][0]), rel=1e-5
    )
    mixed = [
      0.7 * tf.convert_to_tensor(a) + 0.3 * tf.convert_to_tensor(b)
      for a, b in zip(apart[0][1], apart[1][1])
    ]
    assert_same_gradients(found, mixed, 1e-5)
    # One row more in the last layer, which rounds in another way.
    np.testing.assert_allclose(
      results['pass_losses'], apart[0][2]['losses'], rtol=1e-5
    )
    np.testing.assert_array_equal(results['hits'], apart[0][2]['hits'])

  @pytest.mark.parametrize('summary', SUMMARIES)
  @pytest.mark.parametrize('target', ['full', 'both'])
  def test_its_loss_is_that_of_two_calls_of_the_model(
    self, vocab_path, model, summary, target
  ):
    task = make_task(
      vocab_path,
      consistency_weight=2.0,
      consistency_rows=summary,
      consistency_target=target,
    )
    [kind], batch = task._dropping.kinds.kinds, tasks.make_batch()
    loss, found, results = gradients_of(task, model, batch, kind)
    weights = batch['masked_lm_weights']
    with tf.GradientTape() as tape:
      losses, summaries = [], []
      for keep_k in (6, None):
        outputs = model(
          batch,
          training=True,
          drop_tokens=keep_k is not None,
          token_keep_k=keep_k,
          seed=SEED,
          summary=summary,
        )
        losses.append(task._slot_results(batch, outputs)['losses'])
        summaries.append(outputs['summaries'])
      dropping, full = summaries
      if target == 'full':
        full = tf.constant(full.numpy())
      p, q = tf.nn.softmax(full), tf.nn.softmax(dropping)
      divergence = tf.reduce_sum(p * tf.math.log(p / q), axis=-1)
      expected = tf.reduce_sum(weights * (losses[0] + losses[1]) / 2)
      # Per sequence, where the losses of its labels are summed.
      expected += 2.0 * tf.reduce_sum(divergence)
      expected /= tf.reduce_sum(weights)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(results['divergences'], divergence, atol=1e-5)
    by_hand = tape.gradient(expected, model.trained_variables)
    assert_same_gradients(
      found, [tf.convert_to_tensor(g) for g in by_hand], 1e-5
    )

  def test_where_all_tokens_are_kept_it_is_a_plain_step(
    self, vocab_path, model
  ):
    task = make_task(
      vocab_path,
      token_keep_k=tasks.SEQ_LENGTH,
      consistency_weight=5.0,
      consistency_target='both',
    )
    [kind], batch = task._dropping.kinds.kinds, tasks.make_batch()
    loss, found, results = gradients_of(task, model, batch, kind)
    plain, expected, _ = gradients_of(task, model, batch, FULL)
    assert not np.any(results['divergences'])
    assert float(loss) == pytest.approx(float(plain), rel=1e-6)
    assert_same_gradients(
      found, [tf.convert_to_tensor(g) for g in expected], 1e-6
    )


def make_run(vocab_path, every=3, configure=None, **kwargs):
  """Ranked tokens: with a batch of distinct ones, nothing is drawn."""
  task = tasks.make_task(
    vocab_path,
    'frequency',
    consistency_every=every,
    consistency_weight=1.0,
  )
  task.configure_step(**(configure or {}))
  return tasks.Run(task, **kwargs)


def distinct_batch(seed):
  """Without equal tokens in a row: XLA draws other numbers for their order."""
  batch, draw = tasks.make_batch(seed), np.random.default_rng(seed)
  ids = [draw.permutation(np.arange(5, tasks.VOCAB_SIZE)) for _ in range(8)]
  ids = tf.constant(np.array(ids)[:, : tasks.SEQ_LENGTH], tf.int32)
  return {**batch, 'input_word_ids': ids * batch['input_mask']}


def take_steps(run, first, last):
  return [float(run.step(distinct_batch(i))) for i in range(first, last)]


def assert_same_weights(model, expected, atol=1e-4):
  for ours, theirs in zip(
    model.trainable_variables, expected.model.trainable_variables, strict=True
  ):
    np.testing.assert_allclose(
      ours, theirs, rtol=1e-4, atol=atol, err_msg=ours.name
    )


def test_a_run_that_resumes_within_a_period_takes_the_same_steps(
  vocab_path, tmp_path
):
  """The third step of four is of two passes; the metrics are its alone."""
  whole = make_run(vocab_path, eager=True)
  losses = take_steps(whole, 0, 2)
  saved = tf.train.Checkpoint(model=whole.model, optimizer=whole.optimizer)
  path = saved.write(str(tmp_path / 'ckpt'))
  losses += take_steps(whole, 2, 4)
  by_name = {metric.name: metric for metric in whole.metrics}
  for name in ('consistency_loss_layer', 'consistency_loss_output'):
    assert float(by_name[name].result()) > 1e-4
    assert float(by_name[name].count) == tasks.BATCH_SIZE
  resumed = make_run(vocab_path, eager=True)
  tf.train.Checkpoint(model=resumed.model, optimizer=resumed.optimizer).read(
    path
  )
  assert take_steps(resumed, 2, 4) == losses[2:]
  for ours, theirs in zip(
    resumed.model.weights, whole.model.weights, strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope='module', name='one_device')
def fixture_one_device(vocab_path):
  """One step of two passes."""
  run = make_run(vocab_path, every=1, eager=True)
  run.losses = take_steps(run, 0, 1)
  return run


@pytest.mark.parametrize(
  'how',
  [
    {'configure': {'gradient_accumulation_steps': 2}, 'eager': True},
    {'jit_compile': True},
  ],
  ids=['in parts', 'by XLA'],
)
def test_it_may_be_taken_in_parts_or_compiled(vocab_path, one_device, how):
  run = make_run(vocab_path, every=1, **how)
  np.testing.assert_allclose(
    take_steps(run, 0, 1), one_device.losses, rtol=1e-5
  )
  assert_same_weights(run.model, one_device)


def test_four_replicas_take_the_step_of_one_device(
  vocab_path, one_device, four_replicas
):
  with four_replicas.scope():
    run = make_run(vocab_path, every=1, eager=True)
  batch = distinct_batch(0)
  parts = four_replicas.experimental_distribute_values_from_function(
    lambda context: {
      name: tf.split(value, 4)[context.replica_id_in_sync_group]
      for name, value in batch.items()
    }
  )
  losses = four_replicas.run(
    tf.function(run.step, autograph=False), args=(parts,)
  )
  loss = four_replicas.reduce('MEAN', losses, axis=None)
  np.testing.assert_allclose(loss, one_device.losses[0], rtol=1e-5)
  assert_same_weights(run.model, one_device)
