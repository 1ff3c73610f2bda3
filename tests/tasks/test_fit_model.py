"""`compile` and `fit` take the steps of the task."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.modeling import optimization

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import layers
from tokendrop_tf.config import configs
from tokendrop_tf.tasks import fit_model, masked_lm

SEQ_LENGTH, SLOTS, BATCH_SIZE, STEPS = 16, 3, 8, 4


@pytest.fixture(scope='module', name='task')
def fixture_task(tiny_corpus):
  """A task whose tokens are sampled, and whose third step is in full."""
  data = dict(
    seq_length=SEQ_LENGTH,
    max_predictions_per_seq=SLOTS,
    global_batch_size=BATCH_SIZE,
  )
  return masked_lm.TokenDropPretrainingTask(
    configs.PretrainingTaskConfig(
      model=configs.ModelConfig(
        hidden_size=16,
        num_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=SEQ_LENGTH,
        # Drawn on each replica for itself, unlike what is sampled.
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
      ),
      token_drop=configs.TokenDropConfig(
        token_keep_k=6, full_step_every=3, temperature=1.0
      ),
      vocabulary=configs.VocabularyConfig(path=tiny_corpus.vocabulary),
      train_data=configs.PretrainingDataConfig(
        input_path=tiny_corpus.train, is_training=True, **data
      ),
      validation_data=configs.PretrainingDataConfig(
        input_path=tiny_corpus.valid, is_training=False, num_epochs=1, **data
      ),
    )
  )


def make_optimizer(task):
  adamw = {'weight_decay_rate': 0.01, 'gradient_clip_norm': 0.5}
  rate = {'learning_rate': 1e-2}
  return task.create_optimizer(
    optimization.OptimizationConfig(
      {
        'optimizer': {'type': 'adamw', 'adamw': adamw},
        'learning_rate': {'type': 'constant', 'constant': rate},
      }
    )
  )


@pytest.fixture(scope='module', name='expected')
def fixture_expected(task):
  """Losses and model after the task's own steps."""
  model, optimizer = task.build_model(), make_optimizer(task)
  metrics = task.build_metrics()
  step = tf.function(
    lambda batch: task.train_step(batch, model, optimizer, metrics)['loss']
  )
  data = task.build_inputs(task.task_config.train_data)
  return [float(step(batch)) for batch in data.take(STEPS)], model


def fit(task, model, **arguments):
  """Returns the history of as many steps by `fit`, each an epoch."""
  model.compile(optimizer=make_optimizer(task))
  return model.fit(
    task.build_inputs(task.task_config.train_data),
    epochs=STEPS,
    steps_per_epoch=1,
    verbose=0,
    **arguments,
  ).history


def assert_same(history, model, encoder, expected):
  losses, other = expected
  np.testing.assert_allclose(history['loss'], losses, rtol=1e-5)
  table = encoder.token_importance.table.numpy()
  np.testing.assert_allclose(
    table, other.encoder_network.token_importance.table, rtol=1e-5
  )
  assert (table < 10.0).sum() > 10
  for weight, theirs in zip(model.weights, other.weights, strict=True):
    np.testing.assert_allclose(weight, theirs, atol=1e-4, err_msg=theirs.name)


def test_fit_takes_the_steps_of_the_task(task, expected):
  model = fit_model.FitModel(task)
  validation = task.build_inputs(task.task_config.validation_data)
  history = fit(task, model, validation_data=validation, validation_freq=STEPS)
  assert_same(history, model.model, model.model.encoder_network, expected)
  [gap] = history['val_full_sequence_gap']
  assert gap == pytest.approx(
    history['val_validation_loss'][0]
    - history['val_lm_example_loss_dropping'][0],
    abs=1e-5,
  )


def functional(encoder):
  features = dict(
    encoder.inputs,
    masked_lm_positions=tf_keras.Input([None], dtype=tf.int32),
  )
  rows = encoder(
    {name: features[name] for name in encoder.inputs},
    output_positions=features['masked_lm_positions'],
    return_pooled_output=False,
  )['sequence_output']
  head = layers.MaskedLMHead(encoder.get_embedding_table(), 'gelu')
  return tf_keras.Model(features, {'mlm_logits': head(rows)})


class Subclassed(tf_keras.Model):
  def __init__(self, encoder):
    super().__init__()
    self.encoder = encoder
    encoder(encoder.inputs)
    self.head = layers.MaskedLMHead(encoder.get_embedding_table(), 'gelu')

  def call(self, features, training=False):
    outputs = self.encoder(
      {name: features[name] for name in self.encoder.inputs},
      training=training,
    )
    rows = tf.gather(
      outputs['sequence_output'], features['masked_lm_positions'], batch_dims=1
    )
    return {'mlm_logits': self.head(rows)}


@pytest.mark.parametrize('make_model', [functional, Subclassed])
def test_a_model_of_ones_own_takes_the_steps_of_the_task(
  task, expected, make_model
):
  """It is the task's model in other words, so the figures are the same."""
  config = task.task_config
  encoder = masked_lm.build_encoder(
    config.model, config.token_drop, task.vocabulary
  )
  own = make_model(encoder)
  batch = next(iter(task.build_inputs(config.train_data)))
  own({name: batch[name] for name in (*encoder.inputs, 'masked_lm_positions')})
  own.set_weights(task.build_model().get_weights())
  history = fit(task, fit_model.FitModel(task, own, encoder))
  assert_same(history, own, encoder, expected)


def test_replicas_fit_as_one_device_does(task, expected, four_replicas):
  with four_replicas.scope():
    model = fit_model.FitModel(task)
    history = fit(task, model)
  assert_same(history, model.model, model.model.encoder_network, expected)


def test_an_encoder_takes_the_arguments_around_a_call():
  encoder = encoder_lib.TokenDropBertEncoder(
    vocab_size=30,
    hidden_size=16,
    num_layers=3,
    num_attention_heads=2,
    inner_dim=32,
    token_keep_k=4,
  )
  ids = tf.random.stateless_uniform([2, 8], [1, 2], 5, 30, tf.int32)
  inputs = {
    'input_word_ids': ids,
    'input_mask': tf.ones_like(ids),
    'input_type_ids': tf.zeros_like(ids),
  }
  seed = tf.constant([3, 4])
  arguments = {'drop_tokens': True, 'token_keep_k': 2, 'seed': seed}
  expected = encoder(inputs, training=True, **arguments)['sequence_output']
  with encoder_lib.arguments_of_calls(**arguments):
    around = encoder(inputs, training=True)['sequence_output']
    other = encoder(inputs, training=True, token_keep_k=3)['sequence_output']
  np.testing.assert_array_equal(around, expected)
  assert np.abs(other - expected).max() > 1e-3
