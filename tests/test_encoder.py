"""The encoder against the Model Garden's, and against a plain reference."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.nlp.modeling import networks

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.layers import neighbour_start

VOCAB_SIZE, HIDDEN_SIZE, SEQ_LENGTH, BATCH_SIZE = 50, 16, 12, 3
STOCK = dict(
  vocab_size=VOCAB_SIZE,
  hidden_size=HIDDEN_SIZE,
  num_attention_heads=2,
  max_sequence_length=SEQ_LENGTH,
  type_vocab_size=2,
  inner_dim=32,
  initializer=tf_keras.initializers.TruncatedNormal(stddev=0.3),
)


def make_features(seed=0, padding=True, batch_size=BATCH_SIZE):
  generator = np.random.default_rng(seed)
  shape = [batch_size, SEQ_LENGTH]
  lengths = generator.integers(4, SEQ_LENGTH + 1, batch_size)
  mask = np.ones(shape, np.int32)
  if padding:
    mask = (np.arange(SEQ_LENGTH) < lengths[:, None]).astype(np.int32)
  return dict(
    input_word_ids=tf.constant(
      generator.integers(1, VOCAB_SIZE, shape) * mask, tf.int32
    ),
    input_mask=tf.constant(mask),
    input_type_ids=tf.constant(generator.integers(0, 2, shape), tf.int32),
  )


def make_encoder(num_layers=4, dropout=0.0, **kwargs):
  tf_keras.utils.set_random_seed(1)
  arguments = dict(
    STOCK,
    num_layers=num_layers,
    output_dropout=dropout,
    attention_dropout=dropout,
    token_keep_k=5,
    token_deny_list=(0,),
    return_all_encoder_outputs=True,
  )
  encoder = encoder_lib.TokenDropBertEncoder(**{**arguments, **kwargs})
  encoder(encoder.inputs)
  for variable in encoder.trainable_variables:  # no bias stays at zero
    variable.assign_add(tf.random.normal(variable.shape, stddev=0.05))
  if encoder.token_importance is not None:
    table = encoder.token_importance.table
    table.assign(tf.random.uniform(table.shape, 0.1, 10.0))
  return encoder


def make_stock_twin(encoder, tmp_path):
  """A `BertEncoderV2` that read the encoder's weights from a checkpoint."""
  config = encoder.get_config()
  stock = networks.BertEncoderV2(
    **{
      **STOCK,
      'num_layers': config['num_layers'],
      'norm_first': config['norm_first'],
      'output_dropout': 0.0,
      'attention_dropout': 0.0,
    }
  )
  stock(stock.inputs)
  path = tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / 'ckpt'))
  status = tf.train.Checkpoint(encoder=stock).read(path)
  status.expect_partial().assert_existing_objects_matched()
  return stock


def reference_with_dropping(
  encoder, stock, features, positions, keep_k, crossing_layer
):
  """Token dropping in reading order: gather, stock layers, scatter."""
  ids, mask = features['input_word_ids'], features['input_mask']
  scores = encoder.token_importance(ids)
  # The kept positions, in reading order.
  kept = tf.sort(
    tf.argsort(scores, direction='DESCENDING', stable=True)[:, :keep_k]
  )
  rows = stock._embedding_layer(ids)
  rows += stock._position_embedding_layer(rows)
  rows += stock._type_embedding_layer(features['input_type_ids'])
  rows = stock._embedding_norm_layer(rows)
  to_all = tf.cast(mask[:, None, :], tf.float32)  # [B, 1, S]
  to_kept = tf.gather(to_all, kept, axis=2, batch_dims=1)
  for layer in stock.transformer_layers[: crossing_layer - 1]:
    rows = layer([rows, to_all])
  kept_rows = tf.gather(rows, kept, batch_dims=1)
  kept_rows = stock.transformer_layers[crossing_layer - 1](
    [kept_rows, rows, to_all]
  )
  for layer in stock.transformer_layers[crossing_layer:-1]:
    kept_rows = layer([kept_rows, to_kept])
  indices = tf.stack(
    [tf.repeat(tf.range(ids.shape[0])[:, None], keep_k, axis=1), kept], -1
  )
  rows = tf.tensor_scatter_nd_update(rows, indices, kept_rows)
  rows = stock.transformer_layers[-1]([rows, to_all])
  if positions is not None:
    rows = tf.gather(rows, positions, batch_dims=1)
  return rows


def assert_close(actual, expected, tolerance=1e-5):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
  ('num_layers', 'norm_first', 'call'),
  [
    (3, False, dict()),
    (6, True, dict()),
    (6, False, dict(drop_tokens=True, token_keep_k=SEQ_LENGTH)),
    (3, True, dict(drop_tokens=True, token_keep_k=SEQ_LENGTH)),
  ],
)
def test_without_dropping_it_is_the_stock_encoder(
  tmp_path, num_layers, norm_first, call
):
  encoder = make_encoder(num_layers=num_layers, norm_first=norm_first)
  stock = make_stock_twin(encoder, tmp_path)
  features = make_features()
  actual, expected = encoder(features, **call), stock(features)
  assert_close(actual['sequence_output'], expected['sequence_output'])
  assert_close(actual['pooled_output'], expected['pooled_output'])
  assert len(actual['encoder_outputs']) == num_layers
  for ours, theirs in zip(
    actual['encoder_outputs'], expected['encoder_outputs']
  ):
    assert_close(ours, theirs)


def test_positions_only_is_a_gather_of_the_full_output(tmp_path):
  encoder = make_encoder()
  stock = make_stock_twin(encoder, tmp_path)
  features = make_features()
  positions = tf.constant([[3, 0, 7], [2, 2, 1], [5, 11, 0]])
  outputs = encoder(features, output_positions=positions)
  expected = stock(features)
  assert_close(
    outputs['sequence_output'],
    tf.gather(expected['sequence_output'], positions, batch_dims=1),
  )
  assert_close(outputs['pooled_output'], expected['pooled_output'])


def test_variable_names_and_shapes_are_the_stock_encoders(tmp_path):
  encoder = make_encoder()
  stock = make_stock_twin(encoder, tmp_path)

  def shapes(model):
    # The stock encoder is the outermost scope in the same way ours is.
    return {
      v.name.split('/', 1)[1]: tuple(v.shape) for v in model.trainable_variables
    }

  assert shapes(encoder) == shapes(stock)


@pytest.mark.parametrize(
  ('num_layers', 'crossing_layer', 'keep_k', 'norm_first', 'at_positions'),
  [
    (3, 1, 4, False, False),
    (3, 2, 1, True, True),
    (6, 3, 5, True, False),
    (6, 5, 11, False, True),
    (6, 1, 6, False, False),
  ],
)
def test_dropping_equals_the_reference_in_reading_order(
  tmp_path, num_layers, crossing_layer, keep_k, norm_first, at_positions
):
  encoder = make_encoder(
    num_layers=num_layers,
    norm_first=norm_first,
    crossing_layer=crossing_layer,
    token_keep_k=keep_k,
  )
  stock = make_stock_twin(encoder, tmp_path)
  features = make_features(seed=num_layers)
  positions = None
  if at_positions:
    positions = tf.constant([[1, 3, 0], [2, 0, 9], [4, 4, 11]])
  with tf.GradientTape(persistent=True) as tape:
    ours = encoder(
      features,
      output_positions=positions,
      drop_tokens=True,
      return_pooled_output=False,
    )['sequence_output']
    reference = reference_with_dropping(
      encoder, stock, features, positions, keep_k, crossing_layer
    )
    weights = tf.random.stateless_normal(ours.shape, [1, 2])
    losses = [tf.reduce_mean(weights * tf.sin(x)) for x in (ours, reference)]
  assert_close(ours, reference)
  assert_close(losses[0], losses[1])
  names = [v.name.split('/', 1)[1] for v in encoder.trainable_variables]
  expected = {
    v.name.split('/', 1)[1]: g
    for v, g in zip(
      stock.trainable_variables,
      tape.gradient(losses[1], stock.trainable_variables),
    )
  }
  actual = tape.gradient(losses[0], encoder.trainable_variables)
  for name, gradient in zip(names, actual):
    if name.startswith('pooler_transform'):
      assert gradient is None
      assert expected[name] is None
      continue
    gradient = tf.convert_to_tensor(gradient)
    reference = tf.convert_to_tensor(expected[name])
    np.testing.assert_allclose(
      gradient, reference, rtol=1e-5, atol=1e-5, err_msg=name
    )


def test_padding_that_is_ranked_first_is_not_attended_to(tmp_path):
  """[PAD] need not be in the drop list; K above the tokens of a row."""
  encoder = make_encoder(token_deny_list=(), token_keep_k=9, crossing_layer=2)
  table = encoder.token_importance.table
  table.assign(tf.tensor_scatter_nd_update(table, [[0]], [100.0]))
  stock = make_stock_twin(encoder, tmp_path)
  features = make_features(seed=2)
  lengths = tf.reduce_sum(features['input_mask'], axis=1)
  assert min(lengths) < 9 < max(lengths)
  assert_close(
    encoder(features, drop_tokens=True)['sequence_output'],
    reference_with_dropping(encoder, stock, features, None, 9, 2),
  )


def test_pooled_output_with_dropping_is_position_zero_of_the_full_output():
  encoder = make_encoder()
  features = make_features()
  full = encoder(features, drop_tokens=True)
  at_positions = encoder(
    features, drop_tokens=True, output_positions=tf.constant([[1]] * 3)
  )
  assert_close(at_positions['pooled_output'], full['pooled_output'])
  assert_close(
    full['pooled_output'], encoder.pooler_layer(full['sequence_output'][:, 0])
  )


def test_dropping_follows_training_unless_told():
  encoder = make_encoder()
  features = make_features(padding=False)
  full = encoder(features)['sequence_output']
  dropped = encoder(features, drop_tokens=True)['sequence_output']
  assert float(tf.reduce_max(tf.abs(full - dropped))) > 1e-3
  seed = tf.constant([1, 2])
  assert_close(
    encoder(features, training=True, seed=seed)['sequence_output'], dropped
  )
  assert_close(
    encoder(features, training=True, drop_tokens=False)['sequence_output'], full
  )


def test_the_order_of_the_batch_does_not_matter():
  encoder = make_encoder()
  features = make_features()
  outputs = encoder(features, drop_tokens=True)['sequence_output']
  reversed_features = {k: v[::-1] for k, v in features.items()}
  reversed_outputs = encoder(reversed_features, drop_tokens=True)
  assert_close(reversed_outputs['sequence_output'][::-1], outputs)


def test_sequences_shorter_than_k_lose_no_token():
  """With fewer tokens than K only padding is dropped: nothing changes."""
  encoder = make_encoder(token_keep_k=8)
  features = make_features(padding=False)
  mask = tf.cast(tf.range(SEQ_LENGTH) < 6, tf.int32)[None] * tf.ones(
    [BATCH_SIZE, 1], tf.int32
  )
  features.update(
    input_mask=mask, input_word_ids=features['input_word_ids'] * mask
  )
  assert_close(
    encoder(features, drop_tokens=True)['sequence_output'][:, :6],
    encoder(features)['sequence_output'][:, :6],
  )


@pytest.mark.parametrize('policy', ['float32', 'mixed_float16'])
def test_a_batch_of_all_padding_is_finite(policy):
  tf_keras.mixed_precision.set_global_policy(policy)
  encoder = make_encoder()
  features = {k: tf.zeros_like(v) for k, v in make_features().items()}
  for drop_tokens in (False, True):
    outputs = encoder(features, drop_tokens=drop_tokens)
    assert np.isfinite(outputs['sequence_output']).all()


def test_one_seed_gives_one_result_with_dropout_on():
  encoder = make_encoder(dropout=0.3)
  features = make_features()

  def run(seed):
    return encoder(features, training=True, seed=tf.constant(seed))

  first, second = run([1, 2]), run([1, 2])
  np.testing.assert_array_equal(
    first['sequence_output'], second['sequence_output']
  )
  other = run([1, 3])['sequence_output']
  assert float(tf.reduce_max(tf.abs(other - first['sequence_output']))) > 1e-3


def test_replicas_drop_out_other_entries_of_equal_rows(four_replicas):
  with four_replicas.scope():
    encoder = make_encoder(num_layers=1, token_keep_k=None, dropout=0.3)
  features = make_features(batch_size=1)

  @tf.function
  def run():
    return encoder(features, training=True, seed=tf.constant([1, 2]))[
      'sequence_output'
    ]

  outputs = four_replicas.experimental_local_results(four_replicas.run(run))
  for number, output in enumerate(outputs):
    for other in outputs[:number]:
      assert np.abs(output - other).max() > 1e-3


@pytest.mark.parametrize(
  'policy', ['float32', 'mixed_bfloat16', 'mixed_float16']
)
@pytest.mark.parametrize('mode', ['eager', 'function', 'xla'])
def test_all_modes_and_precisions_agree(policy, mode):
  tf_keras.mixed_precision.set_global_policy(policy)
  try:
    # Other bits are drawn where XLA compiles, so only the rest can agree.
    encoder = make_encoder(3, dropout=0.1 if mode == 'eager' else 0.0)
    expected_dtype = tf.float32  # post-norm ends in a float32 normalization
    features = make_features()
    positions = tf.constant([[1, 2]] * BATCH_SIZE)

    def run():
      with tf.GradientTape() as tape:
        outputs = encoder(
          features,
          output_positions=positions,
          training=True,
          seed=tf.constant([3, 4]),
        )
        loss = tf.reduce_mean(tf.square(outputs['sequence_output']))
      gradients = tape.gradient(
        loss,
        encoder.trainable_variables,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
      )
      return outputs['sequence_output'], [
        tf.convert_to_tensor(g) for g in gradients
      ]

    eager_output, eager_gradients = run()
    if mode != 'eager':
      run = tf.function(run, jit_compile=mode == 'xla')
    output, gradients = run()
  finally:
    tf_keras.mixed_precision.set_global_policy('float32')
  assert output.dtype == expected_dtype
  tolerance = 1e-5 if policy == 'float32' else 0.1
  np.testing.assert_allclose(output, eager_output, atol=tolerance)
  for gradient, eager in zip(gradients, eager_gradients):
    np.testing.assert_allclose(gradient, eager, atol=tolerance)


def test_residual_initializer_scale_shrinks_the_ends_of_branches_only():
  arguments = dict(
    STOCK, num_layers=3, token_keep_k=4, hidden_size=64, inner_dim=128
  )
  stds = {}
  for scale in (1.0, 0.2):
    tf_keras.utils.set_random_seed(3)
    encoder = encoder_lib.TokenDropBertEncoder(
      **arguments, residual_initializer_scale=scale
    )
    encoder(encoder.inputs)
    stds[scale] = {
      v.name.split('/', 1)[1]: float(tf.math.reduce_std(v))
      for v in encoder.trainable_variables
      if 'kernel' in v.name
    }
  for name, std in stds[1.0].items():
    ends_branch = name.endswith(
      ('self_attention/attention_output/kernel:0', 'output/kernel:0')
    )
    expected = 0.2 * std if ends_branch else std
    assert stds[0.2][name] == pytest.approx(expected, rel=0.1), name


def test_a_neighbour_start_changes_queries_and_keys_of_two_layers_only():
  arguments = dict(
    STOCK, hidden_size=64, num_layers=3, residual_initializer_scale=0.1
  )
  kernels = {}
  for start in ('random', 'neighbours'):
    tf_keras.utils.set_random_seed(3)
    encoder = encoder_lib.TokenDropBertEncoder(
      **arguments, attention_start=start
    )
    encoder(encoder.inputs)
    kernels[start] = {
      v.name.split('/', 1)[1]: v.numpy() for v in encoder.trainable_variables
    }
  changed = [
    name
    for name, value in kernels['random'].items()
    if not np.array_equal(value, kernels['neighbours'][name])
  ]
  assert changed == [
    f'transformer/layer_{layer}/self_attention/{name}/kernel:0'
    for layer in (0, 1)
    for name in ('query', 'key', 'attention_output')
  ]
  kernel = neighbour_start.NeighbourKernel((-1, 1), SEQ_LENGTH, tf.zeros)
  np.testing.assert_allclose(
    kernels['neighbours'][changed[0]], kernel([64, 2, 32], tf.float32)
  )
  # The branch that looks at neighbours begins at its full size.
  np.testing.assert_allclose(
    kernels['random'][changed[2]],
    0.1 * kernels['neighbours'][changed[2]],
    rtol=1e-5,
  )


def test_config_round_trip_gives_the_same_encoder():
  encoder = make_encoder(crossing_layer=1, temperature=0.5, norm_first=True)
  twin = encoder_lib.TokenDropBertEncoder.from_config(encoder.get_config())
  twin(twin.inputs)
  twin.set_weights(encoder.get_weights())
  features = make_features()
  assert_close(
    twin(features, drop_tokens=True)['sequence_output'],
    encoder(features, drop_tokens=True)['sequence_output'],
  )


def test_the_table_is_the_only_weight_that_is_not_trained():
  assert [
    v.name.rsplit('/', 1)[1] for v in make_encoder().non_trainable_variables
  ] == ['table:0']
  assert not make_encoder(token_keep_k=None).non_trainable_variables


def test_factorized_embeddings_equal_the_stock_encoder(tmp_path):
  encoder = make_encoder(embedding_width=8)
  stock = networks.BertEncoderV2(**STOCK, num_layers=4, embedding_width=8)
  stock(stock.inputs)
  path = tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / 'ckpt'))
  tf.train.Checkpoint(encoder=stock).read(
    path
  ).expect_partial().assert_existing_objects_matched()
  features = make_features()
  assert_close(
    encoder(features)['sequence_output'], stock(features)['sequence_output']
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(token_keep_k=0), 'token_keep_k must be at least 1.*=0'),
    (dict(num_layers=2), 'at least 3 to drop tokens.*num_layers=2'),
    (dict(crossing_layer=4), 'between 1 and .*num_layers - 1.*_layer=4'),
    (dict(crossing_layer=0), 'between 1 and .*num_layers - 1.*_layer=0'),
    (dict(temperature=-1.0), 'temperature must be at least 0.*=-1'),
    (dict(token_loss_beta=1.0), r'beta must be in \[0, 1\).*beta=1'),
    (dict(token_allow_list=(0,)), r'kept or always dropped.*\[0\]'),
    (dict(token_allow_list=(50,)), r'in the vocabulary.*\[50\]'),
  ],
)
def test_wrong_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    make_encoder(**arguments)


def test_keeping_more_tokens_than_there_are_is_refused():
  encoder = make_encoder(token_keep_k=SEQ_LENGTH + 1)
  with pytest.raises(ValueError, match='from 1 to seq_length.*=13.*=12'):
    encoder(make_features(), drop_tokens=True)


def test_dropping_needs_an_encoder_that_can():
  with pytest.raises(ValueError, match='Set token_drop.token_keep_k'):
    make_encoder(token_keep_k=None)(make_features(), drop_tokens=True)


@pytest.mark.parametrize('keep_k', [None, 5])
def test_less_memory_changes_neither_output_nor_gradients(keep_k):
  """Attention in blocks without dropout; recomputed layers with it."""
  features = make_features()
  features['segment_ids'] = tf.constant(
    [[1] * 5 + [2] * 7, [1] * 12, [1] * 3 + [2] * 3 + [3] * 6]
  )
  features['segment_ids'] *= features['input_mask']

  def run(dropout, **kwargs):
    encoder = make_encoder(dropout=dropout, **kwargs)

    @tf.function
    def train():
      with tf.GradientTape() as tape:
        output = encoder(
          features,
          training=True,
          drop_tokens=keep_k is not None,
          seed=tf.constant([5, 6]),
        )
        rows = output['sequence_output']
        loss = tf.reduce_sum(
          rows * tf.random.stateless_normal(rows.shape, [1, 2])
        ) + tf.reduce_sum(output['pooled_output'])
      gradients = tape.gradient(loss, encoder.trainable_variables)
      return [rows, *map(tf.convert_to_tensor, gradients)]

    return train()

  plain = run(dropout=0.0)
  # Relative to the largest: biases of keys have gradients of 0.
  largest = max(np.max(np.abs(expected)) for expected in plain)
  in_blocks = run(dropout=0.0, attention_block=5)
  np.testing.assert_allclose(in_blocks[0], plain[0], rtol=1e-5, atol=1e-5)
  for actual, expected in zip(in_blocks, plain):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * largest)
  dropped = run(dropout=0.3)
  assert not np.allclose(dropped[0], plain[0])
  for actual, expected in zip(run(dropout=0.3, recompute_layers=True), dropped):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * largest)
