"""Times text-in models against the plain encoder, and the server against both.

  python tools/benchmark_serving.py

Two comparisons in one run, arms taking turns so that whatever slows the machine
slows all of them:

1. A batch through the encoder (ids in), and through the text-in SavedModel
   (strings in), which also tokenises.
2. Texts a second from the SavedModel called in this process in full batches,
   and from `tools/serve.py` under a load generator that sends single texts.

Weights are random, texts have exactly S tokens.
"""

import contextlib
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from tokendrop_tf import (
  command_line,  # Before TensorFlow: sets its log level.
  files,
)

# isort: split
import numpy as np
import tabulate
import tensorflow as tf

from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.export import serving_models
from tokendrop_tf.run import turns
from tokendrop_tf.serving import served_model
from tokendrop_tf.text import vocabulary as vocabulary_lib

_LETTERS = 'abcdefghijklmnopqrstuvwxyz'
_NUM_TEXTS = 256


@dataclasses.dataclass(frozen=True)
class _RandomModel:
  """What `serving_models` reads of a trained model."""

  encoder: encoder_lib.TokenDropBertEncoder
  vocabulary: vocabulary_lib.Vocabulary
  kind: str = 'pretraining'
  model: object = None


def make_vocabulary(size: int) -> vocabulary_lib.Vocabulary:
  """Returns the special tokens and words of eight random letters."""
  draw = random.Random(0)
  words = dict.fromkeys(
    ''.join(draw.choices(_LETTERS, k=8)) for _ in range(2 * size)
  )
  tokens = (*vocabulary_lib.SPECIAL_TOKENS, *words)[:size]
  return vocabulary_lib.Vocabulary(tokens)


def make_texts(
  vocabulary: vocabulary_lib.Vocabulary, num_texts: int, num_words: int
) -> list[str]:
  """Returns texts of `num_words` words, each of them one token."""
  draw = random.Random(1)
  words = vocabulary.tokens[len(vocabulary_lib.SPECIAL_TOKENS) :]
  return [' '.join(draw.choices(words, k=num_words)) for _ in range(num_texts)]


def _build(flags) -> _RandomModel:
  encoder = encoder_lib.TokenDropBertEncoder(
    vocab_size=flags.vocab_size,
    hidden_size=flags.hidden_size,
    num_layers=flags.num_layers,
    num_attention_heads=flags.num_attention_heads,
    inner_dim=4 * flags.hidden_size,
    max_sequence_length=flags.seq_length,
  )
  encoder(encoder.inputs)
  return _RandomModel(encoder, make_vocabulary(flags.vocab_size))


def _batch_arms(loaded, model, texts) -> dict[str, Callable[[], object]]:
  strings = {'text': np.array([t.encode() for t in texts], object)}
  encode = tf.function(loaded.encoder.call)
  packed = dict(_ids_of(loaded.vocabulary, texts))
  ids = {name: value.numpy() for name, value in packed.items()}
  return {
    'encoder': lambda: encode(packed)['pooled_output'].numpy(),
    'text_in': lambda: model.predict('', strings),
    'ids_in': lambda: model.predict('ids', ids),
  }


def _ids_of(vocabulary, texts):
  rows = [
    [vocabulary.cls_id, *vocabulary.ids_of(t.split()), vocabulary.sep_id]
    for t in texts
  ]
  ids = tf.constant(rows, tf.int32)
  yield 'input_word_ids', ids
  yield 'input_mask', tf.ones_like(ids)
  yield 'input_type_ids', tf.zeros_like(ids)


@contextlib.contextmanager
def run_server(model_dir: str, flags: Sequence[str] = ()) -> Iterator[str]:
  """Runs `tools/serve.py` on a free port; gives the URL of its models."""
  command = [
    sys.executable,
    '-m',
    'tokendrop_tf.serving.serve_command',
    f'--model_dir={model_dir}',
    '--port=0',
    *flags,
  ]
  server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  try:
    for line in server.stdout:
      if ' at http' in line:
        yield line.split(' at ')[1].split('. ')[0]
        break
    else:
      raise RuntimeError('The server ended before it served.')
  finally:
    server.terminate()
    server.wait()


def _generate_load(url, bodies_path, flags) -> dict:
  command = [
    sys.executable,
    '-m',
    'tools.measure.load_generator',
    f'--url={url}',
    f'--bodies={bodies_path}',
    f'--num_clients={flags.num_clients}',
    f'--seconds={flags.load_seconds}',
  ]
  output = subprocess.run(command, capture_output=True, text=True, check=True)
  return json.loads(output.stdout)


def _time_in_process(model, texts, flags) -> float:
  """Returns texts a second in full batches."""
  strings = np.array([text.encode() for text in texts], object)
  count, start = 0, time.perf_counter()
  while time.perf_counter() - start < flags.load_seconds:
    first = count % (len(strings) - flags.batch_size + 1)
    batch = strings[first : first + flags.batch_size]
    model.predict('', {'text': batch})
    count += flags.batch_size
  return count / (time.perf_counter() - start)


def _compare_server(model, folder, texts, flags) -> dict:
  bodies_path = os.path.join(folder, 'bodies.json')
  with open(bodies_path, 'w', encoding='utf-8') as file:
    json.dump([{'instances': [text]} for text in texts], file)
  rates = {'in_process': [], 'server': []}
  loads = []
  batch = f'--max_batch_size={flags.batch_size}'
  with run_server(os.path.join(folder, 'embeddings'), [batch]) as url:
    url = f'{url}/embeddings:predict'
    for _ in range(flags.rounds):
      rates['in_process'].append(_time_in_process(model, texts, flags))
      loads.append(_generate_load(url, bodies_path, flags))
      rates['server'].append(loads[-1]['instances_per_second'])
  return {'texts_per_second': rates, 'loads': loads}


def _summarize_batches(times) -> dict:
  medians = {name: times.median(name) for name in times.seconds}
  return {
    'seconds': dict(times.seconds),
    'median_seconds': medians,
    'ratio_to_encoder': _ratios(medians, 'encoder'),
  }


def _ratios(values, base) -> dict[str, float]:
  return {name: value / values[base] for name, value in values.items()}


def format_report(results: dict) -> str:
  """Returns the two comparisons as text for the terminal."""
  batches = results['batches']
  text = _table('seconds/batch', batches['median_seconds'], 'encoder', '.4f')
  if 'server' not in results:
    return text
  rates = results['server']['median_texts_per_second']
  failures = sum(load['num_failures'] for load in results['server']['loads'])
  return (
    f'{text}\n\n{_table("texts/second", rates, "in_process", ".2f")}\n'
    f'failed requests: {failures}'
  )


def _table(title, values, base, form) -> str:
  ratios = _ratios(values, base)
  return tabulate.tabulate(
    [(name, value, ratios[name]) for name, value in values.items()],
    headers=('arm', title, 'ratio'),
    floatfmt=('', form, '.3f'),
  )


def main(arguments: list[str]) -> None:
  """Prints the medians of both comparisons and their ratios."""
  flags = _parse(arguments)
  results = {'arguments': vars(flags)}
  with tempfile.TemporaryDirectory() as folder:
    loaded = _build(flags)
    serving_models.write_serving_models(
      loaded, folder, flags.seq_length, ['embeddings']
    )
    [place] = served_model.find_models(folder)
    model = served_model.ServedModel(place)
    texts = make_texts(loaded.vocabulary, _NUM_TEXTS, flags.seq_length - 2)
    arms = _batch_arms(loaded, model, texts[: flags.batch_size])
    results['batches'] = _summarize_batches(
      turns.time_in_turns(arms, flags.repeats, flags.warm_up)
    )
    if flags.rounds:
      compared = _compare_server(model, folder, texts, flags)
      compared['median_texts_per_second'] = {
        name: statistics.median(rates)
        for name, rates in compared['texts_per_second'].items()
      }
      results['server'] = compared
  print(format_report(results))
  if flags.output_json:
    files.write_json(flags.output_json, results)


def _parse(arguments):
  parser = command_line.ArgumentParser(description=__doc__)
  numbers = {
    '--num_layers': (12, 'L; the default is base size.'),
    '--hidden_size': (768, 'H.'),
    '--num_attention_heads': (12, 'Heads per layer.'),
    '--vocab_size': (30522, 'V.'),
    '--seq_length': (128, 'S.'),
    '--batch_size': (32, 'Texts in a batch.'),
    '--repeats': (10, 'Timed batches of each arm.'),
    '--warm_up': (2, 'Batches before these.'),
    '--rounds': (3, 'Turns of the second comparison; 0 leaves it out.'),
    '--num_clients': (64, 'Clients of the load generator.'),
  }
  for name, (default, text) in numbers.items():
    parser.add_argument(
      name, type=int, default=default, help=f'{text} Default %(default)s.'
    )
  parser.add_argument(
    '--load_seconds',
    type=float,
    default=60.0,
    help='Of each turn of the second comparison. Default %(default)s.',
  )
  parser.add_argument(
    '--output_json', default='', help='File for all that was measured.'
  )
  return parser.parse_args(arguments)


def console_main() -> None:
  """Runs `main` on the command line's arguments and exits."""
  command_line.run_main(main)


if __name__ == '__main__':
  console_main()
