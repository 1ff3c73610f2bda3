"""Finds what is wrong with a data section before anything is computed."""

import math
import sys

import tensorflow as tf

from tokendrop_tf import configs, errors
from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import (
  documents,
  examples,
  records,
  sampling,
  shard_index,
)
from tokendrop_tf.data import vocabulary as vocabulary_lib

# Up to this size a corpus is read whole; of a larger one the head of each file.
MAX_SCANNED_BYTES = 2 << 30
_HEAD_BYTES = 1 << 22
_HEAD_RECORDS = 1024
_RECORDS_PER_STEP = 1024
# What the vocabulary does not know of the head of a corpus.
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
    DataError: for the first thing that is wrong: settings that exclude each
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
    words = _words(vocabulary)
    refuse_records(config)
    _check_settings(config, has_records=False)
    return _check_rows(config, words, heads_only=True)


def _words(vocabulary):
  return vocabulary_lib.Vocabulary.from_file(
    vocabulary.path, vocabulary.lower_case
  )


def _check_dataset(config, vocabulary):
  words = _words(vocabulary)
  record_files = records.record_files(config)
  _check_settings(config, bool(record_files))
  if record_files:
    _RecordCheck(config, words, record_files).run()
  else:
    _check_rows(config, words)


def _check_settings(config, has_records):
  def name(field):
    return corpus_lib.setting_name(config, field)

  if config.seq_length < 3:
    raise errors.DataError(
      f'{name("seq_length")} must be at least 3, for [CLS], a token and '
      f'[SEP]. Received: {config.seq_length}. Set {name("seq_length")}.'
    )
  if config.packing not in configs.PACKINGS:
    raise errors.DataError(
      f'{name("packing")} must be one of {", ".join(configs.PACKINGS)}. '
      f'Received: {config.packing!r}. Set {name("packing")}.'
    )
  for field in (
    'mask_token_share',
    'random_token_share',
    'span_stop_probability',
    'max_span_words',
  ):
    configs.check_range(name(field), getattr(config, field))
  if config.mask_token_share + config.random_token_share > 1:
    raise errors.DataError(
      f'{name("mask_token_share")} and {name("random_token_share")} must be at '
      f'most 1 together. Received: {config.mask_token_share} and '
      f'{config.random_token_share}. Set {name("mask_token_share")}.'
    )
  least = max(math.floor(config.mask_rate * (config.seq_length - 2)), 1)
  if not least <= config.max_predictions_per_seq <= config.seq_length - 2:
    raise errors.DataError(
      f'{name("max_predictions_per_seq")} must hold the labels of a row: at '
      'least mask_rate * (seq_length - 2), at most seq_length - 2. Received: '
      f'max_predictions_per_seq={config.max_predictions_per_seq}, '
      f'mask_rate={config.mask_rate}, seq_length={config.seq_length}, which '
      f'need {least} to {config.seq_length - 2}. Set '
      f'{name("max_predictions_per_seq")}.'
    )
  if config.use_next_sentence_label and not has_records:
    raise errors.DataError(
      f'{name("use_next_sentence_label")} needs TFRecords, text has no such '
      f'labels. Received: {name("input_path")}={config.input_path!r}. Unset '
      f'{name("use_next_sentence_label")}, or set {name("input_path")} to '
      'files whose name contains .tfrecord.'
    )


def refuse_records(config: configs.PretrainingDataConfig) -> None:
  """Raises a DataError if a data section names TFRecords instead of text."""
  if files := records.record_files(config):
    setting = corpus_lib.setting_name(config, 'input_path')
    raise errors.DataError(
      f'{setting} must name text. Received: {files[0]}, which holds '
      f'examples, by its name. Set {setting}.'
    )


def check_text(config: configs.PretrainingDataConfig, heads_only: bool = False):
  """Checks the text files that a data section names, and opens its corpus.

  Args:
    config: the data section.
    heads_only: reads the head of every file, also of a small corpus.

  Raises:
    DataError: naming the first file that is not UTF-8 text.
  """
  refuse_records(config)
  corpus = corpus_lib.open_corpus(config)
  if config.input_path:
    _check_files_are_text(corpus, heads_only)
  return corpus


def _check_rows(config, words, heads_only=False):
  """Checks text, and returns its first documents."""
  corpus = check_text(config, heads_only)
  sample = sampling.head(corpus, words, _SAMPLE_TOKENS)
  _check_unknown_tokens(corpus, words, config, sample)
  needed = 1 if _fills_up(config) else config.global_batch_size
  if sampling.rows_of(sample.lengths, config) <= needed:
    found = _count_rows(corpus, words, config, needed)
    if found < needed:
      raise _too_few(config, corpus.name, found, needed)
  return sample


def _fills_up(config) -> bool:
  """Whether a batch that lacks rows is filled up rather than left out."""
  return not config.is_training and not config.drop_remainder


def _check_files_are_text(corpus, heads_only):
  heads_only = heads_only or corpus.num_bytes() > MAX_SCANNED_BYTES
  for path in corpus.paths:
    documents.check_file(
      path, corpus.reading, _HEAD_BYTES if heads_only else None
    )


def _check_unknown_tokens(corpus, words, config, sample):
  """Refuses, or warns of, a vocabulary that does not fit the text."""
  tokens = int(sample.lengths.sum())
  share = sample.unknown / max(tokens, 1)
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


def _count_rows(corpus, words, config, most: int) -> int:
  """Counts the rows of an epoch, no further than needed."""
  maker = examples.ExampleMaker(corpus, words, config)
  rows = 0
  for *_, lengths in maker.blocks(0, 1):
    rows += int(lengths.shape[0])
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
    return errors.DataError(
      f'A corpus must hold text. Received: none in {source}{held_out}. Set '
      f'{name("input_path")}.'
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
    size = sum(tf.io.gfile.stat(path).length for path in paths)
    self._is_large = size > MAX_SCANNED_BYTES

  def run(self):
    shard_index.check_shards(
      self._paths, self._input_path, checksums=not self._is_large
    )
    found = 0
    for path in self._paths:
      found += self._check_file(path)
    needed = 1 if _fills_up(self._config) else self._config.global_batch_size
    # Of a large corpus only the heads were counted.
    if found < needed and not self._is_large:
      raise _too_few(self._config, f'{self._paths[0]} ...', found, needed)

  def _check_file(self, path: str) -> int:
    compression = 'GZIP' if records.is_gzip_file(path) else ''
    dataset = tf.data.TFRecordDataset(path, compression_type=compression)
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
        f'({_first_line(error)}). Write or copy the file anew.'
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
    for name, spec in records.feature_spec(self._config).items():
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
    has_segments = records.SEGMENT_FEATURES[0] in found
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
    hint = ''
    if 'input_ids' in found:
      hint = ' It has the older names; write it with --use_v2_feature_names.'
    return errors.DataError(
      'An example must hold the features of the Model Garden, v2 names. '
      f'Received: {path}, without {name}; it has {", ".join(sorted(found))}.'
      f'{hint} Set {self._input_path}.'
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
      features = records.parse(batch, self._config)
    except tf.errors.InvalidArgumentError as error:
      raise errors.DataError(
        'All examples of a file must have the same features. Received: '
        f'{path}, with one that differs ({_first_line(error)}). Write the '
        'file anew.'
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
