"""Packs tokenised documents into rows of equal length.

Letters: S positions of a row; C = S - 2, its tokens without [CLS] and [SEP]; d
documents; n tokens; p pieces; r rows.

A row is int32 [W]: S token ids, special tokens and padding included, W = S. By
best fit, which puts several sequences into a row, S segment ids follow, 0 for
padding, W = 2 S; see `row_width`.
"""

import tensorflow as tf

BEST_FIT = 'best_fit'


def row_width(packing: str, seq_length: int) -> int:
  """Returns W, the numbers of a row of `packing`."""
  return 2 * seq_length if packing == BEST_FIT else seq_length


def framed(
  tokens: tf.Tensor, lengths: tf.Tensor, cls_id: int, sep_id: int, pad_id: int
) -> tf.Tensor:
  """Returns rows [CLS] tokens [SEP] [PAD]..., int32 [r, S].

  Args:
    tokens: int32 [r, C].
    lengths: int32 [r], how many of them are text.
    cls_id: id of [CLS].
    sep_id: id of [SEP].
    pad_id: id of [PAD].
  """
  column = tf.range(tokens.shape[1] + 2)[tf.newaxis]
  length = lengths[:, tf.newaxis]
  rows = tf.pad(tokens, [[0, 0], [1, 1]])
  rows = tf.where(column <= length, rows, pad_id)
  rows = tf.where(column == 0, cls_id, rows)
  return tf.where(column == length + 1, sep_id, rows)


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


def pack_one_document(
  documents: tf.data.Dataset, row_tokens: int
) -> tf.data.Dataset:
  """Makes one row of every document and cuts off what exceeds it.

      row 1: A A A A A A A A     (two more tokens of A are lost)
      row 2: B B B . . . . .

  Args:
    documents: data set of ragged int32 [d, (n)].
    row_tokens: C, tokens of a row.

  Returns:
    Data set of (tokens int32 [r, C], lengths int32 [r]), any r, 0 included.
  """

  def pack(ragged):
    ragged = tf.ragged.boolean_mask(ragged, ragged.row_lengths() > 0)
    heads = ragged[:, :row_tokens]
    tokens = heads.to_tensor(0, shape=[None, row_tokens])
    return tokens, tf.cast(heads.row_lengths(), tf.int32)

  return documents.map(
    pack, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )


def pack_best_fit(
  documents: tf.RaggedTensor,
  seq_length: int,
  *,
  cls_id: int,
  sep_id: int,
  pad_id: int,
) -> tf.Tensor:
  """Puts whole documents, each with its own [CLS] and [SEP], into few rows.

  Documents longer than C are cut into pieces of C tokens and a rest, and every
  piece is a sequence of its own. No token is lost. Decreasing best fit: the
  longest piece first, each into the fullest row that has room for it. How many
  rows there are depends on the lengths alone, not on the order of documents.

      row 1: [CLS] A A A A A A [SEP]
      row 2: [CLS] A A [SEP] [CLS] B [SEP] .
      segments:  1 1 1 1       2   2   2   0

  Args:
    documents: ragged int32 [d, (n)], packed as a whole.
    seq_length: S.
    cls_id: id of [CLS].
    sep_id: id of [SEP].
    pad_id: id of [PAD].

  Returns:
    Tokens and segment ids, int32 [r, 2 S], in the order of the first document
    of each row.
  """
  sizes, row, start = _best_fit_places(documents, seq_length)
  num_rows = tf.reduce_max(tf.concat([row, [-1]], axis=0)) + 1
  begins = row * seq_length + start  # of every piece, in all rows as one
  ends = begins + sizes + 1
  first_tokens = tf.cumsum(sizes, exclusive=True)
  places = tf.repeat(begins + 1 - first_tokens, sizes)
  places += tf.range(tf.size(places))
  tokens = tf.tensor_scatter_nd_update(
    tf.fill([num_rows * seq_length], pad_id),
    tf.concat([places, begins, ends], axis=0)[:, tf.newaxis],
    tf.concat(
      [
        documents.flat_values,
        tf.fill(tf.shape(begins), cls_id),
        tf.fill(tf.shape(ends), sep_id),
      ],
      axis=0,
    ),
  )
  segments = _segments(begins, ends, num_rows, seq_length)
  return tf.concat([tf.reshape(tokens, [-1, seq_length]), segments], axis=1)


def _best_fit_places(documents, seq_length):
  """Returns tokens, row and first position of every piece, int32 [p]."""
  row_tokens = seq_length - 2
  lengths = tf.cast(documents.row_lengths(), tf.int32)
  pieces_of = (lengths + row_tokens - 1) // row_tokens
  document = tf.repeat(tf.range(tf.size(lengths)), pieces_of)
  number = tf.range(tf.size(document)) - tf.gather(
    tf.cumsum(pieces_of, exclusive=True), document
  )
  sizes = tf.minimum(
    tf.gather(lengths, document) - number * row_tokens, row_tokens
  )
  row, start = best_fit(sizes + 2, seq_length)
  return sizes, row, start


def _segments(begins, ends, num_rows, seq_length):
  """Numbers the pieces of every row from 1, int32 [r, S]; 0 is padding."""
  # Steps up where a piece begins, and the last piece of a row down to 0.
  shape = [num_rows * seq_length]
  is_begin = tf.scatter_nd(begins[:, tf.newaxis], tf.ones_like(begins), shape)
  is_end = tf.scatter_nd(ends[:, tf.newaxis], tf.ones_like(ends), shape)
  begun = tf.cumsum(tf.reshape(is_begin, [-1, seq_length]), axis=1)
  ended = tf.cumsum(
    tf.reshape(is_end, [-1, seq_length]), axis=1, exclusive=True
  )
  return tf.where(begun > ended, begun, 0)


def best_fit(sizes: tf.Tensor, capacity: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Packs items into rows of equal capacity by decreasing best fit.

  Args:
    sizes: int32 [p], from 1 to `capacity`.
    capacity: of a row.

  Returns:
    Row and place in the row of every item, int32 [p]. Rows are numbered by
    their first item, and items follow each other in a row in their order.

  Example:
    best_fit(tf.constant([5, 2, 3]), 5)  # ([0, 1, 1], [0, 0, 2])
  """
  order = tf.argsort(sizes, direction='DESCENDING', stable=True)
  row = tf.gather(
    _rows_of_descending(tf.gather(sizes, order), capacity),
    tf.math.invert_permutation(order),
  )
  num_rows = tf.reduce_max(tf.concat([row, [-1]], axis=0)) + 1
  first = tf.math.unsorted_segment_min(tf.range(tf.size(row)), row, num_rows)
  row = tf.gather(tf.math.invert_permutation(tf.argsort(first)), row)
  return row, _places_in_rows(sizes, row, num_rows)


def _rows_of_descending(sizes, capacity):
  """Returns a row for each item, int32 [p]; `sizes` descend.

  Items of one size are placed in one step: best fit puts them into the fullest
  row that has room, as many as it holds, then into the next.
  """
  distinct, _, counts = tf.unique_with_counts(sizes)
  smallest = tf.reduce_min(sizes)
  rows = tf.TensorArray(
    tf.int32, tf.size(distinct), infer_shape=False, element_shape=[None]
  )

  def step(number, open_rows, rooms, num_rows, rows):
    size, count = distinct[number], counts[number]
    # 1. The fullest rows that have room, and a row for each item if need be.
    first = tf.searchsorted(rooms, [size])[0]
    found = open_rows[first : first + count]
    new = tf.range(num_rows, num_rows + count)
    candidates = tf.concat([found, new], axis=0)
    room = tf.concat(
      [rooms[first : first + count], tf.fill([count], capacity)], axis=0
    )
    # 2. Each takes what it can hold of the items left.
    holds = room // size
    taken = tf.clip_by_value(count - tf.cumsum(holds, exclusive=True), 0, holds)
    rows = rows.write(number, tf.repeat(candidates, taken))
    # 3. Rows with room for the smallest item stay open, the fullest first.
    is_used = taken > 0
    num_found = tf.size(found)
    opened = tf.reduce_sum(tf.cast(is_used[num_found:], tf.int32))
    stays = is_used | (tf.range(tf.size(taken)) < num_found)
    candidates = tf.boolean_mask(candidates, stays)
    room = tf.boolean_mask(room - taken * size, stays)
    open_rows = tf.concat(
      [open_rows[:first], candidates, open_rows[first + count :]], axis=0
    )
    rooms = tf.concat([rooms[:first], room, rooms[first + count :]], axis=0)
    is_open = rooms >= smallest
    open_rows = tf.boolean_mask(open_rows, is_open)
    rooms = tf.boolean_mask(rooms, is_open)
    order = tf.argsort(rooms, stable=True)
    return (
      number + 1,
      tf.gather(open_rows, order),
      tf.gather(rooms, order),
      num_rows + opened,
      rows,
    )

  none = tf.zeros([0], tf.int32)
  many = tf.TensorShape([None])
  scalar = tf.TensorShape([])
  *_, rows = tf.while_loop(
    lambda number, *_: number < tf.size(distinct),
    step,
    (0, none, none, 0, rows),
    shape_invariants=(scalar, many, many, scalar, tf.TensorShape(None)),
  )
  return rows.concat()


def _places_in_rows(sizes, row, num_rows):
  """Returns the place of every item in its row, int32 [p]."""
  order = tf.argsort(row, stable=True)
  starts = tf.cumsum(tf.gather(sizes, order), exclusive=True)
  row = tf.gather(row, order)
  first = tf.math.unsorted_segment_min(starts, row, num_rows)
  return tf.gather(
    starts - tf.gather(first, row), tf.math.invert_permutation(order)
  )
