"""Every command of the documents is one that its program understands.

Commands are taken from README.md, docs/ and the headers of the gin files. The
launcher's are read as far as the tree of settings, those of the tools as far as
their flags; nothing is run.
"""

import argparse
import importlib
import pathlib
import re
import shlex

import pytest

from tokendrop_tf import command_line, train
from tokendrop_tf.config import gin_reader

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCHERS = ('python -m tokendrop_tf.train', 'tokendrop-train')
# What a document leaves for the reader to fill in.
ELLIPSES = (' ...', ' FLAGS', '(what ', '=mine.gin')


def commands_of(path):
  """Yields the commands of a document, as a shell would read them."""
  text = re.sub(r'^#+ ?(Command: )?', '', path.read_text(), flags=re.MULTILINE)
  lines = iter(text.splitlines())
  for line in lines:
    indentation = len(line) - len(line.lstrip())
    command = line.strip()
    while is_unfinished(command):
      command = command.removesuffix('\\') + next(lines)[indentation:]
    command = re.sub(r'^for .*; do ', '', command).removesuffix('; done')
    if command.startswith((*LAUNCHERS, 'python tools/')):
      yield re.sub(r'\$\w+', '1', command)


def is_unfinished(command):
  if not re.match(r'(for |python |tokendrop)', command):
    return False
  try:
    shlex.split(command)
  except ValueError:  # A quotation, or nothing behind a backslash.
    return True
  return command.endswith('\\')


DOCUMENTS = [
  ROOT / 'README.md',
  *sorted(ROOT.glob('docs/*.md')),
  *sorted(ROOT.glob('gin_configs/**/*.gin')),
]
COMMANDS = [
  pytest.param(command, id=f'{path.name}-{number}')
  for path in DOCUMENTS
  for number, command in enumerate(commands_of(path))
  if not any(mark in command for mark in ELLIPSES)
]


def test_there_are_commands():
  assert len(COMMANDS) > 60


class Parsed(Exception):
  """The flags were understood."""


def stop_when_parsed(monkeypatch):
  parse = argparse.ArgumentParser.parse_args

  def parse_and_stop(self, args=None, namespace=None):
    parse(self, args, namespace)
    raise Parsed

  monkeypatch.setattr(command_line.ArgumentParser, 'parse_args', parse_and_stop)


@pytest.fixture(autouse=True)
def gin_is_left_clean():
  yield
  gin_reader.clear()


@pytest.mark.parametrize('command', COMMANDS)
def test_a_documented_command_is_understood(command, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  words = shlex.split(command, comments=True)
  if 'run_stablehlo' in command:
    pytest.importorskip('jax', reason='JAX has an environment of its own')
  for launcher in LAUNCHERS:
    if command.startswith(launcher):
      check_launcher(words[len(launcher.split()) :])
      return
  if 'launch_local_workers' in words[1] and '--' in words:
    check_launcher(words[words.index('--') + 1 :])
  stop_when_parsed(monkeypatch)
  with pytest.raises(Parsed):
    main_of(words[1])(words[2:])


def check_launcher(arguments):
  # Weights to start from would be looked for.
  arguments = [
    re.sub(r"INIT_FROM = '.*'", "INIT_FROM = ''", argument)
    for argument in arguments
  ]
  flags = train.parse_flags(arguments)
  if flags.gin_file:
    train.read_configuration(flags)


def main_of(tool):
  """Returns the `main` of the module that a tool runs."""
  text = (ROOT / tool).read_text()
  if 'def main(' in text:
    return importlib.import_module(f'tools.{pathlib.Path(tool).stem}').main
  package, name = re.search(r'from (\S+) import (\w+)\n', text).groups()
  return importlib.import_module(f'{package}.{name}').main
