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

from tokendrop_tf import configs, errors
from tokendrop_tf.data import ahead, docstrings, streams, text_files
from tokendrop_tf.data import documents as documents_lib

# Text read to estimate the mean length of a document.
_SAMPLE_BYTES = 1 << 20
_SAMPLE_DOCUMENTS = 256
# Batches of about a megabyte, which a window of documents has.
_BATCHES_AHEAD = 64


def setting_name(config: configs.PretrainingDataConfig, name: str) -> str:
  """Returns a setting's name with its section, as in a configuration file."""
  section = 'train_data' if config.is_training else 'validation_data'
  return f'{section}.{name}'


def reading(config: configs.PretrainingDataConfig) -> documents_lib.Reading:
  """Returns how a data section has its files read."""
  return documents_lib.Reading(
    config.text_field,
    config.skip_bad_text,
    setting_name(config, '').rstrip('.'),
  )


def open_corpus(config: configs.PretrainingDataConfig):
  """Returns the corpus that a data section names.

  With neither `input_path` nor `tfds_name` it is the embedded one.

  Args:
    config: the data section; `is_training` says which side of the held-out
      documents is read.

  Raises:
    DataError: if it names two sources, or one that does not exist.

  Example:
    config = configs.PretrainingDataConfig(
        input_path='wiki/*.txt.gz', is_training=True, held_out_documents=100)
    for texts in open_corpus(config).documents():
      print(texts.shape)
  """
  input_path = setting_name(config, 'input_path')
  if config.input_path and config.tfds_name:
    raise errors.DataError(
      'A data section must have one source. Received: '
      f'{input_path}={config.input_path!r} and '
      f'{setting_name(config, "tfds_name")}={config.tfds_name!r}. Leave one '
      'of them unset.'
    )
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
    return TextCorpus(
      text_files.match_files(config.input_path, input_path),
      held_out,
      reading(config),
    )
  return TextCorpus((docstrings.corpus_path(),), held_out)


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Which documents are read: of every n, one is held out for validation.

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
  _ahead: dict = dataclasses.field(
    default_factory=dict, init=False, repr=False, compare=False
  )

  @property
  def num_files(self) -> int:
    return len(self.paths)

  @property
  def name(self) -> str:
    """What the corpus is called in messages."""
    more = f' and {self.num_files - 1} more' if self.num_files > 1 else ''
    return f'{self.paths[0]}{more}'

  def documents(self, files=None, skip: int = 0) -> tf.data.Dataset:
    """Returns the documents in batches of any size, strings [n], n >= 0.

    Args:
      files: int64 [n], indices into `paths`, read one after the other; negative
        ones are passed over. `None` is all.
      skip: leaves out so many documents at the beginning, int or int64.
    """
    files = tf.range(self.num_files, dtype=tf.int64) if files is None else files
    indices = tf.data.Dataset.from_tensor_slices(files)
    indices = indices.filter(lambda file: file >= 0)
    return streams.skip_rows(indices.flat_map(self._file_documents), skip)

  def read(self) -> Iterator[np.ndarray]:
    """Yields what `documents` has, from the beginning, without a graph."""
    for number, path in enumerate(self.paths):
      for first, texts in self._read(path.encode()):
        yield np.asarray(self.held_out.select(number + first, texts))

  def read_ahead(self, file: int) -> None:
    """Begins to read a file before its documents are asked for.

    Whoever asks for them first gets what has been read.

    Args:
      file: number of the file.
    """
    path = self.paths[file]
    documents = documents_lib.read_documents(path, self.reading)
    self._ahead[path] = ahead.Ahead(documents, _BATCHES_AHEAD)

  def mean_document_bytes(self) -> int:
    """Estimates the mean length of a document from the head of the corpus."""
    total, documents = 0, 0
    for batch in itertools.chain.from_iterable(
      documents_lib.read_documents(path, self.reading, _SAMPLE_BYTES)
      for path in self.paths
    ):
      total += sum(map(len, batch))
      documents += len(batch)
      if total >= _SAMPLE_BYTES:
        break
    return max(total // max(documents, 1), 1)

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
    documents = self._ahead.pop(path, None)
    try:
      for batch in documents or documents_lib.read_documents(
        path, self.reading
      ):
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
    self._check_split()
    self._check_feature()

  @property
  def name(self) -> str:
    """What the corpus is called in messages."""
    return f'TFDS {self.tfds_name}, split {self.split}'

  @functools.cached_property
  def _builder(self):
    # Imported here because it takes seconds, which text files need not pay.
    import tensorflow_datasets as tfds

    try:
      builder = tfds.builder(self.tfds_name, data_dir=self.data_dir or None)
      builder.download_and_prepare()
    except Exception as error:  # pylint: disable=broad-except
      # Unknown names, no network, full disks: TFDS has no common base class.
      message = str(error).strip().split('\n')[0]
      raise errors.DataError(
        'tfds_name must name a data set that TensorFlow Datasets can load. '
        f'Received: {self.tfds_name!r} in '
        f'{self.data_dir or "the default folder"}: '
        f'{type(error).__name__}: {message} Set tfds_name or tfds_data_dir.'
      ) from error
    return builder

  def _check_split(self):
    try:
      self._builder.info.splits[self.split]
    except (KeyError, ValueError) as error:
      known = sorted(self._builder.info.splits)
      raise errors.DataError(
        f'tfds_split must name a split of {self.tfds_name}. Received: '
        f'{self.split!r}; there are {", ".join(map(repr, known))}. '
        'Set tfds_split.'
      ) from error

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
      skip: leaves out so many documents at the beginning.
    """
    del files
    first = self.held_out.first_after(skip)
    texts = self._texts(first).batch(_SAMPLE_DOCUMENTS)
    starts = tf.data.Dataset.counter(start=first, step=_SAMPLE_DOCUMENTS)
    return tf.data.Dataset.zip(starts, texts).map(self.held_out.select)

  def read(self) -> Iterator[np.ndarray]:
    """Yields what `documents` has, from the beginning."""
    return self.documents().as_numpy_iterator()

  def read_ahead(self, file: int) -> None:
    """Does nothing: TFDS reads as it likes."""

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
      # One file after the other: another order would not go on from a slice.
      read_config=tfds.ReadConfig(
        interleave_cycle_length=1, try_autocache=False
      ),
    )
    dataset = dataset if slices else dataset.take(0)
    return dataset.map(lambda example: example[self.text_feature])
