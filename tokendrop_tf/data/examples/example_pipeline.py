"""Masked-LM examples made from documents while a model trains.

    documents -> windows, shuffled -> WordPiece -> rows, packed
              -> rows, shuffled -> blocks, masked

Everything random follows from (seed, epoch, number of the window or block), and
a window holds the same documents in every epoch, so it makes equally many rows.
With these counts (`count`) any row of any epoch is made without those before.

Letters: R rows of a block, W numbers of a row (see `packing`), d documents.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tokendrop_tf import schedules
from tokendrop_tf.config import configs
from tokendrop_tf.data.examples import masking as masking_lib
from tokendrop_tf.data.examples import (
  packing,
  row_places,
  shuffling,
)
from tokendrop_tf.data.read import row_batches
from tokendrop_tf.text import vocabulary as vocabulary_lib

# Rows masked together, in one vectorised step.
BLOCK_ROWS = 128
# Text shuffled as a whole. Windows are packed independently of each other.
_WINDOW_BYTES = 64 << 20
# Best fit looks at all documents of a window at once.
_BEST_FIT_WINDOW_BYTES = 16 << 20
_BEST_FIT_WINDOWS_AT_ONCE = 2
_MAX_WINDOW_DOCUMENTS = 1 << 16
# Text tokenised in one step.
_GROUP_BYTES = 1 << 20
_MOST_GROUP_DOCUMENTS = 4096
# Files read at the same time in training, so that a window mixes them.
_MOST_FILES_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class ExampleMaker:
  """Makes the examples of every epoch of a corpus.

  Attributes:
    corpus: a corpus, e.g. `corpus.TextCorpus`.
    vocabulary: the vocabulary.
    config: lengths, rates, packing and seed; `is_training` decides on
      shuffling.
  """

  corpus: object
  vocabulary: vocabulary_lib.Vocabulary
  config: configs.PretrainingDataConfig

  @tf.autograph.experimental.do_not_convert
  def blocks(
    self,
    first_epoch: int,
    num_epochs: int | None,
    start: row_places.Start = row_places.BEGINNING,
  ) -> tf.data.Dataset:
    """Returns packed blocks of consecutive epochs, not yet masked.

    Args:
      first_epoch: number of the first epoch.
      num_epochs: how many; `None` is without end.
      start: where in the first epoch to begin; see `count`.

    Returns:
      Data set of (epoch int64, block int64, rows int32 [R, W]), R at most
      `BLOCK_ROWS`.
    """
    last = tf.int64.max if num_epochs is None else first_epoch + num_epochs
    window_documents = self.window_documents  # Outside of graphs.
    return tf.data.Dataset.range(first_epoch, last).flat_map(
      lambda epoch: self._epoch_blocks(
        epoch, window_documents, start, tf.equal(epoch, first_epoch)
      )
    )

  def count(self) -> row_places.RowCounts:
    """Reads and packs the corpus once, to know where every row lies."""
    windows = self._windows(self.window_documents).enumerate()
    sizes = self.rows_of_windows(windows, 0).map(
      lambda window, rows: (window, tf.shape(rows)[0])
    )
    found = np.array([(0, 0), *sizes.as_numpy_iterator()], np.int64)
    rows = np.bincount(found[:, 0], weights=found[:, 1]).astype(int)
    return row_places.RowCounts(
      documents=self._count_documents(), rows=tuple(rows.tolist())
    )

  def start(self, row: int, counts: row_places.RowCounts) -> row_places.Start:
    """Returns where the block of a row of an epoch begins.

    Args:
      row: number of the row in the epoch.
      counts: what `count` gives.
    """
    block = row // BLOCK_ROWS
    buffer = self._row_window
    first = block * BLOCK_ROWS // buffer * buffer  # The row window's first row.
    ends = np.cumsum(counts.rows)
    window = int(np.searchsorted(ends, first, side='right'))
    return row_places.Start(
      files=self._queue_starts(window, counts.documents),
      window=window,
      skip_packed=first - int(ends[window] - counts.rows[window]),
      row_window=first // buffer,
      skip_shuffled=block * BLOCK_ROWS - first,
      block=block,
    )

  def mask(self, epoch, block, rows, first_row=0) -> dict[str, tf.Tensor]:
    """Masks one element of `blocks`; see `masking.Masking`.

    Args:
      epoch: number of the epoch.
      block: number of the block.
      rows: int32 [R, W].
      first_row: number in the run of the block's first row; only
        `mask_rate_schedule` asks for it.
    """
    run_rows = first_row + tf.range(tf.shape(rows, tf.int64)[0])
    return mask_rows(
      self.config, self.vocabulary, rows, (epoch, block), run_rows
    )

  def masked_blocks(
    self,
    first_epoch: int,
    num_epochs: int | None,
    start: row_places.Start = row_places.BEGINNING,
    first_row: int = 0,
  ) -> tf.data.Dataset:
    """Returns the blocks of `blocks`, masked.

    Args:
      first_epoch: as in `blocks`.
      num_epochs: as in `blocks`.
      start: as in `blocks`.
      first_row: number in the run of the first block's first row.
    """
    blocks = self.blocks(first_epoch, num_epochs, start)
    if self.config.mask_rate_schedule:
      blocks = blocks.scan(
        tf.constant(first_row, tf.int64),
        lambda row, block: (
          row + tf.shape(block[2], tf.int64)[0],
          (*block, row),
        ),
      )
    return blocks.map(
      self.mask, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )

  def _epoch_blocks(self, epoch, window_documents, start, is_here):
    def here(number):
      return row_places.if_here(number, is_here)

    windows = self._windows(window_documents, start, is_here)
    rows = self.rows_of_windows(windows.enumerate(here(start.window)), epoch)
    rows = rows.map(lambda window, rows: rows)
    rows = row_batches.skip_rows(rows, here(start.skip_packed))
    rows = rows.filter(lambda part: tf.shape(part)[0] > 0)
    if self.config.is_training:
      rows = self._shuffled_rows(rows, epoch, here(start.row_window))
      rows = row_batches.skip_rows(rows, here(start.skip_shuffled))
    blocks = rows.rebatch(BLOCK_ROWS)
    return blocks.enumerate(here(start.block)).map(
      lambda block, rows: (epoch, block, rows)
    )

  def _windows(
    self, window_documents, start=row_places.BEGINNING, is_here=True
  ) -> tf.data.Dataset:
    """Returns the documents that are shuffled together, strings [d]."""
    queues = tf.constant(self._queues(), tf.int64)
    num_queues = queues.shape[0]
    if num_queues == 1:
      return self._one_queue(queues[0], start, is_here).rebatch(
        window_documents
      )

    def open_queue(queue):
      first, skip = row_places.queue_start(start, queue, is_here)
      return self.corpus.documents(tf.gather(queues, queue)[first:], skip)

    return row_batches.side_by_side(
      open_queue, num_queues, -(-window_documents // num_queues)
    )

  def _one_queue(self, files, start, is_here) -> tf.data.Dataset:
    """Returns the documents of all files, of their own epoch from `start`."""
    whole = self.corpus.documents(files)
    if start.files is None:
      return whole
    # TFDS skips to a document only if its number is not a tensor.
    first, skip = start.files[0]
    rest = self.corpus.documents(files[first:], skip)
    everything, nothing = tf.constant(-1, tf.int64), tf.constant(0, tf.int64)
    return rest.take(tf.where(is_here, everything, nothing)).concatenate(
      whole.take(tf.where(is_here, nothing, everything))
    )

  def _queues(self) -> np.ndarray:
    """Returns the files of each queue, int64 [queues, n]; -1 pads."""
    with tf.init_scope():  # A value, also where a graph is being built.
      return shuffling.file_queues(
        self.corpus.num_files,
        _MOST_FILES_AT_ONCE if self.config.is_training else 1,
        self._seed(shuffling.FILE_SALT, 0, 0),
      ).numpy()

  def _queue_starts(self, window, documents):
    """Returns (index of the file, documents to skip) of each queue."""
    queues = self._queues()
    skip = window * -(-self.window_documents // len(queues))
    return tuple(
      row_places.seek(row_places.lengths(queue, documents), skip)
      for queue in queues
    )

  def _count_documents(self) -> tuple[int, ...]:
    counts = tf.data.Dataset.range(self.corpus.num_files).map(
      lambda file: self.corpus.documents(file[tf.newaxis]).reduce(
        tf.constant(0, tf.int64),
        lambda count, texts: count + tf.size(texts, tf.int64),
      )
    )
    return tuple(int(count) for count in counts.as_numpy_iterator())

  @tf.autograph.experimental.do_not_convert
  def rows_of_windows(self, windows: tf.data.Dataset, epoch) -> tf.data.Dataset:
    """Shuffles and packs the documents of windows.

    Args:
      windows: data set of (number of the window, strings [d]).
      epoch: number of the epoch.

    Returns:
      Data set of (number of the window, rows int32 [r, W]), in order, any r.
    """
    group_documents = self._group_documents
    windows = windows.map(
      lambda window, texts: (
        window,
        self._shuffled(shuffling.DOCUMENT_SALT, epoch, window, texts),
      )
    ).prefetch(1)
    if self.config.packing == packing.BEST_FIT:
      rows = windows.map(
        lambda window, texts: (window, self._best_fit_rows(texts)),
        num_parallel_calls=_BEST_FIT_WINDOWS_AT_ONCE,
        deterministic=True,
      )
      return rows.flat_map(
        lambda window, rows: row_batches.in_parts(rows, BLOCK_ROWS).map(
          lambda part: (window, part)
        )
      )
    return windows.flat_map(
      lambda window, texts: self.rows(texts, group_documents).map(
        lambda part: (window, part)
      )
    )

  def _best_fit_rows(self, texts):
    words = self.vocabulary
    return packing.pack_best_fit(
      words.tokenizer().tokenize(texts),
      self.config.seq_length,
      cls_id=words.cls_id,
      sep_id=words.sep_id,
      pad_id=words.pad_id,
    )

  def rows(self, texts, group_documents: int = 1) -> tf.data.Dataset:
    """Tokenises and packs documents, in order.

    Args:
      texts: strings [d].
      group_documents: documents tokenised in one step.

    Returns:
      Data set of rows, int32 [r, W], any r, 0 included; by best fit, one
      element.
    """
    words, kind = self.vocabulary, self.config.packing
    if kind == packing.BEST_FIT:
      return tf.data.Dataset.from_tensors(texts).map(self._best_fit_rows)
    tokenizer = words.tokenizer()
    tokenised = (
      tf.data.Dataset.from_tensor_slices(texts)
      .batch(group_documents)
      .map(
        tokenizer.tokenize,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
      )
    )
    row_tokens = self.config.seq_length - 2
    if kind == 'within_documents':
      packed = packing.pack_within_documents(tokenised, row_tokens)
    elif kind == 'one_document':
      packed = packing.pack_one_document(tokenised, row_tokens)
    else:
      packed = packing.pack_across_documents(
        tokenised, row_tokens, words.sep_id
      )
    return packed.map(
      lambda tokens, lengths: packing.framed(
        tokens, lengths, words.cls_id, words.sep_id, words.pad_id
      )
    )

  @property
  def window_documents(self) -> int:
    """Documents that are shuffled and, by best fit, packed together."""
    is_best_fit = self.config.packing == packing.BEST_FIT
    return self.documents_in(
      _BEST_FIT_WINDOW_BYTES if is_best_fit else _WINDOW_BYTES
    )

  def documents_in(self, num_bytes: int) -> int:
    """Estimates how many documents have so many bytes; 1 or more."""
    documents = num_bytes // self._mean_document_bytes
    return min(max(documents, 1), _MAX_WINDOW_DOCUMENTS)

  @functools.cached_property
  def _mean_document_bytes(self) -> int:
    return self.corpus.mean_document_bytes()

  @property
  def _group_documents(self) -> int:
    """Documents that are tokenised in one step."""
    return min(self.documents_in(_GROUP_BYTES), _MOST_GROUP_DOCUMENTS)

  @property
  def _row_window(self) -> int:
    """Rows that are shuffled together."""
    if not self.config.is_training:
      return BLOCK_ROWS
    return max(self.config.shuffle_buffer_size, 1)

  def _shuffled_rows(self, rows, epoch, first_window):
    windows = rows.rebatch(self._row_window)
    return windows.enumerate(first_window).map(
      lambda window, rows: self._shuffled(
        shuffling.ROW_SALT, epoch, window, rows
      )
    )

  def _shuffled(self, salt, epoch, window, tensors):
    if not self.config.is_training:
      return tensors
    return shuffling.shuffled(tensors, self._seed(salt, epoch, window))

  def _seed(self, salt, epoch, number):
    return shuffling.seed(self.config.seed, salt, epoch, number)


def mask_rows(
  config, vocabulary, rows, place, run_rows=None
) -> dict[str, tf.Tensor]:
  """Masks a block of packed rows as a data section says.

  Args:
    config: the data section.
    vocabulary: the vocabulary.
    rows: int32 [R, W].
    place: two integers, or tensors, that no other block of the run has.
    run_rows: int64 [R], number of each row in the run, of which
      `mask_rate_schedule` makes its rate.

  Returns:
    The dict that `masking.Masking` returns.
  """
  # The train step chooses again by importance.
  is_importance = config.masking == 'importance'
  masking = masking_lib.Masking(
    vocabulary,
    config.seq_length,
    config.max_predictions_per_seq,
    config.mask_rate,
    kind='token' if is_importance else config.masking,
    mask_token_share=config.mask_token_share,
    random_token_share=config.random_token_share,
    span_stop_probability=config.span_stop_probability,
    max_span_words=config.max_span_words,
  )
  rates = None
  if config.mask_rate_schedule:
    rates = schedules.mask_rate_of_rows(config, run_rows)
  seed = shuffling.seed(config.seed, shuffling.MASK_SALT, *place)
  return masking(rows, seed, rates)
