"""From documents to masked-LM examples, the same for training and for files.

    documents -> windows, shuffled -> WordPiece -> rows of S, packed
              -> rows, shuffled -> blocks, masked

Everything random follows from (seed, epoch, number of the window or block), and
a window holds the same documents in every epoch, so it makes equally many rows.
With these counts (`count`) any row of any epoch is made without those before.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tokendrop_tf import configs
from tokendrop_tf.data import (
  mask_rates,
  packing,
  positions,
  shuffling,
  streams,
)
from tokendrop_tf.data import masking as masking_lib
from tokendrop_tf.data import vocabulary as vocabulary_lib

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
# Streams of files read side by side in training, so that a window mixes them.
_MAX_LANES = 8


@dataclasses.dataclass(frozen=True)
class Plan:
  """How documents make windows, and rows row windows.

  Attributes:
    lanes: the files of each stream, in order; -1 is no file.
    lane_documents: documents that each lane adds to a window.
    group_documents: documents tokenised in one step.
    row_window: rows that are shuffled together.
  """

  lanes: tuple[tuple[int, ...], ...]
  lane_documents: int
  group_documents: int
  row_window: int


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

  def blocks(
    self,
    first_epoch: int,
    num_epochs: int | None,
    start: positions.Start = positions.BEGINNING,
  ) -> tf.data.Dataset:
    """Returns packed blocks of consecutive epochs, not yet masked.

    Args:
      first_epoch: number of the first epoch.
      num_epochs: how many; `None` is without end.
      start: where in the first epoch to begin; see `count`.

    Returns:
      Data set of (epoch int64, block int64, tokens int32 [R, C], lengths int32
      [R]), R at most `BLOCK_ROWS`; of best fit, tokens and segment ids int32
      [R, S].
    """
    last = tf.int64.max if num_epochs is None else first_epoch + num_epochs
    sizes = self._window_and_group_documents()
    return tf.data.Dataset.range(first_epoch, last).flat_map(
      lambda epoch: self._epoch_blocks(
        epoch, *sizes, start, tf.equal(epoch, first_epoch)
      )
    )

  def count(self) -> positions.RowCounts:
    """Reads and packs the corpus once, to know where every row lies."""
    window_documents, group_documents = self._window_and_group_documents()
    windows = self._windows(window_documents)
    rows = windows.map(
      lambda texts: self.rows(texts, group_documents).reduce(
        tf.constant(0, tf.int64),
        lambda count, row: count + tf.shape(row[1], tf.int64)[0],
      )
    )
    return positions.RowCounts(
      documents=self._count_documents(),
      rows=tuple(int(count) for count in rows.as_numpy_iterator()),
    )

  def start(self, row: int, counts: positions.RowCounts) -> positions.Start:
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
    window_documents, _ = self._window_and_group_documents()
    return positions.Start(
      files=self._lane_starts(window, window_documents, counts.documents),
      window=window,
      skip_packed=first - int(ends[window] - counts.rows[window]),
      row_window=first // buffer,
      skip_shuffled=block * BLOCK_ROWS - first,
      block=block,
    )

  def mask(
    self, epoch, block, tokens, layout, first_row=0
  ) -> dict[str, tf.Tensor]:
    """Masks one element of `blocks`; see `masking.Masking`.

    Args:
      epoch: number of the epoch.
      block: number of the block.
      tokens: as in `blocks`.
      layout: lengths or segment ids, as in `blocks`.
      first_row: number in the run of the block's first row; only
        `mask_rate_schedule` asks for it.
    """
    config = self.config
    # The train step chooses anew what importance shall choose.
    is_importance = config.masking == 'importance'
    masking = masking_lib.Masking(
      self.vocabulary,
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
      rows = tf.range(tf.shape(tokens, tf.int64)[0])
      rates = mask_rates.at_rows(config, first_row + rows)
    seed = self._seed(shuffling.MASK_SALT, epoch, block)
    return masking(tokens, layout, seed, rates)

  def masked_blocks(
    self,
    first_epoch: int,
    num_epochs: int | None,
    start: positions.Start = positions.BEGINNING,
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

  def read_ahead(self) -> None:
    """Begins to read the file that the first epoch begins with."""
    self.corpus.read_ahead(self._lanes()[0, 0])

  def plan(self) -> Plan:
    """Returns what must be known to make windows and blocks apart."""
    lanes = tuple(map(tuple, self._lanes().tolist()))
    window_documents, group_documents = self._window_and_group_documents()
    return Plan(
      lanes,
      -(-window_documents // len(lanes)),
      group_documents,
      self._row_window,
    )

  def _epoch_blocks(
    self, epoch, window_documents, group_documents, start, is_here
  ):
    def here(number):
      return positions.if_here(number, is_here)

    windows = (
      self._windows(window_documents, start, is_here)
      .enumerate(here(start.window))
      .map(
        lambda window, texts: self._shuffled(
          shuffling.DOCUMENT_SALT, epoch, window, texts
        )
      )
      .prefetch(1)
    )
    rows = self._rows_of_windows(windows, group_documents)
    rows = streams.skip_rows(rows, here(start.skip_packed))
    rows = rows.filter(lambda tokens, layout: tf.shape(layout)[0] > 0)
    if self.config.is_training:
      rows = self._shuffled_rows(rows, epoch, here(start.row_window))
      rows = streams.skip_rows(rows, here(start.skip_shuffled))
    blocks = rows.rebatch(BLOCK_ROWS)
    return blocks.enumerate(here(start.block)).map(
      lambda block, row: (epoch, block, *row)
    )

  def _windows(
    self, window_documents, start=positions.BEGINNING, is_here=True
  ) -> tf.data.Dataset:
    """Returns the documents that are shuffled together, strings [d]."""
    lanes = tf.constant(self._lanes(), tf.int64)
    num_lanes = lanes.shape[0]
    if num_lanes == 1:
      return self._one_lane(lanes[0], start, is_here).rebatch(window_documents)

    def open_lane(lane):
      first, skip = positions.lane_start(start, lane, is_here)
      return self.corpus.documents(tf.gather(lanes, lane)[first:], skip)

    return streams.side_by_side(
      open_lane, num_lanes, -(-window_documents // num_lanes)
    )

  def _one_lane(self, files, start, is_here) -> tf.data.Dataset:
    """Returns the documents of all files, of their own epoch from `start`."""
    whole = self.corpus.documents(files)
    if start.files is None:
      return whole
    # TFDS goes to a document only if its number is no tensor.
    first, skip = start.files[0]
    rest = self.corpus.documents(files[first:], skip)
    everything, nothing = tf.constant(-1, tf.int64), tf.constant(0, tf.int64)
    return rest.take(tf.where(is_here, everything, nothing)).concatenate(
      whole.take(tf.where(is_here, nothing, everything))
    )

  def _lanes(self) -> np.ndarray:
    """Returns the files of each stream, int64 [lanes, n]; -1 is no file."""
    with tf.init_scope():  # A value, also where a graph is being built.
      return shuffling.lanes(
        self.corpus.num_files,
        _MAX_LANES if self.config.is_training else 1,
        self._seed(shuffling.FILE_SALT, 0, 0),
      ).numpy()

  def _lane_starts(self, window, window_documents, documents):
    """Returns (index of the file in its lane, documents to skip) per lane."""
    lanes = self._lanes()
    skip = window * -(-window_documents // len(lanes))
    return tuple(
      positions.seek(positions.lengths(lane, documents), skip) for lane in lanes
    )

  def _count_documents(self) -> tuple[int, ...]:
    counts = tf.data.Dataset.range(self.corpus.num_files).map(
      lambda file: self.corpus.documents(file[tf.newaxis]).reduce(
        tf.constant(0, tf.int64),
        lambda count, texts: count + tf.size(texts, tf.int64),
      )
    )
    return tuple(int(count) for count in counts.as_numpy_iterator())

  def _rows_of_windows(self, windows, group_documents) -> tf.data.Dataset:
    if self.config.packing == 'best_fit':
      rows = windows.map(
        self._best_fit_rows,
        num_parallel_calls=_BEST_FIT_WINDOWS_AT_ONCE,
        deterministic=True,
      )
      return rows.flat_map(lambda *row: streams.in_parts(row, BLOCK_ROWS))
    return windows.flat_map(lambda texts: self.rows(texts, group_documents))

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
      Data set of (tokens int32 [r, C], lengths int32 [r]), any r, 0 included;
      of best fit, one element: tokens and segment ids int32 [r, S].
    """
    config = self.config
    if config.packing == 'best_fit':
      return tf.data.Dataset.from_tensors(texts).map(self._best_fit_rows)
    tokenizer = self.vocabulary.tokenizer()
    tokenised = (
      tf.data.Dataset.from_tensor_slices(texts)
      .batch(group_documents)
      .map(
        tokenizer.tokenize,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
      )
    )
    row_tokens = config.seq_length - 2
    if config.packing == 'within_documents':
      return packing.pack_within_documents(tokenised, row_tokens)
    if config.packing == 'one_document':
      return packing.pack_one_document(tokenised, row_tokens)
    return packing.pack_across_documents(
      tokenised, row_tokens, self.vocabulary.sep_id
    )

  @property
  def window_documents(self) -> int:
    """Documents that are shuffled and, by best fit, packed together."""
    return self._window_and_group_documents()[0]

  @property
  def _row_window(self) -> int:
    """Rows that are shuffled together."""
    if not self.config.is_training:
      return BLOCK_ROWS
    return max(self.config.shuffle_buffer_size, 1)

  def _shuffled_rows(self, rows, epoch, first_window):
    windows = rows.rebatch(self._row_window)
    return windows.enumerate(first_window).map(
      lambda window, row: self._shuffled(shuffling.ROW_SALT, epoch, window, row)
    )

  def _shuffled(self, salt, epoch, window, tensors):
    if not self.config.is_training:
      return tensors
    return shuffling.shuffled(tensors, self._seed(salt, epoch, window))

  def _seed(self, salt, epoch, number):
    return shuffling.seed(self.config.seed, salt, epoch, number)

  def _window_and_group_documents(self) -> tuple[int, int]:
    mean_bytes = self.corpus.mean_document_bytes()
    is_best_fit = self.config.packing == 'best_fit'
    window_bytes = _BEST_FIT_WINDOW_BYTES if is_best_fit else _WINDOW_BYTES
    window = min(window_bytes // mean_bytes, _MAX_WINDOW_DOCUMENTS)
    group = min(_GROUP_BYTES // mean_bytes, 4096)
    return max(window, 1), max(group, 1)
