"""Reports on the console and in the metrics log."""

import io
import types

import pytest
import tensorflow as tf

from tokendrop_tf.run import console, metrics_log, run_report

TRAIN = {'training_loss': 4.0, 'accuracy': 0.25}


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def clock(monkeypatch):
  """A clock that tests turn by hand."""
  now = [1000.0]
  for module in (console, metrics_log, run_report):
    monkeypatch.setattr(
      module, 'time', types.SimpleNamespace(monotonic=lambda: now[0])
    )
  return now


def make_report(folder, stream=None, is_training=True, **arguments):
  """Returns the report of a run of 400 steps of 4 x 32 tokens."""
  trainer = types.SimpleNamespace(train_steps=400)
  experiment = types.SimpleNamespace(
    params=types.SimpleNamespace(trainer=trainer),
    model_dir=str(folder),
    is_training=is_training,
    tokens_per_step=4 * 32,
    progress_metrics=lambda output: [
      f'accuracy {float(output["accuracy"]):.3f}'
    ],
    validation_text=lambda metrics: f'loss {metrics["validation_loss"]}',
    end_validation=lambda step, metrics: None,
  )
  return run_report.RunReport(
    experiment, stream=stream or io.StringIO(), **arguments
  )


def run_loop(report, clock, step, num_steps, seconds):
  output = {name: tf.constant(value) for name, value in TRAIN.items()}
  report.begin_loop()
  clock[0] += seconds
  report.end_loop(step, num_steps, output)
  return output


def records(folder, name='metrics.jsonl'):
  return metrics_log.read_metrics(str(folder / name))


def test_a_loop_leaves_one_record(tmp_path, clock):
  report = make_report(tmp_path)
  run_loop(report, clock, 10, 10, 5.0)
  assert records(tmp_path) == [
    {
      'kind': 'train',
      'step': 10,
      'seconds': 5.0,
      'train_seconds': 5.0,
      'tokens': 10 * 4 * 32,
      'seconds_per_step': 0.5,
      'includes_compilation': True,
      'tokens_per_second': 256.0,
      **TRAIN,
    }
  ]


def test_only_the_first_loop_includes_compilation(tmp_path, clock):
  report = make_report(tmp_path)
  run_loop(report, clock, 10, 10, 5.0)
  run_loop(report, clock, 20, 10, 1.0)
  first, second = records(tmp_path)
  assert first['includes_compilation']
  assert not second['includes_compilation']
  assert second['seconds_per_step'] == 0.1


def test_tensorboard_gets_the_speed(tmp_path, clock):
  report = make_report(tmp_path)
  output = run_loop(report, clock, 10, 10, 5.0)
  assert output['tokens_per_second'] == 256.0


def test_the_time_left_leaves_compilation_out(tmp_path, clock):
  stream = Terminal()
  report = make_report(tmp_path, stream)
  run_loop(report, clock, 10, 10, 100.0)
  run_loop(report, clock, 20, 10, 2.0)
  # 380 steps at 0.2 s.
  assert (
    'step 20/400  loss 4.0000  accuracy 0.250  640 tokens/s  1 min 16 s left'
  ) in stream.getvalue().split('\r')[-1]


def test_the_first_loop_foretells_no_speed(tmp_path, clock):
  stream = io.StringIO()
  report = make_report(tmp_path, stream)
  run_loop(report, clock, 10, 10, 100.0)
  assert stream.getvalue().splitlines()[-1] == (
    'step 10/400  loss 4.0000  accuracy 0.250  100 s with compilation'
  )


def test_the_last_step_is_always_shown(tmp_path, clock):
  stream = io.StringIO()
  report = make_report(tmp_path, stream)
  run_loop(report, clock, 390, 10, 1.0)
  run_loop(report, clock, 400, 10, 1.0)
  assert 'step 400/400' in stream.getvalue()


def test_a_resumed_run_continues_the_history(tmp_path, clock):
  first = make_report(tmp_path)
  for step in (10, 20, 30):
    run_loop(first, clock, step, 10, 2.0)
  clock[0] += 1000
  second = make_report(tmp_path)
  second.begin(20)
  run_loop(second, clock, 30, 10, 3.0)
  found = records(tmp_path)
  assert [record['step'] for record in found] == [10, 20, 30]
  assert found[-1]['train_seconds'] == 7.0
  assert found[-1]['seconds'] == 7.0


def test_evaluations_have_a_file_of_their_own(tmp_path, clock):
  report = make_report(tmp_path, is_training=False)
  report.end_validation(30, 1.0, {'validation_loss': 5.0})
  (record,) = records(tmp_path, 'evaluations.jsonl')
  assert record['kind'] == 'validation'
  assert record['validation_loss'] == 5.0
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_other_workers_are_silent(tmp_path, clock):
  stream = io.StringIO()
  report = make_report(tmp_path, stream, is_chief=False)
  report.begin(0)
  run_loop(report, clock, 10, 10, 1.0)
  report.end_validation(10, 1.0, {'validation_loss': 5.0})
  assert stream.getvalue() == ''
  assert list(tmp_path.iterdir()) == []
