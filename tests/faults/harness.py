"""Trainings in processes of their own, which can be hurt, and what they leave.

Everything here is about files and processes; the trainings are tiny.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf
import tiny_runs

# What the clock decides.
CLOCKED = ('seconds', 'per_second', 'includes_compilation')
SETTINGS = (
  *tiny_runs.TRAINING,
  'train_data.shuffle_buffer_size = 100',
  'trainer.steps_per_loop = 5',
  'trainer.validation_interval = 20',
  'trainer.checkpoint_interval = 10',
  'trainer.train_steps = 60',
)


@dataclasses.dataclass
class TinyRun:
  """The command of one training.

  Attributes:
    corpus: files of the made-up language; see `tiny_corpus`.
    model_dir: folder of the run.
    bindings: gin bindings beside `SETTINGS`.
    mode: of the launcher.
  """

  corpus: object
  model_dir: pathlib.Path
  bindings: tuple[str, ...] = ()
  mode: str = 'train_and_eval'

  def arguments(self):
    gin_file = pathlib.Path(self.model_dir).with_suffix('.gin')
    gin_file.write_text(
      '\n'.join(
        [
          f"vocabulary.path = '{self.corpus.vocabulary}'",
          f"train_data.input_path = '{self.corpus.train}'",
          f"validation_data.input_path = '{self.corpus.valid}'",
          *SETTINGS,
        ]
      )
    )
    return [
      f'--model_dir={self.model_dir}',
      f'--mode={self.mode}',
      f'--gin_file={gin_file}',
      *(f'--gin_params={binding}' for binding in self.bindings),
    ]

  def command(self):
    return [sys.executable, '-m', 'tokendrop_tf.train', *self.arguments()]

  def start(self, environment=None, **options):
    """Starts the command in a process of its own."""
    return subprocess.Popen(
      self.command(),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env={**os.environ, **(environment or {})},
      **options,
    )

  def finish(self, code=0, **options):
    """Runs the command to its end; returns what it printed."""
    process = self.start(**options)
    try:
      output, _ = process.communicate(timeout=400)
    finally:
      process.kill()
    assert process.returncode == code, output
    return output

  def kill_when(self, is_time, signal_number=signal.SIGKILL, timeout=300):
    """Starts the command, and sends a signal at a moment.

    Args:
      is_time: function of the seconds since the start to bool, called often.
      signal_number: what is sent.
      timeout: seconds after which the moment is held never to come.

    Returns:
      (exit code, what was printed, seconds from the signal to the end).
    """
    process = self.start()
    began = time.monotonic()
    try:
      while process.poll() is None and not is_time(time.monotonic() - began):
        assert time.monotonic() - began < timeout, 'the moment never came'
        time.sleep(0.002)
      sent = time.monotonic()
      process.send_signal(signal_number)
      output, _ = process.communicate(timeout=timeout)
    finally:
      process.kill()
    return process.returncode, output, time.monotonic() - sent

  def steps_logged(self):
    """Returns the last step in the history, 0 without one."""
    history = self.history()
    return history[-1]['step'] if history else 0

  def newest_checkpoint(self):
    """Returns the step of the newest complete checkpoint, 0 without one."""
    paths = pathlib.Path(self.model_dir).glob('ckpt-*.index')
    return max((int(path.stem.split('-')[1]) for path in paths), default=0)

  def history(self):
    """Returns the lines of `metrics.jsonl` without what the clock decides."""
    path = pathlib.Path(self.model_dir) / 'metrics.jsonl'
    if not path.exists():
      return []
    records = []
    for line in path.read_text().splitlines():
      try:
        records.append(json.loads(line))
      except ValueError:  # Being written.
        break
    return [
      {name: v for name, v in record.items() if not _is_clocked(name)}
      for record in records
    ]

  def curves(self):
    """Returns (kind, tag, step, bytes of the value) of TensorBoard files."""
    found = []
    for kind in ('train', 'validation'):
      for path in sorted((pathlib.Path(self.model_dir) / kind).glob('*')):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
          event = tf.compat.v1.Event.FromString(record)
          found += [
            (kind, value.tag, event.step, value.SerializeToString())
            for value in event.summary.value
            # The settings, as text, are not a curve.
            if not _is_clocked(value.tag) and value.tag != 'settings'
          ]
    return sorted(found)

  def tensors(self, step):
    """Returns every tensor of a checkpoint but the number of its saves."""
    reader = tf.train.load_checkpoint(f'{self.model_dir}/ckpt-{step}')
    return {
      name: reader.get_tensor(name)
      for name in reader.get_variable_to_shape_map()
      if 'save_counter' not in name and not name.startswith('_CHECKPOINTABLE')
    }


def assert_same_result(run, other, step=60):
  """Asserts that two runs ended alike, bit for bit."""
  first, second = run.tensors(step), other.tensors(step)
  assert first.keys() == second.keys()
  assert any('token_importance' in name for name in first)
  assert any('optimizer' in name for name in first)
  for name, value in first.items():
    np.testing.assert_array_equal(value, second[name], err_msg=name)
  assert run.history() == other.history()
  assert run.curves() == other.curves()
  assert run.curves()


def run_module(module, arguments):
  """Runs a console module to its end; returns what it printed."""
  return subprocess.run(
    [sys.executable, '-m', module, *arguments],
    check=True,
    capture_output=True,
    text=True,
  ).stdout


def resident_megabytes(pid):
  """Returns the resident memory of a process, `nan` once it has ended."""
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return float('nan')
  lines = [line for line in status.splitlines() if line.startswith('VmRSS')]
  return int(lines[0].split()[1]) / 1024 if lines else float('nan')


def _is_clocked(name):
  return any(part in name for part in CLOCKED)
