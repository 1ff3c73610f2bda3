"""A new importance or plan is one class and one registry line."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import tiny_runs

from tokendrop_tf import settings, train
from tokendrop_tf.dropping import TokenDropConfig, registry
from tokendrop_tf.dropping.by_loss import ByLoss
from tokendrop_tf.dropping.importance import Importance
from tokendrop_tf.dropping.plan import Plan
from tokendrop_tf.dropping.rows import LayerRows
from tokendrop_tf.encoder import TokenDropBertEncoder
from tokendrop_tf.layers import random_seeds


class ByMistakes(ByLoss):
  """Tokens that the model gets wrong are kept."""

  text = 'by mistakes'

  def update(self, table, batch, slots):
    table.update(
      batch['masked_lm_ids'], 1.0 - slots['hits'], batch['masked_lm_weights']
    )


@dataclasses.dataclass(frozen=True)
class Halving(Plan):
  """Each layer computes half the rows of the one before, but at least K."""

  def rows(self, num_layers, seq_length, keep_k):
    if keep_k is None:
      return super().rows(num_layers, seq_length, keep_k)
    sizes = [max(keep_k, seq_length >> layer) for layer in range(num_layers)]
    middle = [LayerRows(q, k) for k, q in zip(sizes, sizes[1:])]
    return [*middle, LayerRows(seq_length, seq_length)]

  def describe(self, num_layers):
    return f'layers 1-{num_layers - 1} of {num_layers}'


@dataclasses.dataclass(frozen=True)
class Shuffling(Plan):
  """Other rows first in every layer; the first `share` of them are computed."""

  share: float = settings.setting(1.0, 'Share of the rows.')

  def rows(self, num_layers, seq_length, keep_k):
    count = int(self.share * seq_length)
    full = LayerRows(seq_length, seq_length)
    return [LayerRows(count, count)] * (num_layers - 1) + [full]

  def select(self, layer, rows, sizes, seed):
    noise = random_seeds.global_batch_uniform(
      tf.shape(rows.mask), random_seeds.fold_in(seed, layer)
    )
    order = tf.argsort(noise)
    return rows.permuted(order)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  monkeypatch.setitem(registry.IMPORTANCES, 'mistakes', ByMistakes)
  monkeypatch.setitem(registry.PLANS, 'halving', Halving)
  monkeypatch.setitem(registry.PLANS, 'shuffling', Shuffling)


def test_two_steps_are_trained_by_gin_bindings(tiny_corpus, tmp_path, capsys):
  train.main(
    [
      f'--model_dir={tmp_path}/run',
      '--mode=train',
      *(
        f'--gin_params={binding}'
        for binding in (
          f"vocabulary.path = '{tiny_corpus.vocabulary}'",
          f"train_data.input_path = '{tiny_corpus.train}'",
          *tiny_runs.MODEL,
          'model.num_layers = 4',
          'train_data.global_batch_size = 8',
          "token_drop.policy = 'mistakes'",
          "token_drop.plan = 'halving'",
          'token_drop.token_keep_k = 6',
          'token_drop.token_loss_init_value = 0.0',
          'token_drop.token_loss_beta = 0.0',
          'trainer.train_steps = 2',
          'trainer.steps_per_loop = 2',
          'trainer.validation_interval = 2',
          'trainer.checkpoint_interval = 2',
          'optimizer.warmup_steps = 0',
        )
      ),
    ]
  )
  printed = ' '.join(capsys.readouterr().out.split())
  assert 'by mistakes, ranked: 6 of 32 tokens (19%) in layers 1-3 of 4' in (
    printed
  )
  checkpoint = f'{tmp_path}/run/ckpt-2'
  [key] = [
    name
    for name, _ in tf.train.list_variables(checkpoint)
    if '_token_importance/table/' in name
  ]
  table = tf.train.load_variable(checkpoint, key)
  # Shares of wrong answers, where a label was seen.
  assert 0.0 < table.max() <= 1.0


def test_settings_of_its_own_join_the_section(monkeypatch):
  @dataclasses.dataclass(frozen=True)
  class BySize(Importance):
    largest: int = settings.setting(9, 'Largest size.', settings.at_least(1))

  monkeypatch.setitem(registry.IMPORTANCES, 'size', BySize)
  section = registry.with_own_settings('Section', TokenDropConfig, 'All.')
  assert settings.settings_of(section)['largest'].default == 9
  assert registry.importance_of(section(policy='size', largest=4)).largest == 4

  @dataclasses.dataclass(frozen=True)
  class OtherSize(Plan):
    largest: int = settings.setting(8, 'Another meaning.')

  monkeypatch.setitem(registry.PLANS, 'size', OtherSize)
  with pytest.raises(ValueError, match='declared once. Received: largest'):
    registry.with_own_settings('Section', TokenDropConfig, 'All.')


def make_encoder(plan):
  tf_keras.utils.set_random_seed(1)
  encoder = TokenDropBertEncoder(
    vocab_size=30,
    hidden_size=16,
    num_layers=4,
    num_attention_heads=2,
    inner_dim=32,
    max_sequence_length=12,
    output_dropout=0.0,
    attention_dropout=0.0,
    initializer=tf_keras.initializers.TruncatedNormal(stddev=0.3),
    token_keep_k=6,
    plan=plan,
  )
  encoder(encoder.inputs)
  return encoder


def make_features():
  ids = np.random.default_rng(0).integers(1, 30, [3, 12])
  mask = np.arange(12) < np.array([[12], [9], [5]])
  segments = np.where(mask, 1 + (np.arange(12) > 6), 0)
  features = dict(
    input_word_ids=ids * mask,
    input_mask=mask,
    input_type_ids=np.zeros_like(ids),
    segment_ids=segments,
  )
  return {name: tf.constant(v, tf.int32) for name, v in features.items()}


def test_rows_may_stand_in_another_order_in_every_layer():
  """Positions, mask and segments move along, so nothing changes."""
  encoder, features = make_encoder(Shuffling()), make_features()
  positions = tf.constant([[3, 0], [8, 2], [4, 4]])
  for at in (None, positions):
    full = encoder(features, output_positions=at)
    dropped = encoder(
      features, output_positions=at, drop_tokens=True, seed=tf.constant([1, 2])
    )
    np.testing.assert_allclose(
      dropped['sequence_output'], full['sequence_output'], atol=1e-5
    )


def test_each_layer_may_compute_other_rows():
  encoder = make_encoder(Shuffling(0.5))
  features = make_features()

  def run(seed):
    return encoder(features, drop_tokens=True, seed=tf.constant(seed))[
      'sequence_output'
    ].numpy()

  np.testing.assert_array_equal(run([1, 2]), run([1, 2]))
  assert abs(run([1, 2]) - run([1, 3])).max() > 1e-3


def test_an_encoder_comes_back_from_its_config_with_its_plan():
  config = make_encoder(Shuffling(0.5)).get_config()
  assert config['plan'] == {'name': 'shuffling', 'share': 0.5}
  assert config['importance']['name'] == 'loss'
  twin = TokenDropBertEncoder.from_config(config)
  assert twin.get_config()['plan'] == config['plan']
