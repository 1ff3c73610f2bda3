"""Models whose embedding table has more rows than the vocabulary has tokens.

Published models pad the table to a multiple that suits their hardware. The rows
at the end stand for no token: no text has them, and no prediction names them.
"""

import functools
import sys

from tokendrop_tf import errors

# Beyond this, another vocabulary is more likely than padding.
_MOST_PADDING = 127


def number_of(vocabulary, num_rows: int | None, remedy: str) -> int:
  """Returns the rows of a model's table; says once if some are padding.

  Args:
    vocabulary: a `vocabulary.Vocabulary`.
    num_rows: rows that the model states; `None` where the vocabulary decides.
    remedy: what to do about another vocabulary, a sentence.

  Raises:
    ConfigurationError: if the table cannot belong to the vocabulary.
  """
  size = vocabulary.size
  num_rows = size if num_rows is None else num_rows
  if not 0 <= num_rows - size <= _MOST_PADDING:
    raise errors.ConfigurationError(
      'A model must have a row for every token of its vocabulary, and few '
      f'more. Received: {size:,} tokens in {vocabulary.path}, {num_rows:,} in '
      f'the model. {remedy}'
    )
  if num_rows != size:
    _announce(vocabulary.path, size, num_rows)
  return num_rows


@functools.cache
def _announce(path, num_tokens, num_rows):
  print(
    f'{path} has {num_tokens:,} tokens, the model {num_rows:,} rows: the '
    f'last {num_rows - num_tokens} stand for no token.',
    file=sys.stderr,
  )
