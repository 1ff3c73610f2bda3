"""The step benchmark, on a model that takes no time."""

import json

import pytest

from tokendrop_tf import errors
from tokendrop_tf.config import configs, rules
from tools.measure import step_arms, step_benchmark

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
  arms = ['stock', 'loss']
  step_benchmark.main(
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
    assert 0.0 < row['utilisation'] < 1.0
  assert results['profile']['matrix products'] > 0.0
  assert 'of the loss step' in capsys.readouterr().out
  assert '<svg' in chart.read_text()


@pytest.mark.parametrize('arm', [a for a in step_arms.ARMS if a != 'stock'])
def test_every_arm_is_a_valid_task_and_leaves_the_run_s_own_alone(arm):
  config = step_benchmark.task_config(step_benchmark.parse_arguments(SMALL), '')
  before = config.as_dict()
  rules.validate_model(step_arms.arm_config(arm, config))
  assert config.as_dict() == before


def test_memory_is_that_of_a_process_of_its_own():
  arguments = step_benchmark.parse_arguments(SMALL)
  assert 2**20 < step_benchmark.measure_memory('loss', arguments) < 2**32


def test_operations_of_stock_bert_are_six_per_multiply_add():
  config = configs.PretrainingTaskConfig()
  config.model.vocab_size = 30522
  stock = step_arms.operations('stock', config)
  # 12 layers of 768, S 512: 43.5 G, and 76 slots of the head: 1.8 G.
  assert stock == pytest.approx(6 * (12 * 4.03e9 + 1.83e9), rel=0.01)
  assert step_arms.operations('none', config) < stock
  assert step_arms.operations('loss', config) < 0.75 * stock


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--arms=fast', 'Received: fast'),
    ('--token_keep_k=17', 'token_keep_k must be at most train_data.seq_length'),
    ('--crossing_layer=3', 'crossing_layer must be between 1 and'),
    ('--steps=0', '--steps.*0'),
    ('--batch_size=0', '--batch_size.*0'),
  ],
)
def test_flags_that_make_no_benchmark_are_refused(flag, message):
  with pytest.raises(errors.UserError, match=message):
    step_benchmark.main([*SMALL, flag])
