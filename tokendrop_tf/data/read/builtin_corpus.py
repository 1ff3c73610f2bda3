"""The embedded corpus: English documentation strings of installed Python code.

Every machine that can run this project has some 20 MB of such prose, so a first
run downloads nothing. The sources are parsed, never imported.
"""

import ast
import hashlib
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator

from tokendrop_tf import errors

DEFAULT_MAX_BYTES = 10_000_000

# Changes when the same sources give another text.
_FORMAT = 1

# Documentation of tests says little; the others are vendored or generated.
_SKIPPED_FOLDERS = frozenset(
  (
    '__pycache__',
    'dist-packages',
    'site-packages',
    'test',
    'tests',
    '_vendor',
    'lib2to3',
    'v1',
    '_tf_keras',
  )
)
_MIN_FILE_BYTES = 2_000
_MAX_FILE_BYTES = 2_000_000
# Parsing is what takes time, so only files rich in documentation are parsed.
_MIN_DOCUMENTED_SHARE = 0.35
_TRIPLE_QUOTED = re.compile(rb'^[ \t]*[rR]?("""|\'\'\')(.*?)\1', re.S | re.M)

_MIN_DOCUMENT_LETTERS = 100
_MIN_PARAGRAPH_WORDS = 6
_MIN_LETTER_SHARE = 0.93
_PARAGRAPH_END = re.compile(r'\n[ \t]*\n')
_LETTER = re.compile(r"[A-Za-z ,.;:'\-]")
_ENGLISH = re.compile(r'\b(?:the|a|an|of|to|is|are|and|for|in|this)\b', re.I)
_CODE_OR_TABLE = re.compile(
  r'^\s*(?:>>>|\.\.\.|\.\. |\||@|import |from \w+ import|[-=~^*+]{3,}'
  r'|:\w+.*:)|[-=~^]{4,}|::$|\S {3,}\S',
  re.M,
)
_SECTION = re.compile(
  r'^(?:Arg(?:ument)?s|Param(?:eter)?s|Attributes|Returns?|Yields?|Raises'
  r'|Examples?|Usage|References?|See Also|Notes?|Input|Output|Keyword'
  r'|Call Arguments|Methods?|Warnings?)[ \t]*:?[ \t]*(?:\n|$)',
  re.I,
)
# `name: text` and, in NumPy's style, `name : type` above the text.
_ITEM = re.compile(
  r'^\s*(?:[*\w]+ : .*|[*`\w]+(?: ?\([^)]*\))?: |:param [^:]*: )'
)
_UNDERLINE = re.compile(r'\s*[-=~^]{3,}\s*')
_NO_MARKUP = str.maketrans('', '', '`')
_ROLE = re.compile(r':[\w:]+:`~?([^`<]*?)(?: <[^`>]*>)?`')


def corpus_path(max_bytes: int = DEFAULT_MAX_BYTES) -> str:
  """Returns the text file of documentation strings, written on first use.

  Args:
    max_bytes: the file ends with the first document that reaches this size.

  Returns:
    A UTF-8 file in `TOKENDROP_CACHE` (default `~/.cache/tokendrop_tf`); one
    line a paragraph, a blank line after every document.

  Raises:
    DataError: if the cache folder cannot be written.

  Example:
    with open(corpus_path(1_000_000), encoding='utf-8') as file:
      documents = file.read().split('\\n\\n')
  """
  folder = cache_folder()
  path = os.path.join(
    folder, f'docstrings-{_FORMAT}-{sys.version_info.minor}-{max_bytes}.txt'
  )
  if os.path.exists(path):
    return path
  temporary = f'{path}.writing-{os.getpid()}'
  try:
    os.makedirs(folder, exist_ok=True)
    with open(temporary, 'w', encoding='utf-8', newline='\n') as file:
      for document in documents(max_bytes):
        file.write(document + '\n\n')
    os.replace(temporary, path)
  except OSError as error:
    raise errors.DataError(
      'The embedded corpus needs a folder that it can write to. Received: '
      f'{folder}: {error.strerror}. Set the environment variable '
      'TOKENDROP_CACHE to another folder.'
    ) from error
  finally:
    if os.path.exists(temporary):
      os.remove(temporary)
  return path


def cache_folder() -> str:
  """Returns the folder for text that this package writes for itself."""
  default = os.path.join('~', '.cache', 'tokendrop_tf')
  return os.path.expanduser(os.environ.get('TOKENDROP_CACHE') or default)


def documents(max_bytes: int) -> Iterator[str]:
  """Yields cleaned documentation strings until `max_bytes` are reached.

  Sources come in sorted order: the standard library, then the installed
  packages. No paragraph comes twice, so held-out documents are new to a model.
  """
  seen = set()
  total = 0
  for path in _source_files():
    for docstring in _docstrings(path):
      document = _clean(docstring, seen)
      if not document:
        continue
      yield document
      total += len(document.encode('utf-8')) + 2
      if total >= max_bytes:
        return


def _source_files() -> Iterator[str]:
  names = ('stdlib', 'purelib', 'platlib')
  roots = dict.fromkeys(sysconfig.get_path(name) for name in names)
  for root in roots:
    for folder, subfolders, files in os.walk(root):
      subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
      yield from (
        os.path.join(folder, name)
        for name in sorted(files)
        if name.endswith('.py')
      )


def _docstrings(path: str) -> list[str]:
  try:
    with open(path, 'rb') as file:
      source = file.read(_MAX_FILE_BYTES + 1)
  except OSError:
    return []
  if not _is_rich(source):
    return []
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Invalid escapes in others' sources.
    try:
      tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      return []
  return list(_docstrings_of(tree))


def _is_rich(source: bytes) -> bool:
  if not _MIN_FILE_BYTES <= len(source) <= _MAX_FILE_BYTES:
    return False
  documented = sum(
    len(match.group(2)) for match in _TRIPLE_QUOTED.finditer(source)
  )
  return documented >= _MIN_DOCUMENTED_SHARE * len(source)


def _docstrings_of(node: ast.AST) -> Iterator[str]:
  """Yields the docstrings of a module or class and of what it defines."""
  docstring = ast.get_docstring(node, clean=False)
  if docstring:
    yield docstring
  for child in node.body:
    if isinstance(child, ast.ClassDef | ast.FunctionDef):
      yield from _docstrings_of(child)


def _clean(docstring: str, seen: set[bytes]) -> str:
  """Returns the prose of a docstring, a paragraph a line; '' for too little."""
  text = inspect.cleandoc(docstring)
  paragraphs = []
  for paragraph in _PARAGRAPH_END.split(text):
    for piece in _pieces(paragraph):
      prose = _prose(piece)
      key = hashlib.blake2b(prose.encode('utf-8'), digest_size=8).digest()
      if prose and key not in seen:
        seen.add(key)
        paragraphs.append(prose)
  document = '\n'.join(paragraphs)
  return document if len(document) >= _MIN_DOCUMENT_LETTERS else ''


def _pieces(paragraph: str) -> list[str]:
  """Splits a list of parameters into their descriptions."""
  lines = paragraph.split('\n')
  if _SECTION.match(paragraph):
    lines = [line for line in lines[1:] if not _UNDERLINE.fullmatch(line)]
  elif not _ITEM.match(lines[0]):
    return [paragraph]
  indents = [len(line) - len(line.lstrip()) for line in lines]
  pieces = []
  for line, indent in zip(lines, indents, strict=True):
    if indent > min(indents) and pieces:
      pieces[-1] += '\n' + line
    else:
      pieces.append(_ITEM.sub('', line))
  return pieces


def _prose(paragraph: str) -> str:
  """Returns the paragraph as one line, '' if it is code or a table."""
  if _CODE_OR_TABLE.search(paragraph):
    return ''
  line = ' '.join(paragraph.split())
  line = _ROLE.sub(r'\1', line).translate(_NO_MARKUP)
  letters = len(_LETTER.findall(line))
  is_prose = (
    line.isprintable()
    and line.count(' ') + 1 >= _MIN_PARAGRAPH_WORDS
    and letters >= _MIN_LETTER_SHARE * len(line)
    and _ENGLISH.search(line)
  )
  return line if is_prose else ''
