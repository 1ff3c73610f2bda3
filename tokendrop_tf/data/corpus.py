"""Documents from text files, TFDS or the embedded corpus, as tf.data.

A document is what stands between blank lines of a text file, or one example of
a TFDS data set.
"""

import dataclasses
import glob
import os

import tensorflow as tf

from tokendrop_tf import configs
from tokendrop_tf import errors

BYTE_ORDER_MARK = b'\xef\xbb\xbf'

# Lines are joined to documents in batches: per-line work would be the
# bottleneck of the whole pipeline.
_LINES_PER_STEP = 2048
# Files read side by side in training, so that a window of documents mixes them.
_FILES_SIDE_BY_SIDE = 8
# Bytes read to estimate the mean length of a document.
_SAMPLE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class TextCorpus:
  """Documents of text files, plain or gzip.

  Attributes:
    paths: the files, sorted.
    held_out_documents: n; document d of file f is held out for validation if
      (f + d) % n == n - 1. 0 holds none out.
    held_out: whether the held-out side is read, or the other one.
  """
  paths: tuple[str, ...]
  held_out_documents: int = 0
  held_out: bool = False

  def documents(self, file_order=None) -> tf.data.Dataset:
    """Returns the documents in batches of any size, strings [n].

    Args:
      file_order: int64 [number of files], indices into `paths`, may be a graph
        tensor; files are then read several at a time. `None` reads one after
        the other, in order.
    """
    if file_order is None:
      indices = tf.data.Dataset.range(len(self.paths))
      return indices.flat_map(self._file_documents)
    side_by_side = min(_FILES_SIDE_BY_SIDE, len(self.paths))
    indices = tf.data.Dataset.from_tensor_slices(file_order)
    return indices.interleave(
        self._file_documents, cycle_length=side_by_side, block_length=1,
        num_parallel_calls=side_by_side, deterministic=True)

  def mean_document_bytes(self) -> int:
    """Estimates the mean length of a document from the head of the corpus."""
    lines = tf.data.Dataset.from_tensor_slices(list(self.paths)).flat_map(
        _read_lines)
    total, documents, inside = 0, 0, False
    for line in lines.as_numpy_iterator():
      is_text = bool(line.strip())
      documents += is_text and not inside
      inside = is_text
      total += len(line) + 1
      if total > _SAMPLE_BYTES:
        break
    return max(total // max(documents, 1), 1)

  @property
  def num_files(self) -> int:
    return len(self.paths)

  def _file_documents(self, file_index) -> tf.data.Dataset:
    lines = _read_lines(tf.gather(list(self.paths), file_index))
    documents = _join_lines(lines)
    if not self.held_out_documents:
      return documents.map(lambda first, texts: texts)
    return documents.map(
        lambda first, texts: self._one_side(file_index + first, texts))

  def _one_side(self, first, texts):
    n = self.held_out_documents
    is_held_out = (first + tf.range(tf.size(texts, tf.int64))) % n == n - 1
    return tf.boolean_mask(
        texts, is_held_out if self.held_out else ~is_held_out)


def _read_lines(path) -> tf.data.Dataset:
  """Returns the lines of one file, CRLF and byte order mark removed."""
  is_gzip = tf.strings.regex_full_match(path, r'.*\.gz')
  return tf.data.TextLineDataset(
      path, compression_type=tf.where(is_gzip, 'GZIP', ''),
      buffer_size=1 << 20)


def _join_lines(lines: tf.data.Dataset) -> tf.data.Dataset:
  """Joins lines to documents: (number of the first, strings [n]) per batch."""
  # The blank line at the end completes the last document.
  ended = lines.concatenate(tf.data.Dataset.from_tensors(''))
  batches = ended.batch(_LINES_PER_STEP)
  return batches.scan(('', tf.constant(0, tf.int64)), _join_step)


def _join_step(state, lines):
  unfinished, count = state
  is_blank = tf.equal(tf.strings.length(tf.strings.strip(lines)), 0)
  number = tf.cumsum(tf.cast(is_blank, tf.int32))
  texts = tf.strings.unsorted_segment_join(
      tf.boolean_mask(lines, ~is_blank), tf.boolean_mask(number, ~is_blank),
      num_segments=number[-1] + 1, separator='\n')
  separator = tf.where(
      tf.logical_and(unfinished != '', texts[0] != ''), '\n', '')
  head = tf.strings.join([unfinished, separator, texts[0]])
  texts = tf.concat([[head], texts[1:]], axis=0)
  complete = tf.boolean_mask(texts[:-1], tf.strings.length(texts[:-1]) > 0)
  new_count = count + tf.size(complete, tf.int64)
  return (texts[-1], new_count), (count, complete)


def open_corpus(config: configs.PretrainingDataConfig):
  """Returns the corpus that a data section names.

  Raises:
    DataError: if it names two sources, or files that do not exist.
  """
  return TextCorpus(
      match_files(config.input_path),
      held_out_documents=config.held_out_documents,
      held_out=not config.is_training)


def match_files(input_path) -> tuple[str, ...]:
  """Expands comma-separated globs to sorted file names.

  Args:
    input_path: str, or a sequence of str; each a comma-separated list of
      globs, local or anything that `tf.io.gfile` lists.

  Raises:
    DataError: if a glob matches no file.
  """
  globs = [input_path] if isinstance(input_path, str) else list(input_path)
  globs = [name.strip() for text in globs for name in text.split(',')]
  paths = set()
  for pattern in filter(None, globs):
    found = [path for path in _glob(pattern) if not tf.io.gfile.isdir(path)]
    if not found:
      raise errors.DataError(
          'Every glob of the corpus must match a file. Received: '
          f'{pattern!r}, which matches none. Set input_path.')
    paths.update(found)
  return tuple(sorted(paths))


def _glob(pattern: str) -> list[str]:
  if '://' in pattern:
    return tf.io.gfile.glob(pattern)
  return glob.glob(os.path.expanduser(pattern), recursive=True)
