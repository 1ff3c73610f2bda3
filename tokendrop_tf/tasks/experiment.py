"""The kinds of runs that `train.py` starts, as one interface.

A kind is a class: it checks and completes the settings, checks the data, and
says in words what is about to run and what came out. The train loop, the folder
and the console are the same for all kinds.
"""

import abc
import importlib.metadata
import os
import platform

import tokendrop_tf
from tokendrop_tf.run import (
  checkpoints,
  console,
  devices,
  metrics_log,
  run_folder,
)


class Experiment(abc.ABC):
  """One run: its settings, its folder, and what is said about it.

  Args:
    params: the `ExperimentConfig`; `check` completes it.
    mode: 'train', 'eval', 'train_and_eval' or 'continuous_eval'.
    model_dir: folder of the run.

  Example:
    experiment = Pretraining(params, 'train', 'runs/a')
    experiment.check()
    experiment.check_replicas(strategy.num_replicas_in_sync)
    experiment.check_data()
  """

  # Name of the experiment in the Model Garden's registry.
  NAME = ''

  def __init__(self, params, mode, model_dir):
    self.params = params
    self.mode = mode
    self.model_dir = model_dir

  @property
  def is_training(self) -> bool:
    """Whether the mode trains."""
    return 'train' in self.mode

  @property
  def is_validating(self) -> bool:
    """Whether the mode validates."""
    return 'eval' in self.mode

  @property
  def tokens_per_step(self) -> int:
    """Tokens of a global batch, padding included."""
    data = self.params.task.train_data
    return data.global_batch_size * data.seq_length

  # Before the run.

  @staticmethod
  def take_start(params, values):
    """Fills in what a tree takes from other weights, before it is checked.

    Args:
      params: the tree, built from `values`.
      values: values of the gin sections.
    """
    del params, values

  def check(self):
    """Checks the settings, completes them from files, checks the folder.

    Raises:
      errors.UserError: for the first thing that is wrong.
    """
    self.check_settings()
    if self.is_training:
      run_folder.check_writable(self.model_dir)
    checkpoint = checkpoints.newest(self.model_dir)
    self.complete_settings(checkpoint)
    if self.is_training and not checkpoint:
      self._check_not_lost()
    if self.is_training:
      run_folder.check_unchanged(self.params, self.model_dir)
    elif run_folder.has_configuration(self.model_dir):
      run_folder.check_same_model(self.params, self.model_dir)
    if self.mode == 'eval':
      run_folder.require_checkpoint(self.model_dir)

  def _check_not_lost(self):
    """Refuses to begin a run again whose checkpoints have been deleted."""
    if not run_folder.has_configuration(self.model_dir):
      return
    saved = run_folder.load_params(self.model_dir).trainer.checkpoint_interval
    records = metrics_log.read_metrics(
      os.path.join(self.model_dir, metrics_log.METRICS_FILE)
    )
    steps = {record['kind']: record['step'] for record in records}
    checkpoints.check_not_lost(
      self.model_dir,
      steps.get('train', 0),
      steps.get('validation', 0),
      max(saved, self.params.trainer.checkpoint_interval),
    )

  @abc.abstractmethod
  def check_settings(self):
    """Checks every rule that needs neither data nor devices."""

  @abc.abstractmethod
  def complete_settings(self, checkpoint):
    """Fills in settings that depend on files, and checks those files.

    Args:
      checkpoint: the checkpoint that the run resumes from, or `None`.
    """

  @abc.abstractmethod
  def check_replicas(self, num_replicas):
    """Checks that the devices share the batches evenly."""

  @abc.abstractmethod
  def check_data(self):
    """Checks the data that the mode reads."""

  # During the run.

  def begin(self, step, is_chief):
    """Continues the kind's own history up to the resumed `step`."""
    del step, is_chief

  @abc.abstractmethod
  def progress_metrics(self, output) -> list[str]:
    """Returns the metrics of a progress line, in addition to the loss."""

  @abc.abstractmethod
  def validation_text(self, metrics) -> str:
    """Returns the metrics of a validation in words."""

  def validation_facts(self, metrics) -> dict[str, float]:
    """Returns metrics that follow from those of a validation."""
    del metrics
    return {}

  def end_validation(self, step, metrics) -> str:
    """Notes the metrics of a validation; returns what to say of them, or ''."""
    del step, metrics
    return ''

  def histograms(self, model) -> dict:
    """Returns tensors to show in TensorBoard as histograms, by name."""
    del model
    return {}

  def train_facts(self, step) -> dict[str, float]:
    """Returns values that change over the run, for TensorBoard."""
    del step
    return {}

  def finish(self, task, model, strategy):
    """Writes the files of a finished run, in addition to its weights."""
    del task, model, strategy

  # In words.

  def start_block(self, num_parameters, num_replicas, first_step) -> str:
    """Returns the block that says what is about to run.

    Args:
      num_parameters: number of trainable parameters.
      num_replicas: replicas in sync.
      first_step: global step of the restored checkpoint, or 0.
    """
    rows = [
      ('run', f'{self.mode} in {self.model_dir}, {self.beginning(first_step)}'),
      ('model', _model_text(self.params.task.model, num_parameters)),
      *self.start_rows(),
      ('devices', devices.describe(self.params.runtime, num_replicas)),
      ('versions', _versions_text()),
      *self.scale_rows(),
    ]
    return console.block(
      'tokendrop_tf', [(name, console.wrap_text(text)) for name, text in rows]
    )

  @abc.abstractmethod
  def start_rows(self) -> list[tuple[str, str]]:
    """Returns (name, text) rows about the task and its data."""

  def scale_rows(self) -> list[tuple[str, str]]:
    """Returns (name, text) rows that losses are read against."""
    return []

  def end_block(self, step, seconds, validation=None) -> str:
    """Returns the block that says what came out, and what to type next.

    Args:
      step: the global step reached.
      seconds: duration of this process's run.
      validation: metrics of the last validation, or `None`.
    """
    rows = [('step', f'{step:,}, after {console.duration_text(seconds)}')]
    if validation:
      rows.append(('validation', self.validation_text(validation)))
    return console.block('done', rows + self.end_rows())

  @abc.abstractmethod
  def end_rows(self) -> list[tuple[str, str]]:
    """Returns (name, text) rows about what is on disk."""

  def beginning(self, first_step) -> str:
    """Returns what weights the run begins with."""
    if self.mode == 'continuous_eval':
      return 'every new checkpoint'
    if self.mode == 'eval':
      return f'checkpoint of step {first_step:,}'
    if first_step >= self.params.trainer.train_steps:
      return f'already trained to its last step, {first_step:,}'
    if first_step:
      return f'resumes at step {first_step:,}'
    if self.params.task.init_checkpoint:
      return f'begins with the weights of {self.params.task.init_checkpoint}'
    return f'begins with random weights, seed {self.params.task.seed}'


def _model_text(model, num_parameters):
  order = ', norm first' if model.norm_first else ''
  return (
    f'{model.num_layers} layers x {model.hidden_size}, '
    f'{model.num_attention_heads} heads, inner {model.intermediate_size}, '
    f'vocabulary {model.vocab_size:,}{order}: '
    f'{num_parameters / 1e6:,.1f} M parameters'
  )


def _versions_text():
  names = ('tensorflow', 'tf-keras', 'tf-models-official', 'tensorflow-text')
  versions = [f'tokendrop_tf {tokendrop_tf.__version__}']
  versions += [f'{name} {importlib.metadata.version(name)}' for name in names]
  return ', '.join(versions + [f'Python {platform.python_version()}'])
