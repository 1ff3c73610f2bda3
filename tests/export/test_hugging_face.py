"""The Hugging Face folder: names, settings, and BERT computed from it."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tokendrop_tf import errors
from tokendrop_tf.export import hugging_face, load_model
from tokendrop_tf.weights import hugging_face_weights

# Parameters of transformers' BERT without and with a pooler.
_LAYER = (
  'attention.self.query',
  'attention.self.key',
  'attention.self.value',
  'attention.output.dense',
  'attention.output.LayerNorm',
  'intermediate.dense',
  'output.dense',
  'output.LayerNorm',
)


def expected_names(prefix):
  """Returns the names of transformers' encoder, pooler left out."""
  modules = [f'{prefix}embeddings.LayerNorm']
  modules += [
    f'{prefix}encoder.layer.{i}.{name}' for i in range(3) for name in _LAYER
  ]
  tables = ('word', 'position', 'token_type')
  return {f'{prefix}embeddings.{name}_embeddings.weight' for name in tables} | {
    f'{module}.{kind}' for module in modules for kind in ('weight', 'bias')
  }


@pytest.fixture(scope='module')
def folder(exported_run):
  return exported_run.folders['hugging_face']


@pytest.fixture(scope='module')
def tensors(folder):
  data = (folder / 'model.safetensors').read_bytes()
  return safetensors_numpy.load(data)


@pytest.fixture(scope='module')
def encoder_tensors(folder):
  data = (folder / 'encoder' / 'model.safetensors').read_bytes()
  return safetensors_numpy.load(data)


def test_weights_are_those_of_bert_for_masked_lm(tensors):
  assert set(tensors) == expected_names('bert.') | {
    'cls.predictions.bias',
    'cls.predictions.transform.dense.weight',
    'cls.predictions.transform.dense.bias',
    'cls.predictions.transform.LayerNorm.weight',
    'cls.predictions.transform.LayerNorm.bias',
  }


def test_weights_of_the_encoder_are_those_of_bert_model(encoder_tensors):
  assert set(encoder_tensors) == expected_names('') | {
    'pooler.dense.weight',
    'pooler.dense.bias',
  }
  assert {value.dtype for value in encoder_tensors.values()} == {
    np.dtype(np.float32)
  }


def test_settings_are_those_of_the_model(folder):
  for path, name in (
    (folder, 'BertForMaskedLM'),
    (folder / 'encoder', 'BertModel'),
  ):
    config = json.loads((path / 'config.json').read_text())
    assert config['architectures'] == [name]
    assert config['model_type'] == 'bert'
    assert config['hidden_act'] == 'gelu_new'
    assert config['num_hidden_layers'] == 3
    assert config['intermediate_size'] == 24
    assert config['layer_norm_eps'] == 1e-12
    tokenizer = json.loads((path / 'tokenizer_config.json').read_text())
    assert tokenizer['do_lower_case'] is True
    assert tokenizer['model_max_length'] == 40
    assert len((path / 'vocab.txt').read_text().split('\n')) == 400 + 1


def test_the_model_card_says_what_it_is(folder):
  card = (folder / 'README.md').read_text()
  assert 'BertForMaskedLM.from_pretrained(folder)' in card
  assert 'policy loss, 4 of 32 tokens (12%) in the middle' in card
  assert '400 tokens, lower-cased' in card


class NumpyBert:
  """BERT as transformers compute it, from their weights, in float64.

  Devlin et al., 2018 (arXiv 1810.04805), appendix A.2, and Vaswani et al.,
  2017; gelu by the tanh approximation of Hendrycks and Gimpel (1606.08415).
  """

  def __init__(self, tensors, num_heads, prefix):
    self._tensors = {
      name.removeprefix(prefix): value.astype(np.float64)
      for name, value in tensors.items()
    }
    self._num_heads = num_heads

  def dense(self, name, rows):
    weight, bias = (
      self._tensors[f'{name}.weight'],
      self._tensors[f'{name}.bias'],
    )
    return rows @ weight.T + bias

  def norm(self, name, rows):
    centred = rows - rows.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    weight, bias = (
      self._tensors[f'{name}.weight'],
      self._tensors[f'{name}.bias'],
    )
    return centred / scale * weight + bias

  @staticmethod
  def gelu(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + np.tanh(inner))

  def sequence_output(self, input_word_ids, input_mask, input_type_ids):
    table = self._tensors
    rows = table['embeddings.word_embeddings.weight'][input_word_ids]
    length = input_word_ids.shape[1]
    rows = rows + table['embeddings.position_embeddings.weight'][:length]
    rows += table['embeddings.token_type_embeddings.weight'][input_type_ids]
    rows = self.norm('embeddings.LayerNorm', rows)
    number = 0
    while f'encoder.layer.{number}.output.dense.bias' in table:
      rows = self.layer(f'encoder.layer.{number}', rows, input_mask)
      number += 1
    return rows

  def layer(self, name, rows, mask):
    heads = self.attend(f'{name}.attention.self', rows, mask)
    heads = self.dense(f'{name}.attention.output.dense', heads)
    rows = self.norm(f'{name}.attention.output.LayerNorm', rows + heads)
    inner = self.gelu(self.dense(f'{name}.intermediate.dense', rows))
    outer = self.dense(f'{name}.output.dense', inner)
    return self.norm(f'{name}.output.LayerNorm', rows + outer)

  def attend(self, name, rows, mask):
    def split(part):
      values = self.dense(f'{name}.{part}', rows)
      shape = (*values.shape[:2], self._num_heads, -1)
      return values.reshape(shape).transpose(0, 2, 1, 3)  # [B, N, S, D]

    query, key, value = split('query'), split('key'), split('value')
    scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1])
    scores += (1 - mask)[:, np.newaxis, np.newaxis] * -1e9
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ value).transpose(0, 2, 1, 3).reshape(rows.shape)

  def pooled_output(self, rows):
    return np.tanh(self.dense('pooler.dense', rows[:, 0]))

  def mlm_logits(self, rows):
    rows = self.gelu(self.dense('cls.predictions.transform.dense', rows))
    rows = self.norm('cls.predictions.transform.LayerNorm', rows)
    table = self._tensors['embeddings.word_embeddings.weight']
    return rows @ table.T + self._tensors['cls.predictions.bias']


def test_bert_computed_from_the_files_is_the_live_model(
  tensors, encoder_tensors, features, masked_positions, live_outputs
):
  bert = NumpyBert(tensors, num_heads=2, prefix='bert.')
  rows = bert.sequence_output(**features)
  np.testing.assert_allclose(rows, live_outputs['sequence_output'], atol=1e-4)
  picked = np.take_along_axis(rows, masked_positions[..., np.newaxis], axis=1)
  np.testing.assert_allclose(
    bert.mlm_logits(picked), live_outputs['mlm_logits'], atol=1e-4
  )
  encoder = NumpyBert(encoder_tensors, num_heads=2, prefix='')
  rows = encoder.sequence_output(**features)
  np.testing.assert_allclose(
    encoder.pooled_output(rows), live_outputs['pooled_output'], atol=1e-4
  )


@pytest.fixture(scope='module')
def finetuned_folders(finetuned_models, tmp_path_factory):
  """The Hugging Face folder of every kind of fine-tuned model."""
  folders = {}
  for kind, loaded in finetuned_models.items():
    folders[kind] = tmp_path_factory.mktemp(kind)
    hugging_face.write_folder(loaded, str(folders[kind]))
  return folders


def read(folder):
  data = (folder / 'model.safetensors').read_bytes()
  return safetensors_numpy.load(data)


@pytest.mark.parametrize(
  ('kind', 'labels'),
  [('classification', ['no', 'yes', 'maybe']), ('regression', ['LABEL_0'])],
)
def test_sentence_heads_computed_from_the_files_are_the_live_ones(
  kind, labels, finetuned_folders, finetuned_models, features
):
  tensors = read(finetuned_folders[kind])
  bert = NumpyBert(tensors, num_heads=2, prefix='bert.')
  pooled = bert.pooled_output(bert.sequence_output(**features))
  live = finetuned_models[kind].model(features)
  np.testing.assert_allclose(bert.dense('classifier', pooled), live, atol=1e-4)
  config = json.loads((finetuned_folders[kind] / 'config.json').read_text())
  assert config['architectures'] == ['BertForSequenceClassification']
  assert list(config['id2label'].values()) == labels
  assert list(config['label2id']) == labels


def test_span_heads_computed_from_the_files_are_the_live_ones(
  finetuned_folders, finetuned_models, features
):
  tensors = read(finetuned_folders['question_answering'])
  assert not any('pooler' in name for name in tensors)
  bert = NumpyBert(tensors, num_heads=2, prefix='bert.')
  logits = bert.dense('qa_outputs', bert.sequence_output(**features))
  live = finetuned_models['question_answering'].model(features)
  for part in (0, 1):
    np.testing.assert_allclose(logits[..., part], live[part], atol=1e-4)


def test_an_encoder_can_be_taken_from_a_fine_tuned_folder(
  finetuned_folders, finetuned_models
):
  live = finetuned_models['question_answering'].encoder
  weights = hugging_face_weights.HuggingFaceWeights(
    str(finetuned_folders['question_answering'])
  )
  np.testing.assert_array_equal(
    weights['encoder/_pooler_layer/kernel'], live.pooler_layer.kernel
  )


@pytest.mark.parametrize(
  ('change', 'received'),
  [
    ({'norm_first': True}, 'model.norm_first=True'),
    ({'embedding_size': 8}, 'model.embedding_size=8 with hidden_size=16'),
    ({'mlm_activation': 'relu'}, "model.mlm_activation='relu'"),
  ],
)
def test_other_forms_are_refused_with_the_reason(
  change, received, exported_run
):
  loaded = exported_run.loaded
  other = dataclasses.replace(
    loaded, model_config=dataclasses.replace(loaded.model_config, **change)
  )
  with pytest.raises(errors.ConfigurationError) as caught:
    hugging_face.check_has_such_form(other)
  assert received in str(caught.value)
  assert '--format=checkpoint' in str(caught.value)


def transformers_python():
  """Returns a Python that has transformers and PyTorch, or skips."""
  python = os.environ.get('TOKENDROP_HUGGING_FACE_PYTHON') or sys.executable
  found = subprocess.run(
    [python, '-c', 'import torch, transformers'],
    capture_output=True,
    check=False,
  )
  if found.returncode:
    pytest.skip(
      'transformers and PyTorch are not installed here: run '
      'make test-hugging-face.'
    )
  return python


@pytest.mark.hugging_face
def test_transformers_load_it_and_agree(
  folder,
  finetuned_folders,
  finetuned_models,
  features,
  masked_positions,
  live_outputs,
  trained_vocabulary,
  run_writer,
  tmp_path,
):
  python = transformers_python()
  decoder = load_model.load_model(
    run_writer(
      tmp_path / 'causal',
      trained_vocabulary,
      "pretraining.objective = 'causal_lm'",
      "token_drop.policy = 'random'",
    )
  )
  (tmp_path / 'decoder').mkdir()
  hugging_face.write_folder(decoder, str(tmp_path / 'decoder'))
  texts = ['returns a list of strings', 'Éléphant: naïve (coöperation)!']
  np.savez(
    tmp_path / 'request.npz',
    folder=str(folder),
    texts=np.array(texts),
    generation=str(tmp_path / 'decoder'),
    **{kind: str(path) for kind, path in finetuned_folders.items()},
    **features,
  )
  script = pathlib.Path(__file__).with_name('use_transformers.py')
  done = subprocess.run(
    [
      python,
      str(script),
      str(tmp_path / 'request.npz'),
      str(tmp_path / 'answer.npz'),
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  answers = dict(np.load(tmp_path / 'answer.npz'))
  loads = [
    name for name in answers if name.endswith(('.missing', '.unexpected'))
  ]
  assert len(loads) == 2 * 9
  for name in loads:
    assert answers[name].tolist() == [], name
  positions = np.broadcast_to(
    np.arange(answers['next_logits'].shape[1], dtype=np.int32),
    features['input_mask'].shape,
  )
  live = decoder.model({**features, 'masked_lm_positions': positions})
  is_token = features['input_mask'].astype(bool)
  np.testing.assert_allclose(
    answers['next_logits'][is_token],
    live['mlm_logits'].numpy()[is_token],
    atol=1e-4,
  )
  for kind in ('classification', 'regression'):
    live = finetuned_models[kind].model(features)
    np.testing.assert_allclose(answers[kind], live, atol=1e-4)
  live = finetuned_models['question_answering'].model(features)
  is_token = features['input_mask'].astype(bool)
  for part in (0, 1):
    np.testing.assert_allclose(
      answers['question_answering'][part][is_token],
      live[part].numpy()[is_token],
      atol=1e-4,
    )
  for name in ('sequence_output', 'pooled_output'):
    is_token = features['input_mask'][..., np.newaxis].astype(bool)
    if name == 'pooled_output':
      is_token = True
    np.testing.assert_allclose(
      np.where(is_token, answers[name], 0),
      np.where(is_token, live_outputs[name], 0),
      atol=1e-4,
    )
  picked = np.take_along_axis(
    answers['logits'], masked_positions[..., np.newaxis], axis=1
  )
  np.testing.assert_allclose(picked, live_outputs['mlm_logits'], atol=1e-4)
  expected = trained_vocabulary.tokenizer().tokenize(texts)
  for row, ids in zip(answers['ids'], expected.to_list()):
    assert row[: len(ids) + 2].tolist() == [
      trained_vocabulary.cls_id,
      *ids,
      trained_vocabulary.sep_id,
    ]
