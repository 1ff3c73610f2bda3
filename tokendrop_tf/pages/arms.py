"""The arms of a twin: what each run is bound to, and where it lies."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

from tokendrop_tf import errors, files

ARMS_FILE = 'arms.json'
# One corruption for the validation of all arms, whatever they train on: 15 % of
# the tokens are labels, and all of them show [MASK].
VALIDATION = (
  "validation_data.masking = 'token'",
  'validation_data.mask_rate = 0.15',
  'validation_data.mask_token_share = 1.0',
  'validation_data.random_token_share = 0.0',
)
_DECLARATION = re.compile(
  r'(?P<name>[\w .+-]*[\w.+-])\s*(?:\[(?P<seeds>[\d,\s]*)\])?\s*'
  r'(?::(?P<bindings>.*))?$',
  re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Arm:
  """One arm, of one run for each seed.

  Attributes:
    name: its name.
    bindings: gin bindings in addition to those that all arms share.
    seeds: of the runs to train; of each, `pretraining.seed`.
    folders: of runs that are only read.
  """

  name: str
  bindings: tuple[str, ...] = ()
  seeds: tuple[int, ...] = ()
  folders: tuple[str, ...] = ()

  def folders_in(self, output: str) -> list[str]:
    """Returns the folders of all runs of the arm."""
    own = [self.folder_of(output, seed) for seed in self.seeds]
    return own + list(self.folders)

  def folder_of(self, output: str, seed: int) -> str:
    """Returns the folder of a run that the twin trains."""
    return os.path.join(output, as_folder(self.name), f'seed_{seed}')


def as_folder(name: str) -> str:
  """Returns a name as the name of a folder."""
  return re.sub(r'[^\w.+-]+', '_', name)


@dataclasses.dataclass(frozen=True)
class Declaration:
  """A twin: its arms, the first of which the others are compared with.

  Attributes:
    arms: the arms.
    gin_files: gin files of all runs that the twin trains.
    gin_params: gin bindings of all of them.
    tasks: gin bindings of fine-tuning tasks, by name.
    learning_rates: peak rates of fine-tuning, as they were written.
    task_seeds: of fine-tuning.
  """

  arms: tuple[Arm, ...]
  gin_files: tuple[str, ...] = ()
  gin_params: tuple[str, ...] = ()
  tasks: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  learning_rates: tuple[str, ...] = ()
  task_seeds: tuple[int, ...] = ()

  def launcher_arguments(self, arm: Arm, seed: int, output: str) -> list[str]:
    """Returns the launcher's arguments for a run of an arm."""
    bindings = [
      *VALIDATION,
      *self.gin_params,
      *arm.bindings,
      f'pretraining.seed = {seed}',
    ]
    return [
      *(f'--gin_file={name}' for name in self.gin_files),
      *(f'--gin_params={binding}' for binding in bindings),
      f'--model_dir={arm.folder_of(output, seed)}',
    ]


def write(declaration: Declaration, output: str) -> None:
  """Writes `arms.json`."""
  files.write_json(
    os.path.join(output, ARMS_FILE), dataclasses.asdict(declaration)
  )


def read(output: str) -> Declaration:
  """Reads `arms.json`.

  Raises:
    errors.ConfigurationError: without one.
  """
  path = os.path.join(output, ARMS_FILE)
  if not os.path.exists(path):
    raise errors.ConfigurationError(
      f'--output must be the folder of a twin. Received: {output}, which has '
      f'no {ARMS_FILE}. Declare the arms by --arm, or runs by --runs.'
    )
  found = files.read_json_object(path)
  arms = [{k: _tuples(v) for k, v in arm.items()} for arm in found.pop('arms')]
  tasks = {k: tuple(v) for k, v in found.pop('tasks').items()}
  return Declaration(
    arms=tuple(Arm(**arm) for arm in arms),
    tasks=tasks,
    **{name: tuple(value) for name, value in found.items()},
  )


def _tuples(value):
  return tuple(value) if isinstance(value, list) else value


def parse_arm(text: str, seeds: Sequence[int]) -> Arm:
  """Reads 'NAME: BINDING; BINDING', or 'NAME [SEED, SEED]: ...'.

  Args:
    text: the declaration.
    seeds: those of an arm without its own.
  """
  name, own, bindings = _parse('--arm', text)
  return Arm(name, bindings, tuple(seeds if own is None else own))


def parse_task(text: str) -> tuple[str, tuple[str, ...]]:
  """Reads 'NAME: BINDING; BINDING' into the name and the bindings."""
  name, _, bindings = _parse('--task', text)
  return name, bindings


def _parse(flag, text):
  match = _DECLARATION.match(text.strip())
  if not match:
    raise errors.ConfigurationError(
      f"{flag} must be 'NAME: BINDING; BINDING'. Received: {text!r}. Correct "
      f'{flag}.'
    )
  parts = re.split(r'[;\n]', match['bindings'] or '')
  seeds = match['seeds']
  return (
    match['name'],
    None if seeds is None else [int(s) for s in seeds.split(',') if s.strip()],
    tuple(part.strip() for part in parts if part.strip()),
  )


def parse_runs(text: str) -> tuple[str, tuple[str, ...]]:
  """Reads 'NAME=FOLDER,FOLDER' into the name and the folders.

  Raises:
    errors.ConfigurationError: if one is no folder.
  """
  name, _, folders = text.partition('=')
  found = tuple(part.strip() for part in folders.split(',') if part.strip())
  absent = [folder for folder in found if not os.path.isdir(folder)]
  if not name or not found or absent:
    raise errors.ConfigurationError(
      "--runs must be 'NAME=FOLDER,FOLDER' of runs that exist. Received: "
      f'{text!r}{", without " + absent[0] if absent else ""}. Correct --runs.'
    )
  return name.strip(), found


def gathered(
  arms: Sequence[Arm], runs: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[Arm, ...]:
  """Returns the arms with the runs that are given, each name once.

  Args:
    arms: to train.
    runs: (name, folders) to read; of an arm of that name, or of a new one.
  """
  found = {}
  for arm in (*arms, *(Arm(name, folders=where) for name, where in runs)):
    known = found.get(arm.name)
    if known and (known.bindings or known.seeds) and arm.seeds:
      raise errors.ConfigurationError(
        f'Arms must have different names. Received: {arm.name!r} twice. '
        'Correct --arm.'
      )
    found[arm.name] = (
      dataclasses.replace(known, folders=known.folders + arm.folders)
      if known
      else arm
    )
  return tuple(found.values())
