"""Text generation: token after token, with cached keys and values.

Letters: B batch, T tokens of the longest prompt, M most tokens of a text, V
vocabulary.
"""

from typing import NamedTuple

import tensorflow as tf

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.text import vocabulary as vocabulary_lib


class Sampling(NamedTuple):
  """How the next token is chosen, for every text; each of shape [B].

  A text depends on its own values alone, not on those it shares a batch with.

  Attributes:
    temperature: float32; 0 takes the most probable token.
    top_k: int32, draws among so many of the most probable; 0 is all.
    top_p: float32, draws among the most probable that together have this
      probability; 1 is all.
    seed: int32; what is drawn follows from it and the place in the text.
  """

  temperature: tf.Tensor
  top_k: tf.Tensor
  top_p: tf.Tensor
  seed: tf.Tensor

  @classmethod
  def of(cls, batch_size, temperature=0.0, top_k=0, top_p=1.0, seed=0):
    """Returns the same values for all texts of a batch."""
    dtypes = (tf.float32, tf.int32, tf.float32, tf.int32)
    values = map(tf.cast, (temperature, top_k, top_p, seed), dtypes)
    return cls(*(tf.fill([batch_size], value) for value in values))


class State(NamedTuple):
  """Texts in the making.

  Attributes:
    ids: int32 [B, M], prompts and what has been added, then [PAD].
    lengths: int32 [B], tokens of the prompts.
    place: int32 scalar, where the next token goes.
    logits: float32 [B, V], of the token at `place`.
    is_done: bool [B], whether the text has ended.
    caches: keys and values of every layer; see `encoder.create_caches`.
  """

  ids: tf.Tensor
  lengths: tf.Tensor
  place: tf.Tensor
  logits: tf.Tensor
  is_done: tf.Tensor
  caches: tuple


class Generator(tf.Module):
  """Continues texts with a causal model.

  Shorter prompts of a batch are continued while longer ones are still read: at
  a place within a prompt its token is taken instead of a chosen one. A text
  ends with [SEP], or after M tokens. Special tokens are never chosen.

  The Model Garden's `sampling_module` starts from one token, runs to the end,
  and draws with one setting for all texts; here texts have prompts, can be
  shown as they grow, and each has settings of its own.

  Example:
    generator = Generator(model.encoder_network, model.masked_lm, vocabulary)
    state = generator.start(prompts, lengths)
    state = generator.advance(state, 20, Sampling.of(2, temperature=0.8))

  Args:
    encoder: a causal encoder, without dropping in what follows.
    head: from states [B, n, H] to logits [B, n, V].
    vocabulary: the vocabulary.
    length: M; `None` is as many as the encoder has positions.
  """

  def __init__(
    self,
    encoder: encoder_lib.TokenDropBertEncoder,
    head,
    vocabulary: vocabulary_lib.Vocabulary,
    length: int | None = None,
  ):
    super().__init__(name='generator')
    self._encoder = encoder
    self._head = head
    self._length = length or encoder.get_config()['max_sequence_length']
    self._pad_id, self._stop_id = vocabulary.pad_id, vocabulary.sep_id
    num_rows = encoder.get_config()['vocab_size']
    is_never = [index >= vocabulary.size for index in range(num_rows)]
    for index in set(vocabulary.special_ids) - {self._stop_id}:
      is_never[index] = True
    self._never = tf.constant([float('-inf') if n else 0.0 for n in is_never])

  @property
  def length(self) -> int:
    """M, the most tokens of a text."""
    return self._length

  def start(self, prompts: tf.Tensor, lengths: tf.Tensor) -> State:
    """Reads prompts as far as the shortest goes.

    Args:
      prompts: int32 [B, T], T below M, of at least a token each.
      lengths: int32 [B], tokens of each.
    """
    batch_size, longest = tf.unstack(tf.shape(prompts))
    ids = tf.pad(
      prompts,
      [[0, 0], [0, self._length - longest]],
      constant_values=self._pad_id,
    )
    place = tf.reduce_min(lengths)
    caches = self._encoder.create_caches(batch_size, self._length)
    rows, caches = self._encoder.extend(prompts[:, :place], caches, 0)
    return State(
      tf.ensure_shape(ids, [None, self._length]),
      lengths,
      place,
      self._logits(rows),
      tf.zeros([batch_size], tf.bool),
      caches,
    )

  def advance(
    self, state: State, most_tokens: tf.Tensor, sampling: Sampling
  ) -> State:
    """Adds tokens to the texts that have not ended.

    Args:
      state: what `start` or the last call gave.
      most_tokens: int32, steps at most: scalar, or for each text, [B], counted
        from the end of its prompt.
      sampling: how tokens are chosen.
    """
    most_tokens = tf.convert_to_tensor(most_tokens)
    if most_tokens.shape.rank:
      last = tf.minimum(state.lengths + most_tokens, self._length)
    else:
      end = tf.minimum(state.place + most_tokens, self._length)
      last = tf.fill(tf.shape(state.lengths), end)

    def goes_on(state):
      return tf.reduce_any(~state.is_done & (state.place < last))

    def step(state):
      token = self._next_token(state, sampling, state.place >= last)
      place = state.place
      ids = tf.where(
        tf.range(self._length) == place, token[:, tf.newaxis], state.ids
      )
      ends = (token == self._stop_id) & (place >= state.lengths)
      rows, caches = self._encoder.extend(
        token[:, tf.newaxis], state.caches, place
      )
      return (
        State(
          ids,
          state.lengths,
          place + 1,
          self._logits(rows),
          state.is_done | ends,
          caches,
        ),
      )

    (state,) = tf.while_loop(goes_on, step, (state,), parallel_iterations=1)
    return state

  def _next_token(self, state, sampling, is_over):
    """Returns the token at `place`, int32 [B]."""
    token = choose(state.logits, sampling, state.place)
    token = tf.where(state.is_done | is_over, self._pad_id, token)
    given = state.ids[:, state.place]
    return tf.where(state.place < state.lengths, given, token)

  def _logits(self, rows):
    """[B, n, H] -> float32 [B, V], of the last of n rows."""
    logits = tf.cast(self._head(rows[:, -1:]), tf.float32)[:, 0]
    return tf.ensure_shape(logits + self._never, [None, self._never.shape[0]])


def choose(logits: tf.Tensor, sampling: Sampling, place: tf.Tensor):
  """Returns a token for every text, int32 [B].

  Args:
    logits: float32 [B, V].
    sampling: how.
    place: int32 scalar, place of the token in the text.
  """
  order = tf.argsort(logits, direction='DESCENDING', stable=True)
  ranked = tf.gather(logits, order, batch_dims=1)
  is_greedy = sampling.temperature <= 0.0
  temperature = tf.where(is_greedy, 1.0, sampling.temperature)
  ranked /= temperature[:, tf.newaxis]
  ranked = tf.where(
    _is_candidate(ranked, sampling), ranked, tf.constant(float('-inf'))
  )
  # The highest of logits plus Gumbel noise is a draw from their softmax.
  rank = tf.argmax(ranked + _noise(ranked, sampling.seed, place), axis=1)
  rank = tf.where(is_greedy, 0, tf.cast(rank, tf.int32))
  return tf.gather(order, rank, batch_dims=1)


def _is_candidate(ranked, sampling):
  """Returns which of the ranked tokens may be drawn, bool [B, V]."""
  number = tf.range(tf.shape(ranked)[1])
  most = tf.where(sampling.top_k > 0, sampling.top_k, tf.shape(ranked)[1])
  is_candidate = number < most[:, tf.newaxis]
  # The renormalised probability of those before a token.
  inside = tf.where(is_candidate, ranked, tf.constant(float('-inf')))
  before = tf.cumsum(tf.nn.softmax(inside), axis=1, exclusive=True)
  top_p = sampling.top_p[:, tf.newaxis]
  return is_candidate & ((before <= top_p) | (top_p >= 1.0))


def _noise(ranked, seeds, place):
  """Returns Gumbel noise like `ranked`, of each row's own seed."""
  size = tf.shape(ranked)[1]
  uniform = tf.map_fn(
    lambda seed: tf.random.stateless_uniform(
      [size], tf.stack([seed, place]), 1e-9, alg='philox'
    ),
    seeds,
    fn_output_signature=tf.TensorSpec([None], tf.float32),
  )
  return -tf.math.log(-tf.math.log(uniform))
