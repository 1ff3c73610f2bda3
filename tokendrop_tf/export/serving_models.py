"""Text-in models for TF Serving: embeddings, fill-mask, and fine-tuned tasks.

Each is a separate SavedModel in TF Serving's layout, NAME/1/, with the
vocabulary as an asset and warm-up requests in `assets.extra`:

  embeddings  text -> pooled_output, mean_output
  fill_mask   text with [MASK] -> tokens, scores, num_masks
  generate    text -> text, num_tokens
  classify    text[, text_pair] -> label, scores, labels; or score
  answer      question, context -> answer, score, start, end

Signature `serving_default` takes strings; `ids` takes what `encoder/` takes; of
`generate`, a signature of that name also takes settings for every text.
Python and everything above TensorFlow's C interface refuse a SavedModel with
operations that they do not know, whichever signature is wanted. For those
without tensorflow-text, `ids/1` holds the `ids` signatures of all models of an
export, each under its model's name, and no text operation at all.

Letters: B batch, S sequence length, M masks of the fullest text, N tokens per
mask, H hidden size, V vocabulary.
"""

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tokendrop_tf import files, generation
from tokendrop_tf.export import answer_finder, warm_up
from tokendrop_tf.finetuning import batches
from tokendrop_tf.text import text_to_ids
from tokendrop_tf.text import vocabulary as vocabulary_lib

VERSION = '1'
TEXT_SIGNATURE = 'serving_default'
IDS_SIGNATURE = 'ids'
GENERATE_SIGNATURE = 'generate'
# The folder of the SavedModel without text operations, and what its
# `serving_default` is.
IDS_MODEL = 'ids'
TOKENS_PER_MASK = 10
TOKENS_PER_TEXT = 64

_FEATURES = ('input_word_ids', 'input_mask', 'input_type_ids')
_EXAMPLES = {
  'text': 'The shortest [MASK] is not always the fastest one.',
  'text_pair': 'Another path can be faster.',
  'question': 'Which path is the shortest?',
  'context': 'Of the two paths, the one along the river is the shortest.',
}
# Settings of generated texts, and what warms a server up.
_GENERATION_SETTINGS = {
  'max_tokens': np.int32(2),
  'temperature': np.float32(1.0),
  'top_k': np.int32(4),
  'top_p': np.float32(0.9),
  'seed': np.int32(0),
}

Tensors = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ServingModel:
  """A text-in model: what is written as one SavedModel.

  Attributes:
    name: of the folder, and of the model in a server.
    signatures: traced functions by signature name.
    resources: tables and assets that must travel with it.
    functions: attributes for Python programs, in addition to the signatures.
  """

  name: str
  signatures: Mapping[str, tf.types.experimental.ConcreteFunction]
  resources: tuple = ()
  functions: Mapping[str, Callable] = dataclasses.field(default_factory=dict)


def write_serving_models(
  loaded, folder: str, seq_length: int, names: Sequence[str] = ()
) -> list[str]:
  """Writes every text-in SavedModel that a trained model supports.

  Args:
    loaded: the trained model, an `export.load_model.LoadedModel`.
    folder: folder of the export; NAME/1/ is written into it.
    seq_length: S, to which longer texts are cut.
    names: which models to write; none is all.

  Returns:
    The names of the models, e.g. ['embeddings', 'fill_mask', 'ids'].

  Example:
    loaded = load_model.load_model('runs/dropping')
    write_serving_models(loaded, 'exports/dropping', seq_length=128)
  """
  with _traced_models(loaded, seq_length, names) as models:
    for model in models:
      _write(
        model, os.path.join(folder, model.name, VERSION), loaded.vocabulary
      )
  return [model.name for model in models]


def live_models(
  loaded, seq_length: int, names: Sequence[str] = ()
) -> list[ServingModel]:
  """Returns the models of `write_serving_models` without writing them.

  They answer as long as `loaded` and they themselves are kept.
  """
  with _traced_models(loaded, seq_length, names) as models:
    return models


@contextlib.contextmanager
def _traced_models(loaded, seq_length, names):
  """Gives the models; their vocabulary file is there as long."""
  with tempfile.TemporaryDirectory() as scratch:
    path = os.path.join(scratch, 'vocab.txt')
    tokens = loaded.vocabulary.tokens
    files.write_whole_file(path, ''.join(f'{t}\n' for t in tokens))
    yield _Builder(loaded, seq_length, path).build(names)


def _write(model, path, vocabulary) -> None:
  module = tf.Module()
  module.weights = _weights(model.signatures.values())
  module.resources = list(model.resources)
  for name, function in model.functions.items():
    setattr(module, name, function)
  tf.saved_model.save(module, path, signatures=dict(model.signatures))
  requests = _warm_up_requests(model, vocabulary.mask_id)
  warm_up.write_requests(path, model.name, requests)


def _weights(functions) -> list[tf.Variable]:
  """Returns the variables that the functions read, each once.

  Only these are written: no optimizer, no importance table, no Keras layers.
  """
  found = {}
  for function in functions:
    for variable in function.graph.variables:
      found.setdefault(id(variable), variable)
  return list(found.values())


def _warm_up_requests(model, mask_id):
  """Yields (signature, inputs) for every signature, for one row and for two."""
  for name, function in model.signatures.items():
    specs = function.structured_input_signature[1]
    for num_rows in (1, 2):
      yield name, {key: _example(key, num_rows, mask_id) for key in specs}


def _example(name, num_rows, mask_id) -> np.ndarray:
  if name in _FEATURES:
    value = {'input_word_ids': mask_id, 'input_mask': 1}.get(name, 0)
    return np.full([num_rows, 8], value, np.int32)
  if name in _GENERATION_SETTINGS:
    return np.array([_GENERATION_SETTINGS[name]] * num_rows)
  return np.array([_EXAMPLES[name]] * num_rows, object)


class _Builder:
  """Traces the functions of the serving models of one trained model."""

  def __init__(self, loaded, seq_length, vocabulary_path):
    self._loaded = loaded
    self._pack = text_to_ids.TextPacker(loaded.vocabulary, seq_length)
    self._vocabulary_asset = tf.saved_model.Asset(vocabulary_path)
    self._token_table = tf.lookup.StaticHashTable(
      tf.lookup.TextFileInitializer(
        vocabulary_path,
        key_dtype=tf.int64,
        key_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        value_dtype=tf.string,
        value_index=tf.lookup.TextFileIndex.WHOLE_LINE,
      ),
      default_value=vocabulary_lib.UNK,
    )

  def build(self, names: Sequence[str] = ()) -> list[ServingModel]:
    """Returns the models of these names; none is all that there are."""
    task_name, make_task_model = _TASKS[self._loaded.kind]
    makers = {'embeddings': _Builder._embeddings, task_name: make_task_model}
    makers = {name: makers[name] for name in names_for(self._loaded.kind)}
    models = [
      make(self) for name, make in makers.items() if not names or name in names
    ]
    if not names or IDS_MODEL in names:
      models.append(self._ids_only(models))
    return models

  def _ids_only(self, models) -> ServingModel:
    """The `ids` signatures of `models`, without a text operation."""
    signatures = {m.name: m.signatures[IDS_SIGNATURE] for m in models}
    signatures[TEXT_SIGNATURE] = signatures[models[-1].name]
    return ServingModel(
      IDS_MODEL, signatures, (self._token_table, self._vocabulary_asset)
    )

  def _two_ways(self, answer, from_text, text_names):
    """Traces `answer` from text and from ids.

    Args:
      answer: function of the encoder's inputs to the outputs.
      from_text: function of strings to the encoder's inputs.
      text_names: names of the strings.
    """
    from_strings = _traced(
      lambda **texts: answer(
        batches.trim_padding(
          from_text(*(texts[name] for name in text_names)), multiple=1
        )
      ),
      _string_specs(text_names),
    )
    from_ids = _traced(lambda **features: answer(features), _id_specs())
    return {TEXT_SIGNATURE: from_strings, IDS_SIGNATURE: from_ids}

  def _embeddings(self) -> ServingModel:
    signatures = self._two_ways(self._embed, self._pack, ('text',))
    return ServingModel('embeddings', signatures, (self._vocabulary_asset,))

  def _embed(self, features: Tensors) -> Tensors:
    outputs = self._loaded.encoder(features, training=False)
    rows = tf.cast(outputs['sequence_output'], tf.float32)
    return {
      'pooled_output': tf.cast(outputs['pooled_output'], tf.float32),
      'mean_output': mean_over_tokens(rows, features['input_mask']),
    }

  def _fill_mask(self) -> ServingModel:
    fill = self._fill
    signatures = self._two_ways(fill, self.pack_masked_text, ('text',))
    # Python programs can ask for another number of tokens.
    with_number = tf.function(
      lambda text, top_n: fill(
        batches.trim_padding(self.pack_masked_text(text), multiple=1), top_n
      ),
      autograph=False,
      input_signature=[*_string_specs(('text',)).values(), _scalar('top_n')],
    )
    return ServingModel(
      'fill_mask',
      signatures,
      (self._token_table, self._vocabulary_asset),
      {'fill_mask': with_number},
    )

  def pack_masked_text(self, text: tf.Tensor) -> Tensors:
    """Packs texts in which '[MASK]' stands for the mask token.

    Args:
      text: string [B].

    Returns:
      The encoder's inputs, int32 [B, S]. What is longer than S is cut.
    """
    vocabulary = self._loaded.vocabulary
    parts = tf.strings.split(text, vocabulary_lib.MASK)
    pieces = vocabulary.tokenizer().tokenize(parts.flat_values)
    # A mask behind every part; the one behind the last part is cut off.
    masks = tf.fill([pieces.nrows(), 1], vocabulary.mask_id)
    pieces = parts.with_flat_values(tf.concat([pieces, masks], axis=1))
    return self._pack.pack([pieces.merge_dims(1, 2)[:, :-1]])

  def _fill(self, features: Tensors, top_n=TOKENS_PER_MASK) -> Tensors:
    word_ids = features['input_word_ids']
    is_mask = (word_ids == self._loaded.vocabulary.mask_id) & (
      features['input_mask'] > 0
    )
    positions, is_used = mask_positions(is_mask)  # [B, M]
    outputs = self._loaded.model(
      {**features, 'masked_lm_positions': positions},
      training=False,
      drop_tokens=False,
    )
    # Rows that stand for no token are never an answer.
    size = self._loaded.vocabulary.size
    logits = tf.cast(outputs['mlm_logits'][:, :, :size], tf.float32)
    probabilities = tf.nn.softmax(logits)
    top_n = tf.minimum(top_n, size)
    best = tf.math.top_k(probabilities, top_n)  # [B, M, N]
    tokens = self._token_table.lookup(tf.cast(best.indices, tf.int64))
    is_used = is_used[:, :, tf.newaxis]
    return {
      'tokens': tf.where(is_used, tokens, ''),
      'scores': tf.where(is_used, best.values, 0.0),
      'num_masks': tf.reduce_sum(tf.cast(is_mask, tf.int32), axis=1),
    }

  def _generate(self) -> ServingModel:
    texts = _string_specs(('text',))
    settings = {
      name: tf.TensorSpec([None], value.dtype, name=name)
      for name, value in _GENERATION_SETTINGS.items()
    }

    def continued(prompts, lengths, max_tokens, **sampling):
      state = self._generator.advance(
        self._generator.start(prompts, lengths),
        max_tokens,
        generation.Sampling(**sampling),
      )
      return state.ids

    def from_text(text, **settings):
      prompts = self.pack_prompts(text)
      ids = continued(prompts.to_tensor(), prompts.row_lengths(), **settings)
      return self._as_text(ids, prompts.row_lengths())

    def greedy(count):
      sampling = generation.Sampling.of(count)
      most = tf.fill([count], TOKENS_PER_TEXT)
      return {'max_tokens': most, **sampling._asdict()}

    def from_ids(input_word_ids, input_mask, input_type_ids):
      del input_type_ids
      lengths = tf.reduce_sum(input_mask, axis=1)
      settings = greedy(tf.shape(lengths)[0])
      return {'ids': continued(input_word_ids, lengths, **settings)}

    signatures = {
      TEXT_SIGNATURE: _traced(
        lambda **texts: from_text(
          **texts, **greedy(tf.shape(texts['text'])[0])
        ),
        texts,
      ),
      GENERATE_SIGNATURE: _traced(
        lambda **inputs: from_text(**inputs), {**texts, **settings}
      ),
      IDS_SIGNATURE: _traced(
        lambda **features: from_ids(**features), _id_specs()
      ),
    }
    return ServingModel(
      'generate', signatures, (self._token_table, self._vocabulary_asset)
    )

  @functools.cached_property
  def _generator(self):
    loaded = self._loaded
    return generation.Generator(
      loaded.encoder, loaded.masked_lm, loaded.vocabulary, self._pack.seq_length
    )

  def pack_prompts(self, text: tf.Tensor) -> tf.RaggedTensor:
    """Returns [CLS] and the tokens of texts to continue, ragged int32 [B, n].

    Of a text that is longer, the last S / 2 tokens are kept.
    """
    pieces = self._pack.tokenize(text)[:, -(self._pack.seq_length // 2) :]
    first = tf.fill([pieces.nrows(), 1], self._loaded.vocabulary.cls_id)
    prompts = tf.concat([tf.cast(first, pieces.dtype), pieces], axis=1)
    return prompts.with_row_splits_dtype(tf.int32)

  def _as_text(self, ids, lengths):
    """Returns texts without special tokens, and how many were added."""
    vocabulary = self._loaded.vocabulary
    is_special = np.zeros(vocabulary.size, bool)
    is_special[list(vocabulary.special_ids)] = True
    tokens = self._token_table.lookup(tf.cast(ids, tf.int64))
    shown = tf.ragged.boolean_mask(tokens, ~tf.gather(is_special, ids))
    text = tf.strings.reduce_join(shown, axis=1, separator=' ')
    is_added = ids != vocabulary.pad_id
    total = tf.reduce_sum(tf.cast(is_added, tf.int32), axis=1)
    return {
      'text': tf.strings.regex_replace(text, ' ##', ''),
      'num_tokens': total - lengths,
    }

  def _classify(self) -> ServingModel:
    is_pair = self._loaded.is_pair
    names = ('text', 'text_pair') if is_pair else ('text',)
    if self._loaded.kind == 'regression':
      answer = self._regress
    else:
      answer = self._choose_label
    signatures = self._two_ways(answer, self._pack, names)
    return ServingModel('classify', signatures, (self._vocabulary_asset,))

  def _logits(self, features: Tensors) -> tf.Tensor:
    return tf.cast(self._loaded.model(features, training=False), tf.float32)

  def _regress(self, features: Tensors) -> Tensors:
    return {'score': tf.squeeze(self._logits(features), axis=-1)}

  def _choose_label(self, features: Tensors) -> Tensors:
    scores = tf.nn.softmax(self._logits(features))
    labels = tf.constant(self._loaded.label_names)
    return {
      'label': tf.gather(labels, tf.argmax(scores, axis=-1)),
      'labels': tf.tile(labels[tf.newaxis], [tf.shape(scores)[0], 1]),
      'scores': scores,
    }

  def _answer(self) -> ServingModel:
    loaded = self._loaded
    find = answer_finder.AnswerFinder(
      self._span_logits,
      loaded.vocabulary,
      seq_length=self._pack.seq_length,
      query_length=loaded.query_length,
      doc_stride=loaded.doc_stride,
      max_answer_length=loaded.max_answer_length,
      null_score_threshold=loaded.null_score_threshold,
    )
    signatures = {
      TEXT_SIGNATURE: _traced(
        lambda **texts: find(**texts), _string_specs(('question', 'context'))
      ),
      IDS_SIGNATURE: _traced(
        lambda **features: self._span_logits(features), _id_specs()
      ),
    }
    return ServingModel('answer', signatures, (self._vocabulary_asset,))

  def _span_logits(self, features: Tensors) -> Tensors:
    outputs = self._loaded.model(features, training=False)
    return {
      name: tf.cast(outputs[name], tf.float32)
      for name in ('start_logits', 'end_logits')
    }


_TASKS = {
  'pretraining': ('fill_mask', _Builder._fill_mask),
  'generation': ('generate', _Builder._generate),
  'question_answering': ('answer', _Builder._answer),
  'classification': ('classify', _Builder._classify),
  'regression': ('classify', _Builder._classify),
}


def names_for(kind: str) -> tuple[str, ...]:
  """Returns the names of the text-in models of a kind of trained model."""
  name, _ = _TASKS[kind]
  # Positions that see none after them describe no text.
  return (name,) if kind == 'generation' else ('embeddings', name)


def _traced(function, specs):
  """Traces a function of named tensors, which are the signature's inputs."""
  return tf.function(function, autograph=False).get_concrete_function(**specs)


def _string_specs(names) -> dict[str, tf.TensorSpec]:
  return {name: tf.TensorSpec([None], tf.string, name=name) for name in names}


def _id_specs() -> dict[str, tf.TensorSpec]:
  return {
    name: tf.TensorSpec([None, None], tf.int32, name=name) for name in _FEATURES
  }


def _scalar(name) -> tf.TensorSpec:
  return tf.TensorSpec([], tf.int32, name=name)


def mean_over_tokens(rows: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
  """Averages the rows of real tokens, [CLS] and [SEP] among them.

  Args:
    rows: float32 [B, S, H].
    mask: int32 [B, S], 1 for a token.

  Returns:
    float32 [B, H]; zeros for a row without tokens.
  """
  weights = tf.cast(mask, tf.float32)[:, :, tf.newaxis]
  total = tf.reduce_sum(rows * weights, axis=1)
  return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1))


def mask_positions(is_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns where the masks of each row are.

  Args:
    is_mask: bool [B, S].

  Returns:
    Positions from left to right, int32 [B, M], unused slots 0; and which slots
    are used, bool [B, M].
  """
  positions = tf.RaggedTensor.from_value_rowids(
    tf.cast(tf.where(is_mask)[:, 1], tf.int32),
    tf.where(is_mask)[:, 0],
    nrows=tf.shape(is_mask, tf.int64)[0],
  )
  return positions.to_tensor(), tf.ones_like(positions).to_tensor() > 0
