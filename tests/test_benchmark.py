"""The step benchmark, on a model that takes no time."""

import json

import pytest
import tf_keras

from tokendrop_tf import benchmark, configs, errors, step_arms
from tokendrop_tf.layers import fused, random_seeds, transformer_block

SMALL = [
  '--model=bert_tiny',
  '--num_layers=3',
  '--batch_size=2',
  '--seq_length=16',
  '--token_keep_k=8',
  '--max_predictions_per_seq=2',
  '--vocab_size=50',
  '--steps=2',
  '--warm_up_steps=1',
]


def test_every_arm_is_timed_in_one_run(tmp_path, capsys):
  path, chart = tmp_path / 'results.json', tmp_path / 'chart.svg'
  arms = ['stock', 'loss', 'full_last_layer']
  benchmark.main(
    [
      *SMALL,
      f'--arms={",".join(arms)}',
      '--selection',
      '--profile',
      f'--output_json={path}',
      f'--chart={chart}',
    ]
  )
  results = json.loads(path.read_text())
  rows = results['arms']
  assert [row['name'] for row in rows] == arms
  for row in rows:
    assert row['tokens_per_second'] == pytest.approx(
      2 * 16 / row['median_seconds']
    )
    assert row['ratio_to_first'] == pytest.approx(
      row['median_seconds'] / rows[0]['median_seconds']
    )
    assert 0.0 < row['utilisation'] < 1.0
  assert results['profile']['matrix products'] > 0.0
  printed = capsys.readouterr().out
  assert 'of the loss step' in printed
  assert 'threads of full_last_layer' in printed
  assert '<svg' in chart.read_text()


def test_memory_is_that_of_a_process_of_its_own():
  arguments = benchmark.parse_arguments(SMALL)
  assert 2**20 < benchmark.measure_memory('loss', arguments) < 2**32


def first_losses(arms, folder, dropout_rate):
  """Returns the loss of the first and of the second step of each arm."""
  arguments = benchmark.parse_arguments(
    [*SMALL, f'--dropout_rate={dropout_rate}']
  )
  path = step_arms.write_vocabulary(folder, 50)
  config = benchmark.task_config(arguments, path)
  batch = step_arms.make_batch(config, 2)
  losses = {}
  for arm in arms:
    tf_keras.utils.set_random_seed(1)
    function = step_arms.TrainStep(arm, config).function()
    losses[arm] = [float(function(batch)['loss']) for _ in range(2)]
  return losses


@pytest.mark.parametrize('arm', ['library_dropout', 'no_dropout'])
def test_other_dropout_changes_the_loss_and_leaves_no_trace(arm, tmp_path):
  before = random_seeds.dropout
  losses = first_losses(['loss', arm], tmp_path, dropout_rate=0.3)
  assert random_seeds.dropout is before
  assert losses[arm][0] != losses['loss'][0]
  assert losses[arm] == pytest.approx(losses['loss'], rel=0.2)


def test_arms_of_other_operations_compute_the_same_step(tmp_path):
  arms = [
    'unfused',
    'library_loss',
    'library_bias_gradient',
    'tensor_mask',
    'einsum_products',
    'joined_heads',
  ]
  before = (
    fused.gelu,
    fused.add_bias,
    transformer_block.TransformerBlock._attend,
  )
  losses = first_losses(['loss', *arms], tmp_path, dropout_rate=0.0)
  assert before == (
    fused.gelu,
    fused.add_bias,
    transformer_block.TransformerBlock._attend,
  )
  for arm in arms:
    assert losses[arm] == pytest.approx(losses['loss'], rel=1e-5)


def test_operations_of_stock_bert_are_six_a_multiply_add():
  config = configs.PretrainingTaskConfig()
  config.model.vocab_size = 30522
  stock = step_arms.operations('stock', config)
  # 12 layers of 768, S 512: 43.5 G, and 76 slots of the head: 1.8 G.
  assert stock == pytest.approx(6 * (12 * 4.03e9 + 1.83e9), rel=0.01)
  assert step_arms.operations('none', config) < stock
  assert step_arms.operations('loss', config) < 0.75 * stock


def test_an_unknown_arm_is_refused():
  with pytest.raises(errors.ConfigurationError, match='Received: fast'):
    benchmark.main([*SMALL, '--arms=fast'])


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--token_keep_k=17', 'token_keep_k must be at most train_data.seq_length'),
    ('--crossing_layer=3', 'crossing_layer must be between 1 and'),
    ('--steps=0', '--steps.*0'),
    ('--batch_size=0', '--batch_size.*0'),
  ],
)
def test_flags_that_make_no_benchmark_are_refused(flag, message):
  with pytest.raises(errors.UserError, match=message):
    benchmark.main([*SMALL, flag])
