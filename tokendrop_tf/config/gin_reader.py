"""Reads gin files strictly: nothing in them is ignored, no module is imported.

gin passes over a mistyped scope, a mistyped macro and a binding of a function
that is never called. Here every statement is read by gin's own parser and
remembered with its place, so that each mistake is reported with file, line and
the closest valid name.
"""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import re
import tokenize
from collections.abc import Iterator

import gin
import tensorflow as tf
from gin import config_parser

from tokendrop_tf import command_line, errors, files
from tokendrop_tf.config import gin_sections, sections

PACKAGE_FOLDER = pathlib.Path(__file__).resolve().parents[1]
BINDINGS_PLACE = '--gin_params'
MACRO = 'gin.macro'
# `name = text`, where the quotes around the text have been forgotten.
_UNQUOTED = re.compile(
  r"""\s*(?P<name>[\w./]+)\s*=\s*(?P<text>[A-Za-z_./~*][^'"\[\](){},=%@#]*)"""
)
_UNREADABLE = re.compile(r"Failed to parse token '([A-Za-z_]\w*)'")


@dataclasses.dataclass(frozen=True)
class Binding:
  """One `scope/section.parameter = value` or `MACRO = value` as written.

  Attributes:
    scope: text before the last '/', '' without one.
    selector: name of the section, or of the macro.
    parameter: name of the setting; '' for a macro.
    place: 'file:line' of the statement.
  """

  scope: str
  selector: str
  parameter: str
  place: str

  @property
  def name(self):
    prefix = f'{self.scope}/' if self.scope else ''
    suffix = f'.{self.parameter}' if self.parameter else ''
    return f'{prefix}{self.selector}{suffix}'

  @property
  def section(self):
    return self.selector.rsplit('.', 1)[-1]


def config_folder():
  """Returns the folder of the packaged gin files, as `pathlib.Path`.

  An installed wheel carries them inside the package; in a checkout they are
  next to it.
  """
  inside = PACKAGE_FOLDER / 'gin_configs'
  return inside if inside.is_dir() else PACKAGE_FOLDER.parent / 'gin_configs'


def find_config_file(name, including_file=None):
  """Finds a gin file: as given, next to the including file, then packaged.

  Args:
    name: path, also of a bucket; a packaged file goes with or without
      `gin_configs/` before it.
    including_file: path of the file that includes it, if any.

  Returns:
    An existing path, str.

  Raises:
    errors.ConfigurationError: when there is none; names the closest.
  """
  packaged = config_folder()
  # os.path keeps the two slashes of gs://, which pathlib does not.
  neighbours = os.path.dirname(including_file) if including_file else ''
  for folder in (neighbours, str(packaged), str(packaged.parent)):
    candidate = name if _is_remote(name) else os.path.join(folder, name)
    if _is_file(candidate):
      return candidate
  known = sorted(
    str(path.relative_to(packaged)) for path in packaged.rglob('*.gin')
  )
  wanted = name.removeprefix('gin_configs/')
  raise errors.ConfigurationError(
    f'A gin file must exist. Received: {name}.'
    f'{command_line.did_you_mean(wanted, known)} Packaged: '
    f'{", ".join(known)}.'
  )


def _is_remote(path) -> bool:
  return '://' in path


def _is_file(path) -> bool:
  try:
    return tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)
  except tf.errors.OpError:  # No file system of that name, or no right.
    return False


def clear():
  """Forgets all bindings."""
  gin.clear_config()


def parse(paths, bindings, allow_imports=False):
  """Binds all statements of `paths`, then of `bindings`, in gin.

  Args:
    paths: gin files.
    bindings: strings of gin statements, e.g. `'model.num_layers = 3'`.
    allow_imports: whether `import` statements are obeyed; they run code, and
      may declare more settings.

  Returns:
    list of `Binding`, in order.

  Raises:
    errors.ConfigurationError: for the first statement that cannot be used.

  Example:
    parse(['quickstart.gin'], ['trainer.train_steps = 10'])
  """
  clear()
  reader = _Reader(allow_imports)
  for name in paths:
    reader.read_file(find_config_file(name))
  for text in bindings:
    reader.read_text(text, BINDINGS_PLACE)
  return reader.bindings


class _Reader:
  """Walks through statements and includes, binding as it goes."""

  def __init__(self, allow_imports):
    self._sections = gin_sections.register()
    self._allow_imports = allow_imports
    self._open_files = []
    self.bindings = []

  def read_file(self, path):
    if os.path.normpath(path) in map(os.path.normpath, self._open_files):
      raise errors.ConfigurationError(
        f'A gin file must not include itself. Received: '
        f'{" -> ".join(self._open_files + [path])}.'
      )
    try:
      text = files.read_bytes(path).decode()
    except (UnicodeDecodeError, tf.errors.OpError) as error:
      raise errors.ConfigurationError(
        f'A gin file must be readable UTF-8 text. Received: {path}: {error}.'
      ) from error
    self._open_files.append(path)
    self.read_text(text, path)
    self._open_files.pop()

  def read_text(self, text, source):
    for statement in self._statements(text, source):
      place = f'{_short(source)}:{statement.location.line_num}'
      if source == BINDINGS_PLACE:
        line = text.splitlines()[statement.location.line_num - 1].strip()
        place = f'{BINDINGS_PLACE}="{line}"'
      self._obey(statement, source, place)

  def _statements(self, text, source):
    """Yields gin's statements; a syntax error becomes ours, with its line."""
    try:
      yield from config_parser.ConfigParser(
        text, _Delegate(self._allow_imports)
      )
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
      if isinstance(error, errors.UserError):
        raise
      raise errors.ConfigurationError(
        _syntax_message(error, text, source)
      ) from error

  def _obey(self, statement, source, place):
    if isinstance(statement, config_parser.BindingStatement):
      self._bind(statement, place)
    elif isinstance(statement, config_parser.IncludeStatement):
      including_file = None if source == BINDINGS_PLACE else source
      self.read_file(find_config_file(statement.filename, including_file))
    elif isinstance(statement, config_parser.ImportStatement):
      self._import(statement, place)
    elif isinstance(statement, config_parser.BlockDeclaration):
      self._check_section(statement.selector, place)

  def _bind(self, statement, place):
    binding = Binding(
      statement.scope, statement.selector, statement.arg_name or '', place
    )
    if binding.parameter:
      self._check_section(binding.selector, place)
      self._check_parameter(binding)
    key = (
      (binding.scope, binding.selector, binding.parameter)
      if binding.parameter
      else (binding.name, MACRO, 'value')
    )
    try:
      gin.bind_parameter(key, statement.value)
    except ValueError as error:
      raise errors.ConfigurationError(f'{place}: {error}') from error
    self.bindings.append(binding)

  def _import(self, statement, place):
    if not self._allow_imports:
      raise errors.ConfigurationError(
        f'{place}: a gin file must not import modules, because that runs '
        f'their code. Received: {statement.format()}. Remove the line, or '
        'pass --allow_gin_imports if you trust the file.'
      )
    try:
      importlib.import_module(statement.module)
    except ImportError as error:
      raise errors.ConfigurationError(
        f'{place}: an imported module must exist. Received: '
        f'{statement.format()}: {error}.'
      ) from error
    self._sections = gin_sections.register()

  def _check_section(self, selector, place):
    section = selector.rsplit('.', 1)[-1]
    if section in self._sections or self._allow_imports:
      return
    raise errors.ConfigurationError(
      f'{place}: unknown section {selector!r}.'
      f'{command_line.did_you_mean(section, self._sections)} Sections: '
      f'{", ".join(self._sections)}.'
    )

  def _check_parameter(self, binding):
    settings = self._sections.get(binding.section)
    if settings is None or binding.parameter in settings:
      return
    raise errors.ConfigurationError(
      f'{binding.place}: {binding.section} has no setting '
      f'{binding.parameter!r}.'
      f'{self._closest_setting(binding.section, binding.parameter)}'
    )

  def _closest_setting(self, section, parameter):
    """Prefers the same name in another section to a similar one in this."""
    elsewhere = [
      f'{name}.{parameter}'
      for name, settings in self._sections.items()
      if parameter in settings
    ]
    if elsewhere:
      return f' Did you mean {" or ".join(elsewhere)}?'
    settings = self._sections[section]
    suggestion = command_line.did_you_mean(parameter, settings)
    return suggestion or f' Its settings: {", ".join(settings)}.'


class _Delegate(gin.config.ParserDelegate):
  """Turns away references to functions: only macros may be referred to."""

  def __init__(self, allow_references):
    super().__init__()
    self._allow_references = allow_references

  def configurable_reference(self, scoped_selector, evaluate):
    if not self._allow_references:
      raise errors.ConfigurationError(
        f'A value must be a literal or a macro (%NAME). Received: '
        f'@{scoped_selector}. Write the value itself.'
      )
    return super().configurable_reference(scoped_selector, evaluate)


def required():
  """Returns the macros and settings that are `%gin.REQUIRED`, sorted list."""
  return sorted(
    {
      user
      for user, reference in _references()
      if reference.scoped_selector.startswith('gin.REQUIRED/')
    }
  )


def check_macros(bindings):
  """Checks that every macro in use has a value.

  Raises:
    errors.ConfigurationError: naming the macros that must be set, or the
      closest one to a name that is not defined.
  """
  config = gin.config._CONFIG  # pylint: disable=protected-access
  defined = {name for name, selector in config if selector == MACRO}
  for user, reference in _references():
    macro = reference.scoped_selector.rsplit('/', 1)[0]
    if reference.selector == MACRO and macro not in defined:
      raise errors.ConfigurationError(
        f'{_last_place(user, bindings)}: {user} uses the macro %{macro}, '
        f'which has no value.{command_line.did_you_mean(macro, defined)} Set '
        f'it with --gin_params="{macro} = ...".'
      )
  if required():
    lines = [f'  --gin_params="{name} = ..."' for name in required()]
    raise errors.ConfigurationError(
      'The gin file leaves these for you to set (its first lines say what '
      'each is):\n' + '\n'.join(lines)
    )


def _references():
  """Yields (name of the macro or setting, what its value refers to)."""
  config = gin.config._CONFIG  # pylint: disable=protected-access
  for (scope, selector), settings in config.items():
    for setting, value in settings.items():
      section = selector.rsplit('.', 1)[-1]
      user = scope if selector == MACRO else f'{section}.{setting}'
      for reference in gin.config.iterate_references({'value': value}):
        yield user, reference


def check_all_used(bindings):
  """Checks, after the experiment is built, that every binding had an effect.

  Raises:
    errors.ConfigurationError: listing all unused bindings.
  """
  operative = gin.config._OPERATIVE_CONFIG  # pylint: disable=protected-access
  used = {
    (scope, selector.rsplit('.', 1)[-1], setting)
    for (scope, selector), settings in operative.items()
    for setting in settings
  }
  used_macros = {scope for scope, selector in operative if selector == MACRO}
  lines = []
  for binding in bindings:
    if binding.parameter:
      if (binding.scope, binding.section, binding.parameter) not in used:
        lines.append(_unused_binding(binding, operative))
    elif binding.name not in used_macros:
      lines.append(_unused_macro(binding, used_macros))
  if lines:
    raise errors.ConfigurationError(
      'Every binding must have an effect. Without one:\n'
      + '\n'.join(f'  {line}' for line in lines)
    )


def _unused_binding(binding, operative):
  if binding.scope:
    return (
      f'{binding.place}: {binding.name}: nothing runs in the scope '
      f'{binding.scope!r}. Write {binding.section}.{binding.parameter}.'
    )
  called = sorted(
    selector.rsplit('.', 1)[-1]
    for _, selector in operative
    if selector != MACRO
  )
  return (
    f'{binding.place}: {binding.name}: this experiment does not read '
    f'the section {binding.section}, only {", ".join(called)}.'
  )


def _unused_macro(binding, used_macros):
  return (
    f'{binding.place}: no setting uses the macro {binding.name}.'
    f'{command_line.did_you_mean(binding.name, used_macros)}'
  )


def operative_config():
  """Returns the settings in effect, with defaults, as replayable gin text."""
  return gin.operative_config_str() + '\n'


def macros() -> dict[str, str]:
  """Returns the macro that gives a setting its value, for those that have one.

  Where a macro stands for another one, it is the last, which has the value.
  """
  references = {
    user: reference.scoped_selector.rsplit('/', 1)[0]
    for user, reference in _references()
    if reference.selector == MACRO
  }
  found = {}
  for user, macro in references.items():
    if '.' in user:
      while macro in references:
        macro = references[macro]
      found[user] = macro
  return found


@contextlib.contextmanager
def macros_in_messages() -> Iterator[None]:
  """Adds the macros that the user has set to the settings in messages.

  Example:
    with macros_in_messages():
      ...  # 'Set vocabulary.path.' becomes 'Set VOCABULARY (vocabulary.path).'
  """
  try:
    yield
  except errors.UserError as error:
    message = str(error)
    for setting, macro in macros().items():
      message = re.sub(
        rf'(?<![\w.(]){re.escape(setting)}(?!\w|\.\w)',
        f'{macro} ({setting})',
        message,
      )
    if message == str(error):
      raise
    raise type(error)(message) from error


def _syntax_message(error, text, source):
  """Returns 'file:line: the fault', with the line underneath."""
  line_number = getattr(error, 'lineno', None)
  reason = getattr(error, 'msg', None) or str(error)
  if line_number is None and isinstance(error, tokenize.TokenError):
    reason, (line_number, _) = error.args
  lines = text.splitlines()
  line = ''
  if line_number and 0 < line_number <= len(lines):
    line = lines[line_number - 1].strip()
  is_binding = source == BINDINGS_PLACE
  place = source if is_binding else f'{_short(source)}:{line_number}'
  if unquoted := _UNQUOTED.match(line):
    return f'{place}: not valid gin: {_about_quotes(unquoted, is_binding)}'
  if word := _UNREADABLE.search(reason):
    reason = f'text must stand in quotes. Write {word[1]!r}'
  shown = f'\n    {line}' if line else ''
  return f'{place}: not valid gin: {reason.rstrip(".")}.{shown}'


def _about_quotes(unquoted, is_binding):
  """Returns the words for a value that is neither a number nor in quotes."""
  name, value = unquoted['name'], unquoted['text'].strip()
  section, _, setting_name = name.rpartition('.')
  known = sections.all_sections().get(section.rsplit('.', 1)[-1])
  setting = known.settings.get(setting_name) if known else None
  if setting is not None and str not in setting.alternatives:
    rule = f'{name} must be {setting.type_text}'
  else:
    rule = 'text must stand in quotes'
  constant = value.capitalize()
  types = (bool, type(None), str) if setting is None else setting.alternatives
  if constant in ('True', 'False') and bool in types:
    remedy = f'{name} = {constant}'
  elif constant == 'None' and type(None) in types and setting is not None:
    remedy = f'{name} = None'
  elif str in types:
    remedy = f'{name} = {value!r}'
  else:
    return f'{rule}. Received: {value}. Set {name}.'
  written = f'--gin_params="{remedy}"' if is_binding else remedy
  return f'{rule}. Received: {name} = {value}. Write {written}.'


def _last_place(name, bindings):
  places = [binding.place for binding in bindings if binding.name == name]
  return places[-1] if places else 'gin'


def _short(path):
  """Returns `path` relative to the working directory where that is shorter."""
  if _is_remote(path):
    return path
  relative = os.path.relpath(path)
  return relative if len(relative) < len(path) else path
