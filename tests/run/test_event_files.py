import tensorflow as tf

from tokendrop_tf.run import event_files


def write(folder, steps, suffix):
  writer = tf.summary.create_file_writer(
    str(folder), filename_suffix=f'.{suffix}'
  )
  with writer.as_default():
    for step in steps:
      tf.summary.scalar('loss', float(step), step=step)
  writer.close()
  # Files of one second are told apart by their numbers.
  (path,) = folder.glob(f'*.{suffix}')
  path.rename(folder / f'events.out.tfevents.{suffix}')


def steps(folder):
  found = []
  for path in sorted(folder.iterdir()):
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      found += [event.step for _ in event.summary.value]
  return found


def test_later_steps_are_forgotten_over_several_files(tmp_path):
  write(tmp_path, range(1, 5), 1)
  write(tmp_path, range(5, 9), 2)
  write(tmp_path, range(9, 12), 3)
  event_files.forget_after(str(tmp_path), 6)
  assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
  assert len(list(tmp_path.iterdir())) == 2


def test_everything_can_be_forgotten(tmp_path):
  write(tmp_path, range(1, 5), 1)
  event_files.forget_after(str(tmp_path), 0)
  assert not list(tmp_path.iterdir())


def test_files_without_later_steps_stay_as_they_are(tmp_path):
  write(tmp_path, range(1, 5), 1)
  (path,) = tmp_path.iterdir()
  before = path.read_bytes(), path.stat().st_mtime_ns
  event_files.forget_after(str(tmp_path), 4)
  assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_an_event_that_was_cut_off_is_forgotten(tmp_path):
  write(tmp_path, range(1, 5), 1)
  (path,) = tmp_path.iterdir()
  path.write_bytes(path.read_bytes()[:-3])
  event_files.forget_after(str(tmp_path), 4)
  assert steps(tmp_path) == [1, 2, 3]


def test_other_files_and_no_folder_are_left_alone(tmp_path):
  (tmp_path / 'notes.txt').write_text('')
  event_files.forget_after(str(tmp_path), 0)
  event_files.forget_after(str(tmp_path / 'absent'), 0)
  assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']
