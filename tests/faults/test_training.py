"""Trainings that are killed, starved and damaged end as if nothing had been."""

import os
import random
import resource
import shutil
import signal
import time

import pytest

from faults import harness

pytestmark = pytest.mark.faults
NUM_KILLS = 20


@pytest.fixture(scope='module')
def whole(split_corpus, tmp_path_factory):
  """A training of 60 steps that nobody disturbs."""
  run = harness.TinyRun(split_corpus, tmp_path_factory.mktemp('whole') / 'run')
  run.finish()
  return run


@pytest.fixture
def run(split_corpus, tmp_path):
  return harness.TinyRun(split_corpus, tmp_path / 'run')


WAITING = 'trainer.async_checkpoints = False'
both_ways_to_save = pytest.mark.parametrize('bindings', [(), (WAITING,)])


@both_ways_to_save
def test_killed_at_twenty_random_moments(split_corpus, tmp_path, bindings):
  bindings += ('trainer.train_steps = 400',)
  whole = harness.TinyRun(split_corpus, tmp_path / 'whole', bindings)
  whole.finish()
  run = harness.TinyRun(split_corpus, tmp_path / 'run', bindings)
  draw, in_a_write = random.Random(5), 0
  for kill in range(NUM_KILLS):
    left = unfinished(run.model_dir)
    if kill % 4 == 0:  # Anywhere from the interpreter's start on.
      moment = draw.uniform(0.5, 20)
      is_time = lambda seconds, moment=moment: seconds > moment  # noqa: E731
    elif kill % 4 == 1:  # In the middle of a checkpoint.
      is_time = lambda seconds: unfinished(run.model_dir) - left  # noqa: E731, B023
    else:  # Between two checkpoints.
      step = run.newest_checkpoint() + draw.randint(5, 20)
      is_time = lambda seconds, step=step: run.steps_logged() >= step  # noqa: E731
    code, output, _ = run.kill_when(is_time)
    assert code in (-signal.SIGKILL, 0), output
    in_a_write += bool(unfinished(run.model_dir) - left)
  print(f'{in_a_write} of {NUM_KILLS} kills fell into a checkpoint write')
  run.finish()
  harness.assert_same_result(whole, run, step=400)


def unfinished(model_dir):
  """Returns the checkpoints that are being written, or were by a dead run."""
  if not model_dir.exists():
    return set()
  return {
    (entry.name, entry.inode())
    for entry in os.scandir(model_dir)
    if entry.name.endswith('_temp')
  }


def test_killed_on_token_shards(split_corpus, tmp_path):
  command = [
    f'--input={split_corpus.train}',
    f'--vocab_file={split_corpus.vocabulary}',
    f'--output={tmp_path}/examples',
    '--num_shards=3',
    '--seq_length=32',
  ]
  harness.run_module('tokendrop_tf.data.create_pretraining_data', command)
  bindings = (f"train_data.input_path = '{tmp_path}/examples-*'",)
  whole = harness.TinyRun(split_corpus, tmp_path / 'whole', bindings)
  whole.finish()
  run = harness.TinyRun(split_corpus, tmp_path / 'run', bindings)
  run.kill_when(lambda seconds: run.steps_logged() >= 25)
  run.finish()
  harness.assert_same_result(whole, run)


@both_ways_to_save
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_nothing_is_lost(
  whole, run, number, bindings
):
  run.bindings = ('trainer.checkpoint_interval = 60', *bindings)
  code, output, seconds = run.kill_when(
    lambda seconds: run.steps_logged() >= 15, number
  )
  assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
  assert seconds < 30
  step = run.newest_checkpoint()
  assert 15 <= step < 60
  assert f'ckpt-{step}; the same command resumes there' in output
  assert f'resumes at step {step}' in run.finish()
  harness.assert_same_result(whole, run)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_whose_first_step_compiles(run, number):
  process = run.start()
  try:
    while 'compiling' not in process.stdout.readline():
      assert process.poll() is None
    sent = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == 128 + number
  assert time.monotonic() - sent < 5  # Two seconds, where nothing else runs.
  assert 'No checkpoint had been written yet.' in output
  assert 'Traceback' not in output


@both_ways_to_save
def test_a_full_disk_is_named_and_costs_nothing(whole, run, bindings):
  run.bindings = bindings
  limit = (60_000, 60_000)
  output = run.finish(
    code=2, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  )
  assert output.count('Error: Checkpoints and metrics must be written') == 1
  assert 'Traceback' not in output
  assert not unfinished(run.model_dir)
  run.finish()
  harness.assert_same_result(whole, run)


@pytest.mark.skipif(
  os.geteuid() != 0 or not shutil.which('mount'), reason='only root may mount'
)
@both_ways_to_save
def test_a_small_file_system_keeps_the_good_checkpoints(
  split_corpus, tmp_path, bindings
):
  disk = tmp_path / 'disk'
  disk.mkdir()
  if os.system(f'mount -t tmpfs -o size=600k tmpfs {disk} 2>/dev/null'):
    pytest.skip('a file system cannot be mounted here')
  try:
    run = harness.TinyRun(
      split_corpus, disk / 'run', ('trainer.max_to_keep = 20', *bindings)
    )
    output = run.finish(code=2)
    assert 'No space left on device' in output
    assert run.newest_checkpoint() in (20, 30, 40)
    run.tensors(run.newest_checkpoint())
  finally:
    os.system(f'umount {disk}')


@pytest.mark.parametrize('how', ['flipped', 'cut', 'missing'])
def test_a_damaged_checkpoint_costs_only_its_steps(whole, run, how):
  run.kill_when(lambda seconds: run.steps_logged() >= 35)
  data = run.model_dir / f'ckpt-{run.newest_checkpoint()}.data-00000-of-00001'
  content = bytearray(data.read_bytes())
  content[len(content) // 3] ^= 1
  if how == 'missing':
    data.unlink()
  else:
    data.write_bytes(content if how == 'flipped' else content[:-100])
  output = run.finish()
  assert 'is damaged' in output
  assert 'Resumes from' in output
  harness.assert_same_result(whole, run)


def test_a_second_training_in_one_folder_is_refused(whole, run):
  process = run.start()
  try:
    while not (run.model_dir / 'training.lock').exists():
      assert process.poll() is None
    output = run.finish(code=2)
    assert 'one training at a time' in output
    assert f'process {process.pid} on' in output
    process.communicate(timeout=300)
  finally:
    process.kill()
  harness.assert_same_result(whole, run)


def test_changed_data_are_refused(split_corpus, tmp_path):
  copy = tmp_path / 'text.txt'
  copy.write_bytes(open(split_corpus.valid, 'rb').read())
  run = harness.TinyRun(
    split_corpus,
    tmp_path / 'run',
    (f"train_data.input_path = '{copy}'", 'trainer.train_steps = 20'),
    mode='train',
  )
  run.kill_when(lambda seconds: run.steps_logged() >= 15)
  copy.write_text(copy.read_text().replace('w01', 'w02', 1))
  assert f'{copy}, which has changed since' in run.finish(code=2)


def test_memory_stays_flat_over_a_thousand_steps(split_corpus, tmp_path):
  run = harness.TinyRun(
    split_corpus,
    tmp_path / 'run',
    (
      'trainer.train_steps = 1400',
      'trainer.steps_per_loop = 20',
      'trainer.checkpoint_interval = 100',
      'trainer.validation_interval = 200',
    ),
  )
  process, sizes = run.start(), {}
  while process.poll() is None:
    step = run.steps_logged()
    if step and step not in sizes:
      sizes[step] = harness.resident_megabytes(process.pid)
  assert process.returncode == 0, process.stdout.read()
  first, last = (
    [size for step, size in sizes.items() if low < step <= low + 200]
    for low in (400, 1200)
  )
  growth = sum(last) / len(last) / (sum(first) / len(first)) - 1
  print(f'resident memory grew by {growth:.2%} from step 400 to 1,400')
  assert abs(growth) < 0.02
