"""Pretraining runs of a comparison: started in processes of their own."""

import os
import shlex
import signal
import subprocess
import sys

from tokendrop_tf import command_line
from tokendrop_tf.run import checkpoints, metrics_log, run_folder

MODULE = 'tokendrop_tf.train'


def is_trained(model_dir: str) -> bool:
  """Whether a run has its last checkpoint and its last validation."""
  if not run_folder.has_configuration(model_dir):
    return False
  last = run_folder.load_params(model_dir).trainer.train_steps
  checkpoint = checkpoints.newest(model_dir)
  if not checkpoint or checkpoints.step_of(checkpoint) != last:
    return False
  records = metrics_log.read_metrics(
    os.path.join(model_dir, metrics_log.METRICS_FILE)
  )
  return any(
    record['kind'] == 'validation' and record['step'] == last
    for record in records
  )


def run_launcher(arguments: list[str]) -> int:
  """Runs the launcher in a process of its own; returns its exit code.

  Args:
    arguments: of `tokendrop_tf.train`.

  Raises:
    Interrupted: on Ctrl-C, once the process has ended.
  """
  command = [sys.executable, '-m', MODULE, *arguments]
  with subprocess.Popen(command) as process:
    try:
      return process.wait()
    except KeyboardInterrupt:
      _end(process)
      raise command_line.Interrupted(
        'The same command resumes from here.'
      ) from None


def _end(process) -> None:
  """Waits for a run that Ctrl-C reached too, and insists in the end."""
  try:
    process.wait(timeout=20)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGTERM)
    process.wait()


def shown_command(
  arguments: list[str], program: tuple[str, ...] = ('-m', MODULE)
) -> str:
  """Returns a command as a person would type it, line by line.

  Args:
    arguments: flags with values, `--flag=value` each, or without.
    program: what this Python is to run.

  Example:
    shown_command(['--gin_file=quickstart.gin', '--model_dir=runs/plain'])
  """
  lines = [f'$ {" ".join([python_name(), *program])}']
  for argument in arguments:
    flag, equals, value = argument.partition('=')
    # Double quotes leave the single ones of gin as they are.
    is_plain = not set(value) & set('"$`\\!')
    quoted = shlex.quote(value) if equals else ''
    if quoted != value and is_plain:
      quoted = f'"{value}"'
    lines.append(f'    {flag}{equals}{quoted}')
  return ' \\\n'.join(lines)


def python_name() -> str:
  """Returns this Python as one would type it here."""
  relative = os.path.relpath(sys.executable)
  return sys.executable if relative.startswith(os.pardir) else relative
