"""Declarations of settings: name, type, default, range and meaning, once.

A section is a dataclass whose fields are made by `setting`. gin sections, type
and range checks, flags of tools and docs/settings.md are made from it.

Example:
    @dataclasses.dataclass
    class ModelSettings:
      num_layers: int = setting(12, 'L, number of layers.', at_least(1))

    settings_of(ModelSettings)['num_layers'].accept(0, 'model.num_layers')
    # ConfigurationError: model.num_layers must be at least 1. Received: 0. ...
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Collection, Mapping

from tokendrop_tf import errors

_METADATA = 'tokendrop_tf.setting'
_TYPE_NAMES = {
  int: 'an int',
  float: 'a float',
  str: 'a string in quotes',
  bool: 'True or False',
  type(None): 'None',
}


class Range:
  """The values that a setting may take.

  Attributes:
    choices: the values, where they are few and have names; else `None`.
  """

  choices: Collection | None = None

  def __init__(self, text: str, contains: Callable[[object], bool]):
    """Makes a range.

    Args:
      text: completes 'must be ...'.
      contains: function of a value to bool.
    """
    self._text = text
    self.contains = contains

  @property
  def text(self) -> str:
    return self._text


class OneOf(Range):
  """One of several values; `choices` may grow after the declaration."""

  def __init__(self, choices: Collection):
    super().__init__('', lambda value: value in self.choices)
    self.choices = choices

  @property
  def text(self) -> str:
    return 'one of ' + ', '.join(map(repr, self.choices))


def one_of(choices: Collection) -> Range:
  """Returns the range of named choices, e.g. a tuple or a registry."""
  return OneOf(choices)


def at_least(minimum) -> Range:
  return Range(f'at least {minimum}', lambda value: value >= minimum)


def above(bound) -> Range:
  return Range(f'above {bound}', lambda value: value > bound)


def between(low, high) -> Range:
  """Returns the range from `low` to `high`, both included."""
  return Range(f'between {low} and {high}', lambda value: low <= value <= high)


def above_and_at_most(low, high) -> Range:
  return Range(
    f'above {low} and at most {high}', lambda value: low < value <= high
  )


def above_and_below(low, high) -> Range:
  return Range(
    f'above {low} and below {high}', lambda value: low < value < high
  )


SHARE = Range('at least 0 and below 1', lambda value: 0 <= value < 1)
SEED = Range('between 0 and 2**31 - 1', lambda value: 0 <= value < 2**31)


def setting(
  default: object, doc: str, rule: Range | None = None, **more
) -> dataclasses.Field:
  """Declares a setting, as a field of a dataclass.

  Args:
    default: its default value, immutable; the type is the field's annotation.
    doc: its meaning in one line of plain English, with a full stop.
    rule: the values that it may take; `None` in place of a value, where the
      type allows it, is always in range.
    **more: what single readers of the declarations need, see their modules.
  """
  return dataclasses.field(
    default=default, metadata={_METADATA: (doc, rule, more)}
  )


@dataclasses.dataclass(frozen=True)
class Setting:
  """A declared setting.

  Attributes:
    name: as in the dataclass and in gin.
    type: its annotation, e.g. `int | None` or `tuple[str, ...]`.
    default: its default value.
    doc: its meaning.
    rule: its `Range`, or `None`.
    more: dict of what single readers need.
  """

  name: str
  type: object
  default: object
  doc: str
  rule: Range | None
  more: Mapping[str, object]

  def accept(self, value, full_name: str):
    """Returns a value that was given to the setting, in its type.

    An int is accepted for a float, a list for a tuple; no other type is.

    Args:
      value: of any type.
      full_name: the setting in messages, e.g. 'model.num_layers'.

    Raises:
      errors.ConfigurationError: if the type or the range does not fit.
    """
    value = self._typed(value, full_name)
    self.check_range(value, full_name)
    return value

  def check_range(self, value, full_name: str) -> None:
    """Checks the range alone.

    Raises:
      errors.ConfigurationError: if the value lies outside.
    """
    if value is None or self.rule is None or self.rule.contains(value):
      return
    raise errors.ConfigurationError(
      f'{full_name} must be {self.rule.text}. Received: {value!r}. Set '
      f'{full_name}.'
    )

  @property
  def type_text(self) -> str:
    """The type in words, e.g. 'an int or None'."""
    return ' or '.join(
      _TYPE_NAMES.get(alternative) or f'a list of {_element_text(alternative)}'
      for alternative in self.alternatives
    )

  @property
  def alternatives(self) -> tuple:
    """The types of which the annotation is a union."""
    if isinstance(self.type, types.UnionType):
      return typing.get_args(self.type)
    return (self.type,)

  def _typed(self, value, full_name):
    for alternative in self.alternatives:
      if alternative is float and type(value) is int:
        return float(value)
      if typing.get_origin(alternative) is tuple:
        element = typing.get_args(alternative)[0]
        if isinstance(value, (tuple, list)) and all(
          type(item) is element for item in value
        ):
          return tuple(value)
      elif type(value) is alternative:
        return value
    raise errors.ConfigurationError(
      f'{full_name} must be {self.type_text}. Received: {value!r} '
      f'({type(value).__name__}). Set {full_name}.'
    )


def _element_text(alternative):
  element = typing.get_args(alternative)[0]
  return 'strings' if element is str else f'{element.__name__}s'


def settings_of(section: type) -> dict[str, Setting]:
  """Returns the settings of a dataclass by name, in order of declaration.

  Fields that are not made by `setting` are not settings.
  """
  return {setting.name: setting for setting in _declared(section)}


@functools.cache
def _declared(section):
  hints = typing.get_type_hints(section)
  fields = {field.name: field for field in dataclasses.fields(section)}
  names = {}
  for part in reversed(section.__mro__):
    for name in part.__dict__.get('__annotations__', ()):
      names.pop(name, None)  # Declared again: stands where it is declared.
      names[name] = None
  found = []
  for name in names:
    if name in fields and _METADATA in fields[name].metadata:
      doc, rule, more = fields[name].metadata[_METADATA]
      found.append(
        Setting(name, hints[name], fields[name].default, doc, rule, more)
      )
  return tuple(found)
