"""The causal objective: what is predicted, from what, and when."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.nlp.modeling import networks

from tests.tasks import test_masked_lm as tasks
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import errors, layers, train
from tokendrop_tf.config import configs, rules
from tokendrop_tf.data import baselines
from tokendrop_tf.tasks import masked_lm as task_lib
from tokendrop_tf.tasks import pretraining

BATCH_SIZE, SEQ_LENGTH, VOCAB_SIZE, KEEP_K = 3, 12, 30, 5
SEED = [3, 4]


@pytest.fixture(scope='module', name='vocab_path')
def fixture_vocab_path(tmp_path_factory):
  tokens = [*tasks.SPECIAL, *(f'w{i}' for i in range(VOCAB_SIZE - 5))]
  path = tmp_path_factory.mktemp('vocabulary') / 'vocab.txt'
  path.write_text('\n'.join(tokens) + '\n')
  return str(path)


def make_encoder(**kwargs):
  tf_keras.utils.set_random_seed(1)
  arguments = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=16,
    num_layers=4,
    num_attention_heads=2,
    max_sequence_length=SEQ_LENGTH,
    type_vocab_size=2,
    inner_dim=32,
    output_dropout=0.0,
    attention_dropout=0.0,
    initializer=tf_keras.initializers.TruncatedNormal(stddev=0.3),
    token_keep_k=KEEP_K,
    token_allow_list=(1, 2, 3),
    token_deny_list=(0,),
    return_all_encoder_outputs=True,
    causal=True,
  )
  encoder = encoder_lib.TokenDropBertEncoder(**{**arguments, **kwargs})
  encoder(encoder.inputs)
  table = encoder.token_importance.table
  table.assign(tf.random.stateless_uniform(table.shape, [1, 2], 0.1, 10.0))
  return encoder


def make_features(seed=0):
  draw = np.random.default_rng(seed)
  shape = [BATCH_SIZE, SEQ_LENGTH]
  return {
    'input_word_ids': tf.constant(
      draw.integers(4, VOCAB_SIZE, shape), tf.int32
    ),
    'input_mask': tf.ones(shape, tf.int32),
    'input_type_ids': tf.zeros(shape, tf.int32),
  }


def outputs_of(encoder, features, drop_tokens):
  """Returns every layer's output, [L, B, S, H]."""
  outputs = encoder(features, drop_tokens=drop_tokens, seed=tf.constant(SEED))
  return np.stack([layer.numpy() for layer in outputs['encoder_outputs']])


def outputs_of_changes(encoder, changes, drop_tokens):
  """Returns every layer's output of a text, and of changed copies of it.

  Args:
    encoder: the encoder.
    changes: (place, token) for each copy; token 0 is padding.
    drop_tokens: whether to drop.

  Returns:
    [L, changes, S, H] each; the text stands as often as there are changes, as
    what is drawn depends on the row.
  """
  text = make_features()['input_word_ids'].numpy()[:1]
  before = np.repeat(text, len(changes), axis=0)
  after = before.copy()
  for row, (place, token) in enumerate(changes):
    after[row, place] = token
  return [
    outputs_of(
      encoder,
      {
        'input_word_ids': tf.constant(word_ids),
        'input_mask': tf.constant((word_ids > 0).astype(np.int32)),
        'input_type_ids': tf.zeros_like(word_ids),
      },
      drop_tokens,
    )
    for word_ids in (before, after)
  ]


class TestCausality:
  @pytest.mark.parametrize(
    ('drop_tokens', 'settings'),
    [
      (False, {}),
      (False, {'attention_block': 5}),
      (True, {}),
      (True, {'attention_block': 5}),
      (True, {'plan': {'name': 'layerwise'}}),
      (True, {'plan': {'name': 'layerwise', 'layer_subsets': 'windows'}}),
    ],
  )
  def test_a_token_changes_no_output_before_it_in_any_layer(
    self, drop_tokens, settings
  ):
    encoder = make_encoder(**settings)
    # [UNK] is a pin of masked steps, [PAD] goes first there.
    changes = [(p, token) for p in range(1, SEQ_LENGTH) for token in (1, 0, 7)]
    before, after = outputs_of_changes(encoder, changes, drop_tokens)
    for row, (place, _) in enumerate(changes):
      np.testing.assert_array_equal(
        after[:, row, :place], before[:, row, :place]
      )
      assert (after[-1, row, place:] != before[-1, row, place:]).any()

  def test_ranking_the_whole_row_leaks_later_tokens(self):
    """Why it is refused: an early output tells what comes after it."""
    encoder = make_encoder(allow_lookahead=True)
    changes = [(SEQ_LENGTH - 1, token) for token in range(5, VOCAB_SIZE)]
    before, after = outputs_of_changes(encoder, changes, True)
    assert (after[:, :, :-1] != before[:, :, :-1]).any()

  def test_a_document_sees_nothing_of_the_one_before(self):
    encoder = make_encoder()
    features = make_features()
    segments = tf.constant([[1] * 5 + [2] * 7] * BATCH_SIZE)
    features['segment_ids'] = segments
    before = outputs_of(encoder, features, False)
    word_ids = features['input_word_ids'].numpy()
    word_ids[:, 2] = 7
    features['input_word_ids'] = tf.constant(word_ids)
    after = outputs_of(encoder, features, False)
    assert (after[:, :, 2] != before[:, :, 2]).any()
    np.testing.assert_array_equal(after[:, :, 5:], before[:, :, 5:])


@pytest.mark.parametrize('drop_tokens', [False, True])
def test_it_is_the_stock_encoder_under_a_causal_mask(drop_tokens, tmp_path):
  """With dropping, in reading order: gather, stock layers, scatter."""
  encoder = make_encoder()
  config = encoder.get_config()
  stock = networks.BertEncoderV2(
    vocab_size=VOCAB_SIZE,
    hidden_size=16,
    num_layers=4,
    num_attention_heads=2,
    max_sequence_length=SEQ_LENGTH,
    type_vocab_size=2,
    inner_dim=32,
    output_dropout=0.0,
    attention_dropout=0.0,
  )
  stock(stock.inputs)
  path = tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / 'ckpt'))
  tf.train.Checkpoint(encoder=stock).read(path).expect_partial()
  features = make_features()
  rows = stock._embedding_layer(features['input_word_ids'])
  rows += stock._position_embedding_layer(rows)
  rows += stock._type_embedding_layer(features['input_type_ids'])
  rows = stock._embedding_norm_layer(rows)
  mask = tf.linalg.band_part(tf.ones([SEQ_LENGTH, SEQ_LENGTH]), -1, 0)
  mask = tf.repeat(mask[tf.newaxis], BATCH_SIZE, axis=0)
  kept = tf.tile(tf.range(SEQ_LENGTH)[tf.newaxis], [BATCH_SIZE, 1])
  if drop_tokens:
    order = encoder._sort(features, KEEP_K, True, tf.constant(SEED))[1]
    assert (order[:, 0] == 0).numpy().all()
    kept = tf.sort(order[:, :KEEP_K])
    assert len({tuple(row) for row in kept.numpy()}) > 1
  crossing = config['num_layers'] // 2
  for layer in stock.transformer_layers[: crossing - 1]:
    rows = layer([rows, mask])
  to_all = tf.gather(mask, kept, batch_dims=1)
  to_kept = tf.gather(to_all, kept, axis=2, batch_dims=1)
  kept_rows = tf.gather(rows, kept, batch_dims=1)
  kept_rows = stock.transformer_layers[crossing - 1]([kept_rows, rows, to_all])
  for layer in stock.transformer_layers[crossing:-1]:
    kept_rows = layer([kept_rows, to_kept])
  number = tf.repeat(tf.range(BATCH_SIZE)[:, None], kept.shape[1], axis=1)
  rows = tf.tensor_scatter_nd_update(
    rows, tf.stack([number, kept], -1), kept_rows
  )
  rows = stock.transformer_layers[-1]([rows, mask])
  actual = outputs_of(encoder, features, drop_tokens)[-1]
  np.testing.assert_allclose(actual, rows, rtol=1e-5, atol=1e-5)


def test_labels_are_the_tokens_that_stood_there():
  words = np.array([[2, 10, 11, 12, 3, 0, 0], [2, 20, 21, 3, 2, 22, 3]])
  features = {
    'input_word_ids': words.copy(),
    'input_mask': (words > 0).astype(np.int32),
    'segment_ids': np.array([[1] * 5 + [0] * 2, [1] * 4 + [2] * 3]),
    'masked_lm_positions': np.array([[2, 0], [1, 5]]),
    'masked_lm_ids': np.array([[11, 0], [20, 22]]),
    'masked_lm_weights': np.array([[1.0, 0.0], [1.0, 1.0]], np.float32),
  }
  for row, place in ((0, 2), (1, 1), (1, 5)):
    features['input_word_ids'][row, place] = 4  # [MASK]
  weights = tf.constant(features.pop('masked_lm_weights'))
  features = {k: tf.constant(v, tf.int32) for k, v in features.items()}
  features['masked_lm_weights'] = weights
  found = layers.with_next_tokens(features)
  np.testing.assert_array_equal(found['input_word_ids'], words)
  np.testing.assert_array_equal(found['masked_lm_positions'], [range(6)] * 2)
  np.testing.assert_array_equal(
    found['masked_lm_weights'], [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1]]
  )
  np.testing.assert_array_equal(
    found['masked_lm_ids'], [[10, 11, 12, 3, 0, 0], [20, 21, 3, 0, 22, 3]]
  )


def make_task(vocab_path, policy='random', **changes):
  token_drop = {'policy': policy, 'token_keep_k': 6}
  token_drop |= changes.pop('token_drop', {})
  return task_lib.TokenDropPretrainingTask(
    configs.PretrainingTaskConfig(
      model=configs.ModelConfig(**tasks.SIZES),
      token_drop=configs.TokenDropConfig(**token_drop),
      vocabulary=configs.VocabularyConfig(path=vocab_path),
      **{'objective': 'causal_lm', **changes},
    )
  )


def mean_loss(model, batch, **kwargs):
  """Returns the mean loss of the labels of a batch, in nats."""
  logits = model(batch, **kwargs)['mlm_logits']
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
    batch['masked_lm_ids'], logits
  )
  weights = batch['masked_lm_weights']
  return float(tf.reduce_sum(losses * weights) / tf.reduce_sum(weights))


class TestStep:
  def test_the_loss_is_the_mean_over_all_next_tokens(self, vocab_path):
    run = tasks.Run(make_task(vocab_path, 'none'), eager=True)
    batch = tasks.make_batch()
    expected = mean_loss(run.model, layers.with_next_tokens(batch), causal=True)
    assert float(run.step(batch)) == pytest.approx(expected, rel=1e-5)

  def test_perplexity_of_a_model_that_knows_nothing_is_v(self, vocab_path):
    run = tasks.Run(make_task(vocab_path), eager=True)
    run.model.encoder_network.get_embedding_table().assign(
      tf.zeros([VOCAB_SIZE, 16])
    )
    found = run.validate(tasks.make_batch())
    assert found['perplexity'] == pytest.approx(VOCAB_SIZE, rel=1e-5)
    assert found['perplexity_dropping'] == pytest.approx(VOCAB_SIZE, rel=1e-5)

  def test_validation_measures_full_sequences_and_the_gap(self, vocab_path):
    run = tasks.Run(make_task(vocab_path), eager=True)
    batch = tasks.make_batch()
    found = run.validate(batch)
    labelled = layers.with_next_tokens(batch)
    full = mean_loss(run.model, labelled)
    dropping = mean_loss(
      run.model, labelled, drop_tokens=True, seed=tf.constant([0, 1])
    )
    assert found['validation_loss'] == pytest.approx(full, rel=1e-5)
    assert found['perplexity'] == pytest.approx(np.exp(full), rel=1e-5)
    assert found['full_sequence_gap'] == pytest.approx(
      full - dropping, abs=1e-5
    )
    assert abs(full - dropping) > 1e-4

  def test_the_table_hears_of_every_next_token(self, vocab_path):
    task = make_task(vocab_path, 'loss', token_drop={'allow_lookahead': True})
    run = tasks.Run(task, eager=True)
    before = run.table.numpy()
    batch = tasks.make_batch()
    run.step(batch)
    labelled = layers.with_next_tokens(batch)
    labels = labelled['masked_lm_ids'].numpy()
    seen = set(labels[labelled['masked_lm_weights'].numpy() > 0])
    moved = set(np.flatnonzero(run.table.numpy() != before))
    assert moved == seen - set(range(5))


class TestObjectiveSchedule:
  @pytest.fixture(scope='class')
  def run(self, vocab_path):
    """At rate 0 and without dropout, the loss tells the objective."""
    task = make_task(
      vocab_path,
      objective='masked_lm',
      objective_schedule=('0:causal_lm', '0.5:masked_lm'),
      token_drop={
        'keep_schedule': ('0:all', '0.75:6'),
        'schedule_steps': 8,
      },
    )
    return tasks.Run(task, learning_rate=0.0)

  def losses(self, run, first_step, batch):
    run.optimizer.iterations.assign(first_step)
    return [float(run.step(batch)) for _ in range(first_step, 8)]

  def test_each_step_has_the_objective_of_its_stretch(self, run):
    batch = tasks.make_batch()
    causal = mean_loss(run.model, layers.with_next_tokens(batch), causal=True)
    masked = mean_loss(run.model, batch)
    found = self.losses(run, 0, batch)
    expected = [causal] * 4 + [masked] * 2
    np.testing.assert_allclose(found[:6], expected, rtol=1e-5)
    assert abs(found[6] - masked) > 1e-4  # Drops.

  def test_a_run_that_resumes_takes_the_same_steps(self, run):
    batch = tasks.make_batch()
    whole = self.losses(run, 0, batch)
    np.testing.assert_allclose(self.losses(run, 3, batch), whole[3:], rtol=1e-6)

  def test_a_masked_step_is_that_of_a_masked_run(self, vocab_path):
    """Slots that causal steps need change neither loss nor weights."""
    batch = tasks.make_batch()
    alone = tasks.Run(
      make_task(vocab_path, 'none', objective='masked_lm'), eager=True
    )
    mixed = tasks.Run(
      make_task(
        vocab_path,
        'none',
        objective='masked_lm',
        objective_schedule=('0:causal_lm', '0.5:masked_lm'),
        token_drop={'schedule_steps': 8},
      ),
      eager=True,
    )
    mixed.optimizer.iterations.assign(4)
    alone.optimizer.iterations.assign(4)
    assert float(mixed.step(batch)) == pytest.approx(
      float(alone.step(batch)), rel=1e-6
    )
    for ours, theirs in zip(
      mixed.model.trained_variables, alone.model.trained_variables
    ):
      # AdamW makes noise of the size of its rate out of gradients of 0.
      np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

  def test_the_start_block_says_it(self, run):
    [(_, text)] = pretraining.objective_rows(run.task.task_config)
    assert text == 'the next token to step 4, then masked tokens'


def test_the_baseline_of_next_tokens_is_their_entropy(tiny_corpus):
  data = configs.PretrainingDataConfig(
    input_path=tiny_corpus.valid,
    seq_length=32,
    max_predictions_per_seq=5,
    global_batch_size=8,
    num_epochs=1,
    drop_remainder=False,
    is_training=False,
  )
  vocabulary = configs.VocabularyConfig(path=tiny_corpus.vocabulary)
  found = baselines.read_baselines(data, vocabulary, causal=True)
  assert found.context_free_loss == found.unigram_entropy
  masked = baselines.read_baselines(data, vocabulary)
  # [SEP] is among the next tokens.
  assert found.unigram_entropy != masked.unigram_entropy


@pytest.mark.parametrize(
  ('bindings', 'message'),
  [
    (
      ["token_drop.policy = 'loss'"],
      "Set token_drop.policy = 'random', or token_drop.allow_lookahead = True",
    ),
    (
      ["pretraining.objective_schedule = ('0:causal_lm', '0.5:masked_lm')"],
      'must end with pretraining.objective',
    ),
    (["pretraining.objective_schedule = ('0:causal',)"], "'0:causal'"),
    (
      ['model.use_next_sentence_head = True'],
      'next-sentence head reads position 0',
    ),
    (
      [
        "train_data.masking = 'importance'",
        "token_drop.policy = 'loss'",
        'token_drop.allow_lookahead = True',
      ],
      'predicts all',
    ),
  ],
)
def test_what_does_not_go_with_it_is_refused(bindings, message):
  settings = {
    'pretraining.objective': "'causal_lm'",
    'token_drop.policy': "'random'",
    'vocabulary.path': "'vocab.txt'",
  }
  for binding in bindings:
    name, _, value = binding.partition(' = ')
    settings[name] = value
  flags = [f'--gin_params={name} = {text}' for name, text in settings.items()]
  if 'next_sentence' in bindings[0]:
    flags += [
      '--gin_params=train_data.use_next_sentence_label = True',
      "--gin_params=train_data.input_path = 'a.tfrecord'",
      "--gin_params=validation_data.input_path = 'a.tfrecord'",
    ]
  params, _ = train.read_configuration(
    train.parse_flags(['--model_dir=absent', *flags])
  )
  with pytest.raises(errors.ConfigurationError, match=message):
    rules.validate_experiment(params)
