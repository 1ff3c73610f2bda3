"""The package as it is installed, and the commands that install it."""

import ast
import email
import importlib
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging import requirements, utils

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON_VERSIONS = ('3.10', '3.11', '3.12', '3.13')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> zipfile.ZipFile:
  """The wheel, built of a copy: building leaves folders behind."""
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'
  source.mkdir()
  for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  for name in ('tokendrop_tf', 'gin_configs', 'tests', 'tools'):
    shutil.copytree(
      ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__')
    )
  subprocess.run(
    [
      sys.executable,
      '-m',
      'pip',
      'wheel',
      '--quiet',
      '--no-deps',
      '--no-index',
      '--no-build-isolation',
      '--wheel-dir',
      str(folder),
      str(source),
    ],
    check=True,
    capture_output=True,
  )
  [path] = folder.glob('*.whl')
  with zipfile.ZipFile(path) as archive:
    yield archive


def metadata(wheel, name) -> str:
  [path] = [
    path
    for path in wheel.namelist()
    if re.search(rf'\.dist-info/(licenses/)?{name}$', path)
  ]
  return wheel.read(path).decode()


def test_wheel_holds_every_module_and_gin_file_and_nothing_else(wheel):
  modules = {
    str(path.relative_to(ROOT))
    for path in (ROOT / 'tokendrop_tf').rglob('*.py')
  }
  gin_files = {
    f'tokendrop_tf/{path.relative_to(ROOT)}'
    for path in (ROOT / 'gin_configs').rglob('*.gin')
  }
  assert len(gin_files) > 5
  templates = {
    str(path.relative_to(ROOT))
    for path in (ROOT / 'tokendrop_tf' / 'pages' / 'templates').iterdir()
  }
  assert templates
  packed = {path for path in wheel.namelist() if '.dist-info/' not in path}
  assert packed == modules | gin_files | templates


def test_every_package_that_is_imported_is_required(wheel):
  fields = email.message_from_string(metadata(wheel, 'METADATA'))
  required = {
    utils.canonicalize_name(requirements.Requirement(text).name)
    for text in fields.get_all('Requires-Dist')
  }
  distributions = importlib.metadata.packages_distributions()
  for path in (ROOT / 'tokendrop_tf').rglob('*.py'):
    for name in _imported(ast.parse(path.read_text(encoding='utf-8'))):
      if name in sys.stdlib_module_names or name == 'tokendrop_tf':
        continue
      packages = distributions.get(name, [name.replace('_', '-')])
      found = {utils.canonicalize_name(package) for package in packages}
      assert required & found, f'{path} imports {name}.'


def _imported(tree):
  """Yields the top-level packages that a module imports, anywhere in it."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name.partition('.')[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module.partition('.')[0]


def test_console_scripts_name_functions_that_exist(wheel):
  text = metadata(wheel, 'entry_points.txt')
  scripts = dict(re.findall(r'^(\S+) = (\S+)$', text, re.M))
  assert sorted(scripts) == [
    'tokendrop-build-vocab',
    'tokendrop-compare-runs',
    'tokendrop-create-pretraining-data',
    'tokendrop-export',
    'tokendrop-fill-mask',
    'tokendrop-generate',
    'tokendrop-inspect-data',
    'tokendrop-inspect-run',
    'tokendrop-predict',
    'tokendrop-quickstart',
    'tokendrop-score-tokens',
    'tokendrop-serve',
    'tokendrop-sweep',
    'tokendrop-train',
  ]
  for target in scripts.values():
    module, function = target.split(':')
    assert callable(getattr(importlib.import_module(module), function)), target


def test_tools_are_thin_over_the_package():
  tools = {path.name: path for path in (ROOT / 'tools').glob('*.py')}
  del tools['launch_local_workers.py']  # No part of the package.
  for tool in tools.values():
    tree = ast.parse(tool.read_text(encoding='utf-8'))
    defined = [
      node
      for node in tree.body
      if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    assert not defined, tool.name


def test_wheel_asks_for_the_supported_pythons_and_its_own_licence(wheel):
  fields = email.message_from_string(metadata(wheel, 'METADATA'))
  assert fields['Requires-Python'] in ('>=3.10,<3.14', '<3.14,>=3.10')
  assert 'Apache-2.0' in (fields['License'], fields['License-Expression'])
  assert 'Apache License' in metadata(wheel, 'LICENSE')


def constraints() -> list[requirements.Requirement]:
  text = (ROOT / 'constraints.txt').read_text(encoding='utf-8')
  return [
    requirements.Requirement(line)
    for line in text.splitlines()
    if line and not line.startswith('#')
  ]


@pytest.mark.parametrize('python_version', PYTHON_VERSIONS)
def test_one_pin_of_every_requirement_fits_each_python(wheel, python_version):
  environment = {
    'python_version': python_version,
    'python_full_version': f'{python_version}.5',
    'sys_platform': 'linux',
    'platform_system': 'Linux',
    'extra': 'dev',
  }
  pins = {}
  for pin in constraints():
    if pin.marker is None or pin.marker.evaluate(environment):
      name = utils.canonicalize_name(pin.name)
      assert name not in pins, f'{name} is pinned twice.'
      pins[name] = pin.specifier
  fields = email.message_from_string(metadata(wheel, 'METADATA'))
  required = [
    requirement
    for requirement in map(
      requirements.Requirement, fields.get_all('Requires-Dist')
    )
    if requirement.marker is None or requirement.marker.evaluate(environment)
  ]
  assert len(required) > 10
  for requirement in required:
    [pin] = pins[utils.canonicalize_name(requirement.name)]
    assert pin.operator == '==', requirement.name
    assert requirement.specifier.contains(pin.version), requirement.name


def test_no_installation_file_names_a_registry():
  for name in (
    'constraints.txt',
    'pyproject.toml',
    'setup.py',
    'Makefile',
    '.ci/run',
  ):
    text = (ROOT / name).read_text(encoding='utf-8')
    assert '://' not in text, name
    assert 'index-url' not in text, name


def test_continuous_integration_runs_make_test_alone():
  lines = (ROOT / '.ci' / 'run').read_text(encoding='utf-8').splitlines()
  commands = [
    line for line in lines if line and not line.startswith(('#', 'set ', 'cd '))
  ]
  assert commands == ['make test']


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
  """What make needs, in a folder with a space in its name."""
  folder = tmp_path / 'a checkout'
  folder.mkdir()
  for name in ('Makefile', 'setup.py', 'pyproject.toml', 'constraints.txt'):
    shutil.copy(ROOT / name, folder)
  return folder


def run_make(checkout, *arguments) -> subprocess.CompletedProcess:
  return subprocess.run(
    ['make', *arguments],
    cwd=checkout,
    capture_output=True,
    text=True,
    check=False,
  )


def fake_python(checkout, script) -> str:
  path = checkout / 'python'
  path.write_text(f'#!/bin/sh\n{script}\n')
  path.chmod(0o755)
  return str(path)


def test_make_says_what_to_do_without_a_fitting_python(checkout):
  python = fake_python(checkout, 'exit 1')
  result = run_make(checkout, 'test', f'PYTHON={python}')
  assert result.returncode == 2
  assert 'A Python from 3.10 to 3.13' in result.stderr
  assert f'Tried: {python}.' in result.stderr
  assert 'make PYTHON=/path/to/python3.12 test' in result.stderr
  assert not (checkout / '.venv').exists()


def test_make_shows_why_an_installation_failed(checkout):
  pip = (
    'case "$*" in *--version*) exit 0;; esac\n'
    'echo lots of progress; echo ERROR: disk full >&2; exit 1'
  )
  (checkout / '.venv' / 'bin').mkdir(parents=True)
  shutil.move(fake_python(checkout, pip), checkout / '.venv' / 'bin' / 'python')
  result = run_make(checkout, 'install')
  assert result.returncode == 2
  assert 'ERROR: disk full' in result.stderr
  assert 'The installation failed' in result.stderr
  assert not (checkout / '.venv' / 'installed.stamp').exists()


def test_make_installs_once_and_again_when_the_pins_change(checkout):
  record = 'case "$*" in *--version*) exit 0;; esac\necho "$@" >> calls.txt'
  (checkout / '.venv' / 'bin').mkdir(parents=True)
  shutil.move(
    fake_python(checkout, record), checkout / '.venv' / 'bin' / 'python'
  )
  calls = checkout / 'calls.txt'
  assert run_make(checkout, 'install').returncode == 0
  first = calls.read_text()
  assert '--constraint constraints.txt' in first
  assert run_make(checkout, 'install').returncode == 0
  assert calls.read_text() == first
  stamp = (checkout / '.venv' / 'installed.stamp').stat()
  pins = checkout / 'constraints.txt'
  pins.touch()

  os.utime(pins, (stamp.st_mtime + 5, stamp.st_mtime + 5))
  assert run_make(checkout, 'install').returncode == 0
  assert calls.read_text() == first * 2


def test_asking_for_the_version_loads_no_tensorflow():
  code = (
    'import sys, tokendrop_tf; '
    'print(tokendrop_tf.__version__, "tensorflow" in sys.modules)'
  )
  printed = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
  assert re.fullmatch(r'\d+\.\d+\.\d+', printed[0])
  assert printed[1] == 'False'
