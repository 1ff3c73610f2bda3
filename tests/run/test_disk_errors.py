"""Which disk is blamed; real ones that are full are in `faults/`."""

import errno
import os

import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.run import disk_errors


def message_of(raised, expected, model_dir):
  with pytest.raises(expected) as caught, disk_errors.named_failures(model_dir):
    raise raised
  return str(caught.value)


@pytest.mark.parametrize('model_dir', ['runs/a', 'runs/a/'])
@pytest.mark.parametrize(
  'raised',
  [
    tf.errors.PermissionDeniedError(
      None, None, 'runs/a/ckpt-10.index; Permission denied'
    ),
    PermissionError(errno.EACCES, 'Permission denied', 'runs/a/metrics.jsonl'),
    tf.errors.ResourceExhaustedError(
      None, None, '{{node}} part; No space left on device'
    ),
    OSError(errno.EROFS, os.strerror(errno.EROFS), 'x'),
  ],
)
def test_a_folder_that_cannot_be_written_is_named(raised, model_dir):
  message = message_of(raised, errors.TrainingError, model_dir)
  assert 'must be written to --model_dir' in message


@pytest.mark.parametrize(
  'raised',
  [
    tf.errors.PermissionDeniedError(
      None, None, '/data/train-3.txt; Permission denied'
    ),
    tf.errors.UnknownError(None, None, '/data/train-3.txt; Input/output error'),
    PermissionError(errno.EACCES, 'Permission denied', '/data/train-3.txt'),
  ],
)
def test_a_file_that_cannot_be_read_is_named(raised):
  message = message_of(raised, errors.DataError, 'runs/a')
  assert message.startswith('Data files must be readable. Received: ')
  assert '/data/train-3.txt' in message
  assert 'model_dir' not in message


def test_other_errors_stay_what_they_are():
  raised = tf.errors.InvalidArgumentError(None, None, 'shapes differ')
  assert message_of(raised, tf.errors.InvalidArgumentError, 'runs/a')
