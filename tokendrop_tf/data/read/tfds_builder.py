"""Data sets of TensorFlow Datasets; errors name the setting to change."""

from tokendrop_tf import errors


def open_builder(
  name: str,
  split: str,
  data_dir: str,
  name_setting: str = 'tfds_name',
  split_setting: str = 'tfds_split',
  dir_setting: str = 'tfds_data_dir',
):
  """Returns the prepared `tfds.core.DatasetBuilder` of a data set.

  Args:
    name: of the data set, with version or configuration if wanted.
    split: a split that it must have, e.g. 'train[:10%]'.
    data_dir: folder of TFDS data sets; '' is TFDS's own default.
    name_setting: setting that gave the name, for messages.
    split_setting: setting that gave the split.
    dir_setting: setting that gave the folder.

  Raises:
    DataError: if TFDS cannot load the data set, or it has no such split.
  """
  # Imported here because it takes seconds, which files need not pay.
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=data_dir or None)
    builder.download_and_prepare()
  except Exception as error:  # pylint: disable=broad-except
    # Unknown names, no network, full disks: TFDS has no common base class.
    message = str(error).strip().split('\n')[0]
    raise errors.DataError(
      f'{name_setting} must name a data set that TensorFlow Datasets can load. '
      f'Received: {name!r} in {data_dir or "the default folder"}: '
      f'{type(error).__name__}: {message} Set {name_setting} or {dir_setting}.'
    ) from error
  try:
    builder.info.splits[split]
  except (KeyError, ValueError) as error:
    known = ', '.join(map(repr, sorted(builder.info.splits)))
    raise errors.DataError(
      f'{split_setting} must name a split of {name}. Received: {split!r}; '
      f'there are {known}. Set {split_setting}.'
    ) from error
  return builder
