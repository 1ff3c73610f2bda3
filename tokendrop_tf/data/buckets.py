"""What is on the way to becoming shards, kept so that it can be gone on with.

A folder beside the output, hidden from globs:

    job.json                 what is written; another job starts anew
    scatter-00000.json       how far process 0 is with dealing examples
    bucket-00003-00000       what process 0 has dealt to shard 3
    shard-00003.json         shard 3 is finished; its entry of the index
"""

import dataclasses
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Sequence

from tokendrop_tf.data import shard_index, text_files
from tokendrop_tf.data import vocabulary as vocabulary_lib

# Progress is noted after so many bytes; what follows is done again.
_NOTE_BYTES = 64 << 20
# Random number of the example, its tokens, its bytes; then the example.
_HEADER = struct.Struct('<qII')


def work_path(output: str) -> str:
  """Returns the local folder for what is not finished of `output`."""
  if text_files.is_remote(output):
    name = f'tokendrop-shards-{zlib.crc32(output.encode()):08x}'
    return os.path.join(tempfile.gettempdir(), name)
  folder, name = os.path.split(output)
  return os.path.join(folder, f'.{name}.unfinished')


@dataclasses.dataclass(frozen=True)
class WorkFolder:
  """The folder described above.

  Attributes:
    path: where it is; local, as files are appended to.
    num_shards: number of shards.
  """

  path: str
  num_shards: int

  def belongs_to(self, job: dict) -> bool:
    """Whether an interrupted call for this very job left it."""
    return self._read('job.json') == json.loads(json.dumps(job))

  def adopt(self, job: dict) -> None:
    """Keeps the folder if it belongs to the job, else makes an empty one."""
    if not self.belongs_to(job):
      self.remove()
      os.makedirs(self.path)
      self.write('job.json', job)

  def remove(self) -> None:
    shutil.rmtree(self.path, ignore_errors=True)

  def bucket(self, shard: int, share: int) -> str:
    return os.path.join(self.path, f'bucket-{shard:05d}-{share:05d}')

  def sorted_examples(self, shard: int) -> tuple[list[bytes], int]:
    """Returns the examples of a shard in order, and their tokens."""
    found = []
    for path in self._buckets(shard):
      with open(path, 'rb') as file:
        while header := file.read(_HEADER.size):
          key, tokens, size = _HEADER.unpack(header)
          found.append((key, file.read(size), tokens))
    found.sort()
    return [example for _, example, _ in found], sum(
      tokens for *_, tokens in found
    )

  def finish_shard(self, shard: int, entry: shard_index.ShardEntry) -> None:
    """Notes that a shard has its name, and drops its buckets."""
    self.write(f'shard-{shard:05d}.json', dataclasses.asdict(entry))
    for path in self._buckets(shard):
      os.remove(path)

  def entry(self, shard: int) -> shard_index.ShardEntry | None:
    """Returns the entry of a finished shard; `None` of others."""
    tree = self._read(f'shard-{shard:05d}.json')
    return shard_index.shard_entry(tree) if tree else None

  def entries(self) -> tuple[shard_index.ShardEntry, ...]:
    """Returns the entries of the finished shards, in order."""
    found = (self.entry(shard) for shard in range(self.num_shards))
    return tuple(entry for entry in found if entry)

  def write(self, name: str, tree: dict) -> None:
    vocabulary_lib.write_whole_file(
      os.path.join(self.path, name), json.dumps(tree)
    )

  def _read(self, name: str):
    try:
      with open(os.path.join(self.path, name), encoding='utf-8') as file:
        return json.load(file)
    except (OSError, ValueError):
      return None

  def read_scatter(self, share: int) -> dict | None:
    return self._read(f'scatter-{share:05d}.json')

  def _buckets(self, shard: int) -> list[str]:
    prefix = f'bucket-{shard:05d}-'
    return [
      os.path.join(self.path, name)
      for name in sorted(os.listdir(self.path))
      if name.startswith(prefix)
    ]


class Scatter:
  """The buckets of one process, from where an earlier one stopped.

  Attributes:
    next_block: (epoch, block) to go on with.
    examples: how many examples lie in the buckets already.
    is_finished: whether all are dealt.
  """

  def __init__(self, work: WorkFolder, share: int):
    self._work = work
    self._share = share
    noted = work.read_scatter(share) or {
      'next_block': (0, 0),
      'examples': 0,
      'sizes': [0] * work.num_shards,
      'is_finished': False,
    }
    self.next_block = tuple(noted['next_block'])
    self.examples = noted['examples']
    self.is_finished = noted['is_finished']
    self._sizes = noted['sizes']
    self._unnoted = 0
    self._files = []

  def __enter__(self):
    for shard, size in enumerate(self._sizes):
      file = open(self._work.bucket(shard, self._share), 'ab')
      self._files.append(file)
      file.truncate(size)
    return self

  def __exit__(self, *exception):
    for file in self._files:
      file.close()
    self._files = []

  def add(
    self, shards: Sequence[int], keys, tokens, serialized: Sequence[bytes]
  ) -> None:
    """Deals examples to shards.

    Args:
      shards: shard of each example.
      keys: random number of each.
      tokens: number of tokens of each.
      serialized: the examples.
    """
    dealt = {}
    for shard, key, count, example in zip(
      shards, keys.tolist(), tokens.tolist(), serialized, strict=True
    ):
      parts = dealt.setdefault(shard, [])
      parts += (_HEADER.pack(key, count, len(example)), example)
    for shard, parts in dealt.items():
      size = self._files[shard].write(b''.join(parts))
      self._sizes[shard] += size
      self._unnoted += size
    self.examples += len(serialized)

  def note(self, epoch: int, block: int) -> None:
    """Says that everything before a block is dealt; notes it now and then."""
    self.next_block = (epoch, block)
    if self._unnoted >= _NOTE_BYTES:
      self._write()

  def finish(self) -> None:
    self.is_finished = True
    self._write()

  def _write(self):
    for file in self._files:
      file.flush()
    self._work.write(
      f'scatter-{self._share:05d}.json',
      {
        'next_block': self.next_block,
        'examples': self.examples,
        'sizes': self._sizes,
        'is_finished': self.is_finished,
      },
    )
    self._unnoted = 0
