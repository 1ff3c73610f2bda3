"""Text to token ids as BERT does it, in any TensorFlow graph."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from tokendrop_tf.text import character_map

# Nothing of UTF-8, so no token of a vocabulary.
_NOT_UTF8 = b'\xff'
# More than a word has. Words are measured in characters; see `_known`.
_MAX_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class TokenizationSettings:
  """Tokenisation that a vocabulary was made for.

  Attributes:
    lower_case: whether text is lower-cased.
    strip_accents: whether accents are removed.
    clean_text: whether control characters are removed.
    split_chinese: whether every Chinese character is a word.
    max_word_length: characters; a longer word becomes [UNK].
  """

  lower_case: bool = True
  strip_accents: bool = True
  clean_text: bool = True
  split_chinese: bool = True
  max_word_length: int = 100


# Those of BERT without and with letter case.
UNCASED = TokenizationSettings()
CASED = TokenizationSettings(lower_case=False, strip_accents=False)


class BertTokenizer:
  """Tokenises as BERT: normalises, splits words, looks up the longest pieces.

  Ids are those of Hugging Face's `BertWordPieceTokenizer` with the same
  settings. `[MASK]` and its like are text as any other here.

  Args:
    tokens: texts of the vocabulary's tokens; the place of each is its id.
    settings: the tokenisation that the vocabulary was made for.

  Example:
    tokenizer = BertTokenizer(vocabulary.tokens, TokenizationSettings())
    tokenizer.tokenize(['A text.'])  # ragged int32 [1, (tokens)]
  """

  def __init__(self, tokens: Sequence[str], settings: TokenizationSettings):
    self._settings = settings
    # Built outside of graphs, the tables are shared by all and copied into
    # none: as graph constants they cost seconds with every data set.
    with tf.init_scope():
      self._normalizer = tf_text.FastBertNormalizer(
        model_buffer=tf.constant(character_map.normalizer_model(settings))
      )
      self._pieces = tf_text.FastWordpieceTokenizer(
        vocab=list(tokens),
        max_bytes_per_word=_MAX_BYTES,
        token_out_type=tf.int32,
        no_pretokenization=True,
      )
      self._splitter = tf_text.WhitespaceTokenizer()
      # Ends above every character, so that each has a next one.
      self._accents = tf.constant(
        [*character_map.accents(settings), 0x7FFFFFFF], tf.int32
      )

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the ids of string [B] texts, ragged int32 [B, (tokens)]."""
    words = tf.strings.split(self._normalizer.normalize(texts))
    return self._pieces.tokenize(self._known(words)).merge_dims(-2, -1)

  def _known(self, words: tf.RaggedTensor) -> tf.RaggedTensor:
    """Makes words of too many characters such as no vocabulary knows."""
    flat = words.flat_values
    limit = self._settings.max_word_length

    def replace():
      is_long = tf.strings.length(flat, 'UTF8_CHAR') > limit
      return tf.where(is_long, _NOT_UTF8 + flat, flat)

    # There are at least as many bytes, which are counted much faster.
    is_any_long = tf.reduce_any(tf.strings.length(flat) > limit)
    return words.with_flat_values(tf.cond(is_any_long, replace, lambda: flat))

  def tokenize_with_offsets(
    self, texts: tf.Tensor
  ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
    """Returns the ids, and where each token stands in its text.

    A token stands for whole characters: for those that its letters come from,
    with the accents that were stripped behind the last. Two tokens of one
    character, such as a Korean syllable, stand at the same place.

    Args:
      texts: string [B].

    Returns:
      Ids, ragged int32 [B, (tokens)]; the first byte of every token and the
      one past it, ragged int64 [B, (tokens)].

    Example:
      _, starts, ends = tokenizer.tokenize_with_offsets(['A café.'])
      starts, ends  # [[0, 2, 7]], [[1, 7, 8]] where each word is a token
    """
    texts = tf.convert_to_tensor(texts)
    normal, sources = self._normalizer.normalize_with_offsets(texts)
    words, begins, ends = self._splitter.split_with_offsets(normal)
    ids, firsts, stops = self._pieces.tokenize_with_offsets(self._known(words))
    # 1. Bytes of the normalised text: the token's first, and its last.
    word = firsts.values.value_rowids()
    begins, ends = (
      tf.cast(tf.gather(places.flat_values, word), tf.int64)
      for places in (begins, ends)
    )
    firsts = begins + firsts.flat_values
    lasts = tf.minimum(begins + stops.flat_values, ends) - 1
    # 2. Bytes of the text that these come from.
    ids = ids.merge_dims(1, 2)
    row = ids.value_rowids()
    begin = tf.gather(sources.row_starts(), row)
    firsts, lasts = (
      tf.cast(tf.gather(sources.flat_values, begin + place), tf.int64)
      for place in (firsts, lasts)
    )
    # 3. The token ends where the first character behind it begins.
    ends = self._next_character(texts, row, lasts)
    return ids, ids.with_flat_values(firsts), ids.with_flat_values(ends)

  def _next_character(self, texts, row, places) -> tf.Tensor:
    """Returns the first byte of characters, accents that are stripped skipped.

    Args:
      texts: string [B].
      row: the text of every place, int64 [n].
      places: bytes in characters, int64 [n].

    Returns:
      The byte where the next character begins, or the text ends, int64 [n].
    """
    codes, starts = tf.strings.unicode_decode_with_offsets(texts, 'UTF-8')
    sizes = tf.cast(tf.strings.length(texts), tf.int64)
    # All texts in a row, with a place behind each.
    base = tf.cumsum(sizes + 1, exclusive=True)
    codes = tf.concat([codes, tf.zeros_like(sizes, tf.int32)[:, None]], axis=1)
    starts = tf.concat([starts, sizes[:, tf.newaxis]], axis=1)
    starts = starts.flat_values + tf.gather(base, starts.value_rowids())
    index = tf.searchsorted(self._accents, codes.flat_values)
    is_accent = tf.gather(self._accents, index) == codes.flat_values
    starts = tf.boolean_mask(starts, ~is_accent)
    base = tf.gather(base, row)
    index = tf.searchsorted(starts, base + places, side='right')
    return tf.gather(starts, index) - base
