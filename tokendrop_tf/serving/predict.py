"""Answers with a trained model: labels, answers to questions, embeddings.

  python tools/predict.py --model_dir=exports/sst2 "A film to watch twice."
  python tools/predict.py --model_dir=exports/rte "It rains." "It is wet."
  python tools/predict.py --model_dir=exports/squad "Who won?" "Ada won it."
  python tools/predict.py --model_dir=exports/rte --json < pairs.tsv

--model_dir is a training run, of which the newest checkpoint is read, or an
exported folder. Where the model takes two texts, two arguments make an example:
text and second text, or question and context. Without arguments, examples are
read from standard input, one a line, two texts parted by a tab.
"""

import functools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import numpy as np

from tokendrop_tf import errors
from tokendrop_tf.export import load_model, serving_models
from tokendrop_tf.serving import json_tensors, served_model, status

# The order in which a model takes its texts, and the one in which models are
# looked for where none is named.
_TEXT_NAMES = ('text', 'text_pair', 'question', 'context')
_PREFERRED_MODELS = ('classify', 'answer', 'embeddings')
_SHOWN_NUMBERS = 4

Example = tuple[str, ...]


class Predictor:
  """A trained model that answers examples, which are tuples of texts.

  Args:
    model_dir: a run, an exported folder, or one model's folder of it.
    model_name: which model; '' is the fine-tuned task's, else embeddings.
    vocabulary: the vocabulary file of a run, where it has moved.

  Raises:
    ConfigurationError: if there is no such model.

  Example:
    predictor = Predictor('exports/sst2')
    next(predictor.predict([('A film to watch twice.',)]))['label']
  """

  def __init__(
    self, model_dir: str, model_name: str = '', vocabulary: str = ''
  ):
    if served_model.is_run(model_dir):
      self._model = _live_model(model_dir, model_name, vocabulary)
    else:
      self._model = _exported_model(model_dir, model_name)
    specs = self._model.input_specs('')
    self.text_names = tuple(name for name in _TEXT_NAMES if name in specs)
    if not self.text_names:
      raise errors.ConfigurationError(
        'A model must take texts. Received: '
        f'{self._model.name}, which takes {", ".join(specs)}. Name another by '
        '--model.'
      )

  def predict(
    self, examples: Iterable[Example], batch_size: int = 32
  ) -> Iterator[dict]:
    """Yields the outputs of every example as plain values, in order."""
    for batch in _batches(examples, batch_size):
      columns = [
        np.array([text.encode('utf-8') for text in texts], object)
        for texts in zip(*batch)
      ]
      try:
        outputs = self._model.predict('', dict(zip(self.text_names, columns)))
      except status.RequestError as error:
        raise errors.DataError(
          f'The model must accept its texts. Received: {error}.'
        ) from error
      yield from _rows(outputs, len(batch))


def _preferred(names: Iterable[str]) -> str:
  names = list(names)
  return next((n for n in _PREFERRED_MODELS if n in names), names[0])


def _exported_model(model_dir, model_name) -> served_model.ServedModel:
  names = [model_name] if model_name else []
  found = served_model.find_models(model_dir, names)
  folders = {folder.name: folder for folder in found}
  return served_model.ServedModel(folders[_preferred(folders)])


def _live_model(model_dir, model_name, vocabulary) -> served_model.Signatures:
  loaded = load_model.load_model(model_dir, vocabulary)
  names = serving_models.names_for(loaded.kind)
  if model_name not in ('', *names):
    raise errors.ConfigurationError(
      f'Models must be among those of {model_dir}: {", ".join(names)}. '
      f'Received: {model_name}. Name another by --model.'
    )
  [model] = serving_models.live_models(
    loaded, loaded.seq_length, [model_name or _preferred(names)]
  )
  signatures = served_model.Signatures(model.name, model.signatures)
  # Graphs do not keep their variables and tables alive.
  signatures.resources = (loaded, model)
  return signatures


def _batches(examples, batch_size) -> Iterator[list[Example]]:
  batch = []
  for example in examples:
    batch.append(example)
    if len(batch) == batch_size:
      yield batch
      batch = []
  if batch:
    yield batch


def _rows(outputs, num_rows) -> Iterator[dict]:
  for index in range(num_rows):
    row = served_model.cut_masks(
      {name: value[index : index + 1] for name, value in outputs.items()}
    )
    document = json.loads(json_tensors.write_tensors(row, json_tensors.COLUMNS))
    columns = document['outputs']
    if len(outputs) == 1:
      columns = dict.fromkeys(outputs, columns)
    yield {name: value[0] for name, value in columns.items()}


def group_arguments(
  arguments: Sequence[str], names: Sequence[str]
) -> list[Example]:
  """Returns the examples that arguments make.

  Raises:
    DataError: if an example lacks its second text.

  Example:
    group_arguments(['a', 'b', 'c', 'd'], ['text', 'text_pair'])
    # [('a', 'b'), ('c', 'd')]
  """
  size = len(names)
  if len(arguments) % size:
    raise errors.DataError(
      f'An example needs {size} arguments: {" and ".join(names)}. Received: '
      f'{len(arguments)} in all. Put every text in quotes, and give {size} for '
      'each example.'
    )
  return [
    tuple(arguments[i : i + size]) for i in range(0, len(arguments), size)
  ]


def read_lines(lines: Iterable[str], names: Sequence[str]) -> Iterator[Example]:
  """Yields the example of every line that is not empty.

  Raises:
    DataError: if a line has another number of columns.
  """
  for number, line in enumerate(lines, start=1):
    line = line.rstrip('\r\n')
    if not line:
      continue
    columns = tuple(line.split('\t')) if len(names) > 1 else (line,)
    if len(columns) != len(names):
      raise errors.DataError(
        f'A line must read {"<TAB>".join(names)}. Received: {len(columns)} '
        f'columns on line {number} of standard input. Correct the line.'
      )
    yield columns


def format_answer(outputs: dict) -> str:
  """Returns what the model says, as a line for the terminal.

  Example:
    format_answer({'label': 'good', 'labels': ['bad', 'good'],
                   'scores': [0.25, 0.75]})  # 'good  (good 75%  bad 25%)'
  """
  if 'label' in outputs:
    scores = sorted(zip(outputs['scores'], outputs['labels']), reverse=True)
    shares = '  '.join(f'{label} {score:.0%}' for score, label in scores)
    return f'{outputs["label"]}  ({shares})'
  if 'answer' in outputs:
    place = f'characters {outputs["start"]} to {outputs["end"]}'
    answer = outputs['answer'] or 'no answer'
    return f'{answer}  ({outputs["score"]:.0%}, {place})'
  if set(outputs) == {'score'}:
    return f'{outputs["score"]:.3f}'
  return '  '.join(f'{name}: {_shorten(v)}' for name, v in outputs.items())


def _shorten(value) -> str:
  if not isinstance(value, list) or len(value) <= _SHOWN_NUMBERS:
    return json.dumps(value, ensure_ascii=False)
  if isinstance(value[0], float):
    first = ' '.join(f'{number:.3f}' for number in value[:_SHOWN_NUMBERS])
    return f'{first} ... ({len(value)} numbers)'
  return json.dumps(value, ensure_ascii=False)


def main(arguments: list[str]) -> None:
  """Prints the model's answer to every example."""
  flags = _parse(arguments)
  predictor = Predictor(flags.model_dir, flags.model, flags.vocabulary)
  if flags.text:
    examples = group_arguments(flags.text, predictor.text_names)
  else:
    examples = read_lines(_standard_input(), predictor.text_names)
  # Lines are answered batch by batch, while others are still to come.
  kept = []
  for outputs in predictor.predict(_remember(examples, kept), flags.batch_size):
    example = kept.pop(0)
    if flags.json:
      texts = dict(zip(predictor.text_names, example))
      print(json.dumps({**texts, **outputs}, ensure_ascii=False), flush=True)
    else:
      print('\t'.join(example))
      print(f'  {format_answer(outputs)}', flush=True)


def _remember(examples, kept):
  for example in examples:
    kept.append(example)
    yield example


def _standard_input() -> Iterator[str]:
  if sys.stdin.isatty():
    print('Reading standard input; Ctrl-D ends it.', file=sys.stderr)
  for number, line in enumerate(sys.stdin.buffer, start=1):
    try:
      yield line.decode('utf-8-sig' if number == 1 else 'utf-8')
    except UnicodeDecodeError as error:
      raise errors.DataError(
        f'Standard input must be UTF-8. Received: line {number}, which is not. '
        'Save the file as UTF-8.'
      ) from error


def _parse(arguments):
  parser = command_line.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--model_dir',
    required=True,
    help='A training run, or an exported folder, or NAME/ or NAME/VERSION/ of '
    'one.',
  )
  parser.add_argument(
    '--vocabulary',
    default='',
    help='The vocabulary file of a run, where it is not at its old place.',
  )
  parser.add_argument(
    '--model',
    default='',
    help='Which model of the folder. Default the task it was fine-tuned on, '
    'else embeddings.',
  )
  parser.add_argument(
    '--json', action='store_true', help='Print one JSON object an example.'
  )
  parser.add_number('--batch_size', 32, 'Examples answered at once.', least=1)
  parser.add_argument(
    'text', nargs='*', help='A text in quotes; none reads standard input.'
  )
  return parser.parse_args(arguments)


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
