"""From documents to masked-LM examples, the same for training and for files.

    documents -> windows, shuffled -> WordPiece -> rows of S, packed
              -> rows, shuffled -> blocks, masked

Everything random follows from (seed, epoch, number of the window or block), so
a run repeats exactly, and any epoch can be made without the ones before.
"""

import dataclasses

import tensorflow as tf

from tokendrop_tf import configs
from tokendrop_tf.data import masking as masking_lib
from tokendrop_tf.data import packing, shuffling
from tokendrop_tf.data import vocabulary as vocabulary_lib

# Rows masked together, in one vectorised step.
BLOCK_ROWS = 128
# Text shuffled as a whole. Windows are packed independently of each other.
_WINDOW_BYTES = 64 << 20
_MAX_WINDOW_DOCUMENTS = 1 << 16
# Text tokenised in one step.
_GROUP_BYTES = 1 << 20


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

  def blocks(self, first_epoch: int, num_epochs: int | None) -> tf.data.Dataset:
    """Returns packed blocks of consecutive epochs, not yet masked.

    Args:
      first_epoch: number of the first epoch.
      num_epochs: how many; `None` is without end.

    Returns:
      Data set of (epoch int64, block int64, tokens int32 [R, C], lengths int32
      [R]), R at most `BLOCK_ROWS`.
    """
    last = tf.int64.max if num_epochs is None else first_epoch + num_epochs
    epochs = tf.data.Dataset.range(first_epoch, last)
    sizes = self._window_and_group_documents()
    return epochs.flat_map(lambda epoch: self._epoch_blocks(epoch, *sizes))

  def mask(self, epoch, block, tokens, lengths) -> dict[str, tf.Tensor]:
    """Masks one element of `blocks`; see `masking.Masking`."""
    config = self.config
    masking = masking_lib.Masking(
      self.vocabulary,
      config.seq_length,
      config.max_predictions_per_seq,
      config.mask_rate,
    )
    return masking(
      tokens, lengths, self._seed(shuffling.MASK_SALT, epoch, block)
    )

  def _epoch_blocks(self, epoch, window_documents, group_documents):
    order = self._file_order(epoch)
    documents = self.corpus.documents(order).rebatch(window_documents)
    windows = (
      documents.enumerate()
      .map(
        lambda window, texts: self._shuffled(
          shuffling.DOCUMENT_SALT, epoch, window, texts
        )
      )
      .prefetch(1)
    )
    rows = windows.flat_map(lambda texts: self.rows(texts, group_documents))
    rows = rows.filter(lambda tokens, lengths: tf.size(lengths) > 0)
    if self.config.is_training:
      rows = self._shuffled_rows(rows, epoch)
    blocks = rows.rebatch(BLOCK_ROWS)
    return blocks.enumerate().map(lambda block, row: (epoch, block, *row))

  def rows(self, texts, group_documents: int = 1) -> tf.data.Dataset:
    """Tokenises and packs documents, in order.

    Args:
      texts: strings [d].
      group_documents: documents tokenised in one step.

    Returns:
      Data set of (tokens int32 [r, C], lengths int32 [r]), any r, 0 included.
    """
    config = self.config
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
    return packing.pack_across_documents(
      tokenised, row_tokens, self.vocabulary.sep_id
    )

  def _shuffled_rows(self, rows, epoch):
    windows = rows.rebatch(max(self.config.shuffle_buffer_size, 1))
    return windows.enumerate().map(
      lambda window, row: self._shuffled(shuffling.ROW_SALT, epoch, window, row)
    )

  def _shuffled(self, salt, epoch, window, tensors):
    if not self.config.is_training:
      return tensors
    return shuffling.shuffled(tensors, self._seed(salt, epoch, window))

  def _file_order(self, epoch):
    if not self.config.is_training or self.corpus.num_files == 1:
      return None
    files = tf.range(self.corpus.num_files, dtype=tf.int64)
    return shuffling.shuffled(files, self._seed(shuffling.FILE_SALT, epoch, 0))

  def _seed(self, salt, epoch, number):
    return shuffling.seed(self.config.seed, salt, epoch, number)

  def _window_and_group_documents(self) -> tuple[int, int]:
    mean_bytes = self.corpus.mean_document_bytes()
    window = min(_WINDOW_BYTES // mean_bytes, _MAX_WINDOW_DOCUMENTS)
    group = min(_GROUP_BYTES // mean_bytes, 4096)
    return max(window, 1), max(group, 1)
