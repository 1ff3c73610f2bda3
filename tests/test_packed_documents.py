"""Several documents in a row against each in a row of its own."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.nlp.modeling import networks

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf import pretrainer

VOCAB_SIZE, HIDDEN_SIZE, SEQ_LENGTH = 50, 16, 12
STOCK = dict(
  vocab_size=VOCAB_SIZE,
  hidden_size=HIDDEN_SIZE,
  num_layers=5,
  num_attention_heads=2,
  max_sequence_length=SEQ_LENGTH,
  type_vocab_size=2,
  inner_dim=32,
  output_dropout=0.0,
  attention_dropout=0.0,
  initializer=tf_keras.initializers.TruncatedNormal(stddev=0.3),
)
CROSSING_LAYER = 3
# Tokens of the documents of every row, [CLS] and [SEP] included.
DOCUMENTS = ((5, 4, 3), (6, 4), (12,), (3, 3, 3, 3))
LABELS_OF_ROW = 4
KEEPS = (None, 2, 7)


def make_encoder():
  tf_keras.utils.set_random_seed(1)
  encoder = encoder_lib.TokenDropBertEncoder(
    **STOCK, token_keep_k=7, crossing_layer=CROSSING_LAYER, token_deny_list=(0,)
  )
  encoder(encoder.inputs)
  for variable in encoder.trainable_variables:  # no bias stays at zero
    variable.assign_add(tf.random.normal(variable.shape, stddev=0.05))
  table = encoder.token_importance.table
  table.assign(tf.random.uniform(table.shape, 0.1, 10.0))
  return encoder


def make_rows():
  """Returns (features of packed rows, label ids [B, P])."""
  draw = np.random.default_rng(0)
  shape = [len(DOCUMENTS), SEQ_LENGTH]
  segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  for row, lengths in enumerate(DOCUMENTS):
    start = 0
    for number, length in enumerate(lengths):
      segments[row, start : start + length] = number + 1
      positions[row, start : start + length] = np.arange(length)
      start += length
  mask = (segments > 0).astype(np.int32)
  features = dict(
    input_word_ids=draw.integers(1, VOCAB_SIZE, shape) * mask,
    input_mask=mask,
    input_type_ids=np.zeros(shape),
    segment_ids=segments,
    position_ids=positions,
    masked_lm_positions=np.stack(
      [
        np.sort(draw.choice(sum(row), LABELS_OF_ROW, replace=False))
        for row in DOCUMENTS
      ]
    ),
  )
  labels = draw.integers(1, VOCAB_SIZE, [len(DOCUMENTS), LABELS_OF_ROW])
  return {k: tf.constant(v, tf.int32) for k, v in features.items()}, labels


def label_loss(rows, labels, table):
  """Sum over the labels of the masked-LM loss, by the word embeddings."""
  logits = tf.matmul(rows, table, transpose_b=True)
  return tf.reduce_sum(
    tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
  )


def run_alone(stock, word_ids, kept):
  """One document by stock layers, of which the middle ones see `kept` rows."""
  ids = word_ids[tf.newaxis]
  length = ids.shape[1]
  rows = stock._embedding_layer(ids)
  rows += stock._position_embedding_layer(rows)
  rows += stock._type_embedding_layer(tf.zeros_like(ids))
  rows = stock._embedding_norm_layer(rows)
  everything = tf.ones([1, length, length])
  layers = stock.transformer_layers
  for layer in layers[: CROSSING_LAYER - 1]:
    rows = layer([rows, everything])
  if len(kept):
    indices = tf.constant(kept, tf.int32)
    kept_rows = tf.gather(rows, indices, axis=1)
    kept_rows = layers[CROSSING_LAYER - 1](
      [kept_rows, rows, tf.ones([1, len(kept), length])]
    )
    for layer in layers[CROSSING_LAYER:-1]:
      kept_rows = layer([kept_rows, tf.ones([1, len(kept), len(kept)])])
    rows = tf.tensor_scatter_nd_update(
      rows[0], indices[:, tf.newaxis], kept_rows[0]
    )[tf.newaxis]
  return layers[-1]([rows, everything])[0]


def run_separately(encoder, stock, features, labels, keep_k):
  """Returns the outputs [B, S, H] and the loss of documents on their own."""
  scores = encoder.token_importance(features['input_word_ids'])
  order = tf.argsort(scores, direction='DESCENDING', stable=True).numpy()
  table = stock._embedding_layer.embeddings
  rows, loss = [], 0.0
  for row, lengths in enumerate(DOCUMENTS):
    kept = set(order[row][: SEQ_LENGTH if keep_k is None else keep_k])
    start, outputs = 0, []
    for length in lengths:
      here = [place - start for place in sorted(kept) if place >= start]
      output = run_alone(
        stock,
        features['input_word_ids'][row, start : start + length],
        [place for place in here if place < length],
      )
      outputs.append(output)
      start += length
    outputs = tf.concat(outputs, axis=0)
    slots = features['masked_lm_positions'][row]
    loss += label_loss(tf.gather(outputs, slots), labels[row], table)
    rows.append(tf.pad(outputs, [[0, SEQ_LENGTH - start], [0, 0]]))
  return tf.stack(rows), loss


@pytest.mark.parametrize('keep_k', KEEPS)
def test_packed_documents_equal_separate_sequences(tmp_path, keep_k):
  encoder, (features, labels) = make_encoder(), make_rows()
  stock = networks.BertEncoderV2(**STOCK)
  stock(stock.inputs)
  path = tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / 'ckpt'))
  tf.train.Checkpoint(encoder=stock).read(path).expect_partial()
  dropping = dict(drop_tokens=keep_k is not None, token_keep_k=keep_k)
  slots = features.pop('masked_lm_positions')
  full = encoder(features, **dropping)['sequence_output']
  features['masked_lm_positions'] = slots

  with tf.GradientTape(persistent=True) as tape:
    outputs = encoder(
      features,
      output_positions=slots,
      return_pooled_output=False,
      **dropping,
    )['sequence_output']
    loss = label_loss(outputs, labels, encoder.get_embedding_table())
    expected, expected_loss = run_separately(
      encoder, stock, features, labels, keep_k
    )

  mask = tf.cast(features['input_mask'][..., tf.newaxis], tf.float32)
  np.testing.assert_allclose(full * mask, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  assert_gradients_agree(tape, encoder, stock, loss, expected_loss)


def assert_gradients_agree(tape, encoder, stock, loss, expected_loss):
  variables = stock.trainable_variables
  expected = dict(
    zip(map(short_name, variables), tape.gradient(expected_loss, variables))
  )
  compared = 0
  for variable, gradient in zip(
    encoder.trainable_variables,
    tape.gradient(loss, encoder.trainable_variables),
  ):
    other = expected[short_name(variable)]
    if short_name(variable).startswith('pooler_transform'):
      assert gradient is None
      continue
    gradient, other = map(tf.convert_to_tensor, (gradient, other))
    np.testing.assert_allclose(
      gradient, other, rtol=1e-5, atol=1e-5, err_msg=variable.name
    )
    compared += 1
  assert compared == len(variables) - 2


def short_name(variable):
  return variable.name.split('/', 1)[1]


@pytest.mark.parametrize('drop_tokens', [False, True])
def test_one_document_a_row_is_what_it_is_without_segments(drop_tokens):
  encoder, (features, _) = make_encoder(), make_rows()
  inputs = {name: features[name] for name in encoder.inputs}
  alone = dict(
    inputs,
    segment_ids=inputs['input_mask'],
    position_ids=tf.broadcast_to(
      tf.range(SEQ_LENGTH), inputs['input_mask'].shape
    ),
  )
  is_text = tf.cast(inputs['input_mask'][..., tf.newaxis], tf.float32)
  np.testing.assert_allclose(
    encoder(alone, drop_tokens=drop_tokens)['sequence_output'] * is_text,
    encoder(inputs, drop_tokens=drop_tokens)['sequence_output'] * is_text,
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize('keep_k', [None, 7])
def test_a_document_does_not_see_its_neighbours(keep_k):
  """Other words in one document leave the others' outputs bit for bit."""
  encoder, (features, _) = make_encoder(), make_rows()
  encoder.token_importance.table.assign(tf.fill([VOCAB_SIZE], 1.0))
  dropping = dict(drop_tokens=keep_k is not None, token_keep_k=keep_k)
  is_first = features['segment_ids'] == 1
  changed = dict(
    features,
    input_word_ids=tf.where(
      is_first, VOCAB_SIZE - features['input_word_ids'], 0
    )
    + tf.where(is_first, 0, features['input_word_ids']),
  )
  before = encoder(features, **dropping)['sequence_output'].numpy()
  after = encoder(changed, **dropping)['sequence_output'].numpy()
  others = features['segment_ids'].numpy() > 1
  np.testing.assert_array_equal(before[others], after[others])
  assert (before[is_first.numpy()] != after[is_first.numpy()]).any()


def test_the_pretrainer_passes_segments_on_under_xla_too():
  encoder, (features, _) = make_encoder(), make_rows()
  model = pretrainer.TokenDropPretrainer(encoder)

  def run(inputs):
    return model(inputs, drop_tokens=True)['mlm_logits']

  packed = run(features)
  slots = features['masked_lm_positions']
  np.testing.assert_allclose(
    packed,
    model.masked_lm(
      encoder(features, output_positions=slots, drop_tokens=True)[
        'sequence_output'
      ]
    ),
    rtol=1e-5,
    atol=1e-5,
  )
  compiled = tf.function(run, jit_compile=True)(features)
  np.testing.assert_allclose(compiled, packed, rtol=1e-4, atol=1e-4)
  plain = {
    name: value
    for name, value in features.items()
    if name not in encoder.optional_inputs
  }
  assert float(tf.reduce_max(tf.abs(run(plain) - packed))) > 1e-3
