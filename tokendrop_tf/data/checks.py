"""Checks of a data section and its files, before anything is computed."""

import sys

import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.config import configs, rules
from tokendrop_tf.data.examples import example_pipeline
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.read import documents, sampling
from tokendrop_tf.data.shards import data_files, record_reader, token_index
from tokendrop_tf.text import vocabulary as vocabulary_lib

# Up to this size a corpus is read whole; of a larger one the head of each file.
MAX_SCANNED_BYTES = 2 << 30
_HEAD_BYTES = 1 << 22
_HEAD_RECORDS = 1024
_RECORDS_PER_STEP = 1024
# Shares of unknown tokens in the head of a corpus.
_SAMPLE_TOKENS = 1 << 19
_WARN_UNKNOWN_SHARE = 0.05
_MOST_UNKNOWN_SHARE = 0.5


def check_dataset(
  config: configs.PretrainingDataConfig, vocabulary: configs.VocabularyConfig
) -> None:
  """Checks that a data section and its files can be trained on.

  Args:
    config: the data section.
    vocabulary: the vocabulary section.

  Raises:
    UserError: for the first thing that is wrong: settings that exclude each
      other, absent, empty or damaged files, text that is not UTF-8, examples
      that do not fit the settings, or too few of them for a batch.

  Example:
    check_dataset(params.task.train_data, params.task.vocabulary)
  """
  with errors.as_kept():
    _check_dataset(config, vocabulary)


def check_heads(
  config: configs.PretrainingDataConfig, vocabulary: configs.VocabularyConfig
) -> sampling.Head:
  """Checks a data section and the heads of its text files, of any size.

  For those who then read all of the text, once: what is wrong further on is
  found there, with the same messages.

  Args:
    config: the data section, which names text.
    vocabulary: the vocabulary section.

  Returns:
    The first documents, tokenised.

  Raises:
    DataError: as `check_dataset` does.
  """
  with errors.as_kept():
    words = vocabulary_lib.Vocabulary.of(vocabulary)
    return _check_rows(config, words, heads_only=True)


def _check_dataset(config, vocabulary):
  words = vocabulary_lib.Vocabulary.of(vocabulary)
  rules.validate_data(corpus_lib.section_name(config), config)
  files = data_files.of(config)
  if files.form == data_files.RECORDS:
    _RecordCheck(config, words, files.paths).run()
  elif files.form == data_files.TOKENS:
    rows = token_index.check_shards(files.paths, config, words)
    _check_enough(config, f'{files.paths[0]} ...', rows.num_rows)
  else:
    _check_rows(config, words)


def refuse_shards(config: configs.PretrainingDataConfig) -> None:
  """Raises a DataError if a data section names shards instead of text."""
  files = data_files.of(config)
  if files.form != data_files.TEXT:
    setting = corpus_lib.setting_name(config, 'input_path')
    raise errors.DataError(
      f'{setting} must name text. Received: {files.paths[0]}, which is one of '
      f'{files.form}, by its name. Set {setting}.'
    )


def check_text(config: configs.PretrainingDataConfig, heads_only: bool = False):
  """Checks a data section and the text files it names; opens its corpus.

  Args:
    config: the data section.
    heads_only: reads the head of every file, also of a small corpus.

  Raises:
    UserError: naming the setting, or the first file that is not UTF-8 text.
  """
  rules.validate_data(corpus_lib.section_name(config), config)
  refuse_shards(config)
  corpus = corpus_lib.open_corpus(config)
  if config.input_path:
    _check_files_are_text(corpus, heads_only)
  return corpus


def _check_rows(config, words, heads_only=False):
  """Checks text, and returns its first documents."""
  corpus = check_text(config, heads_only)
  sample = sampling.head(corpus, words, _SAMPLE_TOKENS)
  _check_unknown_tokens(corpus, words, config, sample)
  _point_out_markup(corpus, words, sample)
  _point_out_long_documents(corpus, config, sample)
  needed = _needed(config)
  if sampling.rows_of(sample.lengths, config) <= needed:
    found = _count_rows(corpus, words, config, needed)
    _check_enough(config, corpus.name, found)
  return sample


def _needed(config) -> int:
  """Returns how many rows a corpus must have."""
  is_filled_up = not config.is_training and not config.drop_remainder
  return 1 if is_filled_up else config.global_batch_size


def _check_enough(config, source, found):
  if found < _needed(config):
    raise _too_few(config, source, found, _needed(config))


def _check_files_are_text(corpus, heads_only):
  heads_only = heads_only or corpus.num_bytes() > MAX_SCANNED_BYTES
  for path in corpus.paths:
    documents.check_file(
      path, corpus.reading, _HEAD_BYTES if heads_only else None
    )


def _check_unknown_tokens(corpus, words, config, sample):
  """Refuses, or warns of, a vocabulary that does not fit the text."""
  tokens = int(sample.lengths.sum())
  share = sample.counts[words.unk_id] / max(tokens, 1)
  if share <= _WARN_UNKNOWN_SHARE:
    return
  allow = corpus_lib.setting_name(config, 'allow_unknown_tokens')
  message = (
    f'{share:.1%} of the first {tokens:,} tokens of {corpus.name}, with '
    f'{words.path}'
  )
  if share > _MOST_UNKNOWN_SHARE and not config.allow_unknown_tokens:
    raise errors.DataError(
      f'At most {_MOST_UNKNOWN_SHARE:.0%} of the tokens may be [UNK]. '
      f'Received: {message}. Set vocabulary.path to a vocabulary of this '
      f'language, or vocabulary.lower_case, or {allow}.'
    )
  print(
    f'Warning: the vocabulary does not know {message}. A vocabulary written '
    'by tools/build_vocab.py on this text would.',
    file=sys.stderr,
  )


def _point_out_markup(corpus, words, sample):
  """Warns where a model would learn to write markup."""
  if warning := sampling.markup_warning(words.tokens, sample.counts):
    print(f'{warning} Received: {corpus.name}.', file=sys.stderr)


def _point_out_long_documents(corpus, config, sample):
  """Warns of a text that is one document, or of documents cut into passages."""
  if corpus.num_files == 1 and sample.lengths.size == 1:
    setting = corpus_lib.setting_name(config, 'document_per_line')
    print(
      f'Note: {corpus.name} begins with one document of at least '
      f'{int(sample.lengths[0]):,} tokens. A blank line ends a document; where '
      f'every line is one, set {setting} = True.',
      file=sys.stderr,
    )
  how = getattr(corpus, 'reading', None)  # TFDS has documents of its own.
  if how and how.passage_bytes:
    print(
      f'Note: documents of {corpus.name} are few or very long, so passages of '
      f'up to {how.passage_bytes:,} bytes are held out for validation.',
      file=sys.stderr,
    )


def _count_rows(corpus, words, config, most: int) -> int:
  """Counts the rows of an epoch, no further than needed."""
  maker = example_pipeline.ExampleMaker(corpus, words, config)
  rows = 0
  for _, _, block in maker.blocks(0, 1):
    rows += int(block.shape[0])
    if rows >= most:
      break
  return rows


def _too_few(config, source, found, needed) -> errors.DataError:
  def name(field):
    return corpus_lib.setting_name(config, field)

  held_out = ''
  if config.held_out_documents:
    side = 'all but the' if config.is_training else 'only the'
    held_out = (
      f', reading {side} held-out documents '
      f'({name("held_out_documents")}={config.held_out_documents})'
    )
  if not found:
    smaller = (
      ' Give more text, or set a smaller train_data.held_out_documents.'
      if config.held_out_documents
      else f' Set {name("input_path")}.'
    )
    return errors.DataError(
      f'A corpus must hold text. Received: none in {source}{held_out}.{smaller}'
    )
  return errors.DataError(
    'A corpus must fill at least one batch. Received: '
    f'{found} examples of {config.seq_length} tokens in {source}{held_out}, '
    f'{needed} to a batch. Give more text, or lower '
    f'{name("global_batch_size")} or {name("seq_length")}.'
  )


class _RecordCheck:
  """Checks the files of examples that a data section names."""

  def __init__(self, config, words, paths):
    self._config = config
    self._words = words
    self._input_path = corpus_lib.setting_name(config, 'input_path')
    self._paths = paths
    self._is_old = None  # Known from the first record.
    size = sum(tf.io.gfile.stat(path).length for path in paths)
    self._is_large = size > MAX_SCANNED_BYTES

  def run(self):
    token_index.check_numbers(self._paths, self._input_path)
    found = 0
    for path in self._paths:
      found += self._check_file(path)
    if not self._is_large:  # Of a large corpus only the heads were counted.
      _check_enough(self._config, f'{self._paths[0]} ...', found)

  def _check_file(self, path: str) -> int:
    dataset = record_reader.open_file(path)
    if self._is_large:
      dataset = dataset.take(_HEAD_RECORDS)
    found = 0
    try:
      for batch in dataset.batch(_RECORDS_PER_STEP):
        if not found:
          self._check_features(path, batch[0].numpy())
        self._check_values(path, batch)
        found += int(batch.shape[0])
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
      raise errors.DataError(
        'A TFRecord file must end with a whole record and be undamaged. '
        f'Received: {path}, damaged in or after record {found} '
        f'({_first_line(error)}). Write or copy the file again.'
      ) from error
    return found

  def _check_features(self, path: str, record: bytes):
    """Checks names, types and lengths of one example."""
    try:
      found = tf.train.Example.FromString(record).features.feature
    except Exception as error:  # pylint: disable=broad-except
      raise errors.DataError(
        f'A TFRecord must hold tf.train.Example messages. Received: {path}, '
        f'which does not. Set {self._input_path}.'
      ) from error
    self._check_packing(path, found)
    is_old = record_reader.has_old_names(record)
    if self._is_old not in (None, is_old):
      raise errors.DataError(
        'All files must have the same names of features. Received: the older '
        f'names in one of {self._paths[0]} and {path}, and the others in the '
        f'other. Set {self._input_path} to files that were written alike.'
      )
    self._is_old = is_old
    for name, spec in record_reader.feature_spec(self._config).items():
      name = record_reader.name_in_file(name, is_old)
      if name not in found:
        raise self._missing(path, name, found)
      kind = found[name].WhichOneof('kind')
      wanted = 'float_list' if spec.dtype == tf.float32 else 'int64_list'
      size = len(getattr(found[name], kind).value) if kind else 0
      if kind != wanted or size != spec.shape[0]:
        raise self._misfit(path, name, spec, kind, size)

  def _check_packing(self, path, found):
    """Segments that training does not read would let documents mix."""
    setting = corpus_lib.setting_name(self._config, 'packing')
    has_segments = record_reader.SEGMENT_FEATURES[1] in found
    is_best_fit = self._config.packing == 'best_fit'
    if has_segments != is_best_fit:
      kind = 'with' if has_segments else 'without'
      raise errors.DataError(
        "Examples have segment_ids exactly where they are packed by 'best_fit'"
        f'. Received: {path}, {kind} segment_ids, and {setting}='
        f'{self._config.packing!r}. Set {setting}'
        + (" = 'best_fit'." if has_segments else ' to another packing.')
      )

  def _missing(self, path, name, found):
    return errors.DataError(
      'An example must hold the features that the Model Garden writes. '
      f'Received: {path}, without {name}; it has {", ".join(sorted(found))}. '
      f'Set {self._input_path}.'
    )

  def _misfit(self, path, name, spec, kind, size):
    setting = (
      'max_predictions_per_seq'
      if name.startswith('masked_lm')
      else 'seq_length'
    )
    wanted = f'{spec.shape[0]} values of type {spec.dtype.name}'
    setting = corpus_lib.setting_name(self._config, setting)
    return errors.DataError(
      f'Feature {name} must have {wanted}. Received: {size} values in '
      f'{kind or "no list"} in {path}. Set {setting} to what the file was '
      f'written with, or {self._input_path}.'
    )

  def _check_values(self, path, batch):
    try:
      features = record_reader.parse(batch, self._config, self._is_old)
    except tf.errors.InvalidArgumentError as error:
      raise errors.DataError(
        'All examples of a file must have the same features. Received: '
        f'{path}, with one that differs ({_first_line(error)}). Write the '
        'file again.'
      ) from error
    size, length = self._words.size, self._config.seq_length
    limits = {
      'input_word_ids': (size, 'the vocabulary'),
      'masked_lm_ids': (size, 'the vocabulary'),
      'masked_lm_positions': (length, 'the sequence'),
      'position_ids': (length, 'the sequence'),
    }
    limits = {name: limits[name] for name in limits if name in features}
    for name, (limit, what) in limits.items():
      least = int(tf.reduce_min(features[name]))
      most = int(tf.reduce_max(features[name]))
      if least < 0 or most >= limit:
        raise errors.DataError(
          f'{name} must lie in {what}, from 0 to {limit - 1}. Received: '
          f'{least if least < 0 else most} in {path}. Set vocabulary.path '
          f'to the one that it was written with, or {self._input_path}.'
        )


def _first_line(error) -> str:
  return str(error.message).split('\n')[0].split(' [[')[0].strip()
