"""The BERT encoder whose middle layers run on the tokens that matter.

Letters: B batch, S sequence length, K tokens kept, P output positions, H hidden
size, V vocabulary, L layers, a layers before the crossing.
"""

import contextlib
import contextvars
from collections.abc import Sequence

import tensorflow as tf
import tf_keras
from official.modeling import activations, tf_utils
from official.nlp.modeling import layers as garden_layers

from tokendrop_tf import dropping, layers, stack
from tokendrop_tf.dropping import by_loss, consistency, crossing, registry
from tokendrop_tf.dropping.rows import Rows
from tokendrop_tf.layers import neighbour_start, random_seeds
from tokendrop_tf.layers.dropout import dropout

# Features of a position, which are sorted with it; the last two are optional.
_OF_POSITIONS = (
  'input_word_ids',
  'input_mask',
  'input_type_ids',
  'segment_ids',
  'position_ids',
)
# `drop_tokens`, `token_keep_k`, `seed` and `causal` of calls that are not given
# them.
_ARGUMENTS = contextvars.ContextVar('encoder_arguments', default=(None,) * 4)


@contextlib.contextmanager
def arguments_of_calls(
  drop_tokens: bool | None = None,
  token_keep_k: int | None = None,
  seed: tf.Tensor | None = None,
  causal: bool | None = None,
):
  """Within it, encoders take these arguments where a call gives them none.

  For models whose own calls take features alone, such as functional ones.
  """
  token = _ARGUMENTS.set((drop_tokens, token_keep_k, seed, causal))
  try:
    yield
  finally:
    _ARGUMENTS.reset(token)


@tf_keras.utils.register_keras_serializable(package='tokendrop_tf')
class TokenDropBertEncoder(tf_keras.layers.Layer):
  """BERT encoder with token dropping: sort once, slice after.

  Token ids are sorted by importance before anything is embedded, so the rows
  that a layer computes are its first ones. A plan says how many each layer
  computes and sees. Attention does not depend on order, so this equals
  gathering and scattering in reading order (Hou, Pang et al., 2022, arXiv
  2203.13240) without moving activations.

  Without dropping it computes what the Model Garden's `BertEncoderV2` computes,
  and weights have the same names in a checkpoint.

  Inputs: a dict of `input_word_ids`, `input_mask` (1 for a token, 0 for
  padding) and `input_type_ids`, int32 [B, S]. Rows that hold several documents
  also have
    segment_ids: int32 [B, S], the number of the document, 0 for padding;
      attention then stays within a document.
    position_ids: int32 [B, S], places in the position table; without them
      those of the row, 0 .. S - 1.
  With both, a document's output equals its output in a row of its own.
  `call` also takes
    output_positions: int32 [B, P], reading-order positions whose output is
      wanted; the last layer then queries at these only. `None` is all S.
    training: whether to drop out, and to drop tokens unless told otherwise.
    drop_tokens: overrides dropping; `None` is `training`.
    token_keep_k: overrides K.
    causal: overrides `causal` of the construction.
    seed: int32 [2], the same on every replica; all random numbers of the call
      follow from it. `None` draws one while training; otherwise tokens are then
      ranked, equal scores in reading order.
    return_pooled_output: whether `pooled_output` is computed.
    summary: what `summaries` are of, 'cls', the row of position 0, or 'mean',
      the mean of all tokens; `None` computes none.

  Outputs: a dict of
    sequence_output: [B, S, H] in reading order, or [B, P, H].
    pooled_output: [B, H], from position 0, if asked for.
    encoder_outputs: list of every layer's [B, S, H] in reading order, the last
      as `sequence_output`; with `return_all_encoder_outputs`.
    summaries: float32 [B, 2, H], of the last two layers, if asked for.

  Example:

      encoder = TokenDropBertEncoder(vocab_size=100, hidden_size=32,
          num_layers=4, num_attention_heads=2, inner_dim=64, token_keep_k=8)
      ids = tf.ones([2, 16], tf.int32)
      outputs = encoder(dict(input_word_ids=ids, input_mask=ids,
                             input_type_ids=tf.zeros_like(ids)), training=True)

  Args:
    vocab_size: V.
    hidden_size: H.
    num_layers: L.
    num_attention_heads: heads per layer; divides H.
    max_sequence_length: longest S; length of the position table.
    type_vocab_size: number of token types.
    inner_dim: width of the feed-forward layers.
    inner_activation: activation of the feed-forward layers; the Model Garden's
      gelu is the tanh approximation.
    output_dropout: dropout rate of embeddings and of residual branches.
    attention_dropout: dropout rate of attention probabilities.
    token_keep_k: K; `None` builds an encoder that never drops.
    crossing_layer: that of the default plan, `Crossing`.
    temperature: 0 keeps the K highest scores, t > 0 samples; see `TokenOrder`.
    token_loss_init_value: that of the default importance, `ByLoss`.
    token_loss_beta: that of the default importance, `ByLoss`.
    token_allow_list: ids that are always kept while there is room.
    token_deny_list: ids that are dropped first.
    initializer: initializer of all kernels and embeddings.
    embedding_width: width of the word embeddings; `None` is H.
    position_initializer: initializer of the position table; `None` is
      `initializer`.
    norm_first: normalizes inputs of a residual branch instead of its sum.
    residual_initializer_scale: factor on the initial kernels that end a
      residual branch.
    plan: which rows each layer computes, a `Plan` or its description in a
      config; `None` is `Crossing(crossing_layer)`.
    importance: in which order rows stand, an `Importance` or its description;
      `None` is `ByLoss(token_loss_init_value, token_loss_beta)`.
    return_all_encoder_outputs: whether the outputs hold every layer's.
    attention_start: 'random', or 'neighbours': heads of the first layers start
      by looking one and two places away; needs a position table that starts as
      `layers.FourierInitializer` makes it.
    attention_block: queries whose attention is computed at a time, in memory
      linear in S; 0 is all.
    recompute_layers: whether a layer remembers its input alone and is computed
      again for its gradient.
    causal: whether a position sees those up to itself only. Which tokens are
      kept then depends on chance alone, but for the first, which always is.
    allow_lookahead: lets a causal encoder keep tokens by importance, which
      tells of later tokens.

  Raises:
    ValueError: for a K above S or below 1, a plan that does not fit the number
      of layers, or dropping without `token_keep_k`.
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
    plan: dropping.Plan | dict | None = None,
    importance: dropping.Importance | dict | None = None,
    return_all_encoder_outputs: bool = False,
    attention_start: str = 'random',
    attention_block: int = 0,
    recompute_layers: bool = False,
    causal: bool = False,
    allow_lookahead: bool = False,
    **kwargs,
  ):
    super().__init__(**kwargs)
    if initializer is None:
      initializer = tf_keras.initializers.TruncatedNormal(stddev=0.02)
    initializer = tf_keras.initializers.get(initializer)
    activation = tf_keras.activations.get(inner_activation)
    self._plan = registry.plan_from(plan) or crossing.Crossing(crossing_layer)
    self._importance = registry.importance_from(importance) or by_loss.ByLoss(
      token_loss_init_value, token_loss_beta
    )
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
      'temperature': temperature,
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
      'return_all_encoder_outputs': return_all_encoder_outputs,
      'attention_start': attention_start,
      'attention_block': attention_block,
      'recompute_layers': recompute_layers,
      'causal': causal,
      'allow_lookahead': allow_lookahead,
    }
    self._token_keep_k = token_keep_k
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
        head_offsets=self._head_offsets(i),
        reach=config['max_sequence_length'],
        attention_block=config['attention_block'],
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

  def _head_offsets(self, layer):
    if self._config['attention_start'] != 'neighbours':
      return ()
    return neighbour_start.offsets(layer, self._config['num_attention_heads'])

  def _create_drop_stage(self):
    config = self._config
    self._token_importance = None
    if self._token_keep_k is None:
      return
    if self._token_keep_k < 1:
      raise ValueError(
        'token_keep_k must be at least 1. Received: '
        f'token_keep_k={self._token_keep_k}. Set token_drop.token_keep_k.'
      )
    self._plan.check(config['num_layers'])
    self._token_importance = self._importance.create_table(
      config['vocab_size'],
      always_keep_ids=config['token_allow_list'],
      always_drop_ids=config['token_deny_list'],
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
    summary=None,
    causal=None,
  ):
    drop_tokens, token_keep_k, seed, causal = (
      around if given is None else given
      for given, around in zip(
        (drop_tokens, token_keep_k, seed, causal), _ARGUMENTS.get()
      )
    )
    causal = self._config['causal'] if causal is None else causal
    keep_k = self._resolve_keep_k(
      inputs['input_word_ids'], training, drop_tokens, token_keep_k
    )
    order_seed, dropout_seeds = self._seeds(training, seed)
    # 1., 2. Sort the integers: ids, types, mask and positions.
    features, order = self._sort(inputs, keep_k, causal, order_seed)
    # 3. Embed in that order.
    positions = features.get('position_ids', order)
    embedded = self._embed(features, positions, dropout_seeds[0])
    # 4. to 6. All layers but the last, on the rows of the plan.
    rows = Rows(
      (embedded,),
      positions=order,
      mask=features['input_mask'],
      segments=features.get('segment_ids'),
      scores=features.get('scores'),
      temperature=self._config['temperature'],
    )
    bias = stack.AttentionBias(
      self.compute_dtype, bool(self._config['attention_block']), causal
    )
    rows, all_outputs = self._run_layers(
      rows, bias, keep_k, training, dropout_seeds[1:], order_seed
    )
    # 7. The last layer, at the rows that are asked for.
    reads_first = return_pooled_output or summary == consistency.CLS
    places = self._places(rows, output_positions, reads_first)
    reads_all = summary == consistency.MEAN
    last = stack.run_at(
      self._blocks(training)[-1],
      rows,
      None if reads_all else places,
      bias,
      training,
      dropout_seeds[-1],
    )
    summaries = None
    if summary is not None:
      summaries = self._summaries(rows, last, reads_all)
    if reads_all and places is not None:
      last = tf.gather(last, places, batch_dims=1)
    outputs = self._outputs(
      last, all_outputs, output_positions, return_pooled_output, reads_first
    )
    return outputs if summary is None else {**outputs, 'summaries': summaries}

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
    return self._plan.acting_keep_k(keep_k, seq_length)

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

  def _sort(self, inputs, keep_k, causal, seed):
    """Returns the inputs, most important token first, and the order [B, S]."""
    if keep_k is None:
      return inputs, None
    scores = self._token_importance(inputs['input_word_ids'])
    if causal and not self._config['allow_lookahead']:
      # No token tells of another; the first position is always kept.
      is_first = tf.range(tf.shape(scores)[1]) == 0
      scores = tf.zeros_like(scores) + tf.where(is_first, float('inf'), 0.0)
    order = self._plan.arrange(
      self._token_order(scores, seed=seed), keep_k, inputs['input_word_ids']
    )
    features = {
      name: tf.gather(inputs[name], order, batch_dims=1)
      for name in _OF_POSITIONS
      if name in inputs
    }
    features['scores'] = tf.gather(scores, order, batch_dims=1)
    return features, order

  def extend(self, word_ids, caches, place):
    """Computes rows that follow others, causally, without these again.

    Args:
      word_ids: int32 [B, T].
      caches: what `create_caches` or the last call gave, one for each layer.
      place: position of the first of them, int32 scalar.

    Returns:
      [B, T, H], float32, and the caches with these rows.
    """
    count = tf.shape(word_ids)[1]
    positions = tf.broadcast_to(place + tf.range(count), tf.shape(word_ids))
    features = {
      'input_word_ids': word_ids,
      'input_type_ids': tf.zeros_like(word_ids),
    }
    rows = self._embed(features, positions, None)
    bias = stack.bias_after(
      place, count, caches[0][0].shape[1], self.compute_dtype
    )
    extended = []
    for layer, cache in zip(self._transformer_layers, caches):
      rows, cache = layer.extend(rows, cache, place, bias)
      extended.append(cache)
    return tf.cast(rows, tf.float32), tuple(extended)

  def create_caches(self, batch_size, length: int):
    """Returns empty caches of `length` rows for `extend`.

    Args:
      batch_size: B.
      length: M, at most `max_sequence_length`.

    Returns:
      For each layer keys and values, [B, M, N, H / N] each.
    """
    heads = self._config['num_attention_heads']
    shape = [length, heads, self._config['hidden_size'] // heads]
    empty = tf.zeros([batch_size, *shape], self.compute_dtype)
    empty.set_shape([None, *shape])
    return tuple((empty, empty) for _ in self._transformer_layers)

  def _embed(self, features, positions, seed):
    """Returns embeddings, [B, S, H], dropped out where there is a seed."""
    rows = self._embedding_layer(features['input_word_ids'])
    rows += self._position_embedding_layer(rows, positions=positions)
    rows += self._type_embedding_layer(features['input_type_ids'])
    rows = tf.cast(self._embedding_norm_layer(rows), self.compute_dtype)
    rows = dropout(rows, self._output_dropout_rate, seed)
    if self._embedding_projection is not None:
      rows = self._embedding_projection(rows)
    return rows

  def _run_layers(self, rows, bias, keep_k, training, seeds, selection_seed):
    """Runs all layers but the last by the plan; see `stack.run_layers`."""
    num_layers = len(self._transformer_layers)
    if keep_k is None:
      plan = dropping.Plan()
      sizes = plan.rows(num_layers, None, None)
    else:
      plan = self._plan
      sizes = plan.rows(num_layers, rows.mask.shape[1], keep_k)
    return stack.run_layers(
      self._blocks(training)[:-1],
      rows,
      plan,
      sizes,
      bias,
      training,
      seeds,
      selection_seed,
      return_all_outputs=self._config['return_all_encoder_outputs'],
    )

  def _places(self, rows, output_positions, reads_first):
    """Returns where the rows asked for are, int32 [B, T]; `None` is all."""
    if output_positions is not None and reads_first:
      output_positions = tf.pad(output_positions, [[0, 0], [1, 0]])
    if rows.positions is None:
      return output_positions
    places = tf.argsort(rows.positions)  # inverse permutation, [B, S]
    if output_positions is None:
      return places
    return tf.gather(places, output_positions, batch_dims=1)

  def _summaries(self, rows, last, reads_all):
    """Returns what the last two layers say of each sequence, [B, 2, H].

    Args:
      rows: before the last layer.
      last: its output, of all rows, or of others after that of position 0.
      reads_all: which of the two.
    """
    if reads_all:
      both = [rows.mean_of_tokens(), rows.mean_of_tokens(last)]
    else:
      both = [rows.at_first_position(), last[:, 0]]
    return tf.stack([tf.cast(x, tf.float32) for x in both], axis=1)

  def _outputs(
    self, last, all_outputs, output_positions, return_pooled_output, reads_first
  ):
    outputs = {}
    if return_pooled_output:
      outputs['pooled_output'] = self._pooler_layer(last[:, 0, :])
    if reads_first and output_positions is not None:
      last = last[:, 1:]
    last = tf.cast(last, tf.float32)  # as the stock encoder's
    outputs['sequence_output'] = last
    if self._config['return_all_encoder_outputs']:
      outputs['encoder_outputs'] = [*all_outputs, last]
    return outputs

  def _blocks(self, training):
    """Returns the layers as the stack calls them."""
    if not training or not self._config['recompute_layers']:
      return self._transformer_layers
    return [
      stack.recomputed(layer) if layer.built else layer
      for layer in self._transformer_layers
    ]

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
    """Names of inputs that `call` takes in addition to `inputs`."""
    return _OF_POSITIONS[len(self.inputs) :]

  def get_embedding_table(self):
    return self._embedding_layer.embeddings

  def get_embedding_layer(self):
    return self._embedding_layer

  def get_config(self):
    return {
      **super().get_config(),
      **self._config,
      'plan': registry.description(self._plan),
      'importance': registry.description(self._importance),
    }
