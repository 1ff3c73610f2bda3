"""The house: every module in its room, every import from a lower floor."""

import ast
import collections
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A room imports only from the floors above its own in this list.
FLOORS = (
  'errors',
  'files schedules settings',
  'layers',
  'dropping text command_line',
  'config stack',
  'run data encoder',
  'weights pretrainer generation',
  'tasks',
  'finetuning',
  'export train',
  'serving',
  'tools pages',
)
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms.split()}
# Within data/: its own modules, loader, checks and commands, stand on top.
DATA_FLOOR = {'read': 0, 'examples': 1, 'shards': 2}
# On demand: `finetuning.load_finetuned` is a public name.
KNOWN_IMPORTS = {'finetuning -> export.load_model'}


def _modules():
  """Returns the path of every module by its dotted name."""
  paths = (
    path
    for top in ('tokendrop_tf', 'tools')
    for path in sorted((ROOT / top).rglob('*.py'))
  )
  names = (
    path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')
    for path in paths
  )
  return {
    name.removesuffix('.__init__'): ROOT / f'{name.replace(".", "/")}.py'
    for name in names
  }


MODULES = _modules()
# Scripts that a person starts: one line each, named as the command is.
SCRIPTS = {
  name for name, path in MODULES.items() if path.parent == ROOT / 'tools'
}


def _imports(name):
  """Yields the modules of the house that a module imports, anywhere in it."""
  for node in ast.walk(ast.parse(MODULES[name].read_text())):
    if isinstance(node, ast.Import):
      found = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{name}: imports are written in full'
      found = [f'{node.module}.{alias.name}' for alias in node.names]
      found = [n if n in MODULES else node.module for n in found]
    else:
      continue
    yield from (n for n in found if n in MODULES and n != 'tokendrop_tf')


IMPORTS = {name: sorted(set(_imports(name))) for name in MODULES}


def _room(name):
  """Returns 'data' of 'tokendrop_tf.data.read.corpus'."""
  parts = name.split('.')
  return parts[0] if parts[0] == 'tools' else parts[1]


def _is_upward(source, target):
  room, other = _room(source), _room(target)
  if room != other:
    return FLOOR[other] >= FLOOR[room]
  if room != 'data':
    return False
  floors = [DATA_FLOOR.get(name.split('.')[2], 3) for name in (source, target)]
  return floors[1] > floors[0]


def test_every_import_is_from_a_lower_floor():
  found = {
    f'{source} -> {target}'.replace('tokendrop_tf.', '')
    for source, targets in IMPORTS.items()
    for target in targets
    if source not in SCRIPTS
    if _is_upward(source, target)
  }
  assert not found - KNOWN_IMPORTS, 'imports that go up'
  assert not KNOWN_IMPORTS - found, 'gone: remove these from KNOWN_IMPORTS'


def test_no_modules_import_each_other_in_a_circle():
  try:
    graphlib.TopologicalSorter(IMPORTS).prepare()
  except graphlib.CycleError as error:
    pytest.fail(' -> '.join(error.args[1]))


def test_no_two_modules_have_one_name():
  names = collections.Counter(
    name.rsplit('.', 1)[-1] for name in set(MODULES) - SCRIPTS
  )
  assert {name for name, count in names.items() if count > 1} == set()


def test_every_module_has_a_room():
  assert {_room(name) for name in MODULES if '.' in name} <= set(FLOOR)
