"""Fills in [MASK] with a pretrained model.

  python tools/fill_mask.py --model_dir=runs/quickstart/token_dropping \\
      "Returns a [MASK] of all files in the folder."

Of a training run the newest checkpoint is read, with the settings that the run
began with; --model_dir can as well be an exported folder. No token is dropped.
"""

import functools

from tokendrop_tf import command_line  # Before TensorFlow: sets its log level.

# isort: split
import numpy as np
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.export import load_model
from tokendrop_tf.serving import served_model
from tokendrop_tf.text import vocabulary as vocabulary_lib

Prediction = tuple[str, float]


def fill_mask(
  trained: load_model.LoadedModel, text: str, num_predictions: int = 5
) -> list[list[Prediction]]:
  """Predicts every [MASK] of a text, all of them at once.

  Args:
    trained: the model.
    text: a text with at least one '[MASK]'.
    num_predictions: how many tokens to return per [MASK].

  Returns:
    For every [MASK], from left to right, the most probable tokens with their
    probabilities, most probable first.

  Raises:
    DataError: without '[MASK]', or if the text is longer than S.
  """
  ids = encode(trained, text)
  [positions] = np.nonzero(ids == trained.vocabulary.mask_id)
  outputs = trained.model(
    {
      'input_word_ids': tf.constant(ids[np.newaxis], tf.int32),
      'input_mask': tf.ones([1, len(ids)], tf.int32),
      'input_type_ids': tf.zeros([1, len(ids)], tf.int32),
      'masked_lm_positions': tf.constant(positions[np.newaxis], tf.int32),
    },
    training=False,
    drop_tokens=False,
  )
  # Rows that stand for no token are never an answer.
  size = trained.vocabulary.size
  logits = tf.cast(outputs['mlm_logits'][0, :, :size], tf.float32)
  best = tf.math.top_k(tf.nn.softmax(logits), min(num_predictions, size))
  tokens = trained.vocabulary.tokens
  return [
    [(tokens[index], float(value)) for index, value in zip(row, values)]
    for row, values in zip(best.indices.numpy(), best.values.numpy())
  ]


class ExportedModel:
  """Fills in [MASK] with an exported model; the run is not needed.

  Args:
    model_dir: an exported folder, or its fill_mask/.

  Raises:
    ConfigurationError: if it holds no such model.

  Example:
    exported = ExportedModel('exports/dropping')
    exported.fill_mask('The [MASK] of the array.', 5)[0][0]  # ('size', 0.31)
  """

  def __init__(self, model_dir: str):
    [folder] = served_model.find_models(model_dir, ['fill_mask'])
    self._model = served_model.ServedModel(folder).saved_model

  def fill_mask(
    self, text: str, num_predictions: int = 5
  ) -> list[list[Prediction]]:
    """Predicts every [MASK] of a text; see `fill_mask` of this module.

    Raises:
      DataError: without '[MASK]', or if one does not fit into S tokens.
    """
    require_mask(text)
    outputs = self._model.fill_mask(
      tf.constant([text]), tf.constant(num_predictions)
    )
    tokens, scores = (outputs[name][0].numpy() for name in ('tokens', 'scores'))
    num_masks = text.count(vocabulary_lib.MASK)
    if len(tokens) < num_masks:
      raise errors.DataError(
        'Every [MASK] must lie within the tokens that the model reads. '
        f'Received: {num_masks}, of which {len(tokens)} do. Shorten the text, '
        'or export the model with a larger --seq_length.'
      )
    return [
      [(token.decode('utf-8'), float(value)) for token, value in zip(*row)]
      for row in zip(tokens, scores)
    ]


def encode(trained: load_model.LoadedModel, text: str) -> np.ndarray:
  """Returns [CLS], the ids of the text and [SEP], int32 [n], n at most S.

  Raises:
    DataError: without '[MASK]', or if the text is longer than S.
  """
  require_mask(text)
  vocabulary = trained.vocabulary
  # The tokenizer would take '[MASK]' apart.
  parts = text.split(vocabulary_lib.MASK)
  pieces = vocabulary.tokenizer().tokenize(parts).to_list()
  ids = [vocabulary.cls_id]
  for index, piece in enumerate(pieces):
    ids += [vocabulary.mask_id] * (index > 0) + piece
  ids.append(vocabulary.sep_id)
  if len(ids) > trained.seq_length:
    raise errors.DataError(
      f'A text must fit into {trained.seq_length} tokens, [CLS] and [SEP] '
      f'included: the model was trained on no more. Received: {len(ids)} '
      'tokens. Shorten the text.'
    )
  return np.array(ids, np.int32)


def require_mask(text: str) -> None:
  """Raises `DataError` unless there is a '[MASK]' in `text`."""
  if vocabulary_lib.MASK not in text:
    raise errors.DataError(
      'A text must contain [MASK] where a token is to be filled in. '
      f'Received: {text!r}. Write [MASK] in it.'
    )


def format_predictions(predictions: list[Prediction]) -> str:
  """Returns one line of tokens and probabilities.

  Example:
    format_predictions([('list', 0.25), ('set', 0.125)])  # 'list 25%  set 12%'
  """
  return '  '.join(f'{token} {value:.0%}' for token, value in predictions)


def main(arguments: list[str]) -> None:
  """Prints the most probable tokens of every [MASK] of every text."""
  flags = _parse(arguments)
  fill = _model_of(flags)
  # All texts are answered before the first is printed: one may be refused.
  answers = [fill(text, flags.top_n) for text in flags.text]
  for text, filled in zip(flags.text, answers):
    print(text)
    for number, predictions in enumerate(filled, start=1):
      label = f'[MASK] {number}: ' if len(filled) > 1 else ''
      print(f'  {label}{format_predictions(predictions)}')


def _model_of(flags):
  """Returns a function of a text and a number of tokens."""
  if served_model.is_run(flags.model_dir):
    trained = load_model.load_model(flags.model_dir, flags.vocabulary)
    _require_pretraining(trained, flags.model_dir)
    return functools.partial(fill_mask, trained)
  if flags.vocabulary:
    raise errors.ConfigurationError(
      'An exported folder has its vocabulary inside. Received: '
      f'--vocabulary={flags.vocabulary}. Leave --vocabulary out.'
    )
  return ExportedModel(flags.model_dir).fill_mask


def _require_pretraining(trained, model_dir):
  if trained.kind != load_model.PRETRAINING:
    tool = 'generate' if trained.kind == load_model.GENERATION else 'predict'
    raise errors.ConfigurationError(
      'Filling in [MASK] needs a pretrained model. Received: '
      f'{model_dir}, a {trained.kind.replace("_", " ")} model. Pass another '
      f'--model_dir, or use tools/{tool}.py.'
    )


def _parse(arguments):
  parser = command_line.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--model_dir',
    required=True,
    help='Folder of a training run, or an exported folder.',
  )
  parser.add_argument(
    '--vocabulary',
    default='',
    help='The vocabulary file, where it is not at its old place.',
  )
  parser.add_number('--top_n', 5, 'Tokens to print per [MASK].', least=1)
  parser.add_argument(
    'text', nargs='+', help='A text with [MASK] in it, in quotes.'
  )
  flags = parser.parse_args(arguments)
  # Before the model is loaded, which takes some seconds.
  for text in flags.text:
    require_mask(text)
  return flags


console_main = functools.partial(command_line.run_main, main)


if __name__ == '__main__':
  console_main()
