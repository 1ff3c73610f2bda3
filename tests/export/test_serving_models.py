"""Text-in SavedModels: what they answer, and where they can be loaded."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny_exports

from tokendrop_tf.export import serving_models, warm_up
from tokendrop_tf.serving import served_model
from tokendrop_tf.text import text_to_ids
from tokendrop_tf.text import vocabulary as vocabulary_lib

TEXTS = ['the bank of the river', '', 'Who was born in the city, 中文? ' * 9]


def served(exports, kind, name) -> served_model.ServedModel:
  [folder] = served_model.find_models(str(exports.path(kind)), [name])
  return served_model.ServedModel(folder)


def strings(*texts) -> np.ndarray:
  return np.array([text.encode() for text in texts], object)


def pack(*texts, seq_length=tiny_exports.SEQ_LENGTH):
  """The encoder's inputs, padded to S."""
  packer = text_to_ids.TextPacker(tiny_exports.make_vocabulary(), seq_length)
  return packer(*(tf.constant(part) for part in texts))


def arrays(features):
  return {name: value.numpy() for name, value in features.items()}


@pytest.fixture(scope='module')
def embeddings(exports):
  return served(exports, 'pretraining', 'embeddings')


@pytest.fixture(scope='module')
def fill_mask(exports):
  return served(exports, 'pretraining', 'fill_mask')


def test_embeddings_are_those_of_the_live_encoder_on_padded_rows(embeddings):
  features = pack(TEXTS)
  live = tiny_exports.load('pretraining').encoder(features)
  mask = features['input_mask'].numpy()[:, :, np.newaxis]
  mean = (live['sequence_output'] * mask).numpy().sum(1) / mask.sum(1)
  for outputs in (
    embeddings.predict('', {'text': strings(*TEXTS)}),
    embeddings.predict('ids', arrays(features)),
  ):
    np.testing.assert_allclose(
      outputs['pooled_output'], live['pooled_output'], atol=1e-5
    )
    np.testing.assert_allclose(outputs['mean_output'], mean, atol=1e-5)


def test_a_text_is_embedded_alike_beside_a_longer_one(embeddings):
  together = embeddings.predict('', {'text': strings(*TEXTS)})
  for index, text in enumerate(TEXTS):
    alone = embeddings.predict('', {'text': strings(text)})
    for name, value in alone.items():
      np.testing.assert_allclose(value[0], together[name][index], atol=1e-5)


def test_masks_get_the_live_models_most_probable_tokens(fill_mask):
  text = 'the [MASK] of[MASK] in'
  loaded = tiny_exports.load('pretraining')
  vocabulary = loaded.vocabulary
  ids = vocabulary.ids_of('[CLS] the [MASK] of [MASK] in [SEP]'.split())
  features = {
    'input_word_ids': tf.constant([ids]),
    'input_mask': tf.ones([1, 7], tf.int32),
    'input_type_ids': tf.zeros([1, 7], tf.int32),
  }
  positions = {'masked_lm_positions': tf.constant([[2, 4]])}
  live = loaded.model({**features, **positions})['mlm_logits'][0]
  probabilities = tf.nn.softmax(live).numpy()
  for outputs in (
    fill_mask.predict('', {'text': strings(text)}),
    fill_mask.predict('ids', arrays(features)),
  ):
    assert outputs['num_masks'].tolist() == [2]
    for slot in range(2):
      best = np.argsort(-probabilities[slot])[: serving_models.TOKENS_PER_MASK]
      assert [t.decode() for t in outputs['tokens'][0, slot]] == [
        vocabulary.tokens[index] for index in best
      ]
      np.testing.assert_allclose(
        outputs['scores'][0, slot], probabilities[slot][best], atol=1e-5
      )


def test_slots_without_a_mask_are_empty(fill_mask):
  texts = strings('[MASK]', 'the [MASK] [MASK][MASK]', 'no mask', '')
  outputs = fill_mask.predict('', {'text': texts})
  assert outputs['num_masks'].tolist() == [1, 3, 0, 0]
  is_used = outputs['tokens'] != b''
  assert is_used.all(axis=2).sum(axis=1).tolist() == [1, 3, 0, 0]
  np.testing.assert_array_equal(is_used, outputs['scores'] > 0)


def test_masks_behind_the_end_of_the_row_are_not_counted(fill_mask):
  outputs = fill_mask.predict('', {'text': strings('the [MASK] ' * 50)})
  assert outputs['num_masks'].tolist() == [(tiny_exports.SEQ_LENGTH - 2) // 2]


def test_a_python_program_chooses_how_many_tokens(fill_mask):
  fill = fill_mask.saved_model.fill_mask
  outputs = fill(tf.constant(['[MASK]']), tf.constant(10**6))
  assert outputs['scores'].shape[2] == tiny_exports.make_vocabulary().size
  assert np.sum(outputs['scores']) == pytest.approx(1.0, abs=1e-5)


def test_pairs_are_classified_as_the_live_model_does(exports):
  first, second = ['the river', 'bank'], ['was born', 'in the city']
  logits = tiny_exports.load('pair').model(pack(first, second))
  scores = tf.nn.softmax(logits).numpy()
  model = served(exports, 'pair', 'classify')
  for outputs in (
    model.predict('', {'text': strings(*first), 'text_pair': strings(*second)}),
    model.predict('ids', arrays(pack(first, second))),
  ):
    np.testing.assert_allclose(outputs['scores'], scores, atol=1e-5)
    assert outputs['label'].tolist() == [
      tiny_exports.LABELS[index].encode() for index in scores.argmax(1)
    ]
    assert (
      outputs['labels'].tolist()
      == [[label.encode() for label in tiny_exports.LABELS]] * 2
    )


def test_a_regression_gives_one_number_a_text(exports):
  expected = tiny_exports.load('regression').model(pack(TEXTS))[:, 0]
  model = served(exports, 'regression', 'classify')
  outputs = model.predict('', {'text': strings(*TEXTS)})
  np.testing.assert_allclose(outputs['score'], expected, atol=1e-5)


def test_span_logits_come_from_ids(exports):
  features = pack(['who was born'], ['the bank was born'])
  expected = tiny_exports.load('answer').model(features)
  outputs = served(exports, 'answer', 'answer').predict('ids', arrays(features))
  for name, value in expected.items():
    np.testing.assert_allclose(outputs[name], value, atol=1e-5)


def test_the_vocabulary_is_an_asset(exports):
  tokens = tiny_exports.make_vocabulary().tokens
  for name in ('embeddings', 'fill_mask', 'ids'):
    path = exports.path('pretraining') / name / '1' / 'assets' / 'vocab.txt'
    assert vocabulary_lib.Vocabulary.from_file(str(path)).tokens == tokens


def test_warm_up_requests_reach_every_signature(exports):
  for kind, name, signatures in (
    ('pretraining', 'fill_mask', {'serving_default', 'ids'}),
    ('pretraining', 'ids', {'serving_default', 'embeddings', 'fill_mask'}),
    ('answer', 'answer', {'serving_default', 'ids'}),
  ):
    model = served(exports, kind, name)
    requests = list(warm_up.read_requests(model.path))
    assert {signature for signature, _ in requests} == signatures
    assert {len(next(iter(inputs.values()))) for _, inputs in requests} == {
      1,
      2,
    }
    assert model.warm_up() == len(requests)


def test_only_weights_that_an_answer_needs_are_written(exports):
  loaded = tiny_exports.load('pretraining')
  path = exports.path('pretraining') / 'embeddings' / '1' / 'variables'
  shapes = tf.train.load_checkpoint(
    str(path / 'variables')
  ).get_variable_to_shape_map()
  written = sum(
    int(np.prod(shape))
    for name, shape in shapes.items()
    if name.startswith('weights/')
  )
  assert written == loaded.encoder.count_params()


# Runs where neither this project nor the Model Garden can be imported.
STRANGER = """
import json, sys
for name in ('tokendrop_tf', 'official', 'tf_keras'):
  sys.modules[name] = None
import tensorflow as tf
results = {}
ids = tf.saved_model.load('ids/1').signatures['embeddings']
row = tf.constant([[2, 5, 3]])
results['ids'] = ids(input_word_ids=row, input_mask=tf.ones_like(row),
    input_type_ids=tf.zeros_like(row))['mean_output'].numpy().tolist()
try:
  tf.saved_model.load('embeddings/1')
except Exception as error:
  results['without text operations'] = str(error)
import tensorflow_text
model = tf.saved_model.load('embeddings/1').signatures['serving_default']
outputs = model(text=tf.constant(['river']))
results['text'] = outputs['mean_output'].numpy().tolist()
fill = tf.saved_model.load('fill_mask/1').signatures['serving_default']
outputs = fill(text=tf.constant(['[MASK]']))
results['tokens'] = outputs['tokens'].numpy()[0, 0, 0].decode()
print(json.dumps(results))
"""


def test_a_moved_folder_answers_in_a_process_without_this_project(
  exports, embeddings, fill_mask, tmp_path
):
  copy = tmp_path / 'moved'
  shutil.copytree(exports.path('pretraining'), copy)
  original = exports.path('pretraining')
  hidden = original.with_name('hidden')
  original.rename(hidden)
  try:
    result = subprocess.run(
      [sys.executable, '-c', STRANGER],
      cwd=copy,
      env={**os.environ, 'PYTHONPATH': '', 'TF_CPP_MIN_LOG_LEVEL': '3'},
      capture_output=True,
      text=True,
      check=False,
    )
  finally:
    hidden.rename(original)
  assert result.returncode == 0, result.stderr
  answers = json.loads(result.stdout.splitlines()[-1])
  here = embeddings.predict('', {'text': strings('river')})['mean_output']
  np.testing.assert_allclose(answers['text'], here, atol=1e-5)
  np.testing.assert_allclose(answers['ids'], here, atol=1e-5)
  assert 'not registered' in answers['without text operations']
  best = fill_mask.predict('', {'text': strings('[MASK]')})['tokens'][0, 0, 0]
  assert answers['tokens'] == best.decode()
