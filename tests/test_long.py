"""A model for long texts, from the pretraining to exported forms."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import tiny_runs
import yaml
from tiny_tasks import tiny_tasks, words  # noqa: F401  (fixtures)

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import train
from tokendrop_tf.config import configs
from tokendrop_tf.export import export_command, load_model
from tokendrop_tf.tasks import masked_lm as task_lib
from tokendrop_tf.weights import (
  checkpoint_weights,
  load_weights,
  position_extension,
)

SHORT, LONG, BLOCK = 32, 64, 16
STEPS = (
  'trainer.train_steps = 2',
  'trainer.steps_per_loop = 1',
  'trainer.validation_interval = 2',
  'trainer.checkpoint_interval = 2',
  'trainer.validation_steps = 1',
  'optimizer.warmup_steps = 1',
)


def run(model_dir, *bindings):
  flags = [f'--gin_params={binding}' for binding in (*bindings, *STEPS)]
  train.main([f'--model_dir={model_dir}', *flags])


@pytest.fixture(scope='module')
def runs(tiny_corpus, tiny_tasks, tmp_path_factory):  # noqa: F811
  """Folders of a short phase, a long one, and a fine-tuning of the latter."""
  folder = tmp_path_factory.mktemp('long')
  text = (
    f"vocabulary.path = '{tiny_corpus.vocabulary}'",
    f"train_data.input_path = '{tiny_corpus.train}'",
    f"validation_data.input_path = '{tiny_corpus.valid}'",
    *tiny_runs.TRAINING,
  )
  run(folder / 'short', *text)
  run(
    folder / 'long',
    *text,
    f"pretraining.init_checkpoint = '{folder / 'short'}'",
    "pretraining.position_extension = 'tile'",
    f'model.max_position_embeddings = {LONG}',
    f'model.attention_block = {BLOCK}',
    'model.recompute_layers = True',
    f'train_data.seq_length = {LONG}',
    "train_data.packing = 'best_fit'",
    'train_data.max_predictions_per_seq = 9',
    'token_drop.crossing_layer = 1',
  )
  train_data, validation_data = tiny_tasks.sst2
  run(
    folder / 'classifier',
    f"finetuning.init_from = '{folder / 'long'}'",
    "glue.task = 'sst2'",
    f"glue.train_data = '{train_data}'",
    f"glue.validation_data = '{validation_data}'",
    f'glue.seq_length = {LONG}',
    'glue.batch_size = 8',
    'glue.trim_padding = False',
  )
  return folder


def make_features(length, vocab_size=64, batch_size=2):
  draw = np.random.default_rng(3)
  shape = [batch_size, length]
  mask = np.ones(shape, np.int32)
  mask[0, length // 2 :] = 0
  return {
    'input_word_ids': draw.integers(5, vocab_size, shape).astype(np.int32),
    'input_mask': mask,
    'input_type_ids': np.zeros(shape, np.int32),
  }


def test_a_long_phase_reads_positions_of_the_short_one(runs):
  tree = yaml.safe_load((runs / 'long' / 'params.yaml').read_text())
  assert tree['task']['position_extension'] == 'tile'
  loaded = load_model.load_model(str(runs / 'long'))
  names = checkpoint_weights.named_variables(loaded.encoder, 'encoder')
  table = names[position_extension.NAME].numpy()
  assert table.shape == (LONG, 16)
  # Two steps move each half a little.
  np.testing.assert_allclose(table[:SHORT], table[SHORT:], atol=0.05)


@pytest.mark.parametrize('kind', ['long', 'classifier'])
def test_a_hugging_face_folder_holds_the_same_model(runs, kind, tmp_path):
  """Read back into an encoder that computes all at once."""
  export_command.main(
    [
      f'--model_dir={runs / kind}',
      f'--output_dir={tmp_path / "out"}',
      '--format=hugging_face',
    ]
  )
  loaded = load_model.load_model(str(runs / kind))
  assert loaded.model_config.attention_block == BLOCK
  assert loaded.seq_length == LONG
  at_once = task_lib.build_encoder(
    dataclasses.replace(loaded.model_config, attention_block=0),
    configs.TokenDropConfig(policy='none'),
    loaded.vocabulary,
  )
  load_weights.load_encoder(at_once, str(tmp_path / 'out' / 'encoder'))
  features = make_features(LONG)
  for name in ('sequence_output', 'pooled_output'):
    np.testing.assert_allclose(
      at_once(features)[name], loaded.encoder(features)[name], atol=1e-5
    )


def test_a_saved_model_takes_texts_of_the_whole_length(runs, tmp_path):
  export_command.main(
    [
      f'--model_dir={runs / "classifier"}',
      f'--output_dir={tmp_path / "out"}',
      '--format=saved_model',
    ]
  )
  encoder = tf.saved_model.load(str(tmp_path / 'out' / 'encoder'))
  features = make_features(LONG)
  expected = load_model.load_model(str(runs / 'classifier')).encoder(features)
  np.testing.assert_allclose(
    encoder(features)['pooled_output'], expected['pooled_output'], atol=1e-5
  )


def test_4096_tokens_in_blocks_are_4096_tokens_at_once():
  features = make_features(4096, batch_size=1)

  def build(block):
    tf_keras.utils.set_random_seed(1)
    encoder = encoder_lib.TokenDropBertEncoder(
      vocab_size=64,
      hidden_size=16,
      num_layers=3,
      num_attention_heads=2,
      max_sequence_length=4096,
      inner_dim=32,
      token_keep_k=1024,
      crossing_layer=1,
      initializer=tf_keras.initializers.TruncatedNormal(stddev=0.3),
      attention_block=block,
    )
    return encoder(features, drop_tokens=True)['sequence_output']

  np.testing.assert_allclose(build(512), build(0), rtol=1e-5, atol=1e-5)
