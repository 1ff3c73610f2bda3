"""What other rooms read of a run's dropping."""

import ast
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import tokendrop_tf
from tokendrop_tf import errors
from tokendrop_tf.dropping import Dropping, TokenDropConfig
from tokendrop_tf.dropping.rows import LayerRows

PACKAGE = pathlib.Path(tokendrop_tf.__file__).parent


def make(num_layers=12, seq_length=128, **settings):
  return Dropping(
    TokenDropConfig(**{'token_keep_k': 64, **settings}), num_layers, seq_length
  )


def test_the_published_plan_is_five_full_one_crossing_five_kept_one_full():
  rows = make().rows(64)
  assert rows == [
    *[LayerRows(128, 128)] * 5,
    LayerRows(64, 128),
    *[LayerRows(64, 64)] * 5,
    LayerRows(128, 128),
  ]
  assert make(policy='none').rows(None) == [LayerRows(128, 128)] * 12


@pytest.mark.parametrize(
  ('settings', 'text'),
  [
    (
      {},
      'by running loss, ranked: 64 of 128 tokens (50%) in layers 6-11 of 12',
    ),
    (
      {'policy': 'frequency', 'temperature': 0.5, 'crossing_layer': 11},
      'by rarity in the corpus, sampled at temperature 0.5: 64 of 128 tokens '
      '(50%) in layer 11 of 12',
    ),
    (
      {'policy': 'random', 'temperature': 1.0, 'full_step_every': 8},
      'at random, one step in 8 in full: 64 of 128 tokens (50%) in layers 6-11 '
      'of 12',
    ),
    ({'policy': 'none'}, 'none: every layer runs on all tokens'),
  ],
)
def test_a_run_says_in_one_line_what_it_drops(settings, text):
  assert make(**settings).describe() == text


def test_the_middle_layers_compute_the_highest_scores():
  scores = np.random.default_rng(0).permutation(np.arange(20.0))[np.newaxis]
  scores[0, 3], scores[0, 7] = np.inf, -np.inf
  computed = make(4, 20, token_keep_k=8).computed(scores, seed=(1, 2))
  assert computed.shape == (4, 1, 20)
  assert computed.sum(axis=-1).tolist() == [[20], [8], [8], [20]]
  kept = computed.all(axis=0)
  assert scores[kept].min() > scores[~kept].max()
  assert kept[0, 3]
  assert not kept[0, 7]


def test_ties_are_computed_by_chance():
  computed = make(4, 6, token_keep_k=3).computed(np.zeros([600, 6]), (1, 2))
  shares = computed.all(axis=0).mean(axis=0)
  np.testing.assert_allclose(shares, 0.5, atol=3 * 0.5 / np.sqrt(600))


def test_a_ranking_may_be_shown_where_a_run_samples():
  scores = tf.tile(tf.range(1.0, 13.0)[tf.newaxis], [50, 1])
  sampled = make(4, 12, token_keep_k=6, temperature=5.0)
  kept = sampled.computed(scores, (1, 2), ranked=True).all(axis=0)
  np.testing.assert_array_equal(kept, np.tile(np.arange(12) >= 6, [50, 1]))
  drawn = sampled.computed(scores, (1, 2)).all(axis=0)
  assert drawn[:, :6].any()


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'token_keep_k': 129}, 'at most train_data.seq_length.*=129.*=128'),
    (
      {'keep_schedule': ('0:64', '0.5:129')},
      'keep_schedule must keep at most train_data.seq_length tokens.*129',
    ),
    ({'crossing_layer': 12}, 'between 1 and model.num_layers - 1.*=12'),
    ({'num_layers': 2}, 'at least 3 to drop tokens'),
    ({'always_drop_tokens': ('[SEP]',)}, r'Received in both: \[SEP\]'),
  ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
  with pytest.raises(errors.ConfigurationError, match=message):
    make(**settings).check()


def test_plain_bert_asks_nothing_of_the_settings_of_dropping():
  make(num_layers=1, policy='none', token_keep_k=999).check()


def _names_compared(path):
  """Yields the lines of a module that compare a policy's or a plan's name."""
  for node in ast.walk(ast.parse(path.read_text())):
    compared = []
    if isinstance(node, ast.Compare):
      compared = [node.left, *node.comparators]
    elif isinstance(node, ast.Match):
      compared = [node.subject]
    elif isinstance(node, ast.Subscript):
      compared = [node.slice]
    for operand in compared:
      if isinstance(operand, ast.Attribute):
        if operand.attr in ('policy', 'plan'):
          yield f'{path}:{node.lineno}'


def test_no_other_room_compares_the_name_of_a_policy_or_plan():
  """Rooms ask `Dropping`: a new importance or plan must need no edit there."""
  paths = [*PACKAGE.rglob('*.py'), *(PACKAGE.parent / 'tools').rglob('*.py')]
  others = [path for path in paths if path.parent.name != 'dropping']
  assert len(others) > 100
  assert not [line for path in others for line in _names_compared(path)]
  assert list(_names_compared(PACKAGE / 'dropping' / 'registry.py'))
