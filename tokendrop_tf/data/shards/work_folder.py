"""Folder of unfinished shards, from which an interrupted call is resumed.

    job.json              what is written; another job starts again
    dealt-00000-00002     rows of epoch 0, window 2, sorted by shard and key
    dealt.json            all windows are dealt
    shard-00003.json      shard 3 is finished; its entry of the index

It lies next to the output, hidden from globs, or where Beam's workers reach it.
"""

import dataclasses
import json
import os
import re
import tempfile
import zlib

import tensorflow as tf

from tokendrop_tf import files
from tokendrop_tf.data.read import text_files

_DEALT = re.compile(r'dealt-(\d+)-(\d+)')


@dataclasses.dataclass(frozen=True)
class WorkFolder:
  """The folder described above.

  Attributes:
    path: the folder, local or anything that `tf.io.gfile` writes.

  Example:
    work = WorkFolder.next_to('runs/data/wiki')
    work.adopt(job.fingerprint())
  """

  path: str

  @classmethod
  def next_to(cls, output: str) -> 'WorkFolder':
    """Returns the local folder for what is unfinished of `output`."""
    if text_files.is_remote(output):
      name = f'tokendrop-shards-{zlib.crc32(output.encode()):08x}'
      return cls(os.path.join(tempfile.gettempdir(), name))
    folder, name = os.path.split(output)
    return cls(os.path.join(folder, f'.{name}.unfinished'))

  def belongs_to(self, fingerprint: dict) -> bool:
    """Whether an interrupted call for this very job left it."""
    return self.read_json('job.json') == json.loads(json.dumps(fingerprint))

  def adopt(self, fingerprint: dict) -> None:
    """Keeps the folder if it belongs to the job, else makes an empty one."""
    if not self.belongs_to(fingerprint):
      self.remove()
      tf.io.gfile.makedirs(self.path)
      self.write_json('job.json', fingerprint)

  def remove(self) -> None:
    if tf.io.gfile.exists(self.path):
      tf.io.gfile.rmtree(self.path)

  def file(self, *parts) -> str:
    """Returns the path of a file, e.g. file('dealt', '00000', '00002')."""
    return os.path.join(self.path, '-'.join(map(str, parts)))

  def has(self, *parts) -> bool:
    return tf.io.gfile.exists(self.file(*parts))

  def write_json(self, name: str, content) -> None:
    files.write_json(self.file(name), content, indent=None)

  def read_json(self, name: str):
    """Returns the content of a JSON file; `None` where it is absent."""
    return files.read_json_if_valid(self.file(name))

  def dealt_file(self, epoch: int, window: int) -> str:
    """Returns the path of the rows of a window."""
    return self.file('dealt', f'{epoch:05d}', f'{window:06d}')

  def dealt(self) -> list[str]:
    """Returns the files of all windows that are dealt, in order."""
    names = tf.io.gfile.listdir(self.path)
    return [self.file(name) for name in sorted(names) if _DEALT.fullmatch(name)]

  def dealt_windows(self, epoch: int) -> list[int]:
    """Returns the numbers of the windows of an epoch that are dealt."""
    found = (_DEALT.fullmatch(os.path.basename(path)) for path in self.dealt())
    return [int(match[2]) for match in found if int(match[1]) == epoch]

  @property
  def is_dealt(self) -> bool:
    """Whether all windows are dealt."""
    return self.has('dealt.json')

  def note_dealt(self) -> None:
    """Notes that all windows are dealt."""
    self.write_json('dealt.json', True)
