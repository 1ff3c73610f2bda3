"""[MASK] rows that join at a later layer, against a plain computation."""

import numpy as np
import pytest
import tensorflow as tf

from tests import test_encoder as encoders
from tests.dropping import reading_order
from tests.tasks import test_masked_lm as tasks
from tests.tasks.test_masked_lm import fixture_vocab_path  # noqa: F401
from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.dropping import Dropping, TokenDropConfig, cost, registry

# P late rows of S, of which K are kept; crossing layer c of L.
MASK, P, K, S, C, L = 3, 3, 6, encoders.SEQ_LENGTH, 3, 6


def make_features(num_masks=(3, 1, 0)):
  """Three sequences, the last one half padding, with some [MASK]s each."""
  draw = np.random.default_rng(7)
  ids = draw.integers(5, encoders.VOCAB_SIZE, [3, S])
  mask = np.arange(S) < np.array([[S], [S], [S // 2]])
  for row, number in enumerate(num_masks):
    ids[row, draw.permutation(S // 2)[:number]] = MASK
  return {
    'input_word_ids': tf.constant(ids * mask, tf.int32),
    'input_mask': tf.constant(mask, tf.int32),
    'input_type_ids': tf.constant(draw.integers(0, 2, [3, S]), tf.int32),
  }


def make_encoder(mask_layer, **kwargs):
  section = TokenDropConfig(
    plan='mask_later', crossing_layer=C, mask_layer=mask_layer
  )
  plan = registry.plan_of(section, num_slots=P, mask_id=MASK)
  plan.check(L)
  return encoders.make_encoder(
    num_layers=L,
    token_keep_k=K,
    plan=plan,
    token_allow_list=(MASK,),
    **kwargs,
  )


def layer_sets(encoder, features, mask_layer, keep_k):
  """Returns the queries and the keys of each layer, [B, n] positions each."""
  ids = features['input_word_ids'].numpy()
  scores = encoder.token_importance(features['input_word_ids']).numpy()
  late, others = [], []
  for row in range(len(ids)):
    order = np.argsort(-scores[row], kind='stable')
    order = [
      *(i for i in order if ids[row, i] != MASK),
      *(i for i in order if ids[row, i] == MASK),
    ]
    late.append(order[S - P :])
    others.append(order[: S - P])
  late, others = np.array(late), np.array(others)
  top, everything = others[:, : keep_k - P], np.tile(np.arange(S), [3, 1])
  sets = []
  for layer in range(1, L):
    if layer < mask_layer:
      all_rows, kept = others, top
    else:
      all_rows, kept = everything, np.concatenate([late, top], axis=1)
    if layer < C:
      sets.append((all_rows, all_rows))
    else:
      sets.append((kept, all_rows if layer == C else kept))
  return [*sets, (everything, everything)]


def reference(encoder, stock, features, mask_layer, keep_k):
  """In reading order: gather, stock layers, scatter."""
  rows = stock._embedding_layer(features['input_word_ids'])
  rows += stock._position_embedding_layer(rows)
  rows += stock._type_embedding_layer(features['input_type_ids'])
  rows = stock._embedding_norm_layer(rows)
  mask = tf.cast(features['input_mask'], tf.float32)[:, None, :]
  outputs = []
  for layer, (queries, keys) in zip(
    stock.transformer_layers, layer_sets(encoder, features, mask_layer, keep_k)
  ):
    computed = layer(
      [
        tf.gather(rows, queries, batch_dims=1),
        tf.gather(rows, keys, batch_dims=1),
        tf.gather(mask, keys, axis=2, batch_dims=1),
      ]
    )
    batch = np.tile(np.arange(len(queries))[:, None], [1, queries.shape[1]])
    rows = tf.tensor_scatter_nd_update(
      rows, np.stack([batch, queries], axis=-1), computed
    )
    outputs.append(rows)
  return outputs


@pytest.mark.parametrize('keep_k', [K, S])
@pytest.mark.parametrize('mask_layer', [2, C, C + 2, L])
def test_it_equals_the_reference_in_reading_order(tmp_path, mask_layer, keep_k):
  """Before, at and after the crossing, in the last layer; also all tokens."""
  encoder = make_encoder(mask_layer)
  stock = encoders.make_stock_twin(encoder, tmp_path)
  features = make_features()
  with tf.GradientTape(persistent=True) as tape:
    ours = encoder(features, drop_tokens=True, token_keep_k=keep_k)
    theirs = reference(encoder, stock, features, mask_layer, keep_k)
    losses = [
      tf.reduce_mean(tf.sin(x)) for x in (ours['sequence_output'], theirs[-1])
    ]
  for found, expected in zip(ours['encoder_outputs'], theirs, strict=True):
    encoders.assert_close(found, expected)
  reading_order.assert_gradients_equal(tape, losses, (encoder, stock))


def test_early_layers_know_nothing_of_masks():
  """Neither of their embedding nor of how many there are, bit for bit."""
  encoder = make_encoder(mask_layer=4)
  features = make_features()
  before = encoder(features, drop_tokens=True)['encoder_outputs']
  embeddings = encoder.get_embedding_table()
  embeddings.scatter_add(
    tf.IndexedSlices(tf.ones([1, encoders.HIDDEN_SIZE]), [MASK])
  )
  after = encoder(features, drop_tokens=True)['encoder_outputs']
  ordinary = features['input_word_ids'].numpy() != MASK
  for layer in range(3):
    np.testing.assert_array_equal(
      before[layer].numpy()[ordinary], after[layer].numpy()[ordinary]
    )
  assert (before[3] != after[3]).numpy()[ordinary].any()


def test_from_the_first_layer_on_it_is_the_crossing_bit_for_bit():
  plain = encoders.make_encoder(
    num_layers=L, token_keep_k=K, crossing_layer=C, token_allow_list=(MASK,)
  )
  features = make_features()
  for arguments in ({'seed': tf.constant([1, 2])}, {'token_keep_k': S}):
    outputs = [
      encoder(features, drop_tokens=True, **arguments)['sequence_output']
      for encoder in (plain, make_encoder(mask_layer=1))
    ]
    np.testing.assert_array_equal(*outputs)


def test_rows_without_masks_or_tokens_are_finite_and_xla_compiles_it():
  encoder = make_encoder(mask_layer=C, return_all_encoder_outputs=False)
  features = {
    name: tf.concat([value, tf.zeros_like(value[:1])], axis=0)
    for name, value in make_features((0, 0, 0)).items()
  }

  def run(features):
    return encoder(features, drop_tokens=True)['sequence_output']

  found = run(features)
  assert np.isfinite(found).all()
  compiled = tf.function(run, jit_compile=True)
  encoders.assert_close(compiled(make_features()), run(make_features()), 1e-4)


def test_what_does_not_fit_is_refused():
  def check(num_slots, objective='masked_lm', **settings):
    section = TokenDropConfig(plan='mask_later', token_keep_k=8, **settings)
    Dropping(section, 12, 32, objective, num_slots=num_slots).check()

  check(7)
  with pytest.raises(errors.ConfigurationError, match='_per_seq=8, 8 tokens'):
    check(8)
  with pytest.raises(errors.ConfigurationError, match='mask_layer=13'):
    check(7, mask_layer=13)
  with pytest.raises(errors.ConfigurationError, match='needs .MASK.'):
    check(7, 'causal_lm', policy='random')


def test_the_first_layers_cost_less_and_the_run_says_so():
  def task(**token_drop):
    return configs.PretrainingTaskConfig(
      model=configs.ModelConfig(vocab_size=30522, num_layers=12),
      train_data=configs.PretrainingDataConfig(
        seq_length=512, max_predictions_per_seq=204
      ),
      token_drop=TokenDropConfig(token_keep_k=256, **token_drop),
    )

  crossing, later = task(), task(plan='mask_later')
  saved = 1 - cost.mean_cost(later) / cost.mean_cost(crossing)
  assert saved == pytest.approx(1 - 30.3767 / 38.8808, abs=1e-4)
  assert Dropping.of(later).describe().endswith('[MASK] from layer 6 on')
  rows = Dropping.of(later).rows(256)
  assert rows[4:7] == [(308, 308), (256, 512), (256, 256)]


def make_task(vocab_path, **settings):
  return tasks.make_task(
    vocab_path,
    model={'num_layers': 4},
    data={'max_predictions_per_seq': 4, 'seq_length': tasks.SEQ_LENGTH},
    plan='mask_later',
    **settings,
  )


def test_validation_tells_what_late_masks_cost(vocab_path):
  run = tasks.Run(make_task(vocab_path), eager=True)
  batch = tasks.make_batch(1)
  ids = batch['input_word_ids'].numpy()
  positions = batch['masked_lm_positions'].numpy()
  np.put_along_axis(ids, positions[:, :2], tasks.SPECIAL.index('[MASK]'), 1)
  batch['input_word_ids'] = tf.constant(ids)
  results = run.validate(batch)
  weights = batch['masked_lm_weights']
  outputs = run.model(
    batch,
    drop_tokens=True,
    token_keep_k=tasks.SEQ_LENGTH,
    seed=tf.constant([0, 1]),
  )
  losses = run.task._slot_results(batch, outputs)['losses']
  late = float(tf.reduce_sum(losses * weights) / tf.reduce_sum(weights))
  assert results['mask_late_gap'] == pytest.approx(
    results['lm_example_loss'] - late, abs=1e-5
  )
  assert abs(results['mask_late_gap']) > 1e-4
  crossing = tasks.Run(make_task(vocab_path, mask_layer=1), eager=True)
  assert 'mask_late_gap' not in crossing.validate(batch)


def test_a_head_that_never_saw_masks_early_is_told_apart(vocab_path):
  def trains(**settings):
    configured = Dropping.of(make_task(vocab_path, **settings).task_config)
    assert configured.trains_full_passes == (configured.head_note == '')
    return configured.trains_full_passes

  assert not trains()
  assert trains(full_step_every=10)
  assert trains(keep_schedule=('0:6', '0.9:all'), schedule_steps=100)
  assert trains(consistency_every=10)
  assert trains(mask_layer=1)


def test_parts_and_replicas_take_the_step_of_one_device(
  vocab_path, four_replicas
):
  batch = tasks.make_batch()
  one = tasks.Run(make_task(vocab_path), eager=True)
  loss = float(one.step(batch))
  task = make_task(vocab_path)
  task.configure_step(gradient_accumulation_steps=2)
  parts = tasks.Run(task, eager=True)
  with four_replicas.scope():
    spread = tasks.Run(make_task(vocab_path), eager=True)
  shares = four_replicas.experimental_distribute_values_from_function(
    lambda context: {
      name: tf.split(value, 4)[context.replica_id_in_sync_group]
      for name, value in batch.items()
    }
  )
  losses = four_replicas.run(
    tf.function(spread.step, autograph=False), args=(shares,)
  )
  found = [parts.step(batch), four_replicas.reduce('MEAN', losses, axis=None)]
  np.testing.assert_allclose(found, loss, rtol=1e-5)
  for model in (parts.model, spread.model):
    for ours, theirs in zip(
      model.trainable_variables, one.model.trainable_variables
    ):
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
