import ast
import os
import sysconfig

import pytest

from tokendrop_tf import errors
from tokendrop_tf.data.read import builtin_corpus

PROSE = (
  'Returns the first of the numbers that is larger than the others, '
  'or none of them if there is no such number in the list.'
)


def clean(text):
  return builtin_corpus._clean(text, set())


def test_prose_stays_and_its_lines_are_joined():
  assert clean(PROSE.replace(' that ', '\n    that ')) == PROSE


def test_paragraphs_are_lines_and_markup_goes():
  second = 'It is like :class:`~numpy.ndarray`, but ``smaller`` in size.'
  assert clean(f'{PROSE}\n\n    {second}') == (
    f'{PROSE}\nIt is like numpy.ndarray, but smaller in size.'
  )


@pytest.mark.parametrize(
  'code',
  [
    '>>> the_first(of=the_numbers)\nthe third of them is a number',
    'x = [f(y) for y in (a, b)]; z = {k: v[0] for k in x}',
    '===== ========\nthe a    of the is\n===== ========',
    '.. code-block:: the name of a language is here',
    '| the left of a | the right of a | is this |',
  ],
)
def test_code_and_tables_go(code):
  assert clean(f'{PROSE}\n\n{code}') == PROSE


def test_lists_of_parameters_become_their_descriptions():
  google = (
    f'{PROSE}\n\nArgs:\n  name: Name of the file that is\n    written '
    'at the end.\n  size: int'
  )
  numpy = (
    f'{PROSE}\n\nParameters\n----------\nname : str\n    Name of the '
    'file that is\n    written at the end.'
  )
  expected = f'{PROSE}\nName of the file that is written at the end.'
  assert clean(google) == expected
  assert clean(numpy) == expected


def test_short_and_foreign_texts_go():
  assert clean('Returns the name.') == ''
  assert (
    clean(
      'Gibt die erste Zahl zurück, die größer als alle übrigen ist, '
      'und nichts, wo keine solche Zahl vorhanden war.'
    )
    == ''
  )


def test_no_paragraph_comes_twice():
  seen = set()
  assert builtin_corpus._clean(PROSE, seen) == PROSE
  assert builtin_corpus._clean(PROSE, seen) == ''


def test_docstrings_of_modules_classes_and_functions_are_found():
  tree = ast.parse(
    '"""module"""\nclass A:\n  """class"""\n  def f(self):\n    "method"\n'
    'def g():\n  """function"""\n  x = """no docstring"""\n'
  )
  assert list(builtin_corpus._docstrings_of(tree)) == [
    'module',
    'class',
    'method',
    'function',
  ]


@pytest.fixture
def library(tmp_path, monkeypatch):
  """A library of three source files in place of the installed ones."""
  folder = tmp_path / 'library'
  (folder / 'tests').mkdir(parents=True)
  for name in ('b.py', 'a.py', 'tests/c.py', 'broken.py'):
    words = [
      f'{PROSE} This is number {number} of {name[-4]} here, the end.'
      for number in range(30)
    ]
    body = '\n'.join(
      f'def f{number}():\n  """{text}"""\n' for number, text in enumerate(words)
    )
    broken = 'def (:' if name == 'broken.py' else ''
    (folder / name).write_text(body + broken)
  monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(folder))
  monkeypatch.setenv('TOKENDROP_CACHE', str(tmp_path / 'cache'))
  return folder


def test_sources_are_read_in_order_without_tests_and_broken_ones(library):
  texts = list(builtin_corpus.documents(1_000_000))
  assert len(texts) == 60
  assert ['of a' in text for text in texts] == [True] * 30 + [False] * 30


def test_reading_stops_at_the_limit(library):
  sizes = [len(text) + 2 for text in builtin_corpus.documents(1_000)]
  assert sum(sizes[:-1]) < 1_000 <= sum(sizes)


def test_the_file_is_written_once_and_kept(library):
  path = builtin_corpus.corpus_path(5_000)
  with open(path, encoding='utf-8') as file:
    text = file.read()
  assert text.split('\n\n')[:-1] == list(builtin_corpus.documents(5_000))
  (library / 'a.py').unlink()
  assert builtin_corpus.corpus_path(5_000) == path
  with open(path, encoding='utf-8') as file:
    assert file.read() == text
  assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_each_limit_has_a_file_of_its_own(library):
  assert builtin_corpus.corpus_path(1_000) != builtin_corpus.corpus_path(2_000)


def test_a_folder_that_cannot_be_written_is_named(library, monkeypatch):
  monkeypatch.setenv('TOKENDROP_CACHE', str(library / 'a.py' / 'cache'))
  with pytest.raises(errors.DataError, match='a.py/cache.*TOKENDROP_CACHE'):
    builtin_corpus.corpus_path(1_000)


def test_the_real_library_gives_english_prose():
  texts = list(builtin_corpus.documents(200_000))
  assert sum(map(len, texts)) >= 190_000
  words = ' '.join(texts).split()
  assert words.count('the') / len(words) > 0.03
