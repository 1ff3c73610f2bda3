"""Writes down which documents one of several workers is given.

  TF_CONFIG=... python -m faults.read_share VOCABULARY TEXT OUTPUT

Every document of TEXT has a word of its own, which stands in all its places.
"""

import json
import sys

from tokendrop_tf import command_line, configs, runner  # noqa: F401

# isort: split
import tensorflow as tf

from tokendrop_tf.data import loader


def main():
  vocabulary, text, output = sys.argv[1:]
  strategy = runner.create_strategy(
    configs.RuntimeConfig(distribution_strategy='multi_worker_mirrored')
  )
  config = configs.PretrainingDataConfig(
    input_path=text,
    is_training=True,
    global_batch_size=6,
    seq_length=8,
    max_predictions_per_seq=2,
    packing='within_documents',
    num_epochs=2,
    drop_remainder=False,
  )
  batches = strategy.distribute_datasets_from_function(
    lambda context: loader.load_dataset(
      config, configs.VocabularyConfig(path=vocabulary), context
    )
  )
  documents = []
  for batch in batches:
    [ids] = strategy.experimental_local_results(batch['masked_lm_ids'])
    documents += [int(row[0]) for row in ids.numpy() if row[0]]
  with open(output, 'w') as file:
    json.dump(documents, file)


if __name__ == '__main__':
  assert tf.executing_eagerly()
  main()
