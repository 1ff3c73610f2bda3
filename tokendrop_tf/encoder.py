"""The BERT encoder whose middle layers run on the tokens that matter.

Letters: B batch, S sequence length, K tokens kept, P output positions, H hidden
size, V vocabulary, L layers, a layers before the crossing.
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras
from official.modeling import activations, tf_utils
from official.nlp.modeling import layers as garden_layers

from tokendrop_tf import layers
from tokendrop_tf.layers import random_seeds

# What the Model Garden adds to the attention logits of padding.
_PADDING_BIAS = -1e9
# Features of a position, which are sorted with it; the last two are optional.
_OF_POSITIONS = (
  'input_word_ids',
  'input_mask',
  'input_type_ids',
  'segment_ids',
  'position_ids',
)


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class TokenDropBertEncoder(tf_keras.layers.Layer):
  """BERT encoder with token dropping: sort once, slice after.

  Token ids are sorted by importance before anything is embedded. Layers 1 .. a
  run on all S tokens; layer a + 1, the crossing, queries with the first K; the
  following layers run on those K rows; the last layer sees the K rows and the
  S - K others as layer a left them. Attention does not depend on order, so this
  equals gathering and scattering in reading order (Hou, Pang et al., 2022,
  arXiv 2203.13240) without moving activations.

  Without dropping it computes what the Model Garden's `BertEncoderV2` computes,
  and weights have the same names in a checkpoint.

  Inputs: a dict of `input_word_ids`, `input_mask` (1 for a token, 0 for
  padding) and `input_type_ids`, int32 [B, S]; of rows that hold several
  documents also
    segment_ids: int32 [B, S], the number of the document, 0 for padding;
      attention then stays within a document.
    position_ids: int32 [B, S], places in the position table; without them
      those of the row, 0 .. S - 1.
  With both, a document's output is what it would be in a row of its own. And in
  `call`:
    output_positions: int32 [B, P], reading-order positions whose output is
      wanted; the last layer then queries at these only. `None` is all S.
    training: whether to drop out, and to drop tokens unless told otherwise.
    drop_tokens: overrides dropping; `None` is `training`.
    token_keep_k: overrides K.
    seed: int32 [2], the same on every replica; all random numbers of the call
      follow from it. `None` draws one while training; otherwise tokens are then
      ranked, equal scores in reading order.
    return_pooled_output: whether `pooled_output` is computed.

  Outputs: a dict of
    sequence_output: [B, S, H] in reading order, or [B, P, H].
    pooled_output: [B, H], from position 0, if asked for.
    encoder_outputs: every layer's [B, S, H]; only without dropping and
      `output_positions`.

  Example:

      encoder = TokenDropBertEncoder(vocab_size=100, hidden_size=32,
          num_layers=4, num_attention_heads=2, inner_dim=64, token_keep_k=8)
      ids = tf.ones([2, 16], tf.int32)
      outputs = encoder(dict(input_word_ids=ids, input_mask=ids,
                             input_type_ids=tf.zeros_like(ids)), training=True)

  Args:
    vocab_size: V.
    hidden_size: H.
    num_layers: L, at least 3 where tokens are dropped.
    num_attention_heads: heads per layer; divides H.
    max_sequence_length: longest S; length of the position table.
    type_vocab_size: number of token types.
    inner_dim: width of the feed-forward layers.
    inner_activation: activation of the feed-forward layers; the Model Garden's
      gelu is the tanh approximation.
    output_dropout: dropout rate of embeddings and of residual branches.
    attention_dropout: dropout rate of attention probabilities.
    initializer: initializer of all kernels and embeddings.
    embedding_width: width of the word embeddings; `None` is H.
    position_initializer: initializer of the position table; `None` is
      `initializer`.
    norm_first: normalizes inputs of a residual branch instead of its sum.
    residual_initializer_scale: factor on the initial kernels that end a
      residual branch.
    token_keep_k: K; `None` builds an encoder that never drops.
    crossing_layer: a + 1, from 1 to L - 1; `None` is L // 2.
    temperature: 0 keeps the K highest scores, t > 0 samples; see `TokenOrder`.
    token_loss_init_value: first value of the importance table, in nats.
    token_loss_beta: decay of the importance table.
    token_allow_list: ids that are always kept while there is room.
    token_deny_list: ids that are dropped first.

  Raises:
    ValueError: for a K above S or below 1, a crossing layer outside the stack,
      fewer than 3 layers with dropping, or dropping without `token_keep_k`.
  """

  def __init__(
    self,
    vocab_size: int,
    hidden_size: int = 768,
    num_layers: int = 12,
    num_attention_heads: int = 12,
    max_sequence_length: int = 512,
    type_vocab_size: int = 16,
    inner_dim: int = 3072,
    inner_activation=activations.gelu,
    output_dropout: float = 0.1,
    attention_dropout: float = 0.1,
    token_keep_k: int | None = None,
    crossing_layer: int | None = None,
    temperature: float = 0.0,
    token_loss_init_value: float = 10.0,
    token_loss_beta: float = 0.995,
    token_allow_list: Sequence[int] = (),
    token_deny_list: Sequence[int] = (),
    initializer=None,
    embedding_width: int | None = None,
    position_initializer=None,
    norm_first: bool = False,
    residual_initializer_scale: float = 1.0,
    **kwargs,
  ):
    super().__init__(**kwargs)
    if initializer is None:
      initializer = tf_keras.initializers.TruncatedNormal(stddev=0.02)
    initializer = tf_keras.initializers.get(initializer)
    activation = tf_keras.activations.get(inner_activation)
    self._config = {
      'vocab_size': vocab_size,
      'hidden_size': hidden_size,
      'num_layers': num_layers,
      'num_attention_heads': num_attention_heads,
      'max_sequence_length': max_sequence_length,
      'type_vocab_size': type_vocab_size,
      'inner_dim': inner_dim,
      'inner_activation': tf_utils.serialize_activation(
        activation, use_legacy_format=True
      ),
      'output_dropout': output_dropout,
      'attention_dropout': attention_dropout,
      'token_keep_k': token_keep_k,
      'crossing_layer': crossing_layer,
      'temperature': temperature,
      'token_loss_init_value': token_loss_init_value,
      'token_loss_beta': token_loss_beta,
      'token_allow_list': tuple(token_allow_list),
      'token_deny_list': tuple(token_deny_list),
      'initializer': tf_utils.serialize_initializer(
        initializer, use_legacy_format=True
      ),
      'embedding_width': embedding_width or hidden_size,
      'position_initializer': tf_utils.serialize_initializer(
        tf_keras.initializers.get(position_initializer or initializer),
        use_legacy_format=True,
      ),
      'norm_first': norm_first,
      'residual_initializer_scale': residual_initializer_scale,
    }
    self._token_keep_k = token_keep_k
    self._crossing_layer = (
      num_layers // 2 if crossing_layer is None else crossing_layer
    )
    if token_keep_k is not None:
      _check_layout(num_layers, self._crossing_layer, token_keep_k)
    self._output_dropout_rate = output_dropout
    self._create_embeddings(initializer)
    self._create_blocks(initializer, activation)
    self._create_drop_stage()
    self.inputs = {
      name: tf_keras.Input(shape=(None,), dtype=tf.int32)
      for name in _OF_POSITIONS[:3]
    }

  # Attribute names below are those of `BertEncoderV2`: a checkpoint keeps them.

  def _create_embeddings(self, initializer):
    config = self._config
    clone = tf_utils.clone_initializer
    self._embedding_layer = garden_layers.OnDeviceEmbedding(
      vocab_size=config['vocab_size'],
      embedding_width=config['embedding_width'],
      initializer=clone(initializer),
      name='word_embeddings',
    )
    self._position_embedding_layer = layers.IndexedPositionEmbedding(
      max_length=config['max_sequence_length'],
      initializer=tf_keras.initializers.get(config['position_initializer']),
      name='position_embedding',
    )
    self._type_embedding_layer = garden_layers.OnDeviceEmbedding(
      vocab_size=config['type_vocab_size'],
      embedding_width=config['embedding_width'],
      initializer=clone(initializer),
      use_one_hot=True,
      name='type_embeddings',
    )
    self._embedding_norm_layer = tf_keras.layers.LayerNormalization(
      name='embeddings/layer_norm', axis=-1, epsilon=1e-12, dtype=tf.float32
    )
    self._embedding_projection = None
    if config['embedding_width'] != config['hidden_size']:
      self._embedding_projection = tf_keras.layers.EinsumDense(
        '...x,xy->...y',
        output_shape=config['hidden_size'],
        bias_axes='y',
        kernel_initializer=clone(initializer),
        name='embedding_projection',
      )

  def _create_blocks(self, initializer, activation):
    config = self._config
    self._transformer_layers = [
      layers.TransformerBlock(
        num_attention_heads=config['num_attention_heads'],
        inner_dim=config['inner_dim'],
        inner_activation=activation,
        output_dropout=config['output_dropout'],
        attention_dropout=config['attention_dropout'],
        norm_first=config['norm_first'],
        kernel_initializer=tf_utils.clone_initializer(initializer),
        residual_initializer_scale=config['residual_initializer_scale'],
        name=f'transformer/layer_{i}',
      )
      for i in range(config['num_layers'])
    ]
    self._pooler_layer = tf_keras.layers.Dense(
      units=config['hidden_size'],
      activation='tanh',
      kernel_initializer=tf_utils.clone_initializer(initializer),
      name='pooler_transform',
    )

  def _create_drop_stage(self):
    config = self._config
    self._token_importance = None
    if config['token_keep_k'] is None:
      return
    self._token_importance = layers.TokenImportance(
      vocab_size=config['vocab_size'],
      init_value=config['token_loss_init_value'],
      beta=config['token_loss_beta'],
      always_keep_ids=config['token_allow_list'],
      always_drop_ids=config['token_deny_list'],
      name='token_importance',
    )
    self._token_order = layers.TokenOrder(
      temperature=config['temperature'], name='token_order'
    )

  def build(self, input_shape):
    # Weights that a first call without dropping, or at positions only, would
    # not create.
    if self._token_importance is not None:
      with tf.name_scope(self._token_importance.name):
        self._token_importance.build(None)
    with tf.name_scope(self._pooler_layer.name):
      self._pooler_layer.build([None, self._config['hidden_size']])
    super().build(input_shape)

  def call(
    self,
    inputs,
    output_positions=None,
    training=False,
    drop_tokens=None,
    token_keep_k=None,
    seed=None,
    return_pooled_output=True,
  ):
    keep_k = self._resolve_keep_k(
      inputs['input_word_ids'], training, drop_tokens, token_keep_k
    )
    order_seed, dropout_seeds = self._seeds(training, seed)
    # 1., 2. Sort the integers: ids, types, mask and positions.
    features, order = self._sort(inputs, keep_k, order_seed)
    # 3. Embed in that order.
    positions = features.get('position_ids', order)
    rows = self._embed(features, positions, dropout_seeds[0])
    # 4. to 6. All layers but the last.
    bias = _AttentionBias(
      features['input_mask'], features.get('segment_ids'), self.compute_dtype
    )
    rows, all_rows = self._run_layers(
      rows, bias, keep_k, training, dropout_seeds[1:]
    )
    # 7. The last layer, at the rows that are asked for.
    queries = self._query_rows(output_positions, order, return_pooled_output)
    last = self._transformer_layers[-1](
      rows if queries is None else tf.gather(rows, queries, batch_dims=1),
      key_value=None if queries is None else rows,
      attention_bias=bias.at(queries),
      training=training,
      seed=dropout_seeds[-1],
    )
    return self._outputs(
      last, all_rows, keep_k, output_positions, return_pooled_output
    )

  def _resolve_keep_k(self, word_ids, training, drop_tokens, token_keep_k):
    """Returns K where tokens are dropped in this call, else `None`."""
    if drop_tokens is None:
      drop_tokens = bool(training) and self._token_keep_k is not None
    if not drop_tokens:
      return None
    if self._token_keep_k is None:
      raise ValueError(
        'drop_tokens needs an encoder that can drop. Received: '
        'token_keep_k=None at construction. Set token_drop.token_keep_k.'
      )
    keep_k = self._token_keep_k if token_keep_k is None else token_keep_k
    seq_length = word_ids.shape[1]
    if seq_length is None:
      raise ValueError(
        'Dropping tokens needs a static sequence length. '
        f'Received: input_word_ids of shape {word_ids.shape}.'
      )
    if not 1 <= keep_k <= seq_length:
      raise ValueError(
        'token_keep_k must be from 1 to seq_length. Received: '
        f'token_keep_k={keep_k}, seq_length={seq_length}. '
        'Set token_drop.token_keep_k.'
      )
    return None if keep_k == seq_length else keep_k

  def _seeds(self, training, seed):
    """Returns the seed of the order, that of the embeddings, and the layers'.

    A layer has three places that drop out, so its seeds are int32 [3, 2].
    """
    num_layers = self._config['num_layers']
    if not training:
      return seed, [None] * (num_layers + 1)
    if seed is None:
      seed = random_seeds.draw_seed()
    order_seed, dropout_seed = random_seeds.split_seed(seed, 2)
    table = random_seeds.seed_table(
      random_seeds.per_replica_seed(dropout_seed), [num_layers + 1, 3]
    )
    embedding_seeds, *layer_seeds = tf.unstack(table)
    return order_seed, [embedding_seeds[0], *layer_seeds]

  def _sort(self, inputs, keep_k, seed):
    """Returns the inputs, most important token first, and the order [B, S]."""
    if keep_k is None:
      return inputs, None
    scores = self._token_importance(inputs['input_word_ids'])
    order = self._token_order(scores, seed=seed)
    features = {
      name: tf.gather(inputs[name], order, batch_dims=1)
      for name in _OF_POSITIONS
      if name in inputs
    }
    return features, order

  def _embed(self, features, positions, seed):
    """Returns embeddings, [B, S, H], dropped out where there is a seed."""
    rows = self._embedding_layer(features['input_word_ids'])
    rows += self._position_embedding_layer(rows, positions=positions)
    rows += self._type_embedding_layer(features['input_type_ids'])
    rows = tf.cast(self._embedding_norm_layer(rows), self.compute_dtype)
    rows = random_seeds.dropout(rows, self._output_dropout_rate, seed)
    if self._embedding_projection is not None:
      rows = self._embedding_projection(rows)
    return rows

  def _run_layers(self, rows, bias, keep_k, training, seeds):
    """Runs all layers but the last.

    Returns:
      rows [B, S, H] for the last layer (with dropping, the kept ones first),
      and the list of every layer's rows (`None` with dropping).
    """
    blocks = list(zip(self._transformer_layers, seeds))[:-1]
    to_all = bias.of_rows()
    if keep_k is None:
      all_rows = []
      for block, seed in blocks:
        rows = block(rows, attention_bias=to_all, training=training, seed=seed)
        all_rows.append(rows)
      return rows, all_rows
    num_full = self._crossing_layer - 1
    for block, seed in blocks[:num_full]:
      rows = block(rows, attention_bias=to_all, training=training, seed=seed)
    # Dropping is this slice: the tokens that matter come first.
    kept, dropped = rows[:, :keep_k], rows[:, keep_k:]
    crossing, seed = blocks[num_full]
    kept = crossing(
      kept,
      key_value=rows,
      attention_bias=bias.of_rows(keep_k),
      training=training,
      seed=seed,
    )
    to_kept = bias.of_rows(keep_k, keep_k)
    for block, seed in blocks[num_full + 1 :]:
      kept = block(kept, attention_bias=to_kept, training=training, seed=seed)
    # Restoring is this concatenation.
    return tf.concat([kept, tf.cast(dropped, kept.dtype)], axis=1), None

  def _query_rows(self, output_positions, order, return_pooled_output):
    """Returns where the rows asked for are, int32 [B, Q]; `None` is all."""
    if output_positions is not None and return_pooled_output:
      output_positions = tf.pad(output_positions, [[0, 0], [1, 0]])
    if order is None:
      return output_positions
    place = tf.argsort(order)  # inverse permutation, [B, S]
    if output_positions is None:
      return place
    return tf.gather(place, output_positions, batch_dims=1)

  def _outputs(
    self, last, all_rows, keep_k, output_positions, return_pooled_output
  ):
    outputs = {}
    if return_pooled_output:
      outputs['pooled_output'] = self._pooler_layer(last[:, 0, :])
      if output_positions is not None:
        last = last[:, 1:]
    last = tf.cast(last, tf.float32)  # as the stock encoder's
    outputs['sequence_output'] = last
    if keep_k is None and output_positions is None:
      outputs['encoder_outputs'] = all_rows + [last]
    return outputs

  @property
  def token_importance(self) -> layers.TokenImportance | None:
    """The importance table's layer; `None` where tokens are never dropped."""
    return self._token_importance

  @property
  def transformer_layers(self):
    return self._transformer_layers

  @property
  def pooler_layer(self):
    return self._pooler_layer

  @property
  def optional_inputs(self) -> tuple[str, ...]:
    """Names of the inputs that `call` takes beside `inputs`."""
    return _OF_POSITIONS[len(self.inputs) :]

  def get_embedding_table(self):
    return self._embedding_layer.embeddings

  def get_embedding_layer(self):
    return self._embedding_layer

  def get_config(self):
    return {**super().get_config(), **self._config}


class _AttentionBias:
  """What is added to attention logits: 0 where a query may look, else -1e9.

  Without segments it is one number a key. With them it is a comparison of two
  rows of integers, made for the queries and keys at hand and never for all
  heads.

  Args:
    mask: int32 [B, S], 1 for a token.
    segment_ids: int32 [B, S] or `None`.
    dtype: of the bias.
  """

  def __init__(self, mask, segment_ids, dtype):
    padding = 1.0 - tf.cast(mask, dtype)
    self._padding = (padding * _PADDING_BIAS)[:, tf.newaxis, tf.newaxis, :]
    self._segments = segment_ids

  def of_rows(self, num_queries=None, num_keys=None):
    """Returns the bias of the first rows, [B, 1, 1 or queries, keys]."""
    padding = self._padding[..., :num_keys]
    if self._segments is None:
      return padding
    return _within_segments(
      self._segments[:, :num_queries], self._segments[:, :num_keys], padding
    )

  def at(self, queries):
    """Returns the bias of rows [B, Q] to all; `None` is all rows."""
    if self._segments is None or queries is None:
      return self.of_rows()
    segments = tf.gather(self._segments, queries, batch_dims=1)
    return _within_segments(segments, self._segments, self._padding)


def _within_segments(of_queries, of_keys, padding):
  """[B, T], [B, S], [B, 1, 1, S] -> [B, 1, T, S]"""
  is_same = (
    of_queries[:, tf.newaxis, :, tf.newaxis]
    == (of_keys[:, tf.newaxis, tf.newaxis, :])
  )
  return tf.where(is_same, padding, tf.constant(_PADDING_BIAS, padding.dtype))


def _check_layout(num_layers, crossing_layer, token_keep_k):
  if num_layers < 3:
    raise ValueError(
      'Dropping tokens needs at least 3 layers: one that crosses, one on the '
      f'kept tokens, one on all. Received: num_layers={num_layers}. '
      'Set model.num_layers.'
    )
  if not 1 <= crossing_layer <= num_layers - 1:
    raise ValueError(
      'crossing_layer must be from 1 to num_layers - 1. Received: '
      f'crossing_layer={crossing_layer}, num_layers={num_layers}. '
      'Set token_drop.crossing_layer.'
    )
  if token_keep_k < 1:
    raise ValueError(
      'token_keep_k must be at least 1. '
      f'Received: token_keep_k={token_keep_k}. Set token_drop.token_keep_k.'
    )
