"""Where weights start from: every form, what fits, and what does not."""

import dataclasses
import functools
import json
import pathlib
import shutil
import types

import ml_dtypes
import numpy as np
import pytest
import refusals
import safetensors.numpy
import tensorflow as tf
import tf_keras
import yaml
from official.nlp.modeling import models as garden_models
from official.nlp.modeling import networks

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.run import checkpoints
from tokendrop_tf.tasks import masked_lm as task_lib
from tokendrop_tf.tasks import pretraining
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import (
  checkpoint_weights,
  hugging_face_weights,
  load_weights,
  position_extension,
  starting_point,
)

MODEL = configs.ModelConfig(
  vocab_size=64,
  hidden_size=16,
  num_layers=3,
  num_attention_heads=2,
  intermediate_size=24,
  max_position_embeddings=20,
  type_vocab_size=2,
  initializer_range=0.5,
)


def build_model(tiny_corpus, seed=0, policy='loss', **changes):
  """Returns a pretraining model whose every weight is random."""
  task = task_lib.TokenDropPretrainingTask(
    configs.PretrainingTaskConfig(
      model=dataclasses.replace(MODEL, **changes),
      token_drop=configs.TokenDropConfig(policy=policy, token_keep_k=4),
      vocabulary=configs.VocabularyConfig(path=tiny_corpus.vocabulary),
      seed=seed,
    )
  )
  model = task.build_model()
  randomize(model, seed)
  return model


def randomize(model, seed):
  draw = np.random.default_rng(seed)
  for variable in model.variables:
    variable.assign(draw.normal(size=variable.shape).astype(np.float32))


def values_of(model):
  """Returns copies of the weights of encoder and masked-LM head by name."""
  variables = checkpoint_weights.named_variables(
    model.encoder_network, 'encoder'
  ) | checkpoint_weights.named_variables(model.masked_lm, 'masked_lm')
  return {name: item.numpy() for name, item in variables.items()}


def differing_names(model, other):
  ours, theirs = values_of(model), values_of(other)
  assert list(ours) == list(theirs)
  return {name for name in ours if not np.array_equal(ours[name], theirs[name])}


def split_weights(folder, dtype) -> pathlib.Path:
  """Spreads the weights of a Hugging Face folder over two files."""
  folder = pathlib.Path(folder)
  whole = folder / 'model.safetensors'
  tensors = {
    name: np.ascontiguousarray(value, dtype=dtype)
    for name, value in safetensors.numpy.load_file(whole).items()
  }
  whole.unlink()
  weight_map = {
    name: f'part-{number % 2}.safetensors'
    for number, name in enumerate(tensors)
  }
  for part in set(weight_map.values()):
    safetensors.numpy.save_file(
      {name: tensors[name] for name in tensors if weight_map[name] == part},
      folder / part,
    )
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps({'metadata': {}, 'weight_map': weight_map})
  )
  return folder


message_of = functools.partial(
  refusals.message_of, raises=errors.ConfigurationError
)


@pytest.fixture(scope='module')
def source(tiny_corpus):
  """The model whose weights are written in every form."""
  return build_model(tiny_corpus, seed=1)


@pytest.fixture(scope='module')
def built_model(tiny_corpus):
  return build_model(tiny_corpus)


@pytest.fixture
def model(built_model):
  """A model of the same sizes with other weights."""
  randomize(built_model, seed=2)
  return built_model


@pytest.fixture(scope='module')
def model_dir(source, tiny_corpus, tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('run')
  tree = {
    'task': {
      'model': MODEL.as_dict(),
      'vocabulary': {'path': tiny_corpus.vocabulary, 'lower_case': False},
    }
  }
  (folder / 'params.yaml').write_text(yaml.safe_dump(tree))
  tf.train.Checkpoint(model=source, **source.checkpoint_items).save(
    str(folder / 'ckpt')
  )
  return folder


@pytest.fixture(scope='module')
def hugging_face_folder(source, tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('hugging_face')
  values = values_of(source)
  del values['encoder/_token_importance/table']
  del values['masked_lm/embedding_table']
  hugging_face_weights.write_safetensors(
    str(folder / 'model.safetensors'),
    hugging_face_weights.to_hugging_face(values, MODEL.num_layers),
  )
  config = hugging_face_weights.config_of(MODEL, pad_id=0)
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


@pytest.fixture
def changed_folder(hugging_face_folder, tmp_path):
  """Returns a copy of the Hugging Face folder with changes."""

  def change(edit=None, **settings):
    folder = tmp_path / 'changed'
    shutil.copytree(hugging_face_folder, folder)
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(config | settings))
    if edit is not None:
      path = str(folder / 'model.safetensors')
      tensors = hugging_face_weights._read_tensors(str(folder))
      hugging_face_weights.write_safetensors(path, edit(tensors))
    return str(folder)

  return change


class TestDescribe:
  def test_a_run_has_its_sizes_and_vocabulary(self, model_dir, tiny_corpus):
    source = starting_point.describe(str(model_dir))
    assert source.kind == 'run'
    assert source.model == MODEL
    assert source.vocabulary_path == tiny_corpus.vocabulary
    assert source.lower_case is False

  def test_a_checkpoint_in_a_run_is_of_that_run(self, model_dir):
    path = str(model_dir / 'ckpt-1')
    source = starting_point.describe(path)
    assert (source.kind, source.source) == ('run', path)

  def test_a_bare_checkpoint_states_no_sizes(self, source, tmp_path):
    prefix = tf.train.Checkpoint(encoder=source.encoder_network).write(
      str(tmp_path / 'bert_model.ckpt')
    )
    for path in (prefix, str(tmp_path)):
      described = starting_point.describe(path)
      assert (described.kind, described.source) == ('checkpoint', prefix)
      assert described.model is None
      assert described.vocabulary_path is None

  def test_a_published_checkpoint_has_sizes_beside_it(self, source, tmp_path):
    tf.train.Checkpoint(encoder=source.encoder_network).write(
      str(tmp_path / 'bert_model.ckpt')
    )
    config = hugging_face_weights.config_of(MODEL, pad_id=0)
    config['hidden_act'] = 'gelu'
    (tmp_path / 'bert_config.json').write_text(json.dumps(config))
    (tmp_path / 'vocab.txt').write_text('[PAD]\n')
    described = starting_point.describe(str(tmp_path))
    assert described.model == MODEL
    assert described.vocabulary_path == str(tmp_path / 'vocab.txt')

  def test_a_hugging_face_folder_has_its_sizes(self, hugging_face_folder):
    described = starting_point.describe(str(hugging_face_folder))
    assert described.kind == 'hugging_face'
    assert described.model == MODEL

  @pytest.mark.parametrize('path', ['', 'absent', 'absent/ckpt-1'])
  def test_nothing_there(self, path):
    message = message_of(starting_point.describe, path)
    assert 'pretraining.init_checkpoint must be' in message
    assert f'Received: {path!r}, which has no checkpoint' in message

  def test_a_run_without_a_checkpoint(self, model_dir, tmp_path):
    shutil.copy(model_dir / 'params.yaml', tmp_path)
    message = message_of(starting_point.describe, str(tmp_path), 'glue.init')
    assert 'which has no checkpoint. Set glue.init.' in message

  @pytest.mark.parametrize(
    'content',
    [
      b'\xff\xfe\x00',
      b'task: null',
      b'task: {model: 3}',
      b'[]',
      b'task: {model: {hidden_size: 48}, vocabulary: null}',
    ],
  )
  def test_a_run_with_damaged_settings(self, content, model_dir, tmp_path):
    for path in model_dir.glob('ckpt-1.*'):
      shutil.copy(path, tmp_path)
    (tmp_path / 'params.yaml').write_bytes(content)
    described = starting_point.describe(str(tmp_path))
    assert described.source == str(tmp_path / 'ckpt-1')
    assert described.vocabulary_path is None

  def test_a_run_whose_sizes_are_no_numbers(self, model_dir, tmp_path):
    for path in model_dir.glob('ckpt-1.*'):
      shutil.copy(path, tmp_path)
    (tmp_path / 'params.yaml').write_text("task: {model: {hidden_size: '16'}}")
    message = message_of(starting_point.describe, str(tmp_path))
    assert f"Received: hidden_size = '16' in {tmp_path}" in message

  def test_a_saved_model_of_others(self, tmp_path):
    (tmp_path / 'saved_model.pb').write_bytes(b'')
    message = message_of(starting_point.describe, str(tmp_path))
    assert 'must, of SavedModels, be one that tools/export.py wrote' in message


class TestLoad:
  def test_a_run_gives_every_weight(self, source, model_dir, model):
    loaded = load_weights.load_pretrainer(model, str(model_dir))
    assert not differing_names(model, source)
    assert loaded.loaded == (
      'encoder',
      'pooler',
      'token_importance',
      'masked_lm',
    )
    assert loaded.new == ()

  def test_an_empty_checkpoint_file_is_none(
    self, source, model_dir, model, tmp_path
  ):
    folder = tmp_path / 'run'
    shutil.copytree(model_dir, folder)
    (folder / 'checkpoint').write_text('')
    load_weights.load_pretrainer(model, str(folder))
    assert not differing_names(model, source)

  def test_hugging_face_gives_all_but_the_table(
    self, source, hugging_face_folder, model
  ):
    loaded = load_weights.load_pretrainer(model, str(hugging_face_folder))
    assert differing_names(model, source) == {'encoder/_token_importance/table'}
    assert loaded.summary() == (
      f'weights from {hugging_face_folder} (hugging_face): encoder, pooler, '
      'masked_lm; new: token_importance'
    )

  def test_an_encoder_alone_can_be_loaded_before_it_is_called(
    self, source, model_dir, tiny_corpus
  ):
    task = configs.PretrainingTaskConfig(
      model=MODEL, token_drop=configs.TokenDropConfig(policy='none')
    )
    vocabulary = vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary)
    encoder = task_lib.build_encoder(MODEL, task.token_drop, vocabulary)
    loaded = load_weights.load_encoder(encoder, str(model_dir))
    assert loaded.loaded == ('encoder', 'pooler')
    expected = values_of(source)
    found = checkpoint_weights.named_variables(encoder, 'encoder')
    assert len(found) == len(encoder.variables)
    for name, variable in found.items():
      np.testing.assert_array_equal(variable.numpy(), expected[name])

  def test_what_is_excluded_stays(self, source, model_dir, model):
    before = model.encoder_network.token_importance.table.numpy()
    load_weights.load_pretrainer(
      model, str(model_dir), exclude=('token_importance',)
    )
    after = model.encoder_network.token_importance.table.numpy()
    np.testing.assert_array_equal(before, after)

  @pytest.mark.parametrize('encoder_class', ['BertEncoderV2', 'BertEncoder'])
  def test_stock_checkpoints_load(self, encoder_class, model, tmp_path):
    """Both encoders of the Model Garden, saved as its pretraining does."""
    sizes = {
      'vocab_size': 64,
      'hidden_size': 16,
      'num_layers': 3,
      'num_attention_heads': 2,
      'max_sequence_length': 20,
      'type_vocab_size': 2,
    }
    if encoder_class == 'BertEncoder':
      stock = networks.BertEncoder(
        **sizes, intermediate_size=24, dict_outputs=True
      )
    else:
      stock = networks.BertEncoderV2(**sizes, inner_dim=24)
    pretrainer = garden_models.BertPretrainerV2(stock, mlm_activation=None)
    inputs = {
      name: np.ones([1, 4], np.int32)
      for name in ('input_word_ids', 'input_mask', 'input_type_ids')
    }
    expected = pretrainer(
      inputs | {'masked_lm_positions': np.array([[1, 2]], np.int32)}
    )
    prefix = tf.train.Checkpoint(
      model=pretrainer, **pretrainer.checkpoint_items
    ).write(str(tmp_path / 'ckpt'))
    loaded = load_weights.load_pretrainer(model, prefix)
    assert loaded.loaded == ('encoder', 'pooler', 'masked_lm')
    assert loaded.new == ('token_importance',)
    outputs = model.encoder_network(inputs)
    for name in ('sequence_output', 'pooled_output'):
      np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5)

  def test_an_encoder_saved_as_the_model_loads(self, source, model, tmp_path):
    """The form in which the first encoders were published."""
    prefix = tf.train.Checkpoint(model=source.encoder_network).write(
      str(tmp_path / 'ckpt')
    )
    loaded = load_weights.load_pretrainer(model, prefix)
    assert loaded.new == ('masked_lm',)
    assert all(
      name.startswith('masked_lm/') for name in differing_names(model, source)
    )


class TestLongerPositions:
  def load(self, model_dir, tiny_corpus, length, extension):
    model = build_model(tiny_corpus, seed=7, max_position_embeddings=length)
    load_weights.load_pretrainer(model, str(model_dir), extension=extension)
    return model

  def table_of(self, model):
    return values_of(model)[position_extension.NAME]

  @pytest.mark.parametrize('extension', ['tile', 'interpolate'])
  def test_all_else_is_loaded_as_it_is(
    self, source, model_dir, tiny_corpus, extension
  ):
    config = dataclasses.replace(MODEL, max_position_embeddings=50)
    load_weights.check_fits(str(model_dir), config, extension=extension)
    model = self.load(model_dir, tiny_corpus, 50, extension)
    assert differing_names(model, source) == {position_extension.NAME}

  def test_a_tiled_model_computes_short_texts_as_before(
    self, source, model_dir, tiny_corpus
  ):
    model = self.load(model_dir, tiny_corpus, 50, 'tile')
    ids = np.random.default_rng(1).integers(5, 64, [2, 20]).astype(np.int32)
    inputs = {
      'input_word_ids': ids,
      'input_mask': np.ones_like(ids),
      'input_type_ids': np.zeros_like(ids),
    }
    np.testing.assert_array_equal(
      model.encoder_network(inputs)['sequence_output'],
      source.encoder_network(inputs)['sequence_output'],
    )
    table = self.table_of(model)
    np.testing.assert_array_equal(table[40:], table[:10])

  def test_interpolation_passes_through_the_old_rows(
    self, source, model_dir, tiny_corpus
  ):
    old = self.table_of(source)
    table = self.table_of(self.load(model_dir, tiny_corpus, 60, 'interpolate'))
    np.testing.assert_array_equal(table[::3], old)
    np.testing.assert_allclose(table[1], (2 * old[0] + old[1]) / 3, rtol=1e-5)
    # Beyond the last row the last step continues: no two places are the same.
    np.testing.assert_allclose(
      table[59] - table[57], 2 / 3 * (old[19] - old[18]), rtol=1e-4, atol=1e-5
    )

  def test_shorter_tables_and_refusal_stay(self, model_dir, tiny_corpus):
    for length, extension in ((16, 'tile'), (24, 'refuse')):
      config = dataclasses.replace(MODEL, max_position_embeddings=length)
      with pytest.raises(errors.ConfigurationError, match='position_embedding'):
        load_weights.check_fits(str(model_dir), config, extension=extension)


class TestAnotherArchitecture:
  @pytest.mark.parametrize(
    ('change', 'difference', 'setting'),
    [
      (
        {'hidden_size': 32},
        'encoder/_embedding_layer/embeddings [64, 16] there, [64, 32] in',
        'model.hidden_size',
      ),
      (
        {'max_position_embeddings': 24},
        'encoder/_position_embedding_layer/embeddings [20, 16] there, [24, 16]',
        'model.max_position_embeddings',
      ),
      (
        {'max_position_embeddings': 16},
        'encoder/_position_embedding_layer/embeddings [20, 16] there, [16, 16]',
        'model.max_position_embeddings',
      ),
      (
        {'num_attention_heads': 4},
        '_query_dense/kernel [16, 2, 8] there, [16, 4, 4] in the model',
        'model.num_attention_heads',
      ),
      (
        {'intermediate_size': 8},
        '_transformer_layers/0/_intermediate_dense/kernel [16, 24] there',
        'model.intermediate_size',
      ),
      (
        {'num_layers': 4},
        'encoder/_transformer_layers/3/_attention_layer/_query_dense/kernel',
        'model.num_layers',
      ),
      (
        {'num_layers': 2},
        'encoder/_transformer_layers/2 there, absent in the model',
        'model.num_layers',
      ),
    ],
  )
  def test_the_first_difference_is_named(
    self, change, difference, setting, model_dir
  ):
    message = message_of(
      load_weights.check_fits,
      str(model_dir),
      dataclasses.replace(MODEL, **change),
    )
    assert difference in message
    assert setting in message.split('Set ')[1]

  def test_a_model_stays_as_it_was(self, model_dir, tiny_corpus):
    model = build_model(tiny_corpus, seed=2, intermediate_size=8)
    before = values_of(model)
    message = message_of(load_weights.load_pretrainer, model, str(model_dir))
    assert '[16, 24] there, [16, 8] in the model' in message
    for name, value in values_of(model).items():
      np.testing.assert_array_equal(value, before[name])

  @pytest.mark.parametrize('embedding_size', [None, 8])
  def test_expected_shapes_are_those_of_the_encoder(
    self, embedding_size, tiny_corpus
  ):
    config = dataclasses.replace(MODEL, embedding_size=embedding_size)
    encoder = task_lib.build_encoder(
      config,
      configs.TokenDropConfig(policy='none'),
      vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary),
    )
    encoder(encoder.inputs)
    shapes = {
      name: tuple(variable.shape)
      for name, variable in checkpoint_weights.named_variables(
        encoder, 'encoder'
      ).items()
      if '_pooler_layer' not in name
    }
    assert load_weights.encoder_shapes(config) == shapes

  def test_a_checkpoint_of_something_else(self, tmp_path):
    layer = tf_keras.layers.Dense(2)
    layer.build([None, 2])
    prefix = tf.train.Checkpoint(model=layer).write(str(tmp_path / 'ckpt'))
    message = message_of(load_weights.check_fits, prefix, MODEL)
    assert 'it holds no BERT encoder' in message

  def test_a_checkpoint_of_tensorflow_1(self, tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      tf.compat.v1.get_variable('bert/bias', initializer=[1.0])
      session.run(tf.compat.v1.global_variables_initializer())
      path = tf.compat.v1.train.Saver().save(session, str(tmp_path / 'model'))
    message = message_of(load_weights.check_fits, path, MODEL)
    assert 'format of TensorFlow 1' in message
    assert 'tf2_bert_encoder_checkpoint_converter' in message

  def test_another_vocabulary(self, model_dir, tiny_corpus, tmp_path):
    tokens = pathlib.Path(tiny_corpus.vocabulary).read_text().split('\n')[:-1]
    tokens[7], tokens[8] = tokens[8], tokens[7]
    path = tmp_path / 'vocab.txt'
    path.write_text('\n'.join(tokens))
    message = message_of(
      load_weights.check_vocabulary,
      starting_point.describe(str(model_dir)),
      vocabulary_lib.Vocabulary.from_file(str(path), lower_case=False),
    )
    assert "line 8 is 'w02'" in message
    assert "'w03' in" in message

  def test_a_vocabulary_of_the_other_case(self, model_dir, tiny_corpus):
    message = message_of(
      load_weights.check_vocabulary,
      starting_point.describe(str(model_dir)),
      vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary),
    )
    assert 'lower_case must be that of pretraining.init_checkpoint' in message
    assert f'Received: True, where {model_dir} has False' in message


class TestHuggingFaceFolders:
  def test_names_without_prefix_and_with_gamma_and_beta(
    self, source, changed_folder, model
  ):
    def rename(tensors):
      return {
        name.removeprefix('bert.')
        .replace('LayerNorm.weight', 'LayerNorm.gamma')
        .replace('LayerNorm.bias', 'LayerNorm.beta'): value
        for name, value in tensors.items()
        if not name.startswith('cls.')
      }

    folder = changed_folder(rename)
    assert load_weights.load_pretrainer(model, folder).new == (
      'token_importance',
      'masked_lm',
    )
    assert all(
      name.startswith(('masked_lm/', 'encoder/_token_importance/'))
      for name in differing_names(model, source)
    )

  def test_a_tied_decoder_in_the_file_is_no_matter(
    self, source, changed_folder, model
  ):
    def add_decoder(tensors):
      embeddings = tensors['bert.embeddings.word_embeddings.weight']
      bias = tensors['cls.predictions.bias']
      return tensors | {
        'cls.predictions.decoder.weight': embeddings,
        'cls.predictions.decoder.bias': bias,
        'bert.embeddings.position_ids': np.arange(20),
      }

    load_weights.load_pretrainer(model, changed_folder(add_decoder))
    assert differing_names(model, source) == {'encoder/_token_importance/table'}

  def test_the_bias_of_the_decoder_is_that_of_the_head(
    self, source, changed_folder, model
  ):
    """The one name under which some versions of transformers save it."""

    def rename(tensors):
      bias = tensors.pop('cls.predictions.bias')
      return tensors | {'cls.predictions.decoder.bias': bias}

    load_weights.load_pretrainer(model, changed_folder(rename))
    assert differing_names(model, source) == {'encoder/_token_importance/table'}

  def test_without_a_pooler_the_new_one_stays(
    self, source, changed_folder, model
  ):
    def drop(tensors):
      return {n: value for n, value in tensors.items() if 'pooler' not in n}

    before = values_of(model)
    loaded = load_weights.load_pretrainer(model, changed_folder(drop))
    assert loaded.new == ('pooler', 'token_importance')
    for name, value in values_of(model).items():
      if 'pooler' in name:
        np.testing.assert_array_equal(value, before[name])
    assert {name.split('/')[1] for name in differing_names(model, source)} == {
      '_pooler_layer',
      '_token_importance',
    }

  @pytest.mark.parametrize(
    ('settings', 'received'),
    [
      ({'model_type': 'roberta'}, "model_type = 'roberta'"),
      ({'position_embedding_type': 'relative_key'}, "'relative_key'"),
      ({'is_decoder': True}, 'is_decoder = True'),
      ({'tie_word_embeddings': False}, 'tie_word_embeddings = False'),
      ({'hidden_act': 'mish'}, "hidden_act = 'mish'"),
      ({'layer_norm_eps': 1e-5}, 'layer_norm_eps = 1e-05'),
    ],
  )
  def test_another_architecture(self, settings, received, changed_folder):
    message = message_of(starting_point.describe, changed_folder(**settings))
    assert 'must hold a BERT encoder' in message
    assert received in message

  def test_an_untied_decoder(self, changed_folder):
    def untie(tensors):
      embeddings = tensors['bert.embeddings.word_embeddings.weight']
      return tensors | {'cls.predictions.decoder.weight': embeddings + 1}

    message = message_of(load_weights.check_fits, changed_folder(untie), MODEL)
    assert 'must be tied' in message
    assert 'cls.predictions.decoder.weight differs' in message

  @pytest.mark.parametrize(
    'name',
    ['bert.encoder.layer.1.output.dense.bias', 'cls.predictions.bias'],
  )
  def test_a_missing_weight(self, name, changed_folder):
    def drop(tensors):
      return {key: value for key, value in tensors.items() if key != name}

    message = message_of(load_weights.check_fits, changed_folder(drop), MODEL)
    assert f'lacks {name}. Save the model again' in message

  def test_sizes_that_the_file_has_not(self, changed_folder):
    message = message_of(
      load_weights.check_fits, changed_folder(num_hidden_layers=4), MODEL
    )
    assert 'lacks bert.encoder.layer.3.attention.self.query.weight' in message

  @pytest.mark.parametrize(
    ('settings', 'received'),
    [
      ({'num_attention_heads': 3}, 'hidden_size = 16, num_attention_heads = 3'),
      ({'num_attention_heads': 0}, 'num_attention_heads = 0 in'),
      ({'num_attention_heads': '2'}, "num_attention_heads = '2' in"),
      ({'num_hidden_layers': 0}, 'num_layers = 0 in'),
      ({'vocab_size': 0.5}, 'vocab_size = 0.5 in'),
      ({'hidden_size': None}, 'hidden_size = None'),
      ({'hidden_dropout_prob': 'a'}, "dropout_rate = 'a' in"),
      ({'hidden_act': ['gelu']}, "hidden_act = ['gelu']"),
    ],
  )
  def test_sizes_that_are_none(self, settings, received, changed_folder):
    folder = changed_folder(**settings)
    message = message_of(load_weights.check_fits, folder, MODEL)
    assert received in message
    assert folder in message

  @pytest.mark.parametrize(
    'value',
    [
      np.zeros(16, np.float32),
      np.zeros([15, 16], np.float32),
      np.zeros([0, 16], np.float32),
      np.zeros([16, 16], np.int64),
    ],
    ids=lambda value: f'{value.dtype}{value.shape}',
  )
  def test_a_weight_of_another_form(self, value, changed_folder):
    name = 'bert.encoder.layer.0.attention.self.query.weight'
    folder = changed_folder(lambda tensors: tensors | {name: value})
    message = message_of(load_weights.check_fits, folder, MODEL)
    assert 'must go with their config.json' in message
    assert f'{name} is {value.dtype} {list(value.shape)}' in message

  def test_a_layer_without_a_number_is_no_layer(self, changed_folder):
    name = 'bert.encoder.layer.x.foo'
    folder = changed_folder(
      lambda tensors: tensors | {name: np.zeros(16, np.float32)}
    )
    assert load_weights.check_fits(folder, MODEL).kind == 'hugging_face'

  def test_a_broken_file(self, changed_folder):
    folder = pathlib.Path(changed_folder())
    (folder / 'model.safetensors').write_bytes(b'\x08' + b'\0' * 30)
    message = message_of(load_weights.check_fits, str(folder), MODEL)
    assert 'must be a safetensors file' in message

  def test_weights_in_several_files_of_bfloat16(
    self, source, changed_folder, model
  ):
    folder = split_weights(changed_folder(), ml_dtypes.bfloat16)
    load_weights.load_pretrainer(model, str(folder))
    loaded = values_of(model)
    for name, value in values_of(source).items():
      if name != 'encoder/_token_importance/table':
        rounded = value.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(loaded[name], rounded, err_msg=name)

  def test_a_file_of_several_is_missing(self, changed_folder):
    folder = split_weights(changed_folder(), np.float32)
    (folder / 'part-1.safetensors').unlink()
    message = message_of(load_weights.check_fits, str(folder), MODEL)
    assert "must list files beside it. Received: 'part-1.safetens" in message

  def test_an_index_that_leaves_the_folder(self, changed_folder):
    folder = split_weights(changed_folder(), np.float32)
    path = folder / 'model.safetensors.index.json'
    path.write_text(path.read_text().replace('part-1', '../part-1'))
    (folder.parent / 'part-1.safetensors').write_bytes(b'')
    message = message_of(load_weights.check_fits, str(folder), MODEL)
    assert "must list files beside it. Received: '../part-1" in message

  def test_weights_of_pytorch_only(self, changed_folder):
    folder = pathlib.Path(changed_folder())
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    message = message_of(load_weights.check_fits, str(folder), MODEL)
    assert 'must hold its weights in model.safetensors, or in' in message

  def test_a_config_that_is_no_json(self, changed_folder):
    folder = pathlib.Path(changed_folder())
    (folder / 'config.json').write_text('{')
    message = message_of(starting_point.describe, str(folder))
    assert 'config.json must be a JSON object' in message


class TestTraining:
  def check(self, tiny_corpus, source, folder, **changes):
    task = configs.PretrainingTaskConfig(
      model=dataclasses.replace(MODEL, **changes),
      vocabulary=configs.VocabularyConfig(
        path=tiny_corpus.vocabulary, lower_case=False
      ),
      init_checkpoint=str(source),
    )
    experiment = pretraining.Pretraining(
      types.SimpleNamespace(task=task), 'train', str(folder)
    )
    experiment.complete_settings(checkpoints.newest(str(folder)))

  def test_a_new_run_checks_what_it_starts_from(
    self, model_dir, tiny_corpus, tmp_path
  ):
    self.check(tiny_corpus, model_dir, tmp_path)
    message = message_of(
      lambda: self.check(tiny_corpus, model_dir, tmp_path, hidden_size=32)
    )
    assert '[64, 16] there, [64, 32] in the model' in message

  def test_a_run_that_goes_on_needs_it_no_more(self, model_dir, tiny_corpus):
    self.check(tiny_corpus, 'gone', model_dir)
