"""Training in float16: the loss scale, and steps that it skips."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.tasks import test_masked_lm as tasks
from tokendrop_tf.tasks import loss_scaler

# Gradients of a loss that is multiplied by this end far beyond 65,504.
TOO_HIGH = 2.0**60


@pytest.fixture(autouse=True)
def float16():
  tf_keras.mixed_precision.set_global_policy('mixed_float16')


vocab_path = tasks.fixture_vocab_path


class ScaledRun(tasks.Run):
  """A run whose optimizer scales the loss."""

  def __init__(self, task, initial_scale=2.0**15, jit_compile=None):
    super().__init__(task)
    self.optimizer = tf_keras.mixed_precision.LossScaleOptimizer(
      self.optimizer, initial_scale=initial_scale
    )
    self.step = tf.function(
      self._step, autograph=False, jit_compile=jit_compile
    )

  @property
  def scale(self):
    return float(self.optimizer.loss_scale)

  @property
  def state(self):
    """Weights and importance table."""
    return [variable.numpy() for variable in self.model.variables]


def is_same(state, other):
  return all(np.array_equal(a, b) for a, b in zip(state, other, strict=True))


def test_losses_follow_those_of_float32(vocab_path):
  narrow = ScaledRun(tasks.make_task(vocab_path))
  tf_keras.mixed_precision.set_global_policy('float32')
  wide = tasks.Run(tasks.make_task(vocab_path))
  batches = [tasks.make_batch(seed) for seed in range(4)]
  losses = [
    [float(run.step(batches[i % 4])) for i in range(20)]
    for run in (narrow, wide)
  ]
  np.testing.assert_allclose(*losses, rtol=0.02)
  assert losses[0][-1] < 0.7 * losses[0][0]
  np.testing.assert_allclose(narrow.table, wide.table, rtol=0.01)
  assert narrow.scale == 2.0**15


@pytest.mark.parametrize('jit_compile', [False, True])
def test_a_step_with_an_infinite_gradient_only_halves_the_scale(
  vocab_path, jit_compile
):
  run = ScaledRun(
    tasks.make_task(vocab_path), TOO_HIGH, jit_compile=jit_compile
  )
  before, batch = run.state, tasks.make_batch()
  loss = float(run.step(batch))
  assert np.isfinite(loss)
  assert is_same(run.state, before)
  assert run.scale == TOO_HIGH / 2
  assert int(run.optimizer.iterations) == 1
  assert int(run.model.loss_guard.first_nonfinite_step) == -1
  # It is halved until the gradients fit, and then the run learns.
  losses = [float(run.step(batch)) for _ in range(70)]
  assert 1.0 < run.scale < TOO_HIGH / 2**30
  assert losses[-1] < 0.8 * loss
  assert run.table.numpy().min() < 9.9


def test_gradients_are_clipped_after_they_are_divided_by_the_scale(vocab_path):
  """Only then does their norm, and so the update, not depend on the scale."""
  runs = [
    ScaledRun(tasks.make_task(vocab_path), scale) for scale in (2.0**6, 2.0**12)
  ]
  for run in runs:
    run.step(tasks.make_batch())
  norms = [float(run.model.loss_guard.gradient_norm) for run in runs]
  assert norms[0] > 1.0  # It is clipped.
  np.testing.assert_allclose(*norms, rtol=0.01)
  for weight, other in zip(*(run.state for run in runs), strict=True):
    np.testing.assert_allclose(weight, other, atol=2.1e-2)


def test_replicas_skip_the_step_together(vocab_path, four_replicas):
  with four_replicas.scope():
    run = ScaledRun(tasks.make_task(vocab_path), TOO_HIGH)
  before, batch = run.state, tasks.make_batch()

  def of_replica(context):
    rows = slice(2 * context.replica_id_in_sync_group, None)
    return {name: value[rows][:2] for name, value in batch.items()}

  parts = four_replicas.experimental_distribute_values_from_function(of_replica)

  @tf.function
  def step():
    return four_replicas.run(run._step, args=(parts,))

  step()
  assert is_same(run.state, before)
  assert run.scale == TOO_HIGH / 2
  for _ in range(60):
    step()
  assert 1.0 < run.scale < TOO_HIGH / 2**30
  tables = four_replicas.experimental_local_results(run.table)
  assert tables[0].numpy().min() < 9.9
  for table in tables[1:]:
    np.testing.assert_array_equal(table, tables[0])


def test_a_resumed_run_keeps_the_scale_and_when_it_grows(vocab_path, tmp_path):
  whole = ScaledRun(tasks.make_task(vocab_path), 2.0**40)
  checkpoint = tf.train.Checkpoint(model=whole.model, optimizer=whole.optimizer)
  for seed in range(30):
    whole.step(tasks.make_batch(seed))
  path = checkpoint.write(str(tmp_path / 'ckpt'))
  resumed = ScaledRun(tasks.make_task(vocab_path))
  tf.train.Checkpoint(model=resumed.model, optimizer=resumed.optimizer).restore(
    path
  )
  losses = [
    [float(run.step(tasks.make_batch(seed))) for seed in range(30, 36)]
    for run in (whole, resumed)
  ]
  assert losses[0] == losses[1]
  assert whole.scale == resumed.scale < 2.0**40
  counters = [int(r.optimizer.dynamic_counter) for r in (whole, resumed)]
  assert counters[0] == counters[1] > 6
  assert is_same(whole.state, resumed.state)


def test_gradients_that_no_scale_mends_break_the_loss():
  def checked(scale, norm):
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(
      tf_keras.optimizers.Adam(), initial_scale=scale
    )
    return float(loss_scaler.LossScaler(optimizer).checked(2.0, norm))

  assert checked(2.0, np.inf) == 2.0
  assert checked(1.0, 3.0) == 2.0
  assert np.isnan(checked(1.0, np.inf))
