"""Tiny models with random weights, and their exported serving models."""

import dataclasses
import functools
import pathlib
import string

import tensorflow as tf
import tf_keras

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import pretrainer
from tokendrop_tf.export import load_model, serving_models
from tokendrop_tf.text import vocabulary as vocabulary_lib

SEQ_LENGTH = 24
LABELS = ('entailment', 'not_entailment', 'other')

_WORDS = ('river', 'the', 'of', 'bank', 'who', 'was', 'born', 'in', 'city')
_CHARACTERS = (*string.ascii_lowercase, *string.digits, *'.,!?', *'中文川')


def make_vocabulary() -> vocabulary_lib.Vocabulary:
  """Every text of lower-case letters and some characters has tokens in it."""
  suffixes = (f'##{c}' for c in string.ascii_lowercase + string.digits)
  tokens = (*_WORDS, *_CHARACTERS, *suffixes)
  return vocabulary_lib.Vocabulary((*vocabulary_lib.SPECIAL_TOKENS, *tokens))


class _Head(tf_keras.Model):
  """Logits from the pooler: float32 [B, classes]."""

  def __init__(self, encoder, num_classes):
    super().__init__()
    self.encoder = encoder
    self.dense = tf_keras.layers.Dense(
      num_classes, kernel_initializer=tf_keras.initializers.RandomNormal()
    )

  def call(self, features, training=False):
    return self.dense(
      self.encoder(features, training=training)['pooled_output']
    )


class _SpanHead(tf_keras.Model):
  """Start and end logits, float32 [B, S]."""

  def __init__(self, encoder):
    super().__init__()
    self.encoder = encoder
    self.dense = tf_keras.layers.Dense(
      2, kernel_initializer=tf_keras.initializers.RandomNormal(stddev=1.0)
    )

  def call(self, features, training=False):
    rows = self.encoder(features, training=training)['sequence_output']
    start, end = tf.unstack(self.dense(rows), axis=-1)
    return {'start_logits': start, 'end_logits': end}


def make_encoder(vocab_size: int, seed: int = 1):
  """One layer, H 16; weights large enough to tell tokens apart."""
  encoder = encoder_lib.TokenDropBertEncoder(
    vocab_size=vocab_size,
    hidden_size=16,
    num_layers=1,
    num_attention_heads=2,
    inner_dim=32,
    max_sequence_length=32,
  )
  encoder(encoder.inputs)
  for index, variable in enumerate(encoder.trainable_variables):
    variable.assign_add(
      tf.random.stateless_normal(variable.shape, [seed, index], stddev=0.3)
    )
  return encoder


@functools.lru_cache
def load(kind: str) -> load_model.LoadedModel:
  """Returns a model: 'pretraining', 'pair', 'regression' or 'answer'."""
  vocabulary = make_vocabulary()
  encoder = make_encoder(vocabulary.size)
  make_loaded = functools.partial(
    load_model.LoadedModel,
    encoder=encoder,
    vocabulary=vocabulary,
    model_config=None,
    params=None,
    checkpoint='',
    seq_length=SEQ_LENGTH,
  )
  if kind == 'pretraining':
    model = pretrainer.TokenDropPretrainer(encoder, mlm_activation='gelu')
    return make_loaded(kind, model)
  if kind == 'pair':
    return make_loaded(
      load_model.CLASSIFICATION,
      _Head(encoder, len(LABELS)),
      label_names=LABELS,
      is_pair=True,
    )
  if kind == 'regression':
    return make_loaded(kind, _Head(encoder, 1))
  return make_loaded(
    load_model.QUESTION_ANSWERING,
    _SpanHead(encoder),
    doc_stride=5,
    query_length=8,
    max_answer_length=4,
    null_score_threshold=0.0,
  )


_MODELS = {
  'pretraining': (),
  'pair': ('classify',),
  'regression': ('classify',),
  'answer': ('answer',),
}


@dataclasses.dataclass(frozen=True)
class Exports:
  """Exported folders, made when they are first asked for.

  Attributes:
    folder: where they lie.
  """

  folder: pathlib.Path

  def path(self, kind: str) -> pathlib.Path:
    """Returns the exported folder of `load(kind)`."""
    path = self.folder / kind
    if not path.exists():
      serving_models.write_serving_models(
        load(kind), str(path), SEQ_LENGTH, _MODELS[kind]
      )
    return path
