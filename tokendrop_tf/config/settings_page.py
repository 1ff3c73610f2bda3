"""Writes docs/settings.md from the declarations.

python -m tokendrop_tf.config.settings_page docs/settings.md
"""

from tokendrop_tf import command_line, files
from tokendrop_tf.config import sections

_HEAD = """# Settings

Every setting of the gin files and of `--gin_params`, made by `make docs` from
the declarations in the code. A value outside its range, of another type, or of
a setting that does not exist is refused before anything is computed.

A run resumes with other values of the settings marked *; with another value of
any other setting it is refused.
"""


def page() -> str:
  """Returns the page as Markdown."""
  return '\n'.join(
    [_HEAD, *map(_section_text, sections.all_sections().values())]
  )


def _section_text(section):
  first_line, _, rest = section.doc.partition('\n')
  text = '\n'.join([first_line, *map(str.strip, rest.splitlines())]).strip()
  rows = [_row(setting) for setting in section.settings.values()]
  return '\n'.join(
    [
      f'## {section.name}',
      '',
      text,
      '',
      '| setting | default | range | meaning |',
      '|---|---|---|---|',
      *rows,
      '',
    ]
  )


def _row(setting):
  mark = '*' if setting.more.get('may_change') else ''
  default = setting.default
  shown = list(default) if isinstance(default, tuple) else default
  allowed = setting.type_text
  if setting.rule is not None:
    allowed = f'{allowed}, {setting.rule.text}'
  cells = (f'`{setting.name}`{mark}', f'`{shown!r}`', allowed, setting.doc)
  return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'


def main(arguments: list[str]) -> None:
  """Writes the page to the file that is named."""
  parser = command_line.ArgumentParser(
    prog='python -m tokendrop_tf.config.settings_page', description=__doc__
  )
  parser.add_argument('path', help='The file to write.')
  files.write_whole_file(parser.parse_args(arguments).path, page())


if __name__ == '__main__':
  command_line.run_main(main)
