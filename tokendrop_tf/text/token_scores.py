"""Files of one score for each token of a vocabulary.

Lines of `token<TAB>score`, in the order of the vocabulary: line n + 1 is id n.
A file so says which vocabulary it belongs to. Letter: V vocabulary.
"""

import os

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors, files
from tokendrop_tf.text import vocabulary as vocabulary_lib

_REMEDY = (
  'Write the file for this vocabulary with tools/score_tokens.py, or set '
  'token_drop.scores_path.'
)


def read_token_scores(
  path: str, vocabulary: vocabulary_lib.Vocabulary
) -> np.ndarray:
  """Reads the score of every token.

  Args:
    path: what `write_token_scores` wrote.
    vocabulary: the vocabulary that it must belong to.

  Returns:
    float32 [V].

  Raises:
    errors.DataError: if the file is absent or of another vocabulary, or if a
      score is not a finite number of at least 0; with the line's number.

  Example:
    read_token_scores('scores.tsv', vocabulary)[vocabulary.unk_id]
  """
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise errors.DataError(
      f'Token scores must be an existing file. Received: {path!r}.'
      f'{files.did_you_mean(path)} {_REMEDY}'
    )
  text = files.read_bytes(path).decode('utf-8', errors='replace')
  lines = text.removesuffix('\n').split('\n')
  scores = np.zeros([vocabulary.size], np.float32)
  for index, (line, token) in enumerate(zip(lines, vocabulary.tokens)):
    found, _, score = line.rstrip('\r').rpartition('\t')
    if found != token:
      raise errors.DataError(
        'Token scores must have the tokens of the vocabulary in its order. '
        f'Received: {found!r} on line {index + 1} of {path}, {token!r} in '
        f'{vocabulary.path or "the vocabulary"}. {_REMEDY}'
      )
    scores[index] = _number(score, index + 1, path)
  if len(lines) != vocabulary.size:
    raise errors.DataError(
      'Token scores must have one line for each token. Received: '
      f'{len(lines):,} lines in {path} for {vocabulary.size:,} tokens. '
      f'{_REMEDY}'
    )
  return scores


def _number(text, line, path):
  try:
    number = float(text)
  except ValueError:
    number = np.nan
  if not 0 <= number <= np.finfo(np.float32).max:
    raise errors.DataError(
      'A token score must be a finite number of at least 0. Received: '
      f'{text!r} on line {line} of {path}. {_REMEDY}'
    )
  return number


def write_token_scores(
  path: str, vocabulary: vocabulary_lib.Vocabulary, scores: np.ndarray
) -> None:
  """Writes the score of every token, float32 [V], so that it reads the same."""
  folder = os.path.dirname(path)
  if folder:
    tf.io.gfile.makedirs(folder)
  pairs = zip(vocabulary.tokens, np.asarray(scores, np.float32), strict=True)
  files.write_whole_file(
    path, ''.join(f'{token}\t{score:.9g}\n' for token, score in pairs)
  )
