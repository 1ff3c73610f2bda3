"""What a run prints and logs."""

import io
import json

import pytest
import tensorflow as tf
from official.core import exp_factory

from tokendrop_tf import configs, experiments, gin_support, progress
from tokendrop_tf.data import label_levels

TRAIN = {'training_loss': 4.0, 'masked_lm_accuracy': 0.25}
FULL = {'validation_loss': 5.0, 'masked_lm_accuracy': 0.2}
LEVELS = label_levels.LabelLevels(6.0, 5.5)
BOTH = FULL | {'lm_example_loss_dropping': 4.5, 'full_sequence_gap': 0.5}


class Terminal(io.StringIO):
  def isatty(self):
    return True


def tree(*bindings):
  gin_support.parse(
    [],
    [
      'trainer.train_steps = 400',
      'train_data.global_batch_size = 4',
      'train_data.seq_length = 32',
      'token_drop.token_keep_k = 16',
      'train_data.max_predictions_per_seq = 5',
      'model.vocab_size = 100',
      *bindings,
    ],
    experiments.sections(),
  )
  return exp_factory.get_exp_config(experiments.PRETRAINING)


@pytest.fixture
def clock(monkeypatch):
  """A clock that tests turn by hand."""
  now = [1000.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def run_loop(report, clock, step, num_steps, seconds, **metrics):
  output = {
    name: tf.constant(value) for name, value in (TRAIN | metrics).items()
  }
  report.begin_loop()
  clock[0] += seconds
  report.end_loop(step, num_steps, output)
  return output


class TestReport:
  def test_a_loop_leaves_one_record(self, tmp_path, clock):
    report = progress.Report(tree(), str(tmp_path), stream=io.StringIO())
    run_loop(report, clock, 10, 10, 5.0)
    assert progress.read_metrics(str(tmp_path / 'metrics.jsonl')) == [
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

  def test_only_the_first_loop_includes_compilation(self, tmp_path, clock):
    report = progress.Report(tree(), str(tmp_path), stream=io.StringIO())
    run_loop(report, clock, 10, 10, 5.0)
    run_loop(report, clock, 20, 10, 1.0)
    records = progress.read_metrics(str(tmp_path / 'metrics.jsonl'))
    assert [r['includes_compilation'] for r in records] == [True, False]
    assert records[1]['seconds_per_step'] == 0.1

  def test_tensorboard_gets_the_speed(self, tmp_path, clock):
    report = progress.Report(tree(), str(tmp_path), stream=io.StringIO())
    output = run_loop(report, clock, 10, 10, 5.0)
    assert output['tokens_per_second'] == 256.0

  def test_the_time_left_leaves_compilation_out(self, tmp_path, clock):
    stream = Terminal()
    report = progress.Report(tree(), str(tmp_path), stream=stream)
    run_loop(report, clock, 10, 10, 100.0)
    run_loop(report, clock, 20, 10, 2.0)
    line = stream.getvalue().split('\r')[-1].strip()
    # 380 steps at 0.2 s.
    assert line == (
      'step 20/400  loss 4.0000  accuracy 0.250  640 tokens/s  1 min 16 s left'
    )

  def test_the_first_loop_foretells_no_speed(self, tmp_path, clock):
    stream = io.StringIO()
    report = progress.Report(tree(), str(tmp_path), stream=stream)
    run_loop(report, clock, 10, 10, 100.0)
    assert stream.getvalue().splitlines()[-1] == (
      'step 10/400  loss 4.0000  accuracy 0.250  100 s with compilation'
    )

  def test_a_terminal_line_is_rewritten(self, tmp_path, clock):
    stream = Terminal()
    report = progress.Report(tree(), str(tmp_path), stream=stream)
    for step in (10, 20, 30):
      run_loop(report, clock, step, 10, 1.0)
    assert '\n' not in stream.getvalue()
    report.end_validation(30, 1.0, dict(FULL))
    assert stream.getvalue().count('\n') == 2

  def test_elsewhere_lines_come_at_a_reasonable_pace(self, tmp_path, clock):
    stream = io.StringIO()
    report = progress.Report(tree(), str(tmp_path), stream=stream)
    for step in range(10, 400, 10):
      run_loop(report, clock, step, 10, 1.0)
    lines = [
      line for line in stream.getvalue().splitlines() if line.startswith('step')
    ]
    assert len(lines) == 4  # The first, then one each 10 seconds.

  def test_the_last_step_is_always_shown(self, tmp_path, clock):
    stream = io.StringIO()
    report = progress.Report(tree(), str(tmp_path), stream=stream)
    run_loop(report, clock, 390, 10, 1.0)
    run_loop(report, clock, 400, 10, 1.0)
    assert 'step 400/400' in stream.getvalue()

  def test_a_resumed_run_continues_the_history(self, tmp_path, clock):
    first = progress.Report(tree(), str(tmp_path), stream=io.StringIO())
    for step in (10, 20, 30):
      run_loop(first, clock, step, 10, 2.0)
    clock[0] += 1000
    second = progress.Report(tree(), str(tmp_path), stream=io.StringIO())
    second.begin(20)
    run_loop(second, clock, 30, 10, 3.0)
    records = progress.read_metrics(str(tmp_path / 'metrics.jsonl'))
    assert [r['step'] for r in records] == [10, 20, 30]
    assert records[-1]['train_seconds'] == 7.0
    assert records[-1]['seconds'] == 7.0

  def test_a_line_that_was_cut_off_is_forgotten(self, tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(json.dumps({'step': 1}) + '\n{"step": 2, "ki')
    assert progress.read_metrics(str(path)) == [{'step': 1}]

  def test_evaluations_have_a_file_of_their_own(self, tmp_path, clock):
    report = progress.Report(
      tree(), str(tmp_path), is_training=False, stream=io.StringIO()
    )
    report.end_validation(30, 1.0, dict(BOTH))
    (record,) = progress.read_metrics(str(tmp_path / 'evaluations.jsonl'))
    assert record['kind'] == 'validation'
    assert record['full_sequence_gap'] == 0.5
    assert not (tmp_path / 'metrics.jsonl').exists()

  def test_other_workers_are_silent(self, tmp_path, clock):
    stream = io.StringIO()
    report = progress.Report(
      tree(), str(tmp_path), is_chief=False, stream=stream
    )
    report.begin(0)
    run_loop(report, clock, 10, 10, 1.0)
    report.end_validation(10, 1.0, dict(BOTH))
    assert stream.getvalue() == ''
    assert list(tmp_path.iterdir()) == []


class TestTexts:
  def test_losses_are_held_against_the_floor(self):
    assert progress.losses_text(BOTH, LEVELS) == (
      'loss 5.0000 on full sequences (accuracy 0.200), 4.5000 with dropping '
      '(gap +0.5000), 1.0000 below the floor'
    )
    assert progress.losses_text(
      FULL, label_levels.LabelLevels(4.0, 3.5)
    ).endswith('1.0000 above the floor')

  @pytest.mark.parametrize(
    ('seconds', 'text'),
    [
      (0, '0 s'),
      (59.4, '59 s'),
      (61, '1 min 1 s'),
      (3725, '1 h 2 min'),
      (90000, '1 d 1 h'),
    ],
  )
  def test_durations_have_two_units(self, seconds, text):
    assert progress.duration_text(seconds) == text

  @pytest.mark.parametrize(
    ('bindings', 'words'),
    [
      ((), 'by running loss, ranked: 16 of 32 tokens (50%) in layers 6-'),
      (('token_drop.temperature = 0.5',), 'sampled at temperature 0.5'),
      (("token_drop.policy = 'frequency'",), 'by rarity in the corpus'),
      (("token_drop.policy = 'random'",), 'at random: 16 of 32'),
      (('token_drop.full_step_every = 8',), 'one step in 8 in full'),
      (('token_drop.crossing_layer = 11',), 'in layer 11 of 12'),
      (("token_drop.policy = 'none'",), 'every layer runs on all tokens'),
    ],
  )
  def test_the_policy_is_put_into_words(self, bindings, words):
    assert words in progress.dropping_text(tree(*bindings).task)

  def test_the_start_block_tells_consequences(self):
    block = progress.start_block(
      tree("train_data.input_path = 'a.txt'"),
      'train',
      'runs/a',
      num_parameters=1_500_000,
      num_replicas=1,
      first_step=0,
      levels=LEVELS,
    )
    words = ' '.join(block.split())
    assert '1.5 M parameters' in words
    assert '128 per step (4 x 32, 5 predictions each)' in words
    assert '51,200 in 400 steps' in words
    assert 'training a.txt' in words
    assert '6.0000 nats' in words
    assert 'below 5.5000 it reads the text around' in words
    assert 'tensorflow 2.' in words
    assert max(map(len, block.splitlines())) <= 80

  @pytest.mark.parametrize(
    ('step', 'words'),
    [
      (0, 'begins with random weights, seed 0'),
      (200, 'goes on at step 200'),
      (400, 'already trained to its last step, 400'),
    ],
  )
  def test_the_start_block_tells_where_a_run_begins(self, step, words):
    block = progress.start_block(tree(), 'train', 'runs/a', 1, 1, step)
    assert words in block

  def test_the_end_block_tells_what_to_type_next(self, tmp_path):
    tf.train.CheckpointManager(tf.train.Checkpoint(), str(tmp_path), 1).save(
      400
    )
    block = progress.end_block('train', str(tmp_path), 400, 60.0, BOTH, LEVELS)
    assert f'tensorboard --logdir={tmp_path}' in block
    assert f'--model_dir={tmp_path} --mode=eval' in block
    assert f"pretraining.init_checkpoint = '{tmp_path}/ckpt-400'" in block
    assert '1.0000 below the floor' in block


def test_the_table_is_written_as_a_histogram(tmp_path):
  step = tf.Variable(0, dtype=tf.int64)
  writer = tf.summary.create_file_writer(str(tmp_path))
  action = progress.ImportanceHistogram(tf.range(10.0), writer, step, 5)
  for number in (5, 7, 10):
    step.assign(number)
    action({})
  writer.flush()
  (path,) = tmp_path.iterdir()
  events = [
    tf.compat.v1.Event.FromString(record.numpy())
    for record in tf.data.TFRecordDataset(str(path))
  ]
  written = [
    event.step
    for event in events
    for value in event.summary.value
    if value.tag == 'token_importance'
  ]
  assert written == [5, 10]


def test_a_gpu_that_is_not_used_is_mentioned(monkeypatch):
  runtime = configs.RuntimeConfig(distribution_strategy='one_device')
  assert 'not used' not in progress.devices_text(runtime, 1)
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind])
  assert progress.devices_text(runtime, 1).endswith(
    '; 1 GPU not used: set runtime.num_gpus'
  )
