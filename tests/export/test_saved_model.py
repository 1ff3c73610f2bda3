"""Encoder and preprocessor, used where only TensorFlow is installed."""

import gzip
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hard_strings import HARD_STRINGS

from tokendrop_tf.export import load_model, saved_model
from tokendrop_tf.serving import saved_model_safety
from tokendrop_tf.text import text_to_ids, tokenization
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import starting_point

NUM_LINES = 10_000


def real_lines():
  """Returns lines of optional real text and sentences from them, or none."""
  default = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
  folder = pathlib.Path(os.environ.get('TOKENDROP_TEST_TEXT') or default)
  path = folder / 'wikipedia' / 'valid.txt.gz'
  if not path.exists():
    return []
  with gzip.open(path, 'rt', encoding='utf-8') as file:
    lines = [line.rstrip('\n') for line in file]
  parts = itertools.chain(*(line.split('. ') for line in lines))
  return [*lines, *parts][:NUM_LINES]


@pytest.fixture(scope='module')
def texts() -> list[str]:
  return [*HARD_STRINGS, *real_lines()]


@pytest.fixture(scope='module')
def cased(trained_vocabulary, tmp_path_factory):
  """The same vocabulary without lower-casing: it and its preprocessor."""
  vocabulary = vocabulary_lib.Vocabulary(
    trained_vocabulary.tokens, tokenization.CASED
  )
  folder = tmp_path_factory.mktemp('cased')
  path = folder / 'vocab.txt'
  vocabulary_lib.write_vocabulary(str(path), vocabulary)
  saved_model.write_preprocessor(
    vocabulary, str(path), str(folder / 'preprocessor'), seq_length=32
  )
  path.unlink()
  return vocabulary, folder / 'preprocessor'


@pytest.fixture(scope='module')
def answers(
  exported_run, features, masked_positions, texts, cased, tmp_path_factory
):
  """What a fresh process without the project gets out of the folder."""
  folder = tmp_path_factory.mktemp('fresh_process')
  exported = exported_run.folders['saved_model']
  np.savez(
    folder / 'request.npz',
    encoder=str(exported / 'encoder'),
    preprocessor=str(exported / 'preprocessor'),
    cased_preprocessor=str(cased[1]),
    masked_lm_positions=masked_positions,
    texts=np.array([text.encode('utf-8') for text in texts]).astype('S'),
    **features,
  )
  script = pathlib.Path(__file__).with_name('fresh_process.py')
  done = subprocess.run(
    [
      sys.executable,
      str(script),
      str(folder / 'request.npz'),
      str(folder / 'answer.npz'),
    ],
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return dict(np.load(folder / 'answer.npz'))


def test_the_run_is_gone(exported_run):
  assert not exported_run.deleted.exists()


@pytest.mark.parametrize(
  'name', ['sequence_output', 'pooled_output', 'first_layer', 'mlm_logits']
)
def test_outputs_are_those_of_the_live_model(name, answers, live_outputs):
  np.testing.assert_allclose(answers[name], live_outputs[name], atol=1e-4)


def test_outputs_have_the_names_of_the_convention(answers):
  names = ['default', 'encoder_outputs', 'pooled_output', 'sequence_output']
  assert answers['keys'].tolist() == names
  assert answers['mlm_keys'].tolist() == sorted([*names, 'mlm_logits'])
  assert answers['num_layers'] == 3
  np.testing.assert_array_equal(answers['default'], answers['pooled_output'])
  np.testing.assert_array_equal(
    answers['last_layer'], answers['sequence_output']
  )
  np.testing.assert_allclose(
    answers['signature'], answers['sequence_output'], atol=1e-4
  )


def test_any_length_that_has_positions_is_taken(answers):
  assert answers['num_positions'] == 40


def test_the_vocabulary_travels_inside(answers, trained_vocabulary):
  assert str(answers['vocabulary']).split('\n')[:-1] == list(
    trained_vocabulary.tokens
  )
  assert answers['do_lower_case']


def test_training_through_keras_layer_reaches_every_weight(answers):
  # Keys before a softmax over them are blind to a common bias.
  blind = [
    name
    for name, norm in zip(answers['names'], answers['gradient_norms'])
    if norm < 1e-4
  ]
  assert all('/key/bias' in name for name in blind), blind
  assert len(answers['names']) == answers['num_weights']
  assert len(answers['names']) == 3 * 16 + 5 + 2
  moved = answers['changes'] > 0
  assert moved[answers['gradient_norms'] > 1e-4].all()


def test_gradients_are_those_of_the_live_model(answers, exported_run, features):
  encoder = exported_run.loaded.encoder
  [table] = [v for v in encoder.variables if 'position_embedding' in v.name]
  with tf.GradientTape() as tape:
    outputs = encoder(features, training=False)
    loss = tf.reduce_sum(outputs['sequence_output'][:, :, 0] ** 2)
  expected = tf.convert_to_tensor(tape.gradient(loss, table))
  np.testing.assert_allclose(answers['gradient'], expected, atol=1e-3)
  assert np.abs(answers['gradient']).max() > 1e-2


def test_training_drops_out(answers):
  assert answers['dropout'].max() > 1e-3


def rows(ids, lengths):
  return np.split(ids, np.cumsum(lengths)[:-1])


@pytest.mark.parametrize('casing', ['lower-cased', 'cased'])
def test_the_preprocessor_tokenises_as_pretraining_does(
  casing, answers, texts, cased, trained_vocabulary
):
  prefix = 'cased_' if casing == 'cased' else ''
  vocabulary = cased[0] if casing == 'cased' else trained_vocabulary
  expected = vocabulary.tokenizer().tokenize(texts)
  np.testing.assert_array_equal(
    answers[f'{prefix}lengths'], expected.row_lengths()
  )
  np.testing.assert_array_equal(answers[f'{prefix}ids'], expected.values)
  assert len(rows(answers[f'{prefix}ids'], answers[f'{prefix}lengths'])) == len(
    texts
  )


def test_casing_matters(answers):
  assert not np.array_equal(answers['lengths'], answers['cased_lengths'])


def test_real_text_was_among_the_texts(texts):
  if len(texts) == len(HARD_STRINGS):
    pytest.skip(
      'No real text: set TOKENDROP_TEST_TEXT to a folder with '
      'wikipedia/valid.txt.gz.'
    )
  assert len(texts) == NUM_LINES + len(HARD_STRINGS)


def test_offsets_say_where_tokens_are(answers, texts):
  np.testing.assert_array_equal(answers['ids_with_offsets'], answers['ids'])
  lengths = answers['lengths']
  for text, starts, ends in zip(
    texts[:20], rows(answers['starts'], lengths), rows(answers['ends'], lengths)
  ):
    assert (starts >= 0).all()
    assert (starts <= ends).all()
    assert (ends <= len(text.encode('utf-8'))).all()
    assert (starts[1:] >= starts[:-1]).all()


def test_rows_are_those_of_the_text_packer(answers, texts, trained_vocabulary):
  names = ('input_word_ids', 'input_mask', 'input_type_ids')
  strings = tf.constant(texts)
  single = text_to_ids.TextPacker(trained_vocabulary, seq_length=32)(strings)
  pairs = text_to_ids.TextPacker(trained_vocabulary, seq_length=12)(
    strings, strings
  )
  for index, name in enumerate(names):
    np.testing.assert_array_equal(answers['packed'][index], single[name])
    np.testing.assert_array_equal(answers['pairs'][index], pairs[name])


def test_special_tokens_are_told(answers, trained_vocabulary):
  assert dict(zip(answers['special_names'], answers['special_ids'])) == {
    'start_of_sequence_id': trained_vocabulary.cls_id,
    'end_of_segment_id': trained_vocabulary.sep_id,
    'padding_id': trained_vocabulary.pad_id,
    'mask_id': trained_vocabulary.mask_id,
    'vocab_size': 400,
  }


def test_the_folder_describes_itself(exported_run):
  folder = exported_run.folders['saved_model']
  description = json.loads((folder / 'export.json').read_text())
  assert description['kind'] == load_model.PRETRAINING
  assert description['seq_length'] == 32
  assert description['lower_case'] is True
  assert 'embeddings' in description['serving_models']
  assert 'fill_mask' in description['serving_models']
  source = starting_point.describe(str(folder))
  assert source.kind == 'saved_model'
  assert source.model == exported_run.loaded.model_config
  assert source.lower_case is True
  tokens = vocabulary_lib.Vocabulary.from_file(source.vocabulary_path).tokens
  assert tokens == exported_run.loaded.vocabulary.tokens


def test_no_exported_model_is_taken_for_one_that_reaches_out(exported_run):
  paths = sorted(exported_run.folders['saved_model'].rglob('saved_model.pb'))
  for path in paths:
    saved_model_safety.check(str(path.parent))
  names = {path.parts[-2] for path in paths}
  assert {'encoder', 'preprocessor'} < names
