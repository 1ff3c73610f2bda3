"""Text files read by TensorFlow alone: what another process can be sent.

`corpus.TextCorpus` reads by Python, whose functions stay in their process. Here
the same documents come from TensorFlow's own operations; what is wrong in a
file is not named, so a corpus has been checked before.
"""

import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import corpus as corpus_lib

_LINES_PER_STEP = 1024


class NativeTextCorpus(corpus_lib.TextCorpus):
  """A `TextCorpus` of plain or gzip text; attributes and documents as there."""

  def _file_documents(self, file_index) -> tf.data.Dataset:
    path = tf.gather(tf.constant(self.paths), file_index)
    return _join_lines(_read_lines(path)).map(
      lambda first, texts: self.held_out.select(file_index + first, texts)
    )


def of(corpus, setting: str) -> NativeTextCorpus:
  """Returns a corpus whose documents TensorFlow reads.

  Args:
    corpus: what `corpus.open_corpus` gave.
    setting: the setting that needs it, for the message.

  Raises:
    ConfigurationError: if the corpus is not of text files.
  """
  if not isinstance(corpus, corpus_lib.TextCorpus) or any(
    path.endswith(('.jsonl', '.jsonl.gz', '.parquet')) for path in corpus.paths
  ):
    raise errors.ConfigurationError(
      f'{setting} takes text files and TFRecords. Received: {corpus.name}. '
      f'Leave {setting} unset, or write TFRecords with '
      'tools/create_pretraining_data.py.'
    )
  return NativeTextCorpus(corpus.paths, corpus.held_out, corpus.reading)


def _read_lines(path) -> tf.data.Dataset:
  """Returns the lines of one file, without carriage returns."""
  is_gzip = tf.strings.regex_full_match(path, r'(?s).*\.gz')
  return tf.data.TextLineDataset(
    path, compression_type=tf.where(is_gzip, 'GZIP', ''), buffer_size=1 << 20
  )


def _join_lines(lines: tf.data.Dataset) -> tf.data.Dataset:
  """Joins lines to documents: (number of the first, strings [n]) per batch."""
  # The blank line at the end completes the last document.
  ended = lines.concatenate(tf.data.Dataset.from_tensors(''))
  batches = ended.batch(_LINES_PER_STEP)
  return batches.scan(('', tf.constant(0, tf.int64)), _join_step)


def _join_step(state, lines):
  unfinished, count = state
  # Of a byte order mark.
  lines = tf.strings.regex_replace(lines, '^\ufeff', '', replace_global=False)
  is_blank = tf.equal(tf.strings.length(tf.strings.strip(lines)), 0)
  number = tf.cumsum(tf.cast(is_blank, tf.int32))
  texts = tf.strings.unsorted_segment_join(
    tf.boolean_mask(lines, ~is_blank),
    tf.boolean_mask(number, ~is_blank),
    num_segments=number[-1] + 1,
    separator='\n',
  )
  joint = tf.where((unfinished != '') & (texts[0] != ''), '\n', '')
  head = tf.strings.join([unfinished, joint, texts[0]])
  texts = tf.concat([[head], texts[1:]], axis=0)
  complete = tf.boolean_mask(texts[:-1], tf.strings.length(texts[:-1]) > 0)
  return (texts[-1], count + tf.size(complete, tf.int64)), (count, complete)
