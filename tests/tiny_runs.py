"""What several tests make: tiny models and runs, a data set of TFDS."""

import pathlib

import numpy as np
import tensorflow as tf
from official.modeling import optimization

from tokendrop_tf import train
from tokendrop_tf.config import rules
from tokendrop_tf.run import run_folder
from tokendrop_tf.tasks import masked_lm
from tokendrop_tf.text import vocabulary as vocabulary_lib

# A model of the vocabulary of `tiny_corpus`, without dropout.
SIZES = dict(
  vocab_size=64,
  hidden_size=16,
  num_layers=3,
  num_attention_heads=2,
  intermediate_size=32,
  max_position_embeddings=16,
  dropout_rate=0.0,
  attention_dropout_rate=0.0,
  initializer_range=0.2,
)

# A run on `tiny_corpus`, whose vocabulary has 64 entries.
MODEL = (
  'model.num_layers = 3',
  'model.hidden_size = 16',
  'model.num_attention_heads = 2',
  'model.intermediate_size = 32',
  'model.max_position_embeddings = 32',
  'train_data.seq_length = 32',
  'train_data.max_predictions_per_seq = 5',
)
TRAINING = (
  *MODEL,
  'model.initializer_range = 0.1',
  'train_data.global_batch_size = 8',
  'validation_data.global_batch_size = 32',
  'token_drop.token_keep_k = 16',
  'optimizer.learning_rate = 0.01',
  'optimizer.warmup_steps = 2',
)


def adamw(learning_rate: float, **settings) -> optimization.OptimizationConfig:
  """Returns AdamW at a constant rate, in the Model Garden's terms."""
  return optimization.OptimizationConfig(
    {
      'optimizer': {'type': 'adamw', 'adamw': settings},
      'learning_rate': {
        'type': 'constant',
        'constant': {'learning_rate': learning_rate},
      },
    }
  )


def write_run(
  folder: pathlib.Path, vocabulary: vocabulary_lib.Vocabulary, *settings: str
) -> str:
  """Writes a run whose every weight is random, with a checkpoint `ckpt-1`.

  Args:
    folder: new; `words.txt`, the vocabulary, lies in it, too.
    vocabulary: its tokens are written.
    *settings: bindings of gin; the last of a name counts.

  Returns:
    The model_dir.
  """
  folder.mkdir()
  path = folder / 'words.txt'
  path.write_text(''.join(f'{token}\n' for token in vocabulary.tokens))
  (folder / 'text.txt').write_text('a text\n')
  model_dir = folder / 'model'
  bindings = (
    f"vocabulary.path = '{path}'",
    f"train_data.input_path = '{folder}/text.txt'",
    f"validation_data.input_path = '{folder}/text.txt'",
    *settings,
  )
  params, gin_text = train.read_configuration(
    train.parse_flags(
      [
        f'--model_dir={model_dir}',
        *(f'--gin_params={binding}' for binding in bindings),
      ]
    )
  )
  rules.resolve_vocabulary(params, vocabulary)
  model_dir.mkdir()
  run_folder.save_configuration(params, gin_text, str(model_dir))
  model = masked_lm.TokenDropPretrainingTask(params.task).build_model()
  randomize(model, seed=5)
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(
    str(model_dir / 'ckpt')
  )
  return str(model_dir)


def randomize(model, seed: int) -> None:
  """Gives every variable values that a fresh one would not have."""
  draw = np.random.default_rng(seed)
  for variable in model.variables:
    variable.assign_add(
      draw.normal(size=variable.shape, scale=0.1).astype(np.float32)
    )


def build_tfds(folder: pathlib.Path, features, splits) -> str:
  """Lets TensorFlow Datasets build the data set `tiny_texts`.

  Args:
    folder: where it lies.
    features: dict of name to a feature of TFDS.
    splits: dict of name to a list of examples.

  Returns:
    `tfds_data_dir`. Only the files are known afterwards, not the builder.
  """
  import tensorflow_datasets as tfds

  class TinyTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {name: enumerate(examples) for name, examples in splits.items()}

    def _generate_examples(self):
      raise NotImplementedError

  TinyTexts(data_dir=folder).download_and_prepare()
  del tfds.core.registered._DATASET_REGISTRY['tiny_texts']
  return str(folder)
