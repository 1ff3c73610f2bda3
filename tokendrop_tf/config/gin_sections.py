"""The sections in gin: registered from the declarations, read and checked."""

import inspect
from collections.abc import Iterator, Mapping

import gin

from tokendrop_tf.config import sections as sections_lib

_MODULE = 'tokendrop_tf'
_collectors = {}


def register() -> dict[str, tuple[str, ...]]:
  """Makes every section known to gin; again where declarations were added.

  gin wraps only a collector of the values, because it appends text of its own
  to every exception that passes through it.

  Returns:
    The names of the settings, dict of a section's name to a tuple.
  """
  found = {}
  for name, section in sections_lib.all_sections().items():
    found[name] = tuple(section.settings)
    if name not in _collectors:
      _collectors[name] = _collector(section)
    elif _collectors[name].settings != found[name]:
      with gin.config.interactive_mode():  # Permits a second registration.
        _collectors[name] = _collector(section)
  return found


def _collector(section):
  def collect(**values):
    return values

  collect.__name__ = section.name
  collect.__doc__ = section.doc
  collect.__signature__ = inspect.Signature(
    [
      inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=setting.default
      )
      for name, setting in section.settings.items()
    ]
  )
  collect = gin.configurable(section.name, module=_MODULE)(collect)
  collect.settings = tuple(section.settings)
  return collect


class GinValues(Mapping):
  """The values of every section, read from gin when they are asked for.

  gin counts a section as used once it is read, so that bindings of sections
  that an experiment does not read are noticed.

  Example:
    GinValues()['model']['num_layers']  # 12
  """

  def __getitem__(self, name: str) -> dict[str, object]:
    section = sections_lib.all_sections()[name]
    register()
    bound = _collectors[name]()
    return {**section.defaults(), **section.accept(bound)}

  def __iter__(self) -> Iterator[str]:
    return iter(sections_lib.all_sections())

  def __len__(self) -> int:
    return len(sections_lib.all_sections())
