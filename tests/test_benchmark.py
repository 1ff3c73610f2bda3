"""The step benchmark, on a model that takes no time."""

import json

import pytest

from tokendrop_tf import benchmark, errors

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
  path = tmp_path / 'results.json'
  benchmark.main(
    [
      *SMALL,
      '--arms=stock,loss,fixed_order',
      '--selection',
      f'--output_json={path}',
    ]
  )
  rows = json.loads(path.read_text())['arms']
  assert [row['name'] for row in rows] == ['stock', 'loss', 'fixed_order']
  for row in rows:
    assert row['tokens_per_second'] == pytest.approx(
      2 * 16 / row['median_seconds']
    )
    assert row['ratio_to_first'] == pytest.approx(
      row['median_seconds'] / rows[0]['median_seconds']
    )
  assert 'of the loss step' in capsys.readouterr().out


def test_an_unknown_arm_is_refused():
  with pytest.raises(errors.ConfigurationError, match='Received: fast'):
    benchmark.main([*SMALL, '--arms=fast'])
