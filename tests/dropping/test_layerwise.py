"""Other rows in every layer, against gather and scatter in reading order."""

import numpy as np
import pytest
import tensorflow as tf

from tests.dropping import reading_order
from tests.test_encoder import make_features
from tokendrop_tf import errors
from tokendrop_tf.dropping import Dropping, TokenDropConfig
from tokendrop_tf.dropping.rows import LayerRows

INDEPENDENT = {'plan': 'layerwise', 'policy': 'random'}
WEIGHTED = {'plan': 'layerwise', 'policy': 'loss', 'temperature': 1.0}
WINDOWS = {
  'plan': 'layerwise',
  'policy': 'random',
  'layer_subsets': 'windows',
  'always_keep_tokens': (),
  'always_drop_tokens': (),
}
FIXED = {
  **WINDOWS,
  'policy': 'loss',
  'always_keep_tokens': ('[CLS]',),
  'fixed_rows': 2,
}
ARMS = {
  'independent': INDEPENDENT,
  'weighted': WEIGHTED,
  'windows': WINDOWS,
  'fixed': FIXED,
}
all_arms = pytest.mark.parametrize('arm', ARMS.values(), ids=ARMS)


def make(num_layers=5, seq_length=12, **settings):
  return Dropping(
    TokenDropConfig(**{'token_keep_k': 5, **INDEPENDENT, **settings}),
    num_layers,
    seq_length,
  )


@all_arms
@pytest.mark.parametrize('documents', [1, 2])
def test_it_equals_gather_and_scatter(tmp_path, arm, documents):
  pair = reading_order.Pair(tmp_path, seed=(3, 4), **arm, full_layers=(1, 3))
  features = make_features(seed=3)
  if documents == 2:
    features = reading_order.packed(features)
  computed = pair.computed(features)
  assert computed.sum(axis=-1).tolist() == [
    [count] * 3 for count in (12, 5, 12, 5, 12)
  ]

  def reference(features):
    rows, sees = pair.embed(features), reading_order.may_see(features)
    for layer, chosen in zip(pair.stock.transformer_layers, computed):
      places = tf.constant(np.stack([np.flatnonzero(row) for row in chosen]))
      kept = tf.gather(rows, places, batch_dims=1)
      among_kept = tf.gather(
        tf.gather(sees, places, batch_dims=1), places, axis=2, batch_dims=1
      )
      kept = layer([kept, among_kept])
      rows = reading_order.scatter(rows, tf.cast(places, tf.int32), kept)
    return rows

  pair.assert_equal(features, reference)


@all_arms
def test_rows_that_are_not_computed_pass_bit_by_bit(tmp_path, arm):
  pair = reading_order.Pair(tmp_path, seed=(3, 4), **arm)
  features = make_features(seed=3, padding=False)
  outputs = [output.numpy() for output in pair.run(features)['encoder_outputs']]
  for before, after, computed in zip(
    outputs, outputs[1:], pair.computed(features)[1:]
  ):
    same = (before == after).all(axis=-1)
    np.testing.assert_array_equal(same, ~computed)


@all_arms
def test_keeping_all_tokens_is_plain_bit_by_bit(tmp_path, arm):
  pair = reading_order.Pair(tmp_path, seed=(3, 4), **arm)
  features = make_features(seed=3)
  np.testing.assert_array_equal(
    pair.run(features, token_keep_k=12)['sequence_output'],
    pair.encoder(features)['sequence_output'],
  )


def shares(computed):
  """Returns by layer how often each position was computed."""
  return computed[1:-1].mean(axis=1)


def test_independent_subsets_are_even_and_independent():
  """Each position in K of S subsets; of two layers, in K^2 of S^2."""
  rows, share = 4000, 5 / 12
  computed = make().computed(np.zeros([rows, 12]), (1, 2))
  tolerance = 4 * np.sqrt(share * (1 - share) / rows)
  np.testing.assert_allclose(shares(computed), share, atol=tolerance)
  both = (computed[1] & computed[2]).mean(axis=0)
  np.testing.assert_allclose(both, share**2, atol=tolerance)
  # Two positions of one layer exclude each other a little.
  pair = (computed[1, :, 0] & computed[1, :, 7]).mean()
  assert pair == pytest.approx(5 * 4 / (12 * 11), abs=tolerance)


def test_weighted_subsets_are_drawn_without_replacement():
  """Of four tokens two: the first by its weight, the second of the rest."""
  weights = np.array([0.4, 0.3, 0.2, 0.1])
  scores = np.tile(weights**0.5 * 3, [20000, 1]).astype(np.float32)
  computed = make(
    4, 4, **{**WEIGHTED, 'temperature': 0.5, 'token_keep_k': 2}
  ).computed(scores, (1, 2))
  second = [
    sum(
      weights[first] * weights[token] / (1 - weights[first])
      for first in range(4)
      if first != token
    )
    for token in range(4)
  ]
  np.testing.assert_allclose(
    shares(computed), np.tile(weights + second, [2, 1]), atol=0.015
  )
  # Which two is drawn again in the next layer.
  assert (computed[1] == computed[2]).all(axis=1).mean() < 0.4


@pytest.mark.parametrize('arm', [INDEPENDENT, WEIGHTED], ids=str)
def test_pinned_tokens_are_in_every_subset_or_in_none(arm):
  scores = np.ones([200, 12], np.float32)
  scores[:, 2], scores[:, 9] = np.inf, -np.inf
  computed = make(**arm).computed(scores, (1, 2))[1:-1]
  assert computed[..., 2].all()
  assert not computed[..., 9].any()
  assert computed[..., 4].any()


def test_windows_are_even_and_independent():
  """Over many steps, as a step has one place for all sequences."""
  dropping, steps, share = make(4, **WINDOWS), 150, 5 / 12
  computed = np.stack(
    [dropping.computed(np.zeros([1, 12]), (1, s)) for s in range(steps)]
  )[:, 1:-1, 0]
  tolerance = 4 * np.sqrt(share * (1 - share) / steps)
  np.testing.assert_allclose(computed.mean(axis=0), share, atol=tolerance)
  both = (computed[:, 0] & computed[:, 1]).mean(axis=0)
  np.testing.assert_allclose(both, share**2, atol=tolerance)


def test_windows_are_stretches_of_a_ring_behind_the_fixed_rows():
  scores = np.arange(12.0, 0.0, -1.0, np.float32)[np.newaxis]
  dropping = make(9, **FIXED)
  computed = dropping.computed(scores, (1, 2))[1:-1, 0]
  assert computed[:, :2].all()
  starts = set()
  for ring in computed[:, 2:]:
    [start] = np.flatnonzero(ring & ~np.roll(ring, 1))
    np.testing.assert_array_equal(ring, np.roll(np.arange(10) < 3, start))
    starts.add(start)
  assert len(starts) > 3


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'full_layers': (6,)}, r'numbers from 1 to .*full_layers=\(6,\)'),
    ({'full_layers': (1, 2, 3, 4)}, 'leave a layer before the last'),
    ({'policy': 'loss'}, "ranked. Received: policy='loss', temperature=0"),
    (
      {'layer_subsets': 'windows'},
      r"computes every token in turn.*always_drop_tokens=\('\[PAD\]',\)",
    ),
    (
      {**WINDOWS, 'always_keep_tokens': ('[CLS]',)},
      r"fixed_rows=0, policy='random', always_keep_tokens=\('\[CLS\]',\)",
    ),
    ({**WINDOWS, 'policy': 'loss'}, "fixed_rows=0, policy='loss'"),
    ({**FIXED, 'fixed_rows': 5}, 'fixed_rows=5, 5 kept'),
    (
      {**FIXED, 'keep_schedule': ('0:2', '0.5:5')},
      'fixed_rows=2, 2 kept',
    ),
  ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
  with pytest.raises(errors.ConfigurationError, match=message):
    make(**settings).check()


def test_a_run_says_in_one_line_what_it_drops():
  assert make(12, full_layers=(1, 6)).describe() == (
    'at random: 5 of 12 tokens (42%) in each of layers 2-5, 7-11 of 12'
  )
  assert make(12).rows(5) == [
    LayerRows(12, 12),
    *[LayerRows(5, 5)] * 10,
    LayerRows(12, 12),
  ]
