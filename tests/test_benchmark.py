"""The step benchmark, on a model that takes no time."""

import json

import pytest

from tokendrop_tf import benchmark, configs, errors, step_arms
from tokendrop_tf.layers import fused, random_seeds

SMALL = [
  '--model=bert_tiny',
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
  assert 'of the loss step' in capsys.readouterr().out
  assert '<svg' in chart.read_text()


def test_memory_is_that_of_a_process_of_its_own():
  arguments = benchmark.parse_arguments(SMALL)
  assert 2**20 < benchmark.measure_memory('loss', arguments) < 2**32


@pytest.mark.parametrize('arm', ['unfused', 'library_dropout', 'no_dropout'])
def test_features_off_change_one_thing_and_leave_no_trace(arm, tmp_path):
  arguments = benchmark.parse_arguments([*SMALL, '--dropout_rate=0.3'])
  path = step_arms.write_vocabulary(tmp_path, 50)
  config = benchmark.task_config(arguments, path)
  batch = step_arms.make_batch(config, 2)
  before = (fused.enabled, random_seeds.dropout)
  losses = {
    name: float(step_arms.TrainStep(name, config).function()(batch)['loss'])
    for name in ('loss', arm)
  }
  assert (fused.enabled, random_seeds.dropout) == before
  assert losses[arm] != losses['loss']
  assert losses[arm] == pytest.approx(losses['loss'], rel=0.2)


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
