"""Documents from files, TFDS or the embedded corpus, as tf.data.

A document is what stands between blank lines of a text file, a line of a JSON
lines file, a row of a Parquet file, or one example of a TFDS data set. A corpus
is either class below; both have the same methods.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data.read import (
  builtin_corpus,
  row_batches,
  text_files,
  tfds_builder,
)
from tokendrop_tf.data.read import documents as documents_lib

# Text read to estimate the mean length of a document.
_SAMPLE_BYTES = 1 << 20
_SAMPLE_DOCUMENTS = 256
# Documents are held out where there are this many times n, n the part held out.
_ENOUGH_FOLD = 10
_LONG_DOCUMENT_BYTES = 1 << 18
_LEAST_PASSAGE_BYTES, _MOST_PASSAGE_BYTES = 1 << 9, 1 << 16


def section_name(config: configs.PretrainingDataConfig) -> str:
  """Returns what a data section is called in a configuration file."""
  return 'train_data' if config.is_training else 'validation_data'


def setting_name(config: configs.PretrainingDataConfig, name: str) -> str:
  """Returns a setting's name with its section, as in a configuration file."""
  return f'{section_name(config)}.{name}'


def reading(config: configs.PretrainingDataConfig) -> documents_lib.Reading:
  """Returns how a data section has its files read."""
  return documents_lib.Reading(
    config.text_field,
    config.skip_bad_text,
    config.document_per_line,
    section=section_name(config),
  )


def open_corpus(config: configs.PretrainingDataConfig):
  """Returns the corpus that a data section names.

  With neither `input_path` nor `tfds_name` it is the embedded one.

  Args:
    config: the data section; `is_training` says which side of the held-out
      documents is read.

  Raises:
    DataError: if it names a source that does not exist.

  Example:
    config = configs.PretrainingDataConfig(
        input_path='wiki/*.txt.gz', is_training=True, held_out_documents=100)
    for texts in open_corpus(config).documents():
      print(texts.shape)
  """
  held_out = HeldOut(config.held_out_documents, not config.is_training)
  if config.tfds_name:
    return TfdsCorpus(
      config.tfds_name,
      config.tfds_split,
      config.tfds_text_feature,
      config.tfds_data_dir,
      held_out,
    )
  if config.input_path:
    setting = setting_name(config, 'input_path')
    paths = text_files.match_files(config.input_path, setting)
    corpus = TextCorpus(paths, held_out, reading(config))
    if config.held_out_documents:
      size = _passage_bytes(corpus, config.held_out_documents)
      how = dataclasses.replace(corpus.reading, passage_bytes=size)
      return dataclasses.replace(corpus, reading=how)
    return corpus
  return TextCorpus((builtin_corpus.corpus_path(),), held_out)


def _passage_bytes(corpus, every: int) -> int:
  """Returns the size of passages where documents are few or very long.

  Of one book, or of 14, no or hardly any document would be held out; so there
  passages are, of some 20 times as many as `every`.
  """
  size, mean = corpus.num_bytes(), corpus.mean_document_bytes()
  if size // mean >= _ENOUGH_FOLD * every and mean < _LONG_DOCUMENT_BYTES:
    return 0
  passage = size // (2 * _ENOUGH_FOLD * every)
  return min(max(passage, _LEAST_PASSAGE_BYTES), _MOST_PASSAGE_BYTES)


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """The documents that are read: of every n, one is held out for validation.

  Document d of file f is held out if (f + d) % n == n - 1, both counted from
  0: the choice depends on neither the order of reading nor other files'
  lengths.

  Attributes:
    every: n; 0 holds none out, and both sides read everything.
    only: reads the held-out documents, or else all others.
  """

  every: int = 0
  only: bool = False

  def first_after(self, skip: int) -> int:
    """Returns the number of the document that `skip` read ones precede.

    Args:
      skip: documents that are read before it, counted in one file whose
        number f is 0.
    """
    if not self.every:
      return skip
    if self.only:
      return skip * self.every
    return skip // (self.every - 1) * self.every + skip % (self.every - 1)

  def select(self, first, texts):
    """Returns the documents to read, strings [m].

    Args:
      first: f + d of the first of these documents, int64.
      texts: consecutive documents of a file, strings [n].
    """
    if not self.every:
      return texts
    number = first + tf.range(tf.size(texts, tf.int64))
    is_held_out = number % self.every == self.every - 1
    return tf.boolean_mask(texts, is_held_out if self.only else ~is_held_out)


@dataclasses.dataclass(frozen=True)
class TextCorpus:
  """Documents of text, JSON lines and Parquet files; see `documents`.

  Attributes:
    paths: the files.
    held_out: which documents are read.
    reading: how the files are read.
  """

  paths: tuple[str, ...]
  held_out: HeldOut = HeldOut()
  reading: documents_lib.Reading = documents_lib.Reading()

  @property
  def num_files(self) -> int:
    return len(self.paths)

  @property
  def name(self) -> str:
    """Name of the corpus in messages."""
    more = f' and {self.num_files - 1} more' if self.num_files > 1 else ''
    return f'{self.paths[0]}{more}'

  def documents(self, files=None, skip: int = 0) -> tf.data.Dataset:
    """Returns the documents in batches of any size, strings [n], n >= 0.

    Args:
      files: int64 [n], indices into `paths`, read one after the other; negative
        ones are skipped. `None` is all.
      skip: omits so many documents at the beginning, int or int64.
    """
    files = tf.range(self.num_files, dtype=tf.int64) if files is None else files
    indices = tf.data.Dataset.from_tensor_slices(files)
    indices = indices.filter(lambda file: file >= 0)
    return row_batches.skip_rows(indices.flat_map(self._file_documents), skip)

  def read(self) -> Iterator[np.ndarray]:
    """Yields what `documents` has, from the beginning, without a graph."""
    for number, path in enumerate(self.paths):
      for first, texts in self._read(path.encode()):
        yield np.asarray(self.held_out.select(number + first, texts))

  def mean_document_bytes(self) -> int:
    """Estimates the mean length of a document from the head of the corpus.

    A head without the end of a line, such as a book in one line, is longer.
    """
    total, documents = 0, 0
    for batch in itertools.chain.from_iterable(
      documents_lib.read_documents(path, self.reading, _SAMPLE_BYTES)
      for path in self.paths
    ):
      total += sum(map(len, batch))
      documents += len(batch)
      if total >= _SAMPLE_BYTES:
        break
    return max(total // documents, 1) if documents else _SAMPLE_BYTES

  def num_bytes(self) -> int:
    """Estimates the size of the unpacked text, both sides together."""
    return sum(
      documents_lib.num_bytes(path, self.reading) for path in self.paths
    )

  def _file_documents(self, file_index) -> tf.data.Dataset:
    path = tf.gather(tf.constant(self.paths), file_index)
    documents = tf.data.Dataset.from_generator(
      self._read,
      args=(path,),
      output_signature=(
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([None], tf.string),
      ),
    )
    return documents.map(
      lambda first, texts: self.held_out.select(file_index + first, texts)
    )

  def _read(self, path: bytes):
    """Yields (number of the first, documents), of one file."""
    first = 0
    path = path.decode()
    try:
      for batch in documents_lib.read_documents(path, self.reading):
        yield first, np.array(batch, dtype=object)
        first += len(batch)
    except errors.UserError as error:
      errors.keep(error)
      raise


@dataclasses.dataclass(frozen=True)
class TfdsCorpus:
  """Documents of a TensorFlow Datasets data set, one an example.

  Attributes:
    tfds_name: name of the data set, with version or configuration if wanted.
    split: split, e.g. 'train' or 'train[:10%]'.
    text_feature: name of the string feature.
    data_dir: folder of TFDS data sets; empty is TFDS's own default.
    held_out: which documents are read.
  """

  tfds_name: str
  split: str
  text_feature: str = 'text'
  data_dir: str = ''
  held_out: HeldOut = HeldOut()

  num_files = 1

  def __post_init__(self):
    self._check_feature()

  @property
  def name(self) -> str:
    """Name of the corpus in messages."""
    return f'TFDS {self.tfds_name}, split {self.split}'

  @functools.cached_property
  def _builder(self):
    return tfds_builder.open_builder(self.tfds_name, self.split, self.data_dir)

  def _check_feature(self):
    features = self._builder.info.features
    texts = [
      name
      for name in sorted(features)
      if features[name].shape == ()
      and tf.as_dtype(features[name].dtype) == tf.string
    ]
    if self.text_feature not in texts:
      raise errors.DataError(
        f'tfds_text_feature must name a text feature of {self.tfds_name}. '
        f'Received: {self.text_feature!r}; its text features are '
        f'{", ".join(map(repr, texts)) or "none"}. Set tfds_text_feature.'
      )

  def documents(self, files=None, skip: int = 0) -> tf.data.Dataset:
    """Returns the documents in batches of any size, strings [n], n >= 0.

    Args:
      files: of no meaning: TFDS reads its files in one order.
      skip: omits so many documents at the beginning.
    """
    del files
    first = self.held_out.first_after(skip)
    texts = self._texts(first).batch(_SAMPLE_DOCUMENTS)
    starts = tf.data.Dataset.counter(start=first, step=_SAMPLE_DOCUMENTS)
    return tf.data.Dataset.zip(starts, texts).map(self.held_out.select)

  def read(self) -> Iterator[np.ndarray]:
    """Yields what `documents` has, from the beginning."""
    return self.documents().as_numpy_iterator()

  def mean_document_bytes(self) -> int:
    """Estimates the mean length of a document from the first ones."""
    sample = self._texts(0).take(_SAMPLE_DOCUMENTS)
    texts = list(sample.as_numpy_iterator())
    return max(sum(map(len, texts)) // max(len(texts), 1), 1)

  def num_bytes(self) -> int:
    """Estimates the size of the text, both sides together."""
    split = self._builder.info.splits[self.split]
    return split.num_examples * self.mean_document_bytes()

  def _texts(self, first: int) -> tf.data.Dataset:
    """Returns the documents from number `first` on.

    TFDS passes over whole files by their recorded lengths.
    """
    import tensorflow_datasets as tfds

    splits = self._builder.info.splits
    slices = []
    for part in tfds.core.splits.AbstractSplit.from_spec(
      self.split
    ).to_absolute(splits):
      whole = splits[part.splitname].num_examples
      begin, end = part.from_ or 0, whole if part.to is None else part.to
      skipped = min(first, end - begin)
      if skipped < end - begin:
        slices.append(f'{part.splitname}[{begin + skipped}:{end}]')
      first -= skipped
    dataset = self._builder.as_dataset(
      split='+'.join(slices) or self.split,
      shuffle_files=False,
      # One file after the other: another order would not resume from a slice.
      read_config=tfds.ReadConfig(
        interleave_cycle_length=1, try_autocache=False
      ),
    )
    dataset = dataset if slices else dataset.take(0)
    return dataset.map(lambda example: example[self.text_feature])
