"""Texts token by token: the cache, the choice of tokens, prompts and ends."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.nlp.modeling.ops import sampling_module

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import generation, pretrainer
from tokendrop_tf.text import vocabulary as vocabulary_lib

VOCAB_SIZE, NUM_ROWS, LENGTH = 20, 24, 12
PROMPTS = [[2, 7, 8, 9], [2, 10, 0, 0], [2, 11, 12, 0]]
LENGTHS = [4, 2, 3]


@pytest.fixture(scope='module', name='vocabulary')
def fixture_vocabulary(tmp_path_factory):
  words = [f'w{i}' for i in range(VOCAB_SIZE - 5)]
  path = tmp_path_factory.mktemp('vocabulary') / 'vocab.txt'
  path.write_text('\n'.join([*vocabulary_lib.SPECIAL_TOKENS, *words]) + '\n')
  return vocabulary_lib.Vocabulary.from_file(str(path))


def make_model(norm_first=False, attention_block=0, sep_bias=0.0):
  tf_keras.utils.set_random_seed(2)
  encoder = encoder_lib.TokenDropBertEncoder(
    vocab_size=NUM_ROWS,
    hidden_size=16,
    num_layers=3,
    num_attention_heads=2,
    max_sequence_length=LENGTH,
    type_vocab_size=2,
    inner_dim=32,
    initializer=tf_keras.initializers.TruncatedNormal(stddev=0.5),
    norm_first=norm_first,
    attention_block=attention_block,
    causal=True,
  )
  model = pretrainer.TokenDropPretrainer(encoder)
  # More likely to end, and most likely to give what must never be given.
  bias = np.zeros(NUM_ROWS, np.float32)
  bias[3], bias[[0, 1, 2, 4, 21]] = sep_bias, 100.0
  model.masked_lm.bias.assign(bias)
  return model


def full_logits(model, ids):
  """Returns the logits of every position without a cache, [B, n, V]."""
  ids = tf.constant(ids)
  positions = tf.repeat(
    tf.range(ids.shape[1])[tf.newaxis], ids.shape[0], axis=0
  )
  features = {
    'input_word_ids': ids,
    'input_mask': tf.ones_like(ids),
    'input_type_ids': tf.zeros_like(ids),
    'masked_lm_positions': positions,
  }
  return model(features)['mlm_logits'].numpy()


def generate(model, vocabulary, most=LENGTH, prompts=PROMPTS, **sampling):
  generator = generation.Generator(
    model.encoder_network, model.masked_lm, vocabulary
  )
  lengths = LENGTHS[: len(prompts)]

  @tf.function
  def run():
    state = generator.start(tf.constant(prompts), tf.constant(lengths))
    choice = generation.Sampling.of(len(prompts), **sampling)
    return generator.advance(state, most, choice).ids

  return run().numpy()


def slowly(model, vocabulary, prompt, most=LENGTH):
  """The most probable token after another, all computed again each time."""
  ids = list(prompt)
  while len(ids) < min(LENGTH, len(prompt) + most) and (
    ids[-1] != vocabulary.sep_id or len(ids) == len(prompt)
  ):
    logits = full_logits(model, [ids])[0, -1, :VOCAB_SIZE]
    for index in set(vocabulary.special_ids) - {vocabulary.sep_id}:
      logits[index] = -np.inf
    ids.append(int(np.argmax(logits)))
  return ids + [vocabulary.pad_id] * (LENGTH - len(ids))


@pytest.mark.parametrize('norm_first', [False, True])
@pytest.mark.parametrize('attention_block', [0, 2])
def test_cached_keys_give_what_the_whole_text_gives(
  norm_first, attention_block
):
  model = make_model(norm_first, attention_block)
  encoder = model.encoder_network
  ids = np.random.default_rng(1).integers(5, VOCAB_SIZE, [2, LENGTH])
  ids = ids.astype(np.int32)
  caches, found = encoder.create_caches(2, LENGTH), []
  for begin, end in ((0, 3), (3, 4), (4, 9), (9, LENGTH)):
    rows, caches = encoder.extend(tf.constant(ids[:, begin:end]), caches, begin)
    found.append(model.masked_lm(rows))
  np.testing.assert_allclose(
    tf.concat(found, axis=1), full_logits(model, ids), rtol=1e-4, atol=1e-4
  )


def test_greedy_texts_are_those_without_a_cache(vocabulary):
  model = make_model(sep_bias=1.0)
  expected = [
    slowly(model, vocabulary, prompt[:length])
    for prompt, length in zip(PROMPTS, LENGTHS)
  ]
  found = generate(model, vocabulary)
  np.testing.assert_array_equal(found, expected)
  # One ends by itself, one is as long as can be.
  ends = [vocabulary.sep_id in row for row in expected]
  assert any(ends)
  assert not all(ends)


def test_texts_do_not_depend_on_each_other(vocabulary):
  model = make_model()
  together = generate(model, vocabulary, temperature=1.5, seed=3)
  for number, length in enumerate(LENGTHS):
    generator = generation.Generator(
      model.encoder_network, model.masked_lm, vocabulary
    )
    state = generator.start(
      tf.constant([PROMPTS[number][:length]]), tf.constant([length])
    )
    alone = generator.advance(
      state, LENGTH, generation.Sampling.of(1, temperature=1.5, seed=3)
    ).ids
    np.testing.assert_array_equal(alone[0], together[number])
  other = generate(model, vocabulary, temperature=1.5, seed=4)
  assert (other != together).any()


def test_each_text_has_its_own_most_tokens(vocabulary):
  model = make_model(sep_bias=-100.0)
  most = np.array([1, 5, 2])
  ids = generate(model, vocabulary, most=tf.constant(most, tf.int32))
  np.testing.assert_array_equal((ids > 0).sum(axis=1), LENGTHS + most)


def test_step_by_step_is_all_at_once(vocabulary):
  model = make_model()
  generator = generation.Generator(
    model.encoder_network, model.masked_lm, vocabulary
  )
  choice = generation.Sampling.of(3, temperature=1.0, top_k=5)
  state = generator.start(tf.constant(PROMPTS), tf.constant(LENGTHS))
  while int(state.place) < LENGTH and not bool(tf.reduce_all(state.is_done)):
    state = generator.advance(state, tf.constant(1), choice)
  np.testing.assert_array_equal(
    state.ids, generate(model, vocabulary, temperature=1.0, top_k=5)
  )


class TestChoice:
  LOGITS = np.log([0.05, 0.4, 0.1, 0.25, 0.2]).astype(np.float32)
  DRAWS = 4000

  def draws(self, **settings):
    """Returns the share of each token among many texts with their own seed."""
    choice = generation.Sampling.of(self.DRAWS, **settings)
    choice = choice._replace(seed=tf.range(self.DRAWS))
    logits = tf.tile(self.LOGITS[np.newaxis], [self.DRAWS, 1])
    tokens = generation.choose(logits, choice, tf.constant(7))
    return np.bincount(tokens.numpy(), minlength=5) / self.DRAWS

  def garden_shares(self, temperature=1.0, top_k=0, top_p=1.0):
    """Returns the probabilities that the Model Garden draws from."""
    logits = sampling_module.sample_logits_with_temperature(
      tf.constant(self.LOGITS[np.newaxis]), temperature
    )
    if top_k:
      logits = sampling_module.sample_top_k(logits, top_k)
    if top_p < 1:
      logits = sampling_module.sample_top_p(logits, top_p)
    return tf.nn.softmax(logits)[0].numpy()

  @pytest.mark.parametrize(
    'settings',
    [
      {'temperature': 1.0},
      {'temperature': 2.5},
      {'temperature': 1.0, 'top_k': 2},
      {'temperature': 0.5, 'top_p': 0.7},
      {'temperature': 1.0, 'top_k': 4, 'top_p': 0.8},
      {'temperature': 1.0, 'top_p': 0.01},
    ],
  )
  def test_draws_are_those_of_the_model_garden(self, settings):
    found, expected = self.draws(**settings), self.garden_shares(**settings)
    np.testing.assert_array_equal(found > 0, expected > 0)
    # Five standard deviations.
    bound = 5 * np.sqrt(expected * (1 - expected) / self.DRAWS)
    assert (np.abs(found - expected) <= bound).all()

  def test_temperature_0_takes_the_most_probable(self):
    np.testing.assert_array_equal(self.draws(), [0, 1, 0, 0, 0])
