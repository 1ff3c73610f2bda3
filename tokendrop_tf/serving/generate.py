"""Continues texts with a model of a causal pretraining.

  python tools/generate.py --model_dir=runs/causal --temperature=0.8 \\
      --top_p=0.95 "Returns the"

Of a training run the newest checkpoint is read, and the text is shown as it
grows; --model_dir can as well be an exported folder, which answers at once. A
text ends with [SEP], with --stop, or after --max_tokens. No token is dropped.
"""

import dataclasses
import functools
from collections.abc import Iterator

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import numpy as np
import tensorflow as tf

from tokendrop_tf import errors, generation
from tokendrop_tf.export import load_model, serving_models
from tokendrop_tf.serving import served_model


@dataclasses.dataclass(frozen=True)
class Choice:
  """How a text goes on; see `generation.Sampling`.

  Attributes:
    max_tokens: most tokens that are added.
    stop: text before which it ends; '' is none.
  """

  max_tokens: int = serving_models.TOKENS_PER_TEXT
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0
  stop: str = ''


class TextGenerator:
  """Continues texts with a loaded model.

  Args:
    loaded: a model of the kind 'generation'.

  Raises:
    ConfigurationError: for a model of another kind.

  Example:
    generator = TextGenerator(load_model.load_model('runs/causal'))
    for piece in generator.stream('Returns the', Choice(temperature=0.8)):
      print(piece, end='', flush=True)
  """

  def __init__(self, loaded: load_model.LoadedModel):
    if loaded.kind != load_model.GENERATION:
      raise errors.ConfigurationError(
        "Generating text needs a model of pretraining.objective = 'causal_lm'. "
        f'Received: one of {loaded.kind.replace("_", " ")}. Pass another '
        '--model_dir.'
      )
    self._vocabulary = loaded.vocabulary
    generator = generation.Generator(
      loaded.encoder, loaded.masked_lm, loaded.vocabulary, loaded.seq_length
    )
    self._length = generator.length
    self._start = tf.function(generator.start, autograph=False)
    self._advance = tf.function(generator.advance, autograph=False)

  def stream(self, prompt: str, choice: Choice = Choice()) -> Iterator[str]:
    """Yields what follows a prompt, piece by piece.

    Raises:
      DataError: if the prompt leaves no room within S tokens.
    """
    ids = self._encode(prompt)
    sampling = generation.Sampling.of(
      1, choice.temperature, choice.top_k, choice.top_p, choice.seed
    )
    state = self._start(tf.constant([ids]), tf.constant([len(ids)]))
    shown, text, is_done = '', '', False
    while not is_done:
      state = self._advance(state, tf.constant(1), sampling)
      added = state.ids[0, len(ids) : state.place].numpy()
      text, is_stopped = self._decode(added, choice.stop)
      is_done = bool(state.is_done[0]) or is_stopped
      is_done |= len(added) >= choice.max_tokens
      is_done |= len(ids) + len(added) >= self._length
      # What may be the beginning of `stop` waits.
      held = 0 if is_done else len(choice.stop)
      ready = text[: len(text) - held]
      if len(ready) > len(shown):
        yield ready[len(shown) :]
        shown = ready

  def _encode(self, prompt):
    [pieces] = self._vocabulary.tokenizer().tokenize([prompt]).to_list()
    ids = [self._vocabulary.cls_id, *pieces]
    if len(ids) >= self._length:
      raise errors.DataError(
        f'A prompt must be shorter than {self._length} tokens, [CLS] included: '
        f'the model was trained on no more. Received: {len(ids)} tokens. '
        'Shorten it.'
      )
    return np.array(ids, np.int32)

  def _decode(self, ids, stop) -> tuple[str, bool]:
    """Returns the text of ids, cut before `stop`, and whether it was."""
    special = (self._vocabulary.sep_id, self._vocabulary.pad_id)
    # Of a first piece that goes on with the prompt's last word, the marks too.
    text = self._vocabulary.detokenize(i for i in ids if i not in special)
    text = text[2:] if text.startswith('##') else f' {text}' if text else ''
    at = text.find(stop) if stop else -1
    return (text, False) if at < 0 else (text[:at], True)


class ExportedGenerator:
  """Continues texts with an exported model; the run is not needed.

  Args:
    model_dir: an exported folder, or its generate/.
  """

  def __init__(self, model_dir: str):
    [folder] = served_model.find_models(model_dir, ['generate'])
    self._model = served_model.ServedModel(folder)

  def stream(self, prompt: str, choice: Choice = Choice()) -> Iterator[str]:
    """Yields the whole text, prompt included, as the model reads it.

    Raises:
      ConfigurationError: for a `stop`, which an exported model does not know.
    """
    if choice.stop:
      raise errors.ConfigurationError(
        '--stop needs a training run. Received: an exported folder. Leave '
        '--stop out.'
      )
    inputs = dataclasses.asdict(choice)
    del inputs['stop']
    outputs = self._model.predict(
      serving_models.GENERATE_SIGNATURE,
      {
        'text': np.array([prompt.encode()], object),
        **{name: np.array([value]) for name, value in inputs.items()},
      },
    )
    yield outputs['text'][0].decode()


def main(arguments: list[str]) -> None:
  """Prints every text and what follows it, as it grows."""
  flags = _parse(arguments)
  choice = Choice(
    **{
      field.name: getattr(flags, field.name)
      for field in dataclasses.fields(Choice)
    }
  )
  is_run = served_model.is_run(flags.model_dir)
  if is_run:
    loaded = load_model.load_model(flags.model_dir, flags.vocabulary)
    generator = TextGenerator(loaded)
  else:
    generator = ExportedGenerator(flags.model_dir)
  for text in flags.text:
    if is_run:
      print(text, end='')
    for piece in generator.stream(text, choice):
      print(piece, end='', flush=True)
    print()


def _parse(arguments):
  parser = command_line.ArgumentParser(
    prog='tools/generate.py', description=__doc__
  )
  parser.add_argument(
    '--model_dir',
    required=True,
    help='Folder of a training run, or an exported folder.',
  )
  parser.add_argument(
    '--vocabulary',
    default='',
    help='The vocabulary file of a run, where it is not at its old place.',
  )
  for name, least, text in (
    ('max_tokens', 1, 'Tokens to add at most.'),
    (
      'temperature',
      0.0,
      '0 takes the most probable token; the higher, the more evenly tokens are '
      'drawn.',
    ),
    ('top_k', 0, 'Draws among so many tokens; 0 is all.'),
    (
      'top_p',
      0.0,
      'Draws among the most probable tokens that together have this '
      'probability; 1 is all.',
    ),
    ('seed', 0, 'All that is drawn follows from it.'),
  ):
    parser.add_number(f'--{name}', getattr(Choice, name), text, least)
  parser.add_argument('--stop', default='', help='Text that ends a text.')
  parser.add_argument('text', nargs='+', help='How a text begins, in quotes.')
  return parser.parse_args(arguments)


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
