"""Tests of reading and writing whole small files."""

import os

import pytest

from tokendrop_tf import errors, files


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
  path = tmp_path / 'a.txt'
  files.write_whole_file(str(path), 'Käse')
  with pytest.raises(UnicodeEncodeError):
    files.write_whole_file(str(path), '\ud800')
  assert path.read_bytes() == 'Käse'.encode()
  assert os.listdir(tmp_path) == ['a.txt']


@pytest.mark.parametrize(
  ('content', 'reason'),
  [(b'{"a":', 'Expecting value'), (b'[1]', 'holds a list'), (b'\xff{}', 'utf')],
)
def test_json_other_than_an_object_is_refused_by_name(
  tmp_path, content, reason
):
  path = tmp_path / 'a.json'
  path.write_bytes(content)
  with pytest.raises(errors.ConfigurationError) as raised:
    files.read_json_object(str(path))
  message = str(raised.value)
  assert 'a.json must be a JSON object' in message
  assert reason in message


def test_optional_json_is_none_if_absent_or_damaged(tmp_path):
  path = tmp_path / 'a.json'
  assert files.read_json_if_valid(str(path)) is None
  path.write_text('{"a":')
  assert files.read_json_if_valid(str(path)) is None
  files.write_json(str(path), {'a': [1]})
  assert files.read_json_if_valid(str(path)) == {'a': [1]}


@pytest.mark.parametrize(
  ('name', 'found'),
  [
    ('text/trian.txt', 'text/train.txt'),
    ('txet/train.txt', 'text/train.txt'),
    ('txet/*.txt', 'text'),
    ('text/trian*.txt', 'text/train.txt'),
    ('text/train.txt', ''),
    ('text/quite_another', ''),
    ('nowhere/at/all', ''),
  ],
)
@pytest.mark.parametrize('is_relative', [True, False])
def test_the_closest_existing_path_is_named(
  tmp_path, monkeypatch, name, found, is_relative
):
  (tmp_path / 'text').mkdir()
  (tmp_path / 'text' / 'train.txt').write_text('a')
  monkeypatch.chdir(tmp_path)
  folder = '' if is_relative else f'{tmp_path}/'
  expected = f' Did you mean {folder}{found}?' if found else ''
  assert files.did_you_mean(f'{folder}{name}') == expected
