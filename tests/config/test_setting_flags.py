"""Flags made from declarations: names, types, defaults, ranges and help."""

import argparse
import dataclasses

import pytest

from tokendrop_tf import errors, settings
from tokendrop_tf.config.setting_flags import SettingFlags


@dataclasses.dataclass
class Example:
  path: str = settings.setting('', 'A `file`, 5 % of it.')
  rate: float = settings.setting(0.5, 'A rate.', settings.SHARE)
  kind: str = settings.setting('a', 'A kind.', settings.one_of(('a', 'b', 'c')))
  layer: int | None = settings.setting(None, 'A layer.', settings.at_least(1))
  skips: bool = settings.setting(False, 'Skips.')
  lowers: bool = settings.setting(True, 'Lowers.')


FLAGS = SettingFlags(
  Example,
  ['path', 'rate', 'kind', 'layer', 'skips', 'lowers'],
  renamed={'path': 'input'},
  defaults={'rate': 0.25},
  choices={'kind': ('a', 'b')},
)


def parser(**kwargs):
  made = argparse.ArgumentParser(exit_on_error=False)
  FLAGS.add_to(made, **kwargs)
  return made


def values(*arguments):
  return FLAGS.values(parser().parse_args(arguments))


def test_defaults_are_those_of_the_settings_unless_said_otherwise():
  assert values() == {
    'path': '',
    'rate': 0.25,
    'kind': 'a',
    'layer': None,
    'skips': False,
    'lowers': True,
  }


def test_values_have_the_types_of_the_settings():
  found = values(
    *('--input=x', '--rate=0', '--kind=b', '--layer=3'),
    *('--skips', '--no-lowers'),
  )
  assert found == {
    'path': 'x',
    'rate': 0.0,
    'kind': 'b',
    'layer': 3,
    'skips': True,
    'lowers': False,
  }
  assert type(found['rate']) is float


def test_a_value_out_of_range_is_named_by_its_flag():
  with pytest.raises(errors.ConfigurationError) as caught:
    values('--rate=1')
  assert str(caught.value) == (
    '--rate must be at least 0 and below 1. Received: 1.0. Set --rate.'
  )
  with pytest.raises(argparse.ArgumentError, match='--kind.*invalid choice'):
    values('--kind=c')


def test_help_is_the_meaning_with_the_default():
  text = ' '.join(parser().format_help().split())
  assert '--input INPUT A file, 5 % of it. --rate' in text
  assert 'A rate. Default 0.25.' in text


def test_a_flag_can_be_required():
  made = parser(required=['path'])
  [action] = [action for action in made._actions if action.dest == 'input']
  assert action.required
