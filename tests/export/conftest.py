"""One small pretraining run with random weights, exported in every form."""

import dataclasses
import inspect
import json
import pathlib
import re
import shutil
import string
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from hard_strings import HARD_STRINGS

from tokendrop_tf.config import configs
from tokendrop_tf.export import export_command, load_model
from tokendrop_tf.finetuning import models
from tokendrop_tf.tasks import masked_lm as task_lib
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.text import vocabulary_training

_SETTINGS = (
  'model.num_layers = 3',
  'model.hidden_size = 16',
  'model.num_attention_heads = 2',
  'model.intermediate_size = 24',
  'model.max_position_embeddings = 40',
  'model.initializer_range = 0.5',
  'model.residual_initializer_scale = 0.5',
  'train_data.seq_length = 32',
  'train_data.max_predictions_per_seq = 5',
  'token_drop.token_keep_k = 4',
  'trainer.train_steps = 100',
  'optimizer.warmup_steps = 2',
)


@dataclasses.dataclass(frozen=True)
class ExportedRun:
  """A run and what was exported from it; the run itself is gone.

  Attributes:
    loaded: the live model.
    folders: exported folder of every form, moved since.
    deleted: where the run and its vocabulary were.
  """

  loaded: load_model.LoadedModel
  folders: dict[str, pathlib.Path]
  deleted: pathlib.Path


@pytest.fixture(scope='session')
def trained_vocabulary() -> vocabulary_lib.Vocabulary:
  """400 tokens of documentation strings and of some of the hard strings."""
  modules = (dataclasses, inspect, json, re, shutil, string, textwrap)
  texts = [inspect.getdoc(module) or '' for module in modules]
  texts += [HARD_STRINGS[index] for index in (2, 4, 5, 6)] * 3
  dataset = tf.data.Dataset.from_tensors(texts)
  return vocabulary_training.train_vocabulary(dataset, size=400)


def write_run(folder, vocabulary, *settings) -> str:
  return tiny_runs.write_run(folder, vocabulary, *_SETTINGS, *settings)


@pytest.fixture(scope='session')
def run_writer():
  """The function that writes a run, for runs of other settings."""
  return write_run


@pytest.fixture(scope='session')
def exported_run(trained_vocabulary, tmp_path_factory) -> ExportedRun:
  """Exported by the command, then moved; the run is deleted."""
  folder = tmp_path_factory.mktemp('exported_run')
  model_dir = write_run(folder / 'original', trained_vocabulary)
  loaded = load_model.load_model(model_dir)
  folders = {}
  for form in export_command.FORMATS:
    output = folder / 'written' / form
    export_command.main(
      [
        f'--model_dir={model_dir}',
        f'--output_dir={output}',
        f'--format={form}',
      ]
    )
    folders[form] = folder / 'moved' / form
    shutil.move(output, folders[form])
  shutil.rmtree(folder / 'original')
  shutil.rmtree(folder / 'written')
  return ExportedRun(loaded, folders, folder / 'original')


@pytest.fixture(scope='session')
def features() -> dict[str, np.ndarray]:
  """Two rows of 20 positions, the second with padding and two segments."""
  draw = np.random.default_rng(7)
  mask = np.ones([2, 20], np.int32)
  mask[1, 13:] = 0
  types = np.zeros([2, 20], np.int32)
  types[1, 6:13] = 1
  ids = draw.integers(5, 400, [2, 20]).astype(np.int32)
  return {
    'input_word_ids': ids * mask,
    'input_mask': mask,
    'input_type_ids': types,
  }


@pytest.fixture(scope='session')
def masked_positions() -> np.ndarray:
  return np.array([[1, 4, 7], [0, 12, 3]], np.int32)


@pytest.fixture(scope='session')
def live_outputs(exported_run, features, masked_positions):
  """What the live model says, arrays by name."""
  loaded = exported_run.loaded
  encoder = type(loaded.encoder).from_config(
    {**loaded.encoder.get_config(), 'return_all_encoder_outputs': True}
  )
  encoder(features)  # creates the weights
  encoder.set_weights(loaded.encoder.get_weights())
  outputs = encoder(features, training=False)
  logits = loaded.model(
    {**features, 'masked_lm_positions': masked_positions},
    training=False,
    drop_tokens=False,
  )['mlm_logits']
  return {
    'sequence_output': outputs['sequence_output'].numpy(),
    'pooled_output': outputs['pooled_output'].numpy(),
    'first_layer': outputs['encoder_outputs'][0].numpy(),
    'mlm_logits': logits.numpy(),
  }


def _finetuned(kind, model, label_names=()):
  """Returns a fine-tuned model as `load_model` gives it."""
  vocabulary = vocabulary_lib.Vocabulary(
    (*vocabulary_lib.SPECIAL_TOKENS, *map(str, range(395)))
  )
  return load_model.LoadedModel(
    kind=kind,
    model=model,
    encoder=model.encoder_network,
    vocabulary=vocabulary,
    model_config=_FINETUNED_MODEL,
    params=None,
    checkpoint='',
    seq_length=20,
    label_names=label_names,
  )


_FINETUNED_MODEL = configs.ModelConfig(
  vocab_size=400,
  hidden_size=16,
  num_layers=2,
  num_attention_heads=2,
  intermediate_size=24,
  max_position_embeddings=24,
  initializer_range=0.5,
)


@pytest.fixture(scope='session')
def finetuned_models() -> dict[str, load_model.LoadedModel]:
  """One fine-tuned model of every kind, weights random."""

  def encoder():
    return task_lib.build_encoder(
      _FINETUNED_MODEL,
      configs.TokenDropConfig(policy='none'),
      vocabulary_lib.Vocabulary(vocabulary_lib.SPECIAL_TOKENS),
    )

  loaded = [
    _finetuned(
      load_model.CLASSIFICATION,
      models.SentenceClassifier(encoder(), num_classes=3),
      ('no', 'yes', 'maybe'),
    ),
    _finetuned(
      load_model.REGRESSION, models.SentenceClassifier(encoder(), num_classes=1)
    ),
    _finetuned(load_model.QUESTION_ANSWERING, models.SpanLabeler(encoder())),
  ]
  for seed, model in enumerate(loaded, start=11):
    tiny_runs.randomize(model.model, seed)
  return {model.kind: model for model in loaded}
