"""Raw text to the encoder's inputs, tokenised as in pretraining.

Letters: B batch, S sequence length.
"""

import tensorflow as tf
from official.nlp.modeling import layers as garden_layers

from tokendrop_tf import errors
from tokendrop_tf.text import vocabulary as vocabulary_lib


class TextPacker:
  """Tokenises sentences or pairs and packs them into rows of S.

  A row is `[CLS] first [SEP]` or `[CLS] first [SEP] second [SEP]`, padded with
  [PAD]. What does not fit is cut off at the ends; of a pair, both segments are
  given room one token at a time in turn, as TF Hub's BERT preprocessors do
  (`RoundRobinTrimmer` of tensorflow-text). An empty string is a segment
  without tokens.

  Inputs: `first` and, for pairs, `second`, string [B], UTF-8.

  Outputs: a dict of `input_word_ids`, `input_mask` (1 for a token, 0 for
  padding) and `input_type_ids` (1 in the second segment), int32 [B, S].

  Example:

      packer = TextPacker(Vocabulary.from_file('vocab.txt'), seq_length=128)
      packer(tf.constant(['a text', '']))['input_word_ids']  # int32 [2, 128]
      dataset.batch(32).map(lambda row: packer(row['question'], row['text']))

  Args:
    vocabulary: the vocabulary; its `tokenizer()` is the one of pretraining.
    seq_length: S, from 4: [CLS], two [SEP] and a token.

  Raises:
    ConfigurationError: if S is too small.
  """

  def __init__(self, vocabulary: vocabulary_lib.Vocabulary, seq_length: int):
    if seq_length < 4:
      raise errors.ConfigurationError(
        'seq_length must be at least 4: [CLS], a token and two [SEP]. '
        f'Received: {seq_length}. Set a larger seq_length.'
      )
    self._vocabulary = vocabulary
    self._tokenizer = vocabulary.tokenizer()
    self._seq_length = seq_length

  @property
  def seq_length(self) -> int:
    return self._seq_length

  @property
  def vocabulary(self) -> vocabulary_lib.Vocabulary:
    return self._vocabulary

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the ids of string [B] texts, ragged int32 [B, (tokens)]."""
    return self._tokenizer.tokenize(texts)

  def __call__(
    self, first: tf.Tensor, second: tf.Tensor | None = None
  ) -> dict[str, tf.Tensor]:
    texts = [first] if second is None else [first, second]
    return self.pack([self.tokenize(text) for text in texts])

  def pack(self, segments: list[tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """Packs one or two segments of ids, ragged int32 [B, (tokens)]."""
    vocabulary = self._vocabulary
    features = garden_layers.BertPackInputs.bert_pack_inputs(
      segments,
      seq_length=self._seq_length,
      start_of_sequence_id=vocabulary.cls_id,
      end_of_segment_id=vocabulary.sep_id,
      padding_id=vocabulary.pad_id,
    )
    return {
      name: tf.ensure_shape(rows, [None, self._seq_length])
      for name, rows in features.items()
    }
