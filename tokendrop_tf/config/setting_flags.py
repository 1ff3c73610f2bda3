"""Flags of commands that are made from declarations of settings."""

import argparse
from collections.abc import Iterable, Mapping

from tokendrop_tf.settings import Setting, settings_of


class SettingFlags:
  """Flags that stand for some settings of a section.

  Each has the type, default, choices and meaning of its setting.

  Args:
    section: the dataclass that declares the settings.
    names: names of the settings, in the order of the flags.
    renamed: what a flag is called, where it is not called as its setting.
    defaults: defaults of flags, where they are not those of the settings.
    choices: words that a flag takes, where it takes fewer than its setting.

  Example:
    flags = SettingFlags(VocabularyConfig, ['path'], {'path': 'vocab_file'})
    flags.add_to(parser)
    VocabularyConfig(**flags.values(parser.parse_args(arguments)))
  """

  def __init__(
    self,
    section: type,
    names: Iterable[str],
    renamed: Mapping[str, str] | None = None,
    defaults: Mapping[str, object] | None = None,
    choices: Mapping[str, Iterable[str]] | None = None,
  ):
    declared = settings_of(section)
    self._settings = [declared[name] for name in names]
    self._renamed = renamed or {}
    self._defaults = defaults or {}
    self._choices = choices or {}

  @property
  def flags(self) -> tuple[str, ...]:
    """The names of the flags."""
    return tuple(map(self._flag, self._settings))

  def add_to(self, parser, required: Iterable[str] = ()) -> None:
    """Adds the flags to a parser or a group of one.

    Args:
      parser: of argparse.
      required: names of settings whose flags must be given.
    """
    for setting in self._settings:
      parser.add_argument(
        f'--{self._flag(setting)}',
        **self._arguments(setting, setting.name in required),
      )

  def values(self, flags: argparse.Namespace) -> dict[str, object]:
    """Returns the values by the names of the settings, each in its range.

    Raises:
      errors.ConfigurationError: naming the flag whose value is not.
    """
    found = {}
    for setting in self._settings:
      flag = self._flag(setting)
      found[setting.name] = setting.accept(getattr(flags, flag), f'--{flag}')
    return found

  def flag_values(self, section) -> dict[str, object]:
    """Returns the values that a section has, by the names of the flags.

    A value that its flag does not take is omitted.
    """
    return {
      self._flag(setting): getattr(section, setting.name)
      for setting in self._settings
      if getattr(section, setting.name)
      in self._choices.get(setting.name, [getattr(section, setting.name)])
    }

  def _flag(self, setting: Setting) -> str:
    return self._renamed.get(setting.name, setting.name)

  def _arguments(self, setting, required):
    """Returns the keyword arguments of `add_argument`."""
    text = setting.doc.replace('`', '').replace('%', '%%')
    default = self._defaults.get(setting.name, setting.default)
    [kind] = [each for each in setting.alternatives if each is not type(None)]
    if kind is bool:
      is_plain = default is False
      action = 'store_true' if is_plain else argparse.BooleanOptionalAction
      return {'action': action, 'default': default, 'help': text}
    if required:
      return {'type': kind, 'required': True, 'help': text}
    if default not in ('', None):
      text = f'{text} Default %(default)s.'
    choices = self._choices.get(
      setting.name, setting.rule.choices if setting.rule else None
    )
    return {
      'type': kind,
      'default': default,
      'choices': choices,
      'help': text,
    }
