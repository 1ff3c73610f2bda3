import gzip
import random

import pytest

from tokendrop_tf import errors
from tokendrop_tf.data.read import text_files


def write(path, content: bytes):
  path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)
  return str(path)


def test_globs_are_expanded_sorted_and_joined(tmp_path):
  for name in ('b.txt', 'a.txt', 'c.txt.gz', 'd.other'):
    write(tmp_path / name, b'text')
  (tmp_path / 'folder.txt').mkdir()
  found = text_files.match_files(
    f'{tmp_path}/*.txt, {tmp_path}/a*,{tmp_path}/*.gz'
  )
  assert [path.rpartition('/')[2] for path in found] == [
    'a.txt',
    'b.txt',
    'c.txt.gz',
  ]


def test_a_list_of_globs_is_a_source_too(tmp_path):
  paths = [write(tmp_path / name, b'text') for name in ('a.txt', 'b.txt')]
  assert text_files.match_files(paths) == tuple(paths)


def test_a_name_with_brackets_is_found(tmp_path):
  path = write(tmp_path / 'wiki[1].txt', b'text')
  assert text_files.match_files(path) == (path,)


def test_a_glob_without_files_is_named(tmp_path):
  write(tmp_path / 'a.txt', b'text')
  with pytest.raises(errors.DataError) as caught:
    text_files.match_files(f'{tmp_path}/a.txt,nowhere/*.txt', 'x.input_path')
  assert str(caught.value) == (
    "x.input_path must name existing files. Received: 'nowhere/*.txt', which "
    'matches no file. Set x.input_path.'
  )


@pytest.mark.parametrize('input_path', ['', ' , ', []])
def test_no_glob_at_all_is_refused(input_path):
  with pytest.raises(errors.DataError, match='must name files'):
    text_files.match_files(input_path)


@pytest.mark.parametrize('name', ['a.txt', 'a.txt.gz'])
def test_text_is_read_without_a_byte_order_mark(tmp_path, name):
  text = 'naïve\r\n東京\n' * 1000
  path = write(tmp_path / name, f'\ufeff{text}'.encode())
  assert text_files.read_text(path) == text


@pytest.mark.parametrize('name', ['a.txt', 'a.txt.gz'])
@pytest.mark.parametrize('end', [b'\xe9t\xe9\nok\n', 'é'.encode()[:-1]])
def test_what_is_not_utf8_is_named_with_its_line(tmp_path, name, end):
  path = write(tmp_path / name, '\ufeffé\nüü\nok '.encode() + end)
  with pytest.raises(errors.DataError, match='Text must be UTF-8') as caught:
    text_files.read_text(path)
  assert f'Received: {path}, line 3, which is not.' in str(caught.value)


@pytest.mark.parametrize(
  'damage',
  [
    lambda data: data[: len(data) // 2],
    lambda data: data[:40] + b'\0\1\2\3' + data[44:],
    lambda data: data[:-8] + bytes(8),
    lambda data: b'no gzip data at all',
  ],
  ids=['truncated', 'altered', 'checksum', 'not gzip'],
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
  content = ''.join(f'line {number}\n' for number in range(5000)).encode()
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(damage(gzip.compress(content)))
  with pytest.raises(errors.DataError, match='whole gzip data') as caught:
    text_files.read_text(str(path))
  assert f'Received: {path}, damaged after' in str(caught.value)


@pytest.mark.parametrize('name', ['a.txt', 'a.txt.gz'])
def test_the_unpacked_size_is_known_without_unpacking(tmp_path, name):
  path = write(tmp_path / name, b'word ' * 999)
  assert text_files.num_bytes(path) == 4995


def test_the_size_of_several_gzip_members_is_estimated(tmp_path):
  """As pigz, bgzip and `cat a.gz b.gz` write them."""
  draw = random.Random(0)
  member = ' '.join(str(draw.randrange(10**6)) for _ in range(20_000)).encode()
  path = tmp_path / 'a.txt.gz'
  for members in (2, 10):
    # An empty one at the end, as bgzip has it.
    for last in (member, b''):
      parts = [member] * (members - 1) + [last]
      path.write_bytes(b''.join(map(gzip.compress, parts)))
      size = sum(map(len, parts))
      assert abs(text_files.num_bytes(str(path)) - size) < 0.02 * size


def test_the_size_of_a_damaged_gzip_file_is_no_failure(tmp_path):
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(b'\x1f\x8b' + 100 * b'no gzip')
  assert text_files.num_bytes(str(path)) > 0
