"""Uses an exported folder in a process that cannot import the project.

  python fresh_process.py REQUEST.npz ANSWER.npz

The request holds the folders, features, positions and texts; the answer holds
arrays by the names that `test_saved_model.py` reads.
"""

import sys


class Blocker:
  """Refuses the project and the Model Garden, as if not installed."""

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('tokendrop_tf', 'official'):
      raise ImportError(f'{name} is not installed here')


sys.meta_path.insert(0, Blocker())

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_hub as hub  # noqa: E402
import tensorflow_text  # noqa: E402, F401  (operations of the preprocessor)
import tf_keras  # noqa: E402

INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')


def main(request, answer):
  request = np.load(request)
  encoder_path = str(request['encoder'])
  features = {name: tf.constant(request[name]) for name in INPUTS}
  positions = tf.constant(request['masked_lm_positions'])
  answers = use_encoder(hub.load(encoder_path), features, positions)
  preprocessor = hub.load(str(request['preprocessor']))
  texts = tf.constant(request['texts'])
  answers |= use_preprocessor(preprocessor, texts)
  cased = hub.load(str(request['cased_preprocessor'])).tokenize(texts)
  answers['cased_ids'] = cased.values.numpy()
  answers['gradient'] = embedding_gradient(hub.load(encoder_path), features)
  answers['cased_lengths'] = cased.row_lengths().numpy()
  answers |= train(encoder_path, preprocessor, texts[:4])
  np.savez(answer, **answers)


def use_encoder(encoder, features, positions):
  outputs = encoder(features)
  with_mlm = encoder.mlm({**features, 'masked_lm_positions': positions})
  [text] = tf.io.read_file(encoder.vocab_file.asset_path)[tf.newaxis].numpy()
  signature = encoder.signatures['serving_default'](**features)
  return {
    'keys': sorted(outputs),
    'mlm_keys': sorted(with_mlm),
    'sequence_output': outputs['sequence_output'],
    'pooled_output': outputs['pooled_output'],
    'default': outputs['default'],
    'num_layers': len(outputs['encoder_outputs']),
    'first_layer': outputs['encoder_outputs'][0],
    'last_layer': outputs['encoder_outputs'][-1],
    'mlm_logits': with_mlm['mlm_logits'],
    'signature': signature['sequence_output'],
    'vocabulary': text.decode('utf-8'),
    'do_lower_case': encoder.do_lower_case,
    'num_positions': longest(encoder),
  }


def embedding_gradient(encoder, features):
  """Returns the gradient of a sum of outputs by the position embeddings."""
  [table] = [v for v in encoder.variables if 'position_embedding' in v.name]
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(encoder(features)['sequence_output'][:, :, 0] ** 2)
  return tf.convert_to_tensor(tape.gradient(loss, table))


def longest(encoder):
  """Returns the longest sequence that the encoder takes, up to 64."""
  for length in range(64, 0, -1):
    row = tf.ones([1, length], tf.int32)
    try:
      encoder({name: row for name in INPUTS})
    except (ValueError, tf.errors.InvalidArgumentError):
      continue
    return length
  return 0


def use_preprocessor(preprocessor, texts):
  tokens = preprocessor.tokenize(texts)
  with_offsets, starts, ends = preprocessor.tokenize_with_offsets(texts)
  packed = preprocessor(texts)
  pairs = preprocessor.bert_pack_inputs([tokens, tokens], seq_length=12)
  special = preprocessor.tokenize.get_special_tokens_dict()
  return {
    'ids': tokens.values,
    'lengths': tokens.row_lengths(),
    'ids_with_offsets': with_offsets.values,
    'starts': starts.values,
    'ends': ends.values,
    'packed': np.stack([packed[name] for name in INPUTS]),
    'pairs': np.stack([pairs[name] for name in INPUTS]),
    'special_names': sorted(special),
    'special_ids': [int(special[name]) for name in sorted(special)],
  }


def train(encoder_path, preprocessor, texts):
  """Fine-tunes a classifier on strings, as users of TF Hub do."""
  texts_in = tf_keras.Input(shape=(), dtype=tf.string)
  encoder = hub.KerasLayer(encoder_path, trainable=True)
  tokens = hub.KerasLayer(preprocessor.tokenize)(texts_in)
  pack = hub.KerasLayer(
    preprocessor.bert_pack_inputs, arguments={'seq_length': 16}
  )
  inputs = pack([tokens])
  pooled = encoder(inputs)['pooled_output']
  model = tf_keras.Model(texts_in, tf_keras.layers.Dense(2)(pooled))
  before = [variable.numpy() for variable in encoder.trainable_variables]
  noisy = [encoder(pack([preprocessor.tokenize(texts)]), training=True)]
  noisy += [encoder(pack([preprocessor.tokenize(texts)]), training=True)]
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(model(texts, training=True)[:, 0] ** 2)
  gradients = tape.gradient(loss, encoder.trainable_variables)
  sizes = [
    0 if g is None else float(tf.norm(tf.convert_to_tensor(g)))
    for g in gradients
  ]
  tf_keras.optimizers.SGD(1.0).apply_gradients(
    zip(gradients, encoder.trainable_variables)
  )
  after = encoder.trainable_variables
  return {
    'names': [variable.name for variable in after],
    'gradient_norms': sizes,
    'changes': [float(np.abs(a - b).max()) for a, b in zip(after, before)],
    'num_weights': len(encoder.weights),
    'dropout': tf.abs(noisy[0]['pooled_output'] - noisy[1]['pooled_output']),
  }


if __name__ == '__main__':
  main(*sys.argv[1:])
