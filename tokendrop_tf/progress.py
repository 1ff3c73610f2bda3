"""What a person sees of a run, and the same for programs in `metrics.jsonl`.

A run prints a block at its start, a progress line per loop, a line per
validation, and a block at its end.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import textwrap
import time

import orbit
import tensorflow as tf

import tokendrop_tf
from tokendrop_tf import checkpoints, configs, keep_schedule, step_cost
from tokendrop_tf.data import vocabulary as vocabulary_lib

METRICS_FILE = 'metrics.jsonl'
EVALUATIONS_FILE = 'evaluations.jsonl'
SECONDS_BETWEEN_LINES = 10.0
LABEL_WIDTH = 12
MAX_LINE = 80


class Report:
  """Tells of every loop and every validation of one run.

  One line of JSON per loop (`kind` 'train') and validation (`kind`
  'validation') goes to `metrics.jsonl` in `model_dir`; a run that only
  evaluates writes `evaluations.jsonl`. Fields: `step`; `seconds` since the run
  began and `train_seconds` of them in train steps, both over all resumptions;
  `tokens` read so far; `seconds_per_step`, `tokens_per_second` and
  `includes_compilation` of the loop; and every metric by its name.

  Args:
    params: the experiment's tree.
    model_dir: folder of the run.
    is_training: whether the mode trains.
    is_chief: whether this process prints and writes.
    levels: the `LabelLevels` of the validation labels, or `None`.
    stream: where to print; `None` is stdout.
  """

  def __init__(
    self,
    params,
    model_dir,
    is_training=True,
    is_chief=True,
    levels=None,
    stream=None,
  ):
    self._params = params
    self._levels = levels
    self._line = _Line(stream or sys.stdout, is_chief)
    name = METRICS_FILE if is_training else EVALUATIONS_FILE
    self._log = _Log(os.path.join(model_dir, name), is_chief)
    self._tokens_per_step = (
      params.task.train_data.global_batch_size
      * params.task.train_data.seq_length
    )
    self._train_seconds = 0.0
    self._first_step = 0
    self._loop_start = self._pace_start = None
    self.last_validation = None

  def show(self, text):
    """Prints a block."""
    self._line.print(text)

  def begin(self, step):
    """Takes up the history of `metrics.jsonl` up to the resumed `step`."""
    self._first_step = step
    self._train_seconds = self._log.begin(step)

  def has_validation(self, step):
    """Returns whether a validation of this step is in the history."""
    return self._log.has('validation', step)

  def begin_loop(self):
    """Starts the clock of a train loop."""
    if self._pace_start is None:
      self._line.update('compiling the train step ...', force=False)
    self._loop_start = time.monotonic()

  def end_loop(self, step, num_steps, output):
    """Train action: adds speeds to `output`, logs it, and shows progress.

    Args:
      step: the global step after the loop.
      num_steps: steps of the loop.
      output: dict of metrics, tensors or numbers; gets `tokens_per_second`.
    """
    seconds = time.monotonic() - self._loop_start
    self._train_seconds += seconds
    speed = num_steps * self._tokens_per_step / seconds
    output['tokens_per_second'] = speed
    includes_compilation = self._pace_start is None
    self._log.append(
      'train',
      step,
      output,
      train_seconds=self._train_seconds,
      tokens=step * self._tokens_per_step,
      seconds_per_step=seconds / num_steps,
      includes_compilation=includes_compilation,
    )
    if includes_compilation:
      self._pace_start = (time.monotonic(), step)
    train_steps = self._params.trainer.train_steps
    self._line.update(
      self._progress(step, seconds, output),
      force=includes_compilation or step >= train_steps,
    )

  def end_validation(self, step, seconds, output):
    """Eval action: logs `output` and shows the losses and their gap."""
    output = {name: number(value) for name, value in output.items()}
    self.last_validation = output
    self._log.append(
      'validation',
      step,
      output,
      train_seconds=self._train_seconds,
      tokens=step * self._tokens_per_step,
      validation_seconds=seconds,
    )
    self._line.print(
      f'step {step:,}  validation: {self._validation_text(output)}'
    )

  def interrupt(self):
    """Leaves the progress line, so that what follows starts on a new one."""
    self._line.leave()

  def _progress_metrics(self, output):
    """Returns the metrics of a progress line, list of str."""
    return [f'accuracy {number(output["masked_lm_accuracy"]):.3f}']

  def _validation_text(self, output):
    """Returns the metrics of a validation in words."""
    return losses_text(output, self._levels)

  def _progress(self, step, seconds, output):
    train_steps = self._params.trainer.train_steps
    began, first = self._pace_start
    parts = [
      f'step {step:,}/{train_steps:,}',
      f'loss {number(output["training_loss"]):.4f}',
      *self._progress_metrics(output),
    ]
    if step == first:  # Its speed says nothing of the speed to come.
      return '  '.join([*parts, f'{seconds:.0f} s with compilation'])
    pace = (time.monotonic() - began) / (step - first)
    return '  '.join(
      [
        *parts,
        f'{output["tokens_per_second"]:,.0f} tokens/s',
        f'{duration_text((train_steps - step) * pace)} left',
      ]
    )


class _Line:
  """One line that is rewritten on a terminal, else printed now and then."""

  def __init__(self, stream, is_chief):
    self._stream = stream if is_chief else None
    self._rewrites = is_chief and stream.isatty()
    self._is_open = False
    self._last = -float('inf')

  def update(self, text, force):
    """Shows `text` in place of the last update.

    Args:
      text: one line.
      force: prints it even soon after another, where lines are not rewritten.
    """
    now = time.monotonic()
    if self._rewrites:
      width = shutil.get_terminal_size().columns - 1
      self._write('\r' + text[:width].ljust(width))
      self._is_open = True
    elif force or now - self._last >= SECONDS_BETWEEN_LINES:
      self._write(text + '\n')
      self._last = now

  def print(self, text):
    """Prints `text` for good, below the last update."""
    self.leave()
    self._write(text + '\n')

  def leave(self):
    if self._is_open:
      self._write('\n')
      self._is_open = False

  def _write(self, text):
    if self._stream is not None:
      self._stream.write(text)
      self._stream.flush()


class _Log:
  """Lines of JSON whose clock goes on where an earlier run left it."""

  def __init__(self, path, is_chief):
    self._path = path if is_chief else None
    self._start = time.monotonic()

  def begin(self, step):
    """Forgets lines beyond `step`; returns the train seconds spent by then."""
    records = (
      [record for record in read_metrics(self._path) if record['step'] <= step]
      if self._path
      else []
    )
    if self._path and tf.io.gfile.exists(self._path):
      vocabulary_lib.write_whole_file(
        self._path, ''.join(json.dumps(record) + '\n' for record in records)
      )
    if not records:
      return 0.0
    self._start = time.monotonic() - records[-1]['seconds']
    return records[-1]['train_seconds']

  def has(self, kind, step):
    """Returns whether a line of this kind and step is there."""
    return self._path is not None and any(
      (record['kind'], record['step']) == (kind, step)
      for record in read_metrics(self._path)
    )

  def append(self, kind, step, output, **more):
    if self._path is None:
      return
    record = {
      'kind': kind,
      'step': step,
      'seconds': round(time.monotonic() - self._start, 3),
    }
    for name, value in {**more, **output}.items():
      value = number(value)
      record[name] = round(value, 6) if name.endswith('seconds') else value
    with tf.io.gfile.GFile(self._path, 'a') as file:
      file.write(json.dumps(record) + '\n')


class ImportanceHistogram:
  """Train action: writes the importance table as a TensorBoard histogram.

  Args:
    table: float32 [V].
    writer: a `tf.summary.SummaryWriter`.
    global_step: int64 scalar variable.
    interval: steps between histograms.
  """

  def __init__(self, table, writer, global_step, interval):
    self._table = table
    self._writer = writer
    self._global_step = global_step
    self._interval = interval

  def __call__(self, output):
    del output
    step = int(self._global_step.numpy())
    if step % self._interval:
      return
    with self._writer.as_default(), tf.summary.record_if(True):
      tf.summary.histogram('token_importance', self._table, step=step)


def read_metrics(path):
  """Returns the records of a `metrics.jsonl`, list of dicts; [] without one.

  A last line that was cut off is left out.
  """
  if not tf.io.gfile.exists(path):
    return []
  records = []
  with tf.io.gfile.GFile(path, 'r') as file:
    for line in file.read().splitlines():
      try:
        records.append(json.loads(line))
      except ValueError:
        break
  return records


def start_block(
  params,
  mode,
  model_dir,
  num_parameters,
  num_replicas,
  first_step,
  levels=None,
):
  """Returns the block that says what is about to run.

  Args:
    params: the experiment's tree.
    mode: the mode of the launcher.
    model_dir: folder of the run.
    num_parameters: number of trainable parameters.
    num_replicas: replicas in sync.
    first_step: global step of the restored checkpoint, or 0.
    levels: the `LabelLevels` of the validation labels, or `None`.
  """
  rows = [
    (
      'run',
      f'{mode} in {model_dir}, {beginning_text(params, mode, first_step)}',
    ),
    ('model', model_text(params.task.model, num_parameters)),
    ('tokens', _tokens_text(params)),
    ('dropping', dropping_text(params.task)),
    ('training', _source_text(params.task.train_data)),
    ('validation', _source_text(params.task.validation_data)),
    ('devices', devices_text(params.runtime, num_replicas)),
    ('versions', versions_text()),
  ]
  if levels is not None:
    rows.append(('floor', floor_text(levels)))
  return block('tokendrop_tf', [(name, wrap_text(text)) for name, text in rows])


def end_block(mode, model_dir, step, seconds, validation=None, levels=None):
  """Returns the block that says what came out, where it is, and what is next.

  Args:
    mode: the mode of the launcher.
    model_dir: folder of the run.
    step: the global step reached.
    seconds: duration of this process's run.
    validation: metrics of the last validation, or `None`.
    levels: as in `start_block`.
  """
  rows = [('step', f'{step:,}, after {duration_text(seconds)}')]
  if validation:
    rows.append(('validation', losses_text(validation, levels)))
  checkpoint = checkpoints.newest(model_dir)
  rows += [
    ('weights', checkpoint or 'no checkpoint'),
    ('settings', f'{os.path.join(model_dir, "params.yaml")} and config.gin'),
    (
      'metrics',
      os.path.join(
        model_dir, METRICS_FILE if 'train' in mode else EVALUATIONS_FILE
      ),
    ),
  ]
  command = f'python -m tokendrop_tf.train --model_dir={model_dir}'
  rows += [('curves', f'tensorboard --logdir={model_dir}')]
  if checkpoint and 'train' in mode:
    rows += [
      ('evaluate', f'{command} --mode=eval'),
      (
        'train on',
        'the same command with another --model_dir and '
        f'--gin_params="pretraining.init_checkpoint = \'{checkpoint}\'"',
      ),
    ]
  return block('done', rows)


def floor_text(levels):
  """Returns what the losses of a validation are read against, in words."""
  return (
    f'{levels.unigram_entropy:.4f} nats: the unigram entropy of the validation '
    f'labels, which a model has to beat; below {levels.context_free_loss:.4f} '
    'it reads the text around a token'
  )


def losses_text(metrics, levels=None):
  """Returns the losses of a validation in words.

  Example:
    losses_text({'validation_loss': 5.0, 'masked_lm_accuracy': 0.2}, levels)
    # 'loss 5.0000 on full sequences (accuracy 0.200), 1.0000 below the floor'
  """
  loss = number(metrics['validation_loss'])
  accuracy = number(metrics['masked_lm_accuracy'])
  parts = [f'loss {loss:.4f} on full sequences (accuracy {accuracy:.3f})']
  if 'full_sequence_gap' in metrics:
    dropping = number(metrics['lm_example_loss_dropping'])
    gap = number(metrics['full_sequence_gap'])
    parts.append(f'{dropping:.4f} with dropping (gap {gap:+.4f})')
  if levels is not None:
    below = levels.unigram_entropy - loss
    side = 'below' if below > 0 else 'above'
    parts.append(f'{abs(below):.4f} {side} the floor')
  return ', '.join(parts)


def dropping_text(task):
  """Returns what is dropped, where, and what that is expected to save."""
  drop, layers = task.token_drop, task.model.num_layers
  if drop.policy == 'none':
    return 'none: every layer runs on all tokens'
  crossing = configs.crossing_layer(task)
  how = {
    'loss': 'by running loss',
    'frequency': 'by rarity in the corpus',
    'random': 'at random',
  }[drop.policy]
  if drop.policy != 'random':
    how += (
      f', sampled at temperature {drop.temperature:g}'
      if drop.temperature
      else ', ranked'
    )
  if drop.full_step_every:
    how += f', one step in {drop.full_step_every} in full'
  where = (
    f'layers {crossing}-{layers - 1}'
    if crossing < layers - 1
    else f'layer {crossing}'
  )
  kept = keep_schedule.describe(drop, task.train_data.seq_length)
  saving = step_cost.expected_saving(task)
  return (
    f'{how}: {kept} in {where} of {layers}; saves {saving:.1%} of the '
    'multiply-adds of plain steps'
  )


def duration_text(seconds):
  """Returns a duration to two units.

  Example:
    duration_text(3725)  # '1 h 2 min'
  """
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60} s'
  if seconds < 86400:
    return f'{seconds // 3600} h {seconds % 3600 // 60} min'
  return f'{seconds // 86400} d {seconds % 86400 // 3600} h'


def block(title, rows):
  """Returns a title with (name, text) rows below it."""
  lines = [title] + [f'  {name:<{LABEL_WIDTH}}{text}' for name, text in rows]
  return '\n'.join(lines)


def wrap_text(text):
  """Breaks prose at the end of a line; paths and numbers stay whole."""
  return textwrap.fill(
    text,
    MAX_LINE - LABEL_WIDTH - 2,
    break_long_words=False,
    break_on_hyphens=False,
  ).replace('\n', '\n' + ' ' * (LABEL_WIDTH + 2))


def beginning_text(params, mode, first_step):
  """Returns what weights a run begins with."""
  if mode == 'continuous_eval':
    return 'every new checkpoint'
  if mode == 'eval':
    return f'checkpoint of step {first_step:,}'
  if first_step >= params.trainer.train_steps:
    return f'already trained to its last step, {first_step:,}'
  if first_step:
    return f'goes on at step {first_step:,}'
  if params.task.init_checkpoint:
    return f'begins with the weights of {params.task.init_checkpoint}'
  return f'begins with random weights, seed {params.task.seed}'


def model_text(model, num_parameters):
  """Returns the sizes of a model."""
  order = ', norm first' if model.norm_first else ''
  return (
    f'{model.num_layers} layers x {model.hidden_size}, '
    f'{model.num_attention_heads} heads, inner {model.intermediate_size}, '
    f'vocabulary {model.vocab_size:,}{order}: '
    f'{num_parameters / 1e6:,.1f} M parameters'
  )


def _tokens_text(params):
  data, steps = params.task.train_data, params.trainer.train_steps
  per_step = data.global_batch_size * data.seq_length
  return (
    f'{per_step:,} per step ({data.global_batch_size} x {data.seq_length}, '
    f'{data.max_predictions_per_seq} predictions each), '
    f'{_big_number(per_step * steps)} in {steps:,} steps'
  )


def _big_number(number):
  for size, unit in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M')):
    if number >= size:
      return f'{number / size:,.1f} {unit}'
  return f'{number:,}'


def _source_text(data):
  held_out = ''
  if data.held_out_documents:
    kept = 'without' if data.is_training else 'only'
    held_out = f', {kept} every document {data.held_out_documents}'
  if data.tfds_name:
    return f'TFDS {data.tfds_name}, split {data.tfds_split}{held_out}'
  if data.input_path:
    return f'{data.input_path}{held_out}'
  return f'documentation strings of the installed packages{held_out}'


def devices_text(runtime, num_replicas):
  """Returns the devices, how they share the work, and the precision."""
  kind = 'CPU'
  gpus = tf.config.list_physical_devices('GPU')
  if runtime.distribution_strategy == 'tpu':
    kind = f'TPU {runtime.tpu}'
  elif runtime.num_gpus:
    details = tf.config.experimental.get_device_details(gpus[0])
    kind = details.get('device_name', 'GPU')
  else:
    kind = f'CPU, {os.cpu_count()} cores'
  replicas = 'replica' if num_replicas == 1 else 'replicas'
  xla = ', XLA' if runtime.enable_xla else ''
  unused = len(gpus) - runtime.num_gpus
  hint = (
    f'; {unused} GPU not used: set runtime.num_gpus'
    if unused > 0 and runtime.distribution_strategy != 'tpu'
    else ''
  )
  return (
    f'{num_replicas} {replicas} ({runtime.distribution_strategy}, {kind})'
    f', {runtime.mixed_precision_dtype}{xla}{hint}'
  )


def versions_text():
  """Returns the versions of what computes."""
  names = ('tensorflow', 'tf-keras', 'tf-models-official', 'tensorflow-text')
  versions = [f'tokendrop_tf {tokendrop_tf.__version__}']
  versions += [f'{name} {importlib.metadata.version(name)}' for name in names]
  return ', '.join(versions + [f'Python {platform.python_version()}'])


def number(value):
  """Returns a metric, per replica or not, as a Python value."""
  if isinstance(value, (bool, int, float, str)):
    return value
  return float(orbit.utils.get_value(value))
