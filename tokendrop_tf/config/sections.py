"""The gin sections: their settings, and the keys of the tree that hold them."""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping

from tokendrop_tf.config import configs, finetuning_configs
from tokendrop_tf.settings import Setting, settings_of


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of gin.

  Attributes:
    name: as in gin.
    doc: its meaning, the docstring of the class that declares it.
    settings: the settings by name.
    keys: for every setting, patterns of the keys of the tree that hold it.
  """

  name: str
  doc: str
  settings: Mapping[str, Setting]
  keys: Mapping[str, tuple[str, ...]]

  def defaults(self) -> dict[str, object]:
    return {name: setting.default for name, setting in self.settings.items()}

  def accept(self, values: Mapping[str, object]) -> dict[str, object]:
    """Returns values in their types, each of them in its range.

    Raises:
      errors.ConfigurationError: for the first that does not fit.
    """
    return {
      name: self.settings[name].accept(value, f'{self.name}.{name}')
      for name, value in values.items()
    }


def all_sections() -> dict[str, Section]:
  """Returns the sections by name."""
  task = configs.PretrainingTaskConfig
  return {
    section.name: section
    for section in (
      _section('model', {configs.ModelConfig: 'task.model'}),
      _section('token_drop', {configs.TokenDropConfig: 'task.token_drop'}),
      _section('vocabulary', {configs.VocabularyConfig: 'task.vocabulary'}),
      _train_data(),
      _validation_data(),
      _section(
        'optimizer', {configs.OptimizerSettings: 'trainer.optimizer_config.*'}
      ),
      _section('trainer', {configs.TrainerConfig: 'trainer'}),
      _section('runtime', {configs.RuntimeConfig: 'runtime'}),
      _section('pretraining', {task: 'task'}),
      _section(
        'finetuning',
        {
          finetuning_configs.FinetuningConfig: 'task.finetuning',
          finetuning_configs.StartSettings: 'task',
        },
      ),
      _text_task_section(
        'glue',
        finetuning_configs.GlueConfig,
        finetuning_configs.GlueSettings,
      ),
      _text_task_section(
        'squad',
        finetuning_configs.SquadConfig,
        finetuning_configs.SquadSettings,
      ),
    )
  }


def _section(name, parts):
  """Returns a section of `parts`, dict of a class to its key in the tree."""
  settings, keys = {}, {}
  for part, prefix in parts.items():
    for setting_name, setting in settings_of(part).items():
      settings[setting_name] = setting
      keys[setting_name] = (
        f'{prefix}.{setting_name}',
        *setting.more.get('keys', ()),
      )
  doc = next(iter(parts)).__doc__
  return Section(name, doc, settings, keys)


def _text_task_section(name, config, other_settings):
  return _section(
    name,
    {
      config: f'task.{name}',
      other_settings: 'task',
      finetuning_configs.TextDataConfig: 'task',
    },
  )


def _train_data():
  """Returns the section in which `None` may take another setting's value."""
  section = _section(
    'train_data', {configs.PretrainingDataConfig: 'task.train_data'}
  )
  settings = {
    name: _inheriting(setting, setting.more['inherits'], setting.doc)
    if 'inherits' in setting.more
    else setting
    for name, setting in section.settings.items()
  }
  return dataclasses.replace(section, settings=settings)


def _validation_data():
  """Returns the section made from the declarations of `train_data`."""
  section = _section(
    'validation_data', {configs.PretrainingDataConfig: 'task.validation_data'}
  )
  settings = {}
  for name, setting in section.settings.items():
    validation = setting.more.get('validation')
    if validation == configs.ABSENT:
      continue
    note = setting.more.get('validation_doc', '')
    if validation is None:
      doc = ' '.join(filter(None, [setting.doc, note]))
      settings[name] = _inheriting(setting, f'train_data.{name}', doc)
    else:
      settings[name] = dataclasses.replace(
        setting,
        default=validation,
        doc=note or setting.doc,
        more=_without_inheritance(setting),
      )
  return Section(
    section.name,
    'Validation examples: one pass, in one order, with one set of masks.',
    settings,
    section.keys,
  )


def _inheriting(setting, source, doc):
  """Returns the setting with the default `None`, which takes another value."""
  return dataclasses.replace(
    setting,
    type=setting.type | None,
    default=None,
    doc=f'{doc} `None` is `{source}`.',
    more={**setting.more, 'inherits': source},
  )


def _without_inheritance(setting):
  return {
    name: value for name, value in setting.more.items() if name != 'inherits'
  }


def inherit(values: Mapping[str, dict[str, object]]) -> None:
  """Fills in, in place, the values that are taken from other settings.

  Args:
    values: of several sections, dict of a section's name to its values.
  """
  sections = all_sections()
  for section_name, section_values in values.items():
    for name, value in section_values.items():
      source = sections[section_name].settings[name].more.get('inherits')
      if value is None and source:
        other_section, _, other = source.partition('.')
        section_values[name] = values[other_section][other]


def check_ranges(tree, names: Iterable[str]) -> None:
  """Checks every setting of parts of the tree that has a range of its own.

  Args:
    tree: an `ExperimentConfig`.
    names: sections that are parts of the tree, e.g. ('model', 'runtime').

  Raises:
    errors.ConfigurationError: for the first value outside its range.
  """
  for name in names:
    owner = tree if hasattr(tree, name) else tree.task
    check_part(getattr(owner, name), name)


def check_part(part, name: str) -> None:
  """Checks the ranges of one part of a tree, called `name`; `check_ranges`."""
  for setting in settings_of(type(part)).values():
    setting.check_range(getattr(part, setting.name), f'{name}.{setting.name}')


def finder(
  section_names: Iterable[str],
) -> Callable[[str], tuple[str, Setting | None]]:
  """Returns a function from a key of the tree to the setting it comes from.

  Args:
    section_names: the sections of the experiment.

  Returns:
    A function of a key to the setting's name in gin and its declaration, or
    to the key and `None` where no setting holds it.

  Example:
    finder(['optimizer'])('trainer.optimizer_config.optimizer.adamw.epsilon')
    # ('optimizer.epsilon', ...)
  """
  sections = all_sections()
  patterns = [
    (re.compile(fnmatch.translate(pattern)), f'{section_name}.{name}', setting)
    for section_name in section_names
    for name, setting in sections[section_name].settings.items()
    for pattern in sections[section_name].keys[name]
  ]

  def setting_of(key):
    for pattern, name, setting in patterns:
      if pattern.match(key):
        return name, setting
    return key.removeprefix('task.'), None

  return setting_of
