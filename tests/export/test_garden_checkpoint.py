"""The checkpoint, read by the Model Garden's own fine-tuning tasks."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import yaml
from official.common import registry_imports  # noqa: F401  (experiments)
from official.core import exp_factory, task_factory
from official.nlp.configs import encoders
from official.nlp.modeling import models as garden_models

from tokendrop_tf.config import configs
from tokendrop_tf.export import garden_checkpoint
from tokendrop_tf.weights import hugging_face_weights, starting_point


@pytest.fixture(scope='module')
def folder(exported_run):
  return exported_run.folders['checkpoint']


def stock_task(folder, experiment):
  """Returns a stock task, configured by what lies in the folder."""
  params = exp_factory.get_exp_config(experiment)
  params.override(yaml.safe_load((folder / 'encoder.yaml').read_text()))
  params.task.init_checkpoint = str(folder)
  if experiment == 'bert/sentence_prediction':
    params.task.model.num_classes = 2
  return task_factory.get_task(params.task)


@pytest.mark.parametrize(
  'experiment', ['bert/sentence_prediction', 'bert/squad']
)
def test_stock_experiments_start_from_it(
  experiment, folder, features, live_outputs
):
  task = stock_task(folder, experiment)
  model = task.build_model()
  task.initialize(model)
  outputs = model.checkpoint_items['encoder'](features)
  for name in ('sequence_output', 'pooled_output'):
    np.testing.assert_allclose(outputs[name], live_outputs[name], atol=1e-4)
  np.testing.assert_allclose(
    outputs['encoder_outputs'][0], live_outputs['first_layer'], atol=1e-4
  )


def test_the_stock_sentence_task_trains_from_it(folder, features):
  task = stock_task(folder, 'bert/sentence_prediction')
  model = task.build_model()
  task.initialize(model)
  [table] = [v for v in model.trainable_variables if 'word_emb' in v.name]
  before = table.numpy()
  optimizer = tf_keras.optimizers.SGD(0.1)
  batch = {**features, 'label_ids': np.array([[0], [1]], np.int32)}
  logs = task.train_step(batch, model, optimizer, metrics=[])
  assert np.isfinite(float(logs[task.loss]))
  assert not np.array_equal(table.numpy(), before)


def test_the_stock_pretrainer_gives_the_same_logits(
  folder, features, masked_positions, live_outputs
):
  section = yaml.safe_load((folder / 'encoder.yaml').read_text())
  config = encoders.EncoderConfig()
  config.override(section['task']['model']['encoder'])
  pretrainer = garden_models.BertPretrainerV2(
    encoders.build_encoder(config), mlm_activation=tf.nn.gelu
  )
  # The Model Garden's gelu is the approximate one.
  pretrainer.masked_lm.activation = lambda x: tf.nn.gelu(x, approximate=True)
  inputs = {**features, 'masked_lm_positions': masked_positions}
  pretrainer(inputs)
  pretrainer.masked_lm.dense.activation = pretrainer.masked_lm.activation
  status = tf.train.Checkpoint(**pretrainer.checkpoint_items).read(
    tf.train.latest_checkpoint(str(folder))
  )
  status.assert_existing_objects_matched().assert_consumed()
  outputs = pretrainer(inputs)
  for name in ('sequence_output', 'mlm_logits'):
    np.testing.assert_allclose(outputs[name], live_outputs[name], atol=1e-4)


def test_sizes_are_also_in_the_form_of_published_checkpoints(folder):
  config = json.loads((folder / 'bert_config.json').read_text())
  assert config['hidden_size'] == 16
  assert config['num_hidden_layers'] == 3
  assert config['hidden_act'] == 'gelu'
  (names, expected) = (hugging_face_weights.CONFIG_NAMES, set(config))
  assert set(names.values()) == expected


def test_the_folder_describes_itself(exported_run, folder):
  source = starting_point.describe(str(folder))
  assert source.kind == 'checkpoint'
  assert source.model == exported_run.loaded.model_config
  assert source.lower_case is True
  assert source.vocabulary_path == str(folder / 'vocab.txt')


def test_stock_settings_are_those_of_the_model():
  model = configs.ModelConfig(norm_first=True, embedding_size=64)
  stock = garden_checkpoint.stock_encoder_config(model)
  for name, value in stock.as_dict().items():
    assert value == getattr(model, name), name
