"""The keep schedule: its form, its buckets, and the steps it gives."""

import numpy as np
import pytest
import tensorflow as tf

from tests import test_task as steps
from tokendrop_tf import configs, errors, keep_schedule, step_cost

SEQ_LENGTH = steps.SEQ_LENGTH
SCHEDULE = ('0:4', '0.25:8', '0.5:all', '0.75:8')
# Tokens kept in each of eight steps.
KEPT = (4, 4, 8, 8, None, None, 8, 8)


@pytest.fixture(scope='module', name='vocab_path')
def fixture_vocab_path(tmp_path_factory):
  tokens = [*steps.SPECIAL, *(f'w{i}' for i in range(steps.VOCAB_SIZE - 5))]
  path = tmp_path_factory.mktemp('vocabulary') / 'vocab.txt'
  path.write_text('\n'.join(tokens) + '\n')
  return str(path)


def settings(*entries, **kwargs):
  return configs.TokenDropConfig(
    **{'token_keep_k': 6, 'keep_schedule': entries, **kwargs}
  )


def run_of(vocab_path, jit_compile=None, **kwargs):
  """A run at rate 0: its losses show how many tokens a step kept."""
  task = steps.make_task(
    vocab_path, token_loss_beta=0.0, policy='frequency', **kwargs
  )
  return steps.Run(task, learning_rate=0.0, jit_compile=jit_compile)


def test_without_a_schedule_there_is_one_bucket():
  assert keep_schedule.parse(settings()) == (keep_schedule.Bucket(0.0, 6),)


def test_buckets_begin_at_their_share_of_the_training():
  config = settings('0:2', '0.25:4', '0.9:all', schedule_steps=10)
  assert [b.keep_k for b in keep_schedule.parse(config)] == [2, 4, None]
  assert keep_schedule.first_steps(config) == [0, 3, 9]
  assert [
    (pytest.approx(share), keep_k) for share, keep_k in [(0.25, 2), (0.65, 4)]
  ] == keep_schedule.shares(config)[:2]


@pytest.mark.parametrize(
  ('share', 'steps', 'first'), [(0.07, 100, 7), (0.55, 100, 55), (0.6, 7, 5)]
)
def test_a_share_that_comes_out_even_begins_with_that_step(share, steps, first):
  config = settings('0:2', f'{share}:4', schedule_steps=steps)
  assert keep_schedule.first_steps(config) == [0, first]


@pytest.mark.parametrize(
  ('entries', 'text'),
  [
    ((), '6 of 12 tokens (50%)'),
    (('0:all', '0.6:3'), 'all 12 tokens to step 1,200, then 3 (25%)'),
    (
      ('0:3', '0.5:6', '0.9:all'),
      '3 (25%) of 12 tokens to step 1,000, then 6 (50%) to step 1,800, '
      'then all',
    ),
  ],
)
def test_a_schedule_is_said_in_words(entries, text):
  config = settings(*entries, schedule_steps=2000)
  assert keep_schedule.describe(config, 12) == text


@pytest.mark.parametrize(
  ('entries', 'message'),
  [
    (('128',), "Received: '128'"),
    (('0:x',), "Received: '0:x'"),
    (('0:0',), "Received: '0:0'"),
    (('0.1:4',), 'begin with 0.*Received: 0.1:4'),
    (('0:4', '0.5:8', '0.5:all'), 'rise.*0:4, 0.5:8, 0.5:all'),
    (('0:4', '1.0:all'), 'below 1'),
    (('0:17',), 'at most train_data.seq_length.*Received: 17'),
  ],
)
def test_a_wrong_schedule_is_refused(entries, message):
  with pytest.raises(errors.ConfigurationError, match=message):
    keep_schedule.validate(settings(*entries), SEQ_LENGTH)


def losses(run, first_step, num_steps, batch):
  run.optimizer.iterations.assign(first_step)
  return [float(run.step(batch)) for _ in range(num_steps)]


@pytest.fixture(scope='module', name='scheduled')
def fixture_scheduled(vocab_path):
  counts = vocab_path.replace('.txt', '.counts.tsv')
  with open(counts, 'w', encoding='utf-8') as file:
    file.writelines(f'w{i}\t{i}\n' for i in range(steps.VOCAB_SIZE - 5))
  return run_of(vocab_path, keep_schedule=SCHEDULE, schedule_steps=8)


def test_every_step_keeps_what_its_bucket_says(scheduled):
  batch = steps.make_batch()
  expected = {}
  for keep_k in set(KEPT):
    outputs = scheduled.model(
      batch,
      drop_tokens=keep_k is not None,
      token_keep_k=keep_k,
    )
    slots = scheduled.task._slot_results(batch, outputs)
    weights = batch['masked_lm_weights']
    expected[keep_k] = float(
      tf.reduce_sum(slots['losses'] * weights) / tf.reduce_sum(weights)
    )
  assert len({round(value, 5) for value in expected.values()}) == 3
  np.testing.assert_allclose(
    losses(scheduled, 0, 8, batch), [expected[k] for k in KEPT], rtol=1e-4
  )


def test_a_run_that_resumes_in_a_bucket_takes_the_same_steps(scheduled):
  batch = steps.make_batch()
  whole = losses(scheduled, 0, 8, batch)
  for first_step in (1, 3, 5):
    np.testing.assert_allclose(
      losses(scheduled, first_step, 8 - first_step, batch),
      whole[first_step:],
      rtol=1e-6,
    )


def test_each_number_of_tokens_is_one_branch_inside_a_loop(scheduled):
  batch = steps.make_batch()
  whole = losses(scheduled, 0, 8, batch)
  scheduled.optimizer.iterations.assign(0)

  @tf.function
  def loop(num_steps):
    results = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
    for i in tf.range(num_steps):
      results = results.write(i, scheduled.step(batch))
    return results.stack()

  np.testing.assert_allclose(loop(tf.constant(8)), whole, rtol=1e-5)


def test_a_schedule_saves_by_the_length_of_its_buckets():
  task = configs.PretrainingTaskConfig()
  whole = step_cost.expected_saving(task)
  task.token_drop.override(
    {'keep_schedule': ('0:256', '0.75:all'), 'schedule_steps': 100}
  )
  assert step_cost.expected_saving(task) == pytest.approx(0.75 * whole)
