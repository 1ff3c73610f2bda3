"""The experiments, and the trees that they build from values of the sections.

The values come from gin or are the defaults; nothing here knows which.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from official.core import config_definitions as cfg
from official.modeling import optimization

from tokendrop_tf.config import (
  configs,
  finetuning_configs,
  glue_tasks,
  sections,
)
from tokendrop_tf.settings import settings_of

PRETRAINING = 'token_drop_bert/pretraining'
GLUE = 'token_drop_bert/glue'
SQUAD = 'token_drop_bert/squad'

Values = Mapping[str, Mapping[str, object]]

_PRETRAINING_STEPS = {
  'train_steps': 1_000_000,
  'validation_interval': 1000,
  'checkpoint_interval': 1000,
}
_PRETRAINING_WARMUP_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A kind of run.

  Attributes:
    name: as in `--experiment`.
    build: function of the values of the sections to an `ExperimentConfig`.
    sections: names of the gin sections that it may read.
    mark: the part of `task` that only its tree has; '' for pretraining.
  """

  name: str
  build: Callable[[Values], cfg.ExperimentConfig]
  sections: tuple[str, ...]
  mark: str = ''


def defaults() -> dict[str, dict[str, object]]:
  """Returns the values of all sections where nothing is set."""
  return {
    name: section.defaults()
    for name, section in sections.all_sections().items()
  }


def build(name: str, values: Values | None = None) -> cfg.ExperimentConfig:
  """Builds the tree of an experiment.

  Of fine-tuning, `task.model` and `task.vocabulary` are still to be filled in:
  `finetuning.complete_settings` takes them from `finetuning.init_from`.

  Args:
    name: a key of `EXPERIMENTS`.
    values: values of the sections, such as `gin_sections.GinValues()`; `None`
      is `defaults()`.

  Raises:
    errors.ConfigurationError: for a value of another type or out of range.

  Example:
    build(PRETRAINING).task.model.num_layers  # 12
  """
  return EXPERIMENTS[name].build(defaults() if values is None else values)


def of_bindings(bindings: Iterable) -> str:
  """Returns the name of the experiment whose sections are bound.

  Args:
    bindings: what `gin_reader.parse` returned.
  """
  bound = {binding.section for binding in bindings}
  if 'squad' in bound:
    return SQUAD
  return GLUE if bound & {'glue', 'finetuning'} else PRETRAINING


def of_task(task: Mapping | cfg.TaskConfig) -> Experiment:
  """Returns the experiment of a tree.

  Args:
    task: the tree's part `task`, a configuration or a plain dict.
  """
  keys = task if isinstance(task, Mapping) else task.as_dict()
  for experiment in EXPERIMENTS.values():
    if experiment.mark and experiment.mark in keys:
      return experiment
  return EXPERIMENTS[PRETRAINING]


def _pretraining(values):
  values = {name: dict(values[name]) for name in _PRETRAINING_SECTIONS}
  _choose_validation_masking(values)
  sections.inherit(values)
  _validate_on_held_out_documents(values)
  trainer = _trainer(values)
  for name, steps in _PRETRAINING_STEPS.items():
    if getattr(trainer, name) is None:
      setattr(trainer, name, steps)
  _set_optimizer(trainer, values, _PRETRAINING_WARMUP_STEPS)
  token_drop = _part(configs.TokenDropConfig, values['token_drop'])
  if token_drop.keep_schedule or values['pretraining']['objective_schedule']:
    token_drop.schedule_steps = trainer.train_steps
  train_data = _data(values['train_data'], is_training=True)
  if train_data.mask_rate_schedule:
    train_data.mask_schedule_steps = trainer.train_steps
  return cfg.ExperimentConfig(
    task=configs.PretrainingTaskConfig(
      model=_part(configs.ModelConfig, values['model']),
      token_drop=token_drop,
      vocabulary=_part(configs.VocabularyConfig, values['vocabulary']),
      train_data=train_data,
      validation_data=_data(
        values['validation_data'],
        is_training=False,
        drop_remainder=False,
        num_epochs=1,
        shuffle_buffer_size=1,
      ),
      **values['pretraining'],
    ),
    trainer=trainer,
    runtime=_runtime(values),
  )


def _part(config, values):
  """Returns a part of the tree with its own settings among `values`."""
  return config(**{name: values[name] for name in settings_of(config)})


def _choose_validation_masking(values):
  """Validation masks data itself, unless they have masks already."""
  train, validation = values['train_data'], values['validation_data']
  if validation['masking'] is None and (
    train['masking'] == 'importance'
    or configs.names_tfrecords(validation['input_path'])
  ):
    validation['masking'] = 'token'


def _validate_on_held_out_documents(values):
  """Validation without a source reads the documents that training omits."""
  train, validation = values['train_data'], values['validation_data']
  has_source = validation['input_path'] or validation['tfds_name']
  if validation['held_out_documents'] and not has_source:
    for name in ('input_path', 'tfds_name', 'tfds_split'):
      validation[name] = train[name]


def _data(values, **others):
  split = values['tfds_split'] if values['tfds_name'] else ''
  return configs.PretrainingDataConfig(
    **{**values, 'tfds_split': split, **others}
  )


def _runtime(values):
  runtime = _part(configs.RuntimeConfig, values['runtime'])
  runtime.mixed_precision_dtype = runtime.mixed_precision_dtype.removeprefix(
    'mixed_'
  )
  return runtime


def _trainer(values):
  trainer = _part(configs.TrainerConfig, values['trainer'])
  trainer.summary_interval = trainer.steps_per_loop
  return trainer


def _set_optimizer(trainer, values, warmup_steps):
  """Puts AdamW, decay and warm-up in, in the Model Garden's terms.

  Args:
    trainer: the tree's part, its `train_steps` set or `None`.
    values: values of the sections.
    warmup_steps: the default of `optimizer.warmup_steps`.
  """
  adamw = dict(values['optimizer'])
  rate, end_rate = adamw.pop('learning_rate'), adamw.pop('end_learning_rate')
  decay, own_warmup_steps = adamw.pop('decay'), adamw.pop('warmup_steps')
  if own_warmup_steps is not None:
    warmup_steps = own_warmup_steps
  falling = {
    'initial_learning_rate': rate,
    'decay_steps': trainer.train_steps,
  }
  schedules = {
    'linear': ('polynomial', {**falling, 'end_learning_rate': end_rate}),
    'cosine': ('cosine', {**falling, 'alpha': end_rate / rate}),
    'constant': ('constant', {'learning_rate': rate}),
  }
  schedule, details = schedules[decay]
  trainer.optimizer_config = optimization.OptimizationConfig(
    {
      'optimizer': {
        'type': 'adamw',
        'adamw': dict(
          adamw, exclude_from_weight_decay=['LayerNorm', 'layer_norm', 'bias']
        ),
      },
      'learning_rate': {'type': schedule, schedule: details},
      'warmup': {
        'type': 'polynomial',
        'polynomial': {'warmup_steps': warmup_steps},
      },
    }
  )


def _glue(values):
  section = values['glue']
  known = glue_tasks.resolve(
    section['task'],
    label_names=section['label_names'],
    is_regression=section['is_regression'],
    metric=section['metric'],
  )
  glue = _part(finetuning_configs.GlueConfig, section)
  glue.label_names = known.label_names
  glue.is_regression = glue.is_regression or glue.task == 'stsb'
  return _finetuning(
    values,
    'glue',
    finetuning_configs.GlueTaskConfig(glue=glue, metric_type=known.metric),
  )


def _squad(values):
  squad = _part(finetuning_configs.SquadConfig, values['squad'])
  return _finetuning(
    values,
    'squad',
    finetuning_configs.SquadTaskConfig(
      squad=squad,
      # The Model Garden's own names of the same.
      null_score_diff_threshold=squad.null_score_threshold,
      max_answer_length=squad.max_answer_length,
      n_best_size=squad.n_best_size,
    ),
  )


def _finetuning(values, section_name, task):
  """Returns the tree of fine-tuning, whose steps the data will tell."""
  start = values['finetuning']
  trainer = _trainer(values)
  _set_optimizer(trainer, values, None)
  task.init_checkpoint, task.seed = start['init_from'], start['seed']
  task.finetuning = _part(finetuning_configs.FinetuningConfig, start)
  _set_data(task, section_name, values[section_name])
  return cfg.ExperimentConfig(
    task=task, trainer=trainer, runtime=_runtime(values)
  )


def _set_data(task, section_name, section):
  """Puts the data in that a section of gin names."""
  for name in section:
    if not name.endswith('_data'):
      continue
    is_training = name == 'train_data'
    data = finetuning_configs.TextDataConfig(
      is_training=is_training,
      drop_remainder=is_training,
      global_batch_size=section[
        'batch_size' if is_training else 'eval_batch_size'
      ],
      seq_length=section['seq_length'],
      trim_padding=section['trim_padding'],
      tfds_data_dir=section.get('tfds_data_dir', ''),
      seed=task.seed,
      **finetuning_configs.parse_source(
        section[name], f'{section_name}.{name}'
      ),
    )
    setattr(task, name, data)


_PRETRAINING_SECTIONS = (
  *('model', 'token_drop', 'vocabulary', 'train_data', 'validation_data'),
  *('optimizer', 'trainer', 'runtime', 'pretraining'),
)
_FINETUNING_SECTIONS = (
  *('model', 'vocabulary', 'optimizer', 'trainer', 'runtime', 'finetuning'),
)
EXPERIMENTS = {
  experiment.name: experiment
  for experiment in (
    Experiment(PRETRAINING, _pretraining, _PRETRAINING_SECTIONS),
    Experiment(GLUE, _glue, (*_FINETUNING_SECTIONS, 'glue'), 'glue'),
    Experiment(SQUAD, _squad, (*_FINETUNING_SECTIONS, 'squad'), 'squad'),
  )
}
