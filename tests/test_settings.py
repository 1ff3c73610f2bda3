"""Declarations of settings: types, ranges, order, and joining."""

import dataclasses
import functools

import pytest
import refusals

from tokendrop_tf import errors, settings


@dataclasses.dataclass
class Base:
  width: int = 1
  depth: int = settings.setting(2, 'Layers.', settings.at_least(1))
  not_a_setting: int = 3


@dataclasses.dataclass
class Special(Base):
  rate: float = settings.setting(0.5, 'Rate.', settings.SHARE)
  width: int = settings.setting(8, 'Width.', flag='wide')
  limit: int | None = settings.setting(None, 'Limit.', settings.above(3))
  names: tuple[str, ...] = settings.setting((), 'Names.')
  kind: str = settings.setting('a', 'Kind.', settings.one_of(('a', 'b')))
  is_on: bool = settings.setting(False, 'On.')


def accept(name, value):
  return settings.settings_of(Special)[name].accept(value, f'special.{name}')


message_of = functools.partial(
  refusals.message_of, accept, raises=errors.ConfigurationError
)


def test_settings_stand_in_order_of_declaration():
  assert list(settings.settings_of(Special)) == [
    'depth',
    'rate',
    'width',
    'limit',
    'names',
    'kind',
    'is_on',
  ]


def test_a_declaration_keeps_what_it_was_given():
  width = settings.settings_of(Special)['width']
  assert (width.type, width.default, width.doc) == (int, 8, 'Width.')
  assert width.rule is None
  assert width.more == {'flag': 'wide'}
  assert Special().width == 8


@pytest.mark.parametrize(
  ('name', 'value', 'words'),
  [
    ('depth', '64', "special.depth must be an int. Received: '64' (str)"),
    ('depth', 12.0, 'must be an int. Received: 12.0 (float)'),
    ('depth', True, 'must be an int. Received: True (bool)'),
    ('is_on', 1, 'must be True or False. Received: 1 (int)'),
    ('rate', '0.5', 'must be a float'),
    ('kind', 3, 'must be a string in quotes'),
    ('kind', None, 'must be a string in quotes'),
    ('limit', 'six', 'must be an int or None'),
    ('names', '[CLS]', 'must be a list of strings'),
    ('names', [101], 'must be a list of strings'),
  ],
)
def test_another_type_is_refused(name, value, words):
  message = message_of(name, value)
  assert words in message
  assert message.endswith(f'Set special.{name}.')


@pytest.mark.parametrize(
  ('name', 'value', 'words'),
  [
    ('depth', 0, 'special.depth must be at least 1. Received: 0. Set'),
    ('rate', 1.0, 'must be at least 0 and below 1'),
    ('limit', 3, 'must be above 3'),
    ('kind', 'c', "must be one of 'a', 'b'. Received: 'c'"),
  ],
)
def test_a_value_out_of_range_is_refused(name, value, words):
  assert words in message_of(name, value)


@pytest.mark.parametrize(
  ('rule', 'inside', 'outside'),
  [
    (settings.between(0, 1), (0, 1), (-1, 2)),
    (settings.above_and_at_most(0, 1), (0.1, 1), (0, 1.1)),
    (settings.above_and_below(0, 1), (0.1, 0.9), (0, 1)),
    (settings.SEED, (0, 2**31 - 1), (-1, 2**31)),
  ],
)
def test_a_range_holds_its_bounds(rule, inside, outside):
  assert all(map(rule.contains, inside))
  assert not any(map(rule.contains, outside))


def test_none_is_in_range_where_the_type_allows_it():
  assert accept('limit', None) is None


def test_an_int_serves_as_a_float_and_a_list_as_a_tuple():
  rate = accept('rate', 0)
  assert (rate, type(rate)) == (0.0, float)
  assert accept('names', ['a']) == ('a',)


def test_choices_may_grow():
  choices = {'a': 1}
  rule = settings.one_of(choices)
  assert not rule.contains('b')
  choices['b'] = 2
  assert rule.contains('b')
  assert rule.text == "one of 'a', 'b'"
