"""HTML from templates, with all text escaped.

A template is text with `$name` in it. What is filled in is escaped, unless it
is `Html` already; so text of a corpus never becomes markup.
"""

import html as html_lib
import importlib.resources
import string
from collections.abc import Iterable


class Html(str):
  """Text that is HTML already."""


def html(template: str, **values) -> Html:
  """Fills in a template.

  Args:
    template: text with `$name`.
    **values: what stands for each name: `Html`, an iterable whose items are
      joined, or anything else, whose text is escaped.

  Example:
    html('<p>$text</p>', text='a < b')  # '<p>a &lt; b</p>'
  """
  escaped = {name: _escaped(value) for name, value in values.items()}
  return Html(string.Template(template).substitute(escaped))


def _escaped(value) -> str:
  if isinstance(value, Html):
    return value
  if isinstance(value, Iterable) and not isinstance(value, str):
    return ''.join(map(_escaped, value))
  return html_lib.escape(str(value))


def page(name: str, **values) -> Html:
  """Fills in a whole page: a template file, in the frame of all pages.

  Args:
    name: of a file in `templates/`, without '.html'.
    **values: as in `html`, `title` among them.
  """
  return html(
    _read('frame.html'),
    title=values['title'],
    style=Html(_read('style.css')),
    body=html(_read(f'{name}.html'), **values),
  )


def _read(name) -> str:
  folder = importlib.resources.files(__package__) / 'templates'
  return (folder / name).read_text(encoding='utf-8')
