import os
import types

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.run import checkpoints, loop


@pytest.fixture
def model_dir(tmp_path):
  """Checkpoints of the steps 5, 10 and 15."""
  checkpoint = tf.train.Checkpoint(
    global_step=tf.Variable(0, dtype=tf.int64),
    weights=tf.Variable(np.arange(40, dtype=np.float32)),
  )
  manager = tf.train.CheckpointManager(checkpoint, str(tmp_path), 5)
  for step in (5, 10, 15):
    checkpoint.global_step.assign(step)
    manager.save(step)
  return tmp_path


def flip(path, position):
  content = bytearray(path.read_bytes())
  content[position] ^= 0x10
  path.write_bytes(bytes(content))


def newest(model_dir):
  told = []
  found = checkpoints.newest_whole(str(model_dir), told.append)
  return os.path.basename(found or 'none'), ' '.join(told)


def test_the_newest_whole_checkpoint_is_found(model_dir):
  assert newest(model_dir) == ('ckpt-15', '')
  assert checkpoints.step_of(str(model_dir / 'ckpt-15')) == 15


def test_a_folder_without_checkpoints_has_none(tmp_path):
  assert newest(tmp_path) == ('none', '')
  assert newest(tmp_path / 'absent') == ('none', '')


def test_any_flipped_byte_of_the_data_is_found(model_dir):
  data = model_dir / 'ckpt-15.data-00000-of-00001'
  for position in range(0, data.stat().st_size, 7):
    flip(data, position)
    assert checkpoints.damage(str(model_dir / 'ckpt-15')), position
    flip(data, position)
  assert not checkpoints.damage(str(model_dir / 'ckpt-15'))


def test_a_flipped_byte_of_the_index_is_found_or_does_no_harm(model_dir):
  prefix = str(model_dir / 'ckpt-15')
  index = model_dir / 'ckpt-15.index'
  damaged = 0
  for position in range(0, index.stat().st_size, 5):
    flip(index, position)
    if checkpoints.damage(prefix):
      damaged += 1
    else:
      reader = tf.train.load_checkpoint(prefix)
      value = reader.get_tensor('weights/.ATTRIBUTES/VARIABLE_VALUE')
      np.testing.assert_array_equal(value, np.arange(40))
    flip(index, position)
  assert damaged > 10


@pytest.mark.parametrize(
  'name', ['ckpt-15.data-00000-of-00001', 'ckpt-15.index']
)
@pytest.mark.parametrize('how', ['cut', 'empty', 'missing'])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
  model_dir, name, how
):
  path = model_dir / name
  if how == 'missing':
    path.unlink()
  else:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == 'cut' else b'')
  found, told = newest(model_dir)
  assert found == 'ckpt-10'
  # Without its index there is no checkpoint that could be missed.
  if (name, how) != ('ckpt-15.index', 'missing'):
    assert f'{model_dir}/ckpt-15 is damaged' in told
    assert f'Resumes from {model_dir}/ckpt-10' in told


def test_a_missing_shard_is_named(model_dir):
  old = model_dir / 'ckpt-15.data-00000-of-00001'
  old.rename(model_dir / 'ckpt-15.data-00001-of-00002')
  assert checkpoints.damage(str(model_dir / 'ckpt-15')) == (
    'ckpt-15.data-00000-of-00002 is missing'
  )


def test_a_run_is_not_begun_anew_over_damaged_checkpoints(model_dir):
  for path in model_dir.glob('*.data*'):
    path.write_bytes(b'')
  with pytest.raises(errors.ConfigurationError, match='all of 3 are damaged'):
    newest(model_dir)


def test_damaged_checkpoints_are_set_aside_and_unfinished_ones_removed(
  model_dir,
):
  (model_dir / 'ckpt-20_temp').mkdir()
  (model_dir / 'ckpt-15.data-00000-of-00001').write_bytes(b'')
  checkpoints.set_aside(str(model_dir), str(model_dir / 'ckpt-10'))
  assert not (model_dir / 'ckpt-20_temp').exists()
  assert not list(model_dir.glob('ckpt-15*'))
  assert (model_dir / 'damaged-ckpt-15.index').exists()
  manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(model_dir), 1)
  assert manager.latest_checkpoint == str(model_dir / 'ckpt-10')
  assert [os.path.basename(path) for path in manager.checkpoints] == [
    'ckpt-5',
    'ckpt-10',
  ]


@pytest.mark.parametrize('content', [b'', b'model_checkpoint_path: "\xff"'])
def test_a_list_of_checkpoints_that_cannot_be_read_is_written_anew(
  model_dir, content
):
  (model_dir / 'checkpoint').write_bytes(content)
  assert checkpoints.newest(str(model_dir)) == str(model_dir / 'ckpt-15')
  checkpoints.repair_record(str(model_dir))
  manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(model_dir), 9)
  assert [os.path.basename(path) for path in manager.checkpoints] == [
    'ckpt-5',
    'ckpt-10',
    'ckpt-15',
  ]


def test_a_list_of_checkpoints_that_are_gone_is_removed(tmp_path):
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "ckpt-5"')
  assert checkpoints.newest(str(tmp_path)) is None
  checkpoints.set_aside(str(tmp_path), None)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('how', 'is_told'), [('cut', True), ('deleted', False), ('whole', False)]
)
def test_an_evaluation_of_all_checkpoints_tells_of_damaged_ones(
  model_dir, how, is_told
):
  if how == 'cut':
    (model_dir / 'ckpt-15.data-00000-of-00001').write_bytes(b'')
  if how == 'deleted':
    for path in model_dir.glob('ckpt-15.*'):
      path.unlink()
  told = []
  run = types.SimpleNamespace(_report=types.SimpleNamespace(show=told.append))
  prefix = str(model_dir / 'ckpt-15')
  assert loop.Loop._is_damaged(run, prefix) == is_told
  assert len(told) == is_told
  assert all(f'{prefix} is damaged and omitted' in text for text in told)


def test_a_checkpoint_that_was_not_written_down_is(model_dir):
  (model_dir / 'checkpoint').unlink()
  checkpoints.set_aside(str(model_dir), str(model_dir / 'ckpt-15'))
  assert tf.train.latest_checkpoint(str(model_dir)) == str(
    model_dir / 'ckpt-15'
  )


class TestLost:
  """A run is not begun again in silence."""

  def message_of(self, folder, logged, validated):
    with pytest.raises(errors.ConfigurationError) as caught:
      checkpoints.check_not_lost(str(folder), logged, validated, interval=10)
    return str(caught.value)

  def test_a_run_killed_before_its_first_checkpoint_begins_again(
    self, tmp_path
  ):
    for logged, validated in ((0, 0), (10, 5), (20, 5)):
      checkpoints.check_not_lost(str(tmp_path), logged, validated, interval=10)

  def test_deleted_checkpoints_are_missed(self, tmp_path):
    message = self.message_of(tmp_path, 21, 0)
    assert 'has none, where its history reaches step 21' in message
    assert 'Restore a checkpoint' in message
    self.message_of(tmp_path, 10, 10)
    (tmp_path / 'checkpoint').write_text(
      'model_checkpoint_path: "ckpt-5"\nall_model_checkpoint_paths: "ckpt-5"'
    )
    self.message_of(tmp_path, 5, 0)
