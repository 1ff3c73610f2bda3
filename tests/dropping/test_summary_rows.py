"""Pooled rows, against a plain computation in reading order."""

import numpy as np
import pytest
import tensorflow as tf

from tests.dropping import reading_order
from tests.test_encoder import make_features
from tokendrop_tf import errors
from tokendrop_tf.dropping import Dropping, TokenDropConfig

CROSSING = 2


def pooled_in_reading_order(pair, features, num_groups):
  """Means of neighbouring dropped tokens stand for them in the middle."""
  rows, sees = pair.embed(features), reading_order.may_see(features)
  for layer in pair.stock.transformer_layers[: CROSSING - 1]:
    rows = layer([rows, sees])
  order, keep_k = pair.order(features), pair.dropping.keep_k
  kept, dropped = tf.sort(order[:, :keep_k]), tf.sort(order[:, keep_k:])
  groups = tf.reshape(dropped, [len(dropped), num_groups, -1])
  first = groups[:, :, 0]
  # [B, G, S]: the members of each group, those of its first one's document.
  members = tf.reduce_sum(tf.one_hot(groups, rows.shape[1]), axis=2)
  members *= tf.gather(sees, first, batch_dims=1)
  sizes = tf.reduce_sum(members, axis=2, keepdims=True)
  means = tf.math.divide_no_nan(members @ rows, sizes)
  # A summary sees what the first of its group sees, and is seen by the same.
  at = tf.concat([kept, first], axis=1)
  to_all = tf.gather(sees, at, batch_dims=1)
  among = tf.gather(to_all, at, axis=2, batch_dims=1)
  is_empty = tf.transpose(sizes, [0, 2, 1]) == 0
  among *= 1.0 - tf.pad(
    tf.cast(is_empty, tf.float32), [(0, 0)] * 2 + [(keep_k, 0)]
  )
  middle = tf.concat([tf.gather(rows, kept, batch_dims=1), means], axis=1)
  layers = pair.stock.transformer_layers[CROSSING - 1 : -1]
  middle = layers[0]([middle, rows, to_all])
  for layer in layers[1:]:
    middle = layer([middle, among])
  change = middle[:, keep_k:] - means
  rows += tf.matmul(members, change, transpose_a=True)
  rows = reading_order.scatter(rows, kept, middle[:, :keep_k])
  return pair.stock.transformer_layers[-1]([rows, sees])


def make_pair(folder, num_groups, **token_drop):
  return reading_order.Pair(
    folder,
    num_layers=5,
    plan='pooled',
    summary_rows=num_groups,
    **{'token_keep_k': 4, 'crossing_layer': CROSSING, **token_drop},
  )


@pytest.mark.parametrize('documents', [1, 2])
@pytest.mark.parametrize('num_groups', [2, 4])
def test_it_equals_pooling_in_reading_order(tmp_path, num_groups, documents):
  pair = make_pair(tmp_path, num_groups)
  features = make_features(seed=3)
  if documents == 2:
    features = reading_order.packed(features)
  pair.assert_equal(
    features,
    lambda features: pooled_in_reading_order(pair, features, num_groups),
  )


@pytest.mark.parametrize('crossing_layer', [1, 4])
def test_groups_of_one_token_are_the_encoder_without_dropping(
  tmp_path, crossing_layer
):
  pair = make_pair(tmp_path, 8, crossing_layer=crossing_layer)
  features = make_features(seed=3)
  pair.assert_equal(
    features,
    lambda features: pair.stock(features)['sequence_output'],
    where=features['input_mask'] == 1,
  )


def test_every_layer_gives_the_positions_of_the_sequence(tmp_path):
  """Summaries are in no output; dropped rows change after the middle alone."""
  pair = make_pair(tmp_path, 2, seed=(3, 4))
  features = make_features(seed=3, padding=False)
  outputs = pair.run(features)['encoder_outputs']
  assert [output.shape for output in outputs] == [(3, 12, 16)] * 5
  dropped = ~pair.computed(features)[CROSSING]
  for before, after, moved in zip(outputs, outputs[1:], (False, False, True)):
    difference = np.abs(after - before).max(axis=-1)[dropped]
    assert (difference > 0).all() if moved else (difference == 0).all()


def test_the_middle_computes_and_sees_more_rows():
  dropping = Dropping(
    TokenDropConfig(plan='pooled', token_keep_k=64, summary_rows=8), 12, 128
  )
  assert dropping.rows(64) == [
    *[(128, 128)] * 5,
    (72, 136),
    *[(72, 72)] * 5,
    (128, 128),
  ]
  assert dropping.rows(128) == dropping.rows(None) == [(128, 128)] * 12
  assert dropping.describe() == (
    'by running loss, ranked: 64 of 128 tokens (50%) in layers 6-11 of 12, 8 '
    'pooled rows for the others'
  )


def test_causal_steps_are_refused():
  section = TokenDropConfig(plan='pooled', policy='random', token_keep_k=64)
  with pytest.raises(errors.ConfigurationError, match="plan='pooled'"):
    Dropping(section, 12, 128, objective='causal_lm').check()


@pytest.mark.parametrize(
  'settings', [{'token_keep_k': 63}, {'keep_schedule': ('0:60', '0.5:64')}]
)
def test_groups_of_unequal_size_are_refused(settings):
  section = TokenDropConfig(
    **{'plan': 'pooled', 'token_keep_k': 64, 'summary_rows': 8, **settings}
  )
  with pytest.raises(
    errors.ConfigurationError,
    match=r'must divide.*summary_rows=8, 6[03] of 128 tokens kept',
  ):
    Dropping(section, 12, 128).check()
