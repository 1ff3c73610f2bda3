"""Description of the shards to write: from what, where, in which form."""

import dataclasses
import glob
import math

import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data.examples import packing
from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.read import sampling
from tokendrop_tf.data.shards import token_index
from tokendrop_tf.text import vocabulary as vocabulary_lib

FORMATS = ('tokens', 'tfrecord')
# A shard is sorted in memory, so it should not be larger.
_SHARD_BYTES = 64 << 20
_LARGEST_SHARD_BYTES = 1 << 30
_MOST_SHARDS = 4096

# The settings that decide on rows, and those that decide on masks.
_ROW_SETTINGS = (
  'seq_length',
  'packing',
  'seed',
  'num_epochs',
  'held_out_documents',
  'is_training',
  'text_field',
  'document_per_line',
  'skip_bad_text',
  'tfds_name',
  'tfds_split',
  'tfds_text_feature',
)
MASK_SETTINGS = (
  'max_predictions_per_seq',
  'masking',
  'mask_rate',
  'mask_token_share',
  'random_token_share',
  'span_stop_probability',
  'max_span_words',
)


@dataclasses.dataclass(frozen=True)
class ShardJob:
  """The shards to write.

  Attributes:
    config: the data section; its `num_epochs` says how often the corpus is
      written, each time in other rows.
    vocabulary: the vocabulary section.
    output: files are `OUTPUT-00000-of-000NN.tokens`, or `.tfrecord`, with `.gz`
      if gzip.
    num_shards: number of files.
    format: one of `FORMATS`.
    gzip: whether TFRecords are compressed.
    estimate: about how many rows there are; 0 if that is not known.
  """

  config: configs.PretrainingDataConfig
  vocabulary: configs.VocabularyConfig
  output: str
  num_shards: int = 1
  format: str = 'tokens'
  gzip: bool = False
  estimate: int = 0

  def path(self, shard: int) -> str:
    """Returns the name of a finished shard."""
    suffix = f'.{self.format}{".gz" if self.gzip else ""}'
    return f'{self.output}-{shard:05d}-of-{self.num_shards:05d}{suffix}'

  def paths(self) -> list[str]:
    return [self.path(shard) for shard in range(self.num_shards)]

  @property
  def index(self) -> str:
    """The index file of token shards."""
    return token_index.index_path(self.output)

  @property
  def width(self) -> int:
    """W, the numbers of a row."""
    return packing.row_width(self.config.packing, self.config.seq_length)

  def words(self) -> vocabulary_lib.Vocabulary:
    """Reads the vocabulary."""
    return vocabulary_lib.Vocabulary.of(self.vocabulary)

  def settings(self) -> dict:
    """Returns what decides on the contents of the shards."""
    names = _ROW_SETTINGS
    if self.format == 'tfrecord':
      names += MASK_SETTINGS
    return {name: getattr(self.config, name) for name in names}

  def fingerprint(self) -> dict:
    """Returns what must be the same for an interrupted call to be resumed."""
    paths = ()
    if not self.config.tfds_name:
      paths = corpus_lib.open_corpus(self.config).paths
    stats = {path: tf.io.gfile.stat(path) for path in paths}
    return {
      'output': self.output,
      'format': self.format,
      'gzip': self.gzip,
      'num_shards': self.num_shards,
      'settings': self.settings(),
      'vocabulary': token_index.vocabulary_facts(self.words()),
      'sources': {
        path: [stat.length, stat.mtime_nsec] for path, stat in stats.items()
      },
    }

  def row_bytes(self) -> int:
    """Returns the size of a row in a shard, of TFRecords about."""
    size = self.width * token_index.row_dtype(self.words().size).itemsize
    if self.format == 'tokens':
      return size
    slots = self.config.max_predictions_per_seq
    return 2 * self.width + 2 * self.config.seq_length + 8 * slots + 200


def estimate_rows(job: ShardJob, head: sampling.Head) -> int:
  """Estimates the number of rows from the beginning of the corpus.

  Args:
    job: what is written.
    head: the first documents, e.g. of `checks.check_heads`.
  """
  config = job.config
  rows = max(sampling.rows_of(head.lengths, config), 1)
  share = rows / max(head.num_bytes, 1)
  if config.held_out_documents:
    one = 1 / config.held_out_documents
    share *= (1 - one) if config.is_training else one
  num_bytes = corpus_lib.open_corpus(config).num_bytes()
  return int(share * num_bytes) * max(config.num_epochs, 1)


def with_shards(job: ShardJob, num_rows: int) -> ShardJob:
  """Chooses the number of shards if it is left open.

  Args:
    job: what to write.
    num_rows: estimate of how many rows there are.

  Raises:
    ConfigurationError: if shards would be too large to be sorted in memory.
  """
  size = num_rows * job.row_bytes()
  if not job.num_shards:
    count = min(max(math.ceil(size / _SHARD_BYTES), 1), _MOST_SHARDS)
    return dataclasses.replace(job, num_shards=count)
  least = math.ceil(size / _LARGEST_SHARD_BYTES)
  if job.num_shards < least:
    raise errors.ConfigurationError(
      'A shard must fit into memory, where it is put into order: at most 1 GB. '
      f'Received: --num_shards={job.num_shards} for about {size / 1e9:,.1f} '
      f'GB. Set --num_shards to at least {least}, or leave it unset.'
    )
  return job


def existing_shards(output: str) -> list[str]:
  """Returns the finished shards of this name, of any number and form."""
  found = []
  for form in FORMATS:
    pattern = f'-[0-9]*-of-[0-9]*.{form}*'
    if '://' in output:
      found += tf.io.gfile.glob(output + pattern)
    else:
      found += glob.glob(glob.escape(output) + pattern)
  return sorted(found)


def refuse_existing(job: ShardJob, overwrite: bool) -> None:
  """Refuses to mix new shards with others.

  Raises:
    ConfigurationError: naming one that exists.
  """
  existing = existing_shards(job.output)
  stale = [path for path in existing if path not in job.paths()]
  if existing and (stale or not overwrite):
    remedy = (
      'Remove them'
      if stale
      else 'Pass --overwrite to replace them, remove them'
    )
    raise errors.ConfigurationError(
      'New shards must not mix with others of the same name. Received: '
      f'--output={job.output}, where {len(existing)} lie, e.g. '
      f'{(stale or existing)[0]}. {remedy}, or choose another --output.'
    )
