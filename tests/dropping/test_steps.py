"""Kinds of steps: which step is of which kind, and what each computes."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import test_masked_lm as tasks
from tokendrop_tf.dropping import TokenDropConfig
from tokendrop_tf.dropping.step import FULL, Step
from tokendrop_tf.dropping.steps import StepKinds

SCHEDULE = ('0:4', '0.25:8', '0.5:all', '0.75:8')
# Tokens kept in each of eight steps.
KEPT = (4, 4, 8, 8, None, None, 8, 8)


@pytest.fixture(scope='module', name='vocab_path')
def fixture_vocab_path(tmp_path_factory):
  tokens = [*tasks.SPECIAL, *(f'w{i}' for i in range(tasks.VOCAB_SIZE - 5))]
  path = tmp_path_factory.mktemp('vocabulary') / 'vocab.txt'
  path.write_text('\n'.join(tokens) + '\n')
  return str(path)


def kinds(*entries, drops=True, **settings):
  return StepKinds(
    TokenDropConfig(
      **{'token_keep_k': 6, 'keep_schedule': entries, **settings}
    ),
    drops,
  )


def run_of(vocab_path, jit_compile=None, **kwargs):
  """A run at rate 0: its losses show how many tokens a step kept."""
  task = tasks.make_task(
    vocab_path, token_loss_beta=0.0, policy='frequency', **kwargs
  )
  return tasks.Run(task, learning_rate=0.0, jit_compile=jit_compile)


def test_each_kind_that_occurs_is_one_branch():
  assert kinds().kinds == [Step(6)]
  assert kinds(full_step_every=3).kinds == [Step(6), FULL]
  assert kinds('0:2', '0.5:all', '0.7:2').kinds == [Step(2), FULL]
  assert kinds('0:2', full_step_every=1).kinds == [FULL]
  assert kinds('0:2', full_step_every=3, drops=False).kinds == [FULL]


def test_kinds_share_the_run_by_schedule_and_period():
  shares = kinds('0:2', '0.75:all', full_step_every=4).shares
  assert [kind for _, kind in shares] == [FULL, Step(2), FULL]
  assert [share for share, _ in shares] == pytest.approx([0.25, 0.5625, 0.1875])


@pytest.mark.parametrize('every', [0, 3])
def test_the_kind_follows_from_the_step(every):
  chosen = kinds('0:2', '0.5:4', schedule_steps=8, full_step_every=every)

  @tf.function
  def keep_k(step):
    return chosen.switch(step, lambda kind: tf.constant(kind.keep_k or -1))

  expected = [2] * 4 + [4] * 4
  if every:
    expected[2] = expected[5] = -1
  assert [int(keep_k(tf.constant(i, tf.int64))) for i in range(8)] == expected


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
    (
      ('0-0.9:3-10', '0.9:all'),
      'from 4 (33%) to all of 12 tokens over 8 stretches',
    ),
  ],
)
def test_a_schedule_is_said_in_words(entries, text):
  assert kinds(*entries, schedule_steps=2000).describe(12) == text


def losses(run, first_step, num_steps, batch):
  run.optimizer.iterations.assign(first_step)
  return [float(run.step(batch)) for _ in range(num_steps)]


@pytest.fixture(scope='module', name='scheduled')
def fixture_scheduled(vocab_path):
  counts = vocab_path.replace('.txt', '.counts.tsv')
  with open(counts, 'w', encoding='utf-8') as file:
    file.writelines(f'w{i}\t{i}\n' for i in range(tasks.VOCAB_SIZE - 5))
  return run_of(vocab_path, keep_schedule=SCHEDULE, schedule_steps=8)


def test_every_step_keeps_what_its_stretch_says(scheduled):
  batch = tasks.make_batch()
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


def test_a_run_that_resumes_in_a_stretch_takes_the_same_steps(scheduled):
  batch = tasks.make_batch()
  whole = losses(scheduled, 0, 8, batch)
  for first_step in (1, 3, 5):
    np.testing.assert_allclose(
      losses(scheduled, first_step, 8 - first_step, batch),
      whole[first_step:],
      rtol=1e-6,
    )


def test_each_number_of_tokens_is_one_branch_inside_a_loop(scheduled):
  batch = tasks.make_batch()
  whole = losses(scheduled, 0, 8, batch)
  scheduled.optimizer.iterations.assign(0)

  @tf.function
  def loop(num_steps):
    results = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
    for i in tf.range(num_steps):
      results = results.write(i, scheduled.step(batch))
    return results.stack()

  np.testing.assert_allclose(loop(tf.constant(8)), whole, rtol=1e-5)
