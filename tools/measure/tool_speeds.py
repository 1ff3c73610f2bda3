"""Times the data tools and the Model Garden's, each in a process of its own.

A clock starts when everything is imported and stops when the tool has ended, so
that a short text does not measure the start of TensorFlow.
"""

import json
import os
import subprocess
import sys

import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.shards import token_index
from tokendrop_tf.text import vocabulary as vocabulary_lib

_OURS = """
import json, sys, time
from tokendrop_tf import command_line
from tokendrop_tf.data import {module} as tool
command_line.silence_libraries()
started = time.perf_counter()
tool.main(sys.argv[1:])
print(json.dumps(time.perf_counter() - started))
"""
_PEER = """
import json, sys, time
from absl import flags
from official.nlp.data import create_pretraining_data as tool
flags.FLAGS(sys.argv)
started = time.perf_counter()
tool.main(None)
print(json.dumps(time.perf_counter() - started))
"""


def create_speed(flags: list[str], folder: str) -> float:
  """Returns the tokens per second of `create_pretraining_data`, one process.

  Args:
    flags: of the tool, but for the output.
    folder: an empty folder.
  """
  output = os.path.join(folder, 'ours')
  seconds = _seconds(
    _OURS.format(module='create_pretraining_data'),
    [*flags, f'--output={output}'],
  )
  index = token_index.TokenIndex.load(token_index.index_path(output))
  return index.tokens / seconds


def peer_speed(
  text: str,
  vocabulary: configs.VocabularyConfig,
  config: configs.PretrainingDataConfig,
  folder: str,
) -> float:
  """Returns the tokens per second of the Model Garden's tool.

  Args:
    text: a text file.
    vocabulary: the vocabulary section.
    config: the data section, for the lengths of the examples.
    folder: a folder.
  """
  output = os.path.join(folder, 'peer.tfrecord')
  words = vocabulary_lib.Vocabulary.from_file(
    vocabulary.path, vocabulary.lower_case
  )
  case = '' if words.lower_case else 'no'
  seconds = _seconds(
    _PEER,
    [
      f'--input_file={text}',
      f'--output_file={output}',
      f'--vocab_file={vocabulary.path}',
      f'--{case}do_lower_case',
      f'--max_seq_length={config.seq_length}',
      f'--max_predictions_per_seq={config.max_predictions_per_seq}',
      '--dupe_factor=1',
      '--use_v2_feature_names',
    ],
  )
  return _count_tokens(output, config) / seconds


def vocabulary_seconds(flags: list[str], size: int, folder: str) -> float:
  """Returns how long `build_vocab` takes.

  Args:
    flags: of the tool, but for the output and the size.
    size: V.
    folder: a folder.
  """
  output = os.path.join(folder, f'vocab-{size}.txt')
  return _seconds(
    _OURS.format(module='build_vocab'),
    [*flags, f'--vocab_size={size}', f'--output={output}'],
  )


def write_slice(
  config: configs.PretrainingDataConfig, path: str, most_bytes: int
) -> int:
  """Writes the beginning of a corpus as a text file.

  Args:
    config: the data section.
    path: the file.
    most_bytes: about how much text.

  Returns:
    The number of bytes.
  """
  size = 0
  with open(path, 'wb') as file:
    for texts in corpus_lib.open_corpus(config).documents():
      for text in texts.numpy():
        # A blank line ends a document, so there is none within.
        lines = [line for line in text.split(b'\n') if line.strip()]
        size += file.write(b'\n'.join(lines) + b'\n\n')
        if size >= most_bytes:
          return size
  return size


def _count_tokens(path: str, config) -> int:
  """Returns the tokens, not padding, of the examples in a TFRecord file."""
  spec = {'input_mask': tf.io.FixedLenFeature([config.seq_length], tf.int64)}
  total = 0
  for batch in tf.data.TFRecordDataset(path).batch(1024):
    mask = tf.io.parse_example(batch, spec)['input_mask']
    total += int(tf.reduce_sum(mask))
  return total


def _seconds(program: str, arguments: list[str]) -> float:
  """Runs a program that prints its seconds on its last line."""
  done = subprocess.run(
    [sys.executable, '-c', program, *arguments],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise errors.DataError(
      'A tool that is timed must end well. Received: '
      f'{done.stderr.strip().splitlines()[-1]}'
    )
  return json.loads(done.stdout.strip().splitlines()[-1])
