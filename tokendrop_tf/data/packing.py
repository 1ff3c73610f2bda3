"""Packs tokenised documents into rows of equal length.

Letters: C = S - 2, the tokens of a row without its [CLS] and [SEP]; d
documents; n tokens; r rows.

A row is a pair: tokens int32 [C], and its length int32; what lies beyond the
length is no text.
"""

import tensorflow as tf


def pack_across_documents(
  documents: tf.data.Dataset, row_tokens: int, sep_id: int
) -> tf.data.Dataset:
  """Cuts the stream of documents into full rows, crossing their borders.

  A [SEP] follows every document but the last. No token is lost or repeated;
  only the last row can be short:

      row 1: A A A A A A A A
      row 2: A A [SEP] B B B [SEP] C
      row 3: C C C C . . . .

  Args:
    documents: data set of ragged int32 [d, (n)].
    row_tokens: C, tokens of a row.
    sep_id: id of [SEP].

  Returns:
    Data set of (tokens int32 [r, C], lengths int32 [r]), any r, 0 included.
  """
  streams = documents.map(
    lambda ragged: (_with_separators(ragged, sep_id), False),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  end = tf.data.Dataset.from_tensors((tf.zeros([0], tf.int32), True))

  def step(remainder, stream, is_end):
    tokens = tf.concat([remainder, stream], axis=0)
    num_rows = tf.size(tokens) // row_tokens
    num_full = num_rows * row_tokens
    # Columns of a matrix are copied, whereas slices of a vector share memory
    # with it, which `rebatch` reports as an error for each of them.
    matrix = tokens[tf.newaxis]
    rows = tf.reshape(matrix[:, :num_full], [num_rows, row_tokens])
    lengths = tf.fill([num_rows], row_tokens)
    remainder = tf.squeeze(matrix[:, num_full:], axis=0)
    # Nothing was added at the end, so the remainder is shorter than a row.
    packed = tf.cond(
      is_end, lambda: _last_row(remainder, row_tokens), lambda: (rows, lengths)
    )
    return remainder, packed

  return streams.concatenate(end).scan(
    tf.zeros([0], tf.int32), lambda state, item: step(state, *item)
  )


def _with_separators(ragged: tf.RaggedTensor, sep_id: int) -> tf.Tensor:
  """Returns the documents as one stream, a [SEP] after each that has tokens."""
  ends = tf.cast(ragged.row_splits[1:], tf.int32)
  ends = tf.boolean_mask(ends, ragged.row_lengths() > 0)
  splits = tf.concat([[0], ends], axis=0)
  tokens = ragged.flat_values
  document = tf.ragged.row_splits_to_segment_ids(splits, out_type=tf.int32)
  # A token moves on by one place for each [SEP] before it.
  return tf.dynamic_stitch(
    [tf.range(tf.size(tokens)) + document, ends + tf.range(tf.size(ends))],
    [tokens, tf.fill(tf.shape(ends), sep_id)],
  )


def _last_row(remainder, row_tokens):
  # The stream ends with the [SEP] of its last document, which the row's own
  # [SEP] replaces.
  tokens = remainder[:-1]
  length = tf.size(tokens)
  num_rows = tf.minimum(length, 1)
  row = tf.pad(tokens, [[0, row_tokens - length]])
  row = tf.ensure_shape(row, [row_tokens])
  return tf.repeat(row[tf.newaxis], num_rows, axis=0), tf.fill(
    [num_rows], length
  )


def pack_within_documents(
  documents: tf.data.Dataset, row_tokens: int
) -> tf.data.Dataset:
  """Cuts every document into rows of its own; the last row can be short.

      row 1: A A A A A A A A
      row 2: A A . . . . . .
      row 3: B B B . . . . .

  Args:
    documents: data set of ragged int32 [d, (n)].
    row_tokens: C, tokens of a row.

  Returns:
    Data set of (tokens int32 [r, C], lengths int32 [r]), any r, 0 included.
  """
  return documents.map(
    lambda ragged: _rows_of_documents(ragged, row_tokens),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )


def _rows_of_documents(ragged: tf.RaggedTensor, row_tokens: int):
  document_lengths = tf.cast(ragged.row_lengths(), tf.int32)
  starts = tf.cast(ragged.row_starts(), tf.int32)
  rows_of = (document_lengths + row_tokens - 1) // row_tokens
  document = tf.repeat(tf.range(tf.size(rows_of)), rows_of)  # [r]
  first_row = tf.cumsum(rows_of, exclusive=True)
  number = tf.range(tf.size(document)) - tf.gather(first_row, document)
  offset = number * row_tokens
  lengths = tf.minimum(
    tf.gather(document_lengths, document) - offset, row_tokens
  )
  begin = tf.gather(starts, document) + offset
  columns = tf.range(row_tokens)[tf.newaxis]
  # Short rows read on into what follows; the columns beyond are then cleared.
  padded = tf.pad(ragged.flat_values, [[0, row_tokens]])
  tokens = tf.gather(padded, begin[:, tf.newaxis] + columns)  # [r, C]
  return tf.where(columns < lengths[:, tf.newaxis], tokens, 0), lengths
