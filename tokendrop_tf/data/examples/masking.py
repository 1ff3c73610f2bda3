"""Masks packed rows: which tokens are labels, and what stands in their place.

Letters: R rows, W numbers of a row (see `packing`), S positions, P prediction
slots, V vocabulary.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tokendrop_tf.data.examples import shuffling
from tokendrop_tf.text import vocabulary as vocabulary_lib

_CONTINUATION = '##'


@dataclasses.dataclass(frozen=True)
class Masking:
  """Turns blocks of packed rows into masked-LM examples.

  In a row with m ordinary tokens, `mask_rate * m` of them are labels, rounded
  up or down at random so that the mean is exact; at most P, and at least one
  where there is an ordinary token. Of the labels 80 % are replaced by [MASK],
  10 % by a random ordinary token, and 10 % stay (Devlin et al. 2019, 3.1).
  Special tokens are neither labels nor replacements.

  Kinds differ in what is chosen at random:
    'token': single tokens.
    'whole_word': words, a token and the '##' pieces that follow it. The word
      that the mean falls into is taken with the probability that keeps the mean
      exact; words of more than P tokens are left alone.
    'span': runs of whole words of one document, with a geometric number of
      words, cut off at `max_span_words` (Joshi et al. 2020, SpanBERT, 3.1): a
      row is cut into such spans from its beginning, and some are chosen. The
      last one chosen may be cut short by words. All labels of a span are
      replaced alike.

  Attributes:
    vocabulary: the vocabulary.
    seq_length: S.
    max_predictions_per_seq: P.
    mask_rate: share of the ordinary tokens that become labels.
    kind: 'token', 'whole_word' or 'span'.
    mask_token_share: share of the labels that are replaced by [MASK].
    random_token_share: share of the labels replaced by a random token.
    span_stop_probability: of a span to end after each of its words.
    max_span_words: words of a span at most.

  Example:
    masking = Masking(vocabulary, 128, 19, 0.15)
    features = masking(tokens, lengths, seed=(0, 1))
  """

  vocabulary: vocabulary_lib.Vocabulary
  seq_length: int
  max_predictions_per_seq: int
  mask_rate: float
  kind: str = 'token'
  mask_token_share: float = 0.8
  random_token_share: float = 0.1
  span_stop_probability: float = 0.2
  max_span_words: int = 10

  def __call__(self, rows, seed, mask_rate=None) -> dict[str, tf.Tensor]:
    """Masks one block.

    Args:
      rows: int32 [R, W], packed rows.
      seed: int [2]; equal seeds give equal masks.
      mask_rate: float32 [R], instead of the attribute.

    Returns:
      `input_word_ids`, `input_mask`, `input_type_ids` int32 [R, S];
      `masked_lm_positions` (ascending), `masked_lm_ids` int32 [R, P];
      `masked_lm_weights` float32 [R, P]. Empty slots hold position 0, id 0,
      weight 0. Of best-fit rows also `segment_ids` and `position_ids`, int32
      [R, S].
    """
    mask_rate = self.mask_rate if mask_rate is None else mask_rate
    count_seed, choice_seed, fate_seed, token_seed = _split(seed, 4)
    word_ids, structure = self._structure(rows)
    ordinary = self._is_ordinary(word_ids)
    if self.kind == 'token':
      draws = _uniform(tf.shape(ordinary), choice_seed)
      num_labels = self._num_labels(ordinary, mask_rate, count_seed)
      positions, filled = self._slots(
        tf.where(ordinary, draws, -1.0), num_labels
      )
      fate = _uniform(tf.shape(positions), fate_seed)
    else:
      is_label, span = self._choose_words(
        word_ids, ordinary, mask_rate, count_seed, choice_seed
      )
      is_label = tf.cast(is_label, tf.int32)
      positions, filled = self._slots(is_label, tf.reduce_sum(is_label, axis=1))
      fate = self._fate_of_words(span, positions, fate_seed)
    labels = tf.gather(word_ids, positions, batch_dims=1)
    inputs = self._replace(labels, fate, token_seed)
    word_ids = _write(word_ids, positions, tf.where(filled, inputs, labels))
    input_mask = structure['input_mask']
    return {
      **structure,
      'input_word_ids': self._shaped(word_ids, self.seq_length),
      'input_type_ids': tf.zeros_like(input_mask),
      'masked_lm_positions': positions,
      'masked_lm_ids': tf.where(filled, labels, 0),
      'masked_lm_weights': tf.cast(filled, tf.float32),
    }

  def _shaped(self, tensor, columns):
    return tf.ensure_shape(tensor, [None, columns])

  def _structure(self, rows):
    """Returns the tokens of rows, int32 [R, S], and the other features."""
    word_ids = rows[:, : self.seq_length]
    if rows.shape[1] == self.seq_length:
      column = tf.range(1, self.seq_length + 1)
      ends = tf.where(word_ids != self.vocabulary.pad_id, column, 0)
      length = tf.reduce_max(ends, axis=1, keepdims=True)
      input_mask = tf.cast(column <= length, tf.int32)
      return word_ids, {'input_mask': self._shaped(input_mask, self.seq_length)}
    # A copy: a slice shares memory with its input, which `rebatch` reports.
    segments = tf.gather(
      rows, tf.range(self.seq_length, 2 * self.seq_length), axis=1
    )
    return word_ids, {
      'input_mask': tf.cast(segments > 0, tf.int32),
      'segment_ids': self._shaped(segments, self.seq_length),
      'position_ids': _places(segments),
    }

  def _is_ordinary(self, word_ids):
    ordinary = tf.ones_like(word_ids, tf.bool)
    for special_id in self.vocabulary.special_ids:
      ordinary &= word_ids != special_id
    return ordinary

  def _num_labels(self, ordinary, mask_rate, seed):
    num_ordinary = tf.reduce_sum(tf.cast(ordinary, tf.int32), axis=1)  # [R]
    expected = mask_rate * tf.cast(num_ordinary, tf.float32)
    rounded = tf.floor(expected + _uniform(tf.shape(expected), seed))
    # No more than the ordinary tokens, where the rate is near 1.
    most = tf.minimum(num_ordinary, self.max_predictions_per_seq)
    return tf.minimum(tf.maximum(tf.cast(rounded, tf.int32), 1), most)

  def _slots(self, keys, num_labels):
    """Returns the positions of the highest keys, ascending, int32 [R, P].

    Args:
      keys: [R, S]; of equal ones, the earlier position is chosen first.
      num_labels: int32 [R], how many are chosen, at most P.

    Returns:
      The positions, 0 in empty slots, and which slots are filled, bool [R, P].
    """
    num_slots = self.max_predictions_per_seq
    positions = tf.math.top_k(keys, k=num_slots).indices
    filled = tf.range(num_slots)[tf.newaxis] < num_labels[:, tf.newaxis]
    positions = tf.sort(tf.where(filled, positions, self.seq_length), axis=1)
    return self._shaped(tf.where(filled, positions, 0), num_slots), filled

  def _choose_words(self, word_ids, ordinary, mask_rate, count_seed, seed):
    """Returns which tokens are labels, bool [R, S], and each token's span."""
    key_seed, length_seed = _split(seed, 2)
    starts = ordinary & ~self._continues(word_ids, ordinary)
    words = _Words(ordinary, starts)
    span = words.number
    if self.kind == 'span':
      span = words.spans(self._span_lengths(starts, length_seed))
    # A random number a span, and below it the number of the word: by it, words
    # of a span stay together, in their order or the reverse.
    draws = tf.random.stateless_uniform(
      tf.shape(ordinary),
      key_seed,
      0,
      2**31 >> self._number_bits,
      tf.int32,
      alg=shuffling.ALGORITHM,
    )
    draws = tf.gather(draws, span, batch_dims=1)
    keys = draws * 2**self._number_bits + self._turned(words.number, draws)
    can_be_label = words.size_at_tokens() <= self.max_predictions_per_seq
    last = self._last_taken(
      tf.where(starts & can_be_label, keys, -1),
      words.sizes,
      mask_rate * tf.cast(words.num_tokens, tf.float32),
      _uniform([tf.shape(ordinary)[0], 1], count_seed),
    )
    return ordinary & can_be_label & (keys >= last), span

  def _turned(self, number, draws):
    """Returns numbers that count up where `draws` are odd, and else down.

    It is its own inverse. A span that is cut short loses its end or its
    beginning alike, so that the first tokens of a row are no more often labels
    than the others.
    """
    down = 2**self._number_bits - 1 - number
    return tf.where(draws % 2 > 0, number, down)

  @property
  def _number_bits(self) -> int:
    """Bits that hold the number of a word."""
    return (self.seq_length - 1).bit_length()

  def _continues(self, word_ids, ordinary):
    is_continuation = tf.constant(
      [token.startswith(_CONTINUATION) for token in self.vocabulary.tokens]
    )
    # Pieces at the beginning of a row, without their word, count as a word.
    return tf.gather(is_continuation, word_ids) & _shifted(ordinary)

  def _span_lengths(self, starts, seed):
    """Draws words of spans, int32 [R, S]: geometric, cut off by rejection."""
    go_on = 1.0 - self.span_stop_probability
    lengths = np.arange(1, self.max_span_words + 1)
    shares = np.cumsum(go_on ** (lengths - 1.0))
    draws = _uniform(tf.shape(starts), seed)
    ends = tf.constant(shares[:-1] / shares[-1], tf.float32)
    return 1 + tf.reshape(
      tf.searchsorted(ends, tf.reshape(draws, [-1]), side='right'),
      tf.shape(draws),
    )

  def _last_taken(self, keys, sizes, target, draws):
    """Returns the key of the last word that is taken, int32 [R, 1].

    Words are taken while their tokens are no more than `target`, and the next
    one with the probability that makes the mean number of tokens the target.

    Args:
      keys: int32 [R, S], of words that can be taken, highest first; else -1.
      sizes: int32 [R, S], tokens of every word, by its number.
      target: float32 [R].
      draws: float32 [R, 1], uniform.
    """
    # A word has a token or more: no more words than slots can be taken.
    keys = tf.math.top_k(keys, self.max_predictions_per_seq).values
    is_word = keys >= 0
    number = self._turned(
      keys % 2**self._number_bits, keys // 2**self._number_bits
    )
    number = tf.where(is_word, number, 0)
    sizes = tf.where(is_word, tf.gather(sizes, number, batch_dims=1), 0)
    total = tf.cumsum(sizes, axis=1)
    room = target[:, tf.newaxis] - tf.cast(total - sizes, tf.float32)
    sizes = tf.cast(sizes, tf.float32)
    taken = is_word & ((sizes <= room) | (draws * sizes < room))
    taken &= total <= self.max_predictions_per_seq
    count = tf.reduce_sum(tf.cast(taken, tf.int32), axis=1, keepdims=True)
    # At least one, where there is one.
    last = tf.gather(keys, tf.maximum(count - 1, 0), batch_dims=1)
    return tf.where(last >= 0, last, tf.int32.max)

  def _fate_of_words(self, span, positions, seed):
    """Returns uniform numbers [R, P], of spans one each."""
    if self.kind != 'span':
      return _uniform(tf.shape(positions), seed)
    of_label = tf.gather(span, positions, batch_dims=1)
    return tf.gather(_uniform(tf.shape(span), seed), of_label, batch_dims=1)

  def _replace(self, labels, fate, token_seed):
    ordinary_ids = tf.constant(self.vocabulary.ordinary_ids)
    choice = tf.random.stateless_uniform(
      tf.shape(labels),
      token_seed,
      0,
      tf.size(ordinary_ids),
      tf.int32,
      alg=shuffling.ALGORITHM,
    )
    random_ids = tf.gather(ordinary_ids, choice)
    kept_or_random = tf.where(
      fate < self.mask_token_share + self.random_token_share,
      random_ids,
      labels,
    )
    return tf.where(
      fate < self.mask_token_share, self.vocabulary.mask_id, kept_or_random
    )


class _Words:
  """The words of rows, numbered from 0 in each.

  Args:
    ordinary: bool [R, S], whether a token is not special.
    starts: bool [R, S], ordinary tokens that begin a word.
  """

  def __init__(self, ordinary, starts):
    self._starts = starts
    self._follows_special = starts & ~_shifted(ordinary)
    begun = tf.cumsum(tf.cast(starts, tf.int32), axis=1)
    # int32 [R, S]; of special tokens, the number of the word before, or 0.
    self.number = tf.maximum(begun - 1, 0)
    # Tokens of every word, int32 [R, S]; 0 for numbers that no word has.
    self.sizes = self._summed(tf.cast(ordinary, tf.int32))
    self.num_tokens = tf.reduce_sum(self.sizes, axis=1)

  def _summed(self, values):
    """Sums [R, S] values of positions by word, [R, S]."""
    rows, columns = tf.unstack(tf.shape(values))
    flat = self.number + tf.range(rows)[:, tf.newaxis] * columns
    sums = tf.math.unsorted_segment_sum(values, flat, rows * columns)
    return tf.reshape(sums, [rows, columns])

  def size_at_tokens(self):
    """Returns the tokens of each position's word, int32 [R, S]."""
    return tf.gather(self.sizes, self.number, batch_dims=1)

  def spans(self, lengths):
    """Groups words: spans of `lengths` words, int32 [R, S], one after another.

    No span reaches across a special token.

    Returns:
      The number of each position's span, int32 [R, S].
    """
    ends = tf.cumsum(lengths, axis=1)
    number = tf.searchsorted(ends, self.number, side='right')
    is_other = number != tf.roll(number, 1, axis=1)
    begins = self._starts & (is_other | self._follows_special)
    return tf.maximum(tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1, 0)


def _shifted(flags):
  """Returns the flag of the position before, bool [R, S]."""
  return tf.pad(flags, [[0, 0], [1, 0]])[:, :-1]


def _places(segment_ids):
  """Returns the place of every token in its segment, int32 [R, S]."""
  rows, columns = tf.unstack(tf.shape(segment_ids))
  column = tf.broadcast_to(tf.range(columns), [rows, columns])
  flat = segment_ids + tf.range(rows)[:, tf.newaxis] * columns
  first = tf.math.unsorted_segment_min(column, flat, rows * columns)
  first = tf.gather(
    tf.reshape(first, [rows, columns]), segment_ids, batch_dims=1
  )
  return tf.where(segment_ids > 0, column - first, 0)


def _write(word_ids, positions, values):
  """Returns `word_ids` with `values` at `positions`."""
  # Empty slots write [CLS] over itself at position 0.
  rows = tf.range(tf.shape(word_ids)[0])[:, tf.newaxis]
  rows = tf.broadcast_to(rows, tf.shape(positions))
  indices = tf.stack([rows, positions], axis=-1)
  return tf.tensor_scatter_nd_update(word_ids, indices, values)


def _split(seed, num):
  return tf.unstack(
    tf.random.split(tf.cast(seed, tf.int32), num, alg=shuffling.ALGORITHM),
    num=num,
  )


def _uniform(shape, seed):
  return tf.random.stateless_uniform(shape, seed, alg=shuffling.ALGORITHM)
