"""The train and validation steps: exactness, schedules, replicas, policies."""

import math
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import tiny_runs
from official.nlp.configs import bert, encoders
from official.nlp.tasks import masked_lm

from tokendrop_tf.config import configs
from tokendrop_tf.run import trainer
from tokendrop_tf.tasks import masked_lm as task_lib

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
VOCAB_SIZE, SEQ_LENGTH, NUM_SLOTS, BATCH_SIZE = 30, 16, 4, 8
SIZES = {
  **tiny_runs.SIZES,
  'vocab_size': VOCAB_SIZE,
  'max_position_embeddings': SEQ_LENGTH,
}


@pytest.fixture(scope='module', name='vocab_path')
def fixture_vocab_path(tmp_path_factory):
  folder = tmp_path_factory.mktemp('vocabulary')
  tokens = [*SPECIAL, *(f'w{i}' for i in range(VOCAB_SIZE - len(SPECIAL)))]
  (folder / 'vocab.txt').write_text('\n'.join(tokens) + '\n')
  counts = '\n'.join(f'{token}\t{i}' for i, token in enumerate(tokens))
  (folder / 'vocab.counts.tsv').write_text(counts + '\n')
  return str(folder / 'vocab.txt')


def make_task(
  vocab_path, policy='loss', model=None, seed=0, data=None, **token_drop
):
  return task_lib.TokenDropPretrainingTask(
    configs.PretrainingTaskConfig(
      model=configs.ModelConfig(**{**SIZES, **(model or {})}),
      token_drop=configs.TokenDropConfig(
        policy=policy, **{'token_keep_k': 6, **token_drop}
      ),
      vocabulary=configs.VocabularyConfig(path=vocab_path),
      train_data=configs.PretrainingDataConfig(**(data or {})),
      seed=seed,
    )
  )


def make_optimizer(task, learning_rate=1e-2):
  return task.create_optimizer(
    tiny_runs.adamw(
      learning_rate,
      weight_decay_rate=0.01,
      exclude_from_weight_decay=['LayerNorm', 'layer_norm', 'bias'],
    )
  )


def make_batch(seed=0, batch_size=BATCH_SIZE, next_sentence=False):
  generator = np.random.default_rng(seed)
  shape, slots = [batch_size, SEQ_LENGTH], [batch_size, NUM_SLOTS]
  lengths = generator.integers(8, SEQ_LENGTH + 1, [batch_size, 1])
  mask = (np.arange(SEQ_LENGTH) < lengths).astype(np.int32)
  weights = (
    np.arange(NUM_SLOTS) < generator.integers(1, NUM_SLOTS + 1, [batch_size, 1])
  ).astype(np.float32)
  batch = {
    'input_word_ids': generator.integers(5, VOCAB_SIZE, shape) * mask,
    'input_mask': mask,
    'input_type_ids': np.zeros(shape),
    'masked_lm_positions': generator.integers(0, 8, slots),
    'masked_lm_ids': generator.integers(5, VOCAB_SIZE, slots) * weights,
  }
  batch = {k: tf.constant(v, tf.int32) for k, v in batch.items()}
  batch['masked_lm_weights'] = tf.constant(weights)
  if next_sentence:
    batch['next_sentence_labels'] = tf.constant(
      generator.integers(0, 2, [batch_size, 1]), tf.int32
    )
  return batch


class Run:
  """A task with its model, optimizer and metrics."""

  def __init__(self, task, learning_rate=1e-2, jit_compile=None, eager=False):
    self.task = task
    self.model = task.build_model()
    task.initialize(self.model)
    self.optimizer = make_optimizer(task, learning_rate)
    self.metrics = task.build_metrics(training=True)
    trainer.create_slots(self.optimizer, self.model)
    self.step = self._step
    if not eager:
      self.step = tf.function(
        self._step, autograph=False, jit_compile=jit_compile
      )

  def _step(self, batch):
    return self.task.train_step(
      batch, self.model, self.optimizer, self.metrics
    )['loss']

  @property
  def table(self):
    return self.model.encoder_network.token_importance.table

  def validate(self, batch):
    metrics = self.task.build_metrics(training=False)
    self.task.validation_step(batch, self.model, metrics)
    return {m.name: float(m.result()) for m in metrics}


def test_a_plain_step_is_the_stock_tasks_step(vocab_path, tmp_path):
  """Same weights, batch and AdamW: same loss, same weights afterwards."""
  run = Run(make_task(vocab_path, 'none'), learning_rate=1e-2, eager=True)
  encoder = encoders.BertEncoderConfig(**SIZES)
  stock_task = masked_lm.MaskedLMTask(
    masked_lm.MaskedLMConfig(
      model=bert.PretrainerConfig(
        encoder=encoders.EncoderConfig(type='bert', bert=encoder), cls_heads=[]
      ),
      train_data=configs.PretrainingDataConfig(),
    )
  )
  stock = stock_task.build_model()
  batch = make_batch()
  stock(batch)
  path = tf.train.Checkpoint(**run.model.checkpoint_items).write(
    str(tmp_path / 'ckpt')
  )
  tf.train.Checkpoint(**stock.checkpoint_items).read(
    path
  ).expect_partial().assert_existing_objects_matched()
  stock_optimizer = make_optimizer(stock_task, 1e-2)
  metrics = stock_task.build_metrics()
  for _ in range(3):
    expected = stock_task.train_step(batch, stock, stock_optimizer, metrics)[
      'loss'
    ]
    np.testing.assert_allclose(run.step(batch), expected, rtol=1e-5)
  theirs = {plain_name(v): v for v in stock.trainable_variables}
  ours = {plain_name(v): v for v in run.model.trainable_variables}
  assert ours.keys() == theirs.keys()
  for name, variable in ours.items():
    if name.endswith('key/bias:0'):
      continue  # No gradient but rounding: its direction is arbitrary.
    np.testing.assert_allclose(variable, theirs[name], atol=1e-5, err_msg=name)


def plain_name(variable):
  return re.sub(r'^(\w*bert\w*/)+', '', variable.name)


@pytest.mark.parametrize('policy', ['float32', 'mixed_bfloat16'])
def test_training_learns_a_batch_by_heart(vocab_path, policy):
  tf_keras.mixed_precision.set_global_policy(policy)
  run = Run(make_task(vocab_path))
  batch = make_batch()
  losses = [float(run.step(batch)) for _ in range(30)]
  assert losses[-1] < 0.6 * losses[0]
  assert float(tf.reduce_max(run.table)) == 10.0  # ids that never were labels
  assert float(tf.reduce_min(run.table)) < 9.9


def test_the_table_moves_by_the_losses_of_the_step(vocab_path):
  run = Run(make_task(vocab_path), learning_rate=0.0, eager=True)
  batch = make_batch()
  before = run.table.numpy()
  run.step(batch)
  ids, weights = batch['masked_lm_ids'].numpy(), batch['masked_lm_weights']
  seen = set(ids[weights.numpy() > 0])
  for token_id in range(VOCAB_SIZE):
    moved = run.table.numpy()[token_id] != before[token_id]
    assert moved == (token_id in seen and token_id >= len(SPECIAL)), token_id


def test_the_table_is_the_running_mean_of_the_losses_of_the_step(vocab_path):
  """m[v] <- beta m[v] + (1 - beta) mean loss of v, before the weights move."""
  task = make_task(vocab_path, full_step_every=1, token_loss_beta=0.9)
  run, batch = Run(task, eager=True), make_batch()
  ids = batch['masked_lm_ids'].numpy()
  is_label = batch['masked_lm_weights'].numpy() > 0
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
    ids, run.model(batch, drop_tokens=False)['mlm_logits']
  ).numpy()
  expected = run.table.numpy()
  for token_id in set(ids[is_label]):
    mean = losses[is_label & (ids == token_id)].mean()
    expected[token_id] = 0.9 * expected[token_id] + 0.1 * mean
  run.step(batch)
  np.testing.assert_allclose(run.table, expected, rtol=1e-5)


def test_policies_that_do_not_learn_leave_their_table(vocab_path):
  for policy in ('random', 'frequency'):
    run = Run(make_task(vocab_path, policy), eager=True)
    before = run.table.numpy()
    run.step(make_batch())
    np.testing.assert_array_equal(run.table, before)


@pytest.mark.parametrize('policy', ['loss', 'random', 'frequency'])
def test_a_table_of_losses_comes_along_only_where_one_is_learnt(
  vocab_path, tmp_path, policy
):
  source = Run(make_task(vocab_path)).model
  table = source.encoder_network.token_importance.table
  table.assign(tf.range(VOCAB_SIZE, dtype=tf.float32))
  path = tf.train.Checkpoint(model=source, **source.checkpoint_items).write(
    str(tmp_path / 'ckpt')
  )
  task = make_task(vocab_path, policy)
  task.task_config.override({'init_checkpoint': path})
  model = task.build_model()
  task.initialize(model)
  own = Run(make_task(vocab_path, policy)).table
  np.testing.assert_array_equal(
    model.encoder_network.token_importance.table,
    table if policy == 'loss' else own,
  )
  np.testing.assert_array_equal(
    model.encoder_network.get_embedding_table(),
    source.encoder_network.get_embedding_table(),
  )


def test_frequency_ranks_rare_tokens_first(vocab_path):
  run = Run(make_task(vocab_path, 'frequency'))
  counts = np.arange(VOCAB_SIZE) + 1.0  # add-one smoothed
  np.testing.assert_allclose(
    run.table, -np.log(counts / counts.sum()), rtol=1e-5
  )


def test_policy_none_has_no_table(vocab_path):
  run = Run(make_task(vocab_path, 'none'))
  assert run.model.encoder_network.token_importance is None
  assert not run.model.non_trainable_variables


@pytest.mark.parametrize('eager', [False, True])
def test_every_nth_step_is_full(vocab_path, eager):
  """With a rate of 0 the loss shows which steps dropped tokens."""
  batch = make_batch()
  full = Run(make_task(vocab_path, 'random'), learning_rate=0.0).validate(batch)
  run = Run(
    make_task(vocab_path, 'random', full_step_every=3),
    learning_rate=0.0,
    eager=eager,
  )
  is_full = [
    abs(float(run.step(batch)) - full['lm_example_loss']) < 1e-5
    for _ in range(9)
  ]
  assert is_full == [False, False, True] * 3


def test_two_runs_with_one_seed_are_identical(vocab_path):
  losses = []
  for _ in range(2):
    run = Run(
      make_task(vocab_path, temperature=1.0, model=dict(dropout_rate=0.1)),
      eager=True,
    )
    losses.append([float(run.step(make_batch(i))) for i in range(4)])
  assert losses[0] == losses[1]


@pytest.mark.parametrize(
  ('policy', 'settings'),
  [
    ('random', {}),  # Ties.
    ('frequency', {'temperature': 5.0}),
    ('none', {'model': {'dropout_rate': 0.2}}),
    ('none', {'model': {'attention_dropout_rate': 0.2}}),
  ],
)
def test_steps_and_seeds_draw_other_numbers(vocab_path, policy, settings):
  """From one set of weights, which stay as they are."""
  runs = [
    Run(make_task(vocab_path, policy, seed=seed, **settings), 0.0, eager=True)
    for seed in (0, 1)
  ]
  runs[1].model.set_weights(runs[0].model.get_weights())
  batch = make_batch()
  losses = [float(run.step(batch)) for run in runs for _ in range(3)]
  assert len(set(losses)) == 6
  runs[0].optimizer.iterations.assign(1)
  assert float(runs[0].step(batch)) == losses[1]


def test_validation_is_on_full_sequences_and_reports_the_gap(vocab_path):
  run = Run(make_task(vocab_path), eager=True)
  run.step(make_batch())
  batch = make_batch(1)
  results = run.validate(batch)
  weights = batch['masked_lm_weights']
  losses = {}
  for drop_tokens in (False, True):
    logits = run.model(
      batch, drop_tokens=drop_tokens, seed=tf.constant([0, 1])
    )['mlm_logits']
    per_slot = tf.nn.sparse_softmax_cross_entropy_with_logits(
      batch['masked_lm_ids'], logits
    )
    losses[drop_tokens] = float(
      tf.reduce_sum(per_slot * weights) / tf.reduce_sum(weights)
    )
  assert results['lm_example_loss'] == pytest.approx(losses[False], rel=1e-5)
  assert results['validation_loss'] == pytest.approx(losses[False], rel=1e-5)
  assert results['lm_example_loss_dropping'] == pytest.approx(
    losses[True], rel=1e-5
  )
  assert results['full_sequence_gap'] == pytest.approx(
    losses[False] - losses[True], abs=1e-5
  )
  assert abs(results['full_sequence_gap']) > 1e-4
  assert results == run.validate(batch)


def test_rows_that_fill_up_a_batch_do_not_count(vocab_path):
  run = Run(make_task(vocab_path, model=dict(use_next_sentence_head=True)))
  batch = make_batch(next_sentence=True)
  padded = {k: tf.pad(v, [[0, 3], [0, 0]]) for k, v in batch.items()}
  results, expected = run.validate(padded), run.validate(batch)
  for name, value in expected.items():
    if 'dropping' not in name and 'gap' not in name:
      assert results[name] == pytest.approx(value, rel=1e-5), name


def test_next_sentence_prediction_learns(vocab_path):
  run = Run(make_task(vocab_path, model=dict(use_next_sentence_head=True)))
  batch = make_batch(next_sentence=True)
  for _ in range(40):
    run.step(batch)
  assert run.validate(batch)['next_sentence_accuracy'] > 0.9


def test_the_first_loss_that_is_not_finite_is_remembered(vocab_path):
  run = Run(make_task(vocab_path), eager=True)
  batch = make_batch()
  run.step(batch)
  assert run.model.loss_guard.first_nonfinite_step.numpy() == -1
  run.model.masked_lm.bias.assign_add(tf.fill([VOCAB_SIZE], np.nan))
  run.step(batch)
  run.step(batch)
  assert run.model.loss_guard.first_nonfinite_step.numpy() == 2


def predictable_batch(seed, batch_size=32):
  """Every second token is the sequence's topic, the others are random."""
  generator = np.random.default_rng(seed)
  ids = generator.integers(5, 21, [batch_size, SEQ_LENGTH])
  ids[:, 1::2] = generator.integers(21, 25, [batch_size, 1])
  positions = np.sort(
    generator.permuted(np.tile(np.arange(SEQ_LENGTH), [batch_size, 1]), axis=1)[
      :, :2
    ],
    axis=1,
  )
  rows = np.arange(batch_size)[:, None]
  labels = ids[rows, positions]
  ids[rows, positions] = SPECIAL.index('[MASK]')
  batch = {
    'input_word_ids': ids,
    'input_mask': np.ones_like(ids),
    'input_type_ids': np.zeros_like(ids),
    'masked_lm_positions': positions,
    'masked_lm_ids': labels,
  }
  batch = {k: tf.constant(v, tf.int32) for k, v in batch.items()}
  batch['masked_lm_weights'] = tf.ones(positions.shape)
  return batch


def test_predictable_tokens_are_ranked_below_the_others(vocab_path):
  run = Run(
    make_task(vocab_path, token_keep_k=10, token_loss_beta=0.9),
    learning_rate=1e-2,
  )
  for i in range(200):
    run.step(predictable_batch(i))
  topics, others = run.table[21:25].numpy(), run.table[5:21].numpy()
  assert topics.max() < others.min()
  # The others are one of 16, whatever stands around them.
  assert others.mean() == pytest.approx(math.log(16), rel=0.2)
  assert topics.mean() < 0.5 * math.log(4)


def test_masks_by_importance_follow_the_table_and_the_step(vocab_path):
  """Only tokens that the table names become labels, and teach it."""
  task = make_task(vocab_path)
  task.task_config.train_data.override({'masking': 'importance'})
  run, batch = Run(task, learning_rate=0.0, eager=True), make_batch()
  named = np.arange(VOCAB_SIZE) >= 18
  table = np.where(named, 5.0, 1e-9).astype(np.float32)
  words = batch['input_word_ids'].numpy()
  words[:, 8:12] = 18 + np.arange(BATCH_SIZE)[:, np.newaxis]
  batch['input_word_ids'] = tf.constant(words)
  batch['input_mask'] = tf.ones_like(batch['input_mask'])
  run.table.assign(table)
  first = float(run.step(batch))
  moved = run.table.numpy() != table
  assert moved.any()
  assert not moved[~named].any()
  # The next step chooses others; the first step again, the same ones.
  run.table.assign(table)
  assert float(run.step(batch)) != first
  run.table.assign(table)
  run.optimizer.iterations.assign(0)
  assert float(run.step(batch)) == first


@pytest.mark.parametrize(
  ('policy', 'token_drop'),
  [
    ('none', {}),
    (
      'loss',
      {
        'temperature': 1.0,
        'keep_schedule': ('0:4', '0.5:all'),
        'schedule_steps': 2,
      },
    ),
  ],
)
def test_packed_documents_train_under_every_policy(
  vocab_path, policy, token_drop
):
  """Two documents a row: neither sees the other, whatever is dropped."""
  run = Run(make_task(vocab_path, policy, **token_drop), 0.0, eager=True)
  batch = make_batch()
  halves = np.tile(np.repeat([1, 2], SEQ_LENGTH // 2), [BATCH_SIZE, 1])
  places = np.tile(np.arange(SEQ_LENGTH // 2), [BATCH_SIZE, 2])
  packed = dict(
    batch,
    segment_ids=tf.constant(halves, tf.int32) * batch['input_mask'],
    position_ids=tf.constant(places, tf.int32),
  )
  # Labels lie in the first half; words of the second are no input of theirs.
  for _ in range(2):
    assert np.isfinite(float(run.step(packed)))
  full = run.validate(packed)['validation_loss']
  words = batch['input_word_ids'].numpy()
  words[:, SEQ_LENGTH // 2 :] = words[:, SEQ_LENGTH // 2 :][:, ::-1]
  words *= batch['input_mask'].numpy()
  other = run.validate(dict(packed, input_word_ids=tf.constant(words)))
  assert other['validation_loss'] == pytest.approx(full, rel=1e-6)
  alone = run.validate(dict(batch, input_word_ids=tf.constant(words)))
  assert abs(alone['validation_loss'] - full) > 1e-5
