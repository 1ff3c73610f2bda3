"""The files that a data section names, and the form that their names tell.

.tokens                          packed rows of token ids, see `token_index`
.tfrecord, .tf_record, .tfr      masked examples, see `record_reader`
anything else                    text, see `read.documents`
"""

from typing import NamedTuple

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data.read import corpus, text_files

TEXT, TOKENS, RECORDS = 'text', 'token shards', 'TFRecords'
TOKEN_SUFFIX = '.tokens'
INDEX_SUFFIX = '.index.json'


class DataFiles(NamedTuple):
  """Files of one form.

  Attributes:
    form: `TEXT`, `TOKENS` or `RECORDS`.
    paths: the files; of TFDS and the built-in corpus, none.
  """

  form: str
  paths: tuple[str, ...] = ()


def form_of(path: str) -> str:
  """Returns `TEXT`, `TOKENS` or `RECORDS`, by the name of a file."""
  if path.endswith(TOKEN_SUFFIX):
    return TOKENS
  return RECORDS if configs.names_tfrecords(path) else TEXT


def of(config) -> DataFiles:
  """Returns the files that a data section names.

  Args:
    config: the data section.

  Raises:
    DataError: if a glob matches no file, or the files have several forms.
  """
  if not config.input_path:
    return DataFiles(TEXT)
  setting = corpus.setting_name(config, 'input_path')
  paths = text_files.match_files(config.input_path, setting)
  if any(form_of(path) != TEXT for path in paths):
    paths = tuple(path for path in paths if not path.endswith(INDEX_SUFFIX))
  examples = {form_of(path): path for path in reversed(paths)}
  if len(examples) > 1:
    found = ', '.join(f'{path} is {form}' for form, path in examples.items())
    raise errors.DataError(
      f'{setting} must name either text or TFRecords or token shards. '
      f'Received: {found}. Set {setting} to a narrower glob.'
    )
  [form] = examples
  return DataFiles(form, paths)
