"""The fine-tuning benchmark, on a model that takes no time."""

import json

import pytest

from tools.measure import finetuning_benchmark, step_benchmark


def test_every_arm_is_timed_on_the_same_rows(
  tiny_tasks, words, tmp_path, monkeypatch
):
  monkeypatch.setitem(step_benchmark.SIZES, 'narrow12', (1, 8, 1))
  path = tmp_path / 'results.json'
  finetuning_benchmark.main(
    [
      f'--train_data={tiny_tasks.sst2[0]}',
      f'--vocabulary={words.path}',
      f'--squad={tiny_tasks.squad[0]}',
      f'--output_json={path}',
      '--seq_length=16',
      '--batch_size=4',
      '--steps=1',
      '--rounds=2',
    ]
  )
  results = json.loads(path.read_text())
  assert [row['name'] for row in results['arms']] == list(
    finetuning_benchmark.ARMS
  )
  for row in results['arms']:
    assert len(row['seconds']) == 2
    assert row['examples_per_second'] == pytest.approx(
      4 / row['median_seconds']
    )
  squad = results['squad']
  assert squad['ours_windows'] == squad['stock_windows'] == 24
