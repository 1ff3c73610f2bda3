"""The lines of `metrics.jsonl`; how a run writes them is in test_run_report."""

import json

from tokendrop_tf.run import metrics_log


def test_a_line_that_was_cut_off_is_omitted(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(json.dumps({'step': 1}) + '\n{"step": 2, "ki')
  assert metrics_log.read_metrics(str(path)) == [{'step': 1}]


def test_a_validation_is_found_by_its_step(tmp_path):
  log = metrics_log.MetricsLog(str(tmp_path / 'metrics.jsonl'))
  assert not log.has('validation', 10)
  log.append('train', 10, {})
  assert not log.has('validation', 10)
  log.append('validation', 10, {'loss': 1.0})
  assert log.has('validation', 10)
