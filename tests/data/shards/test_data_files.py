import pytest

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data.shards import data_files


@pytest.mark.parametrize(
  ('name', 'form'),
  [
    ('a.txt', data_files.TEXT),
    ('a.txt.gz', data_files.TEXT),
    ('tokens.txt', data_files.TEXT),
    ('part-00000-of-00002.tokens', data_files.TOKENS),
    ('a.tfrecord', data_files.RECORDS),
    ('a.tfrecord.gz', data_files.RECORDS),
    ('train.tfrecord-00000-of-00010', data_files.RECORDS),
    ('train.tf_record', data_files.RECORDS),
    ('train.tf_record-00001', data_files.RECORDS),
    ('a.tfr', data_files.RECORDS),
    ('a.tfr.gz', data_files.RECORDS),
    ('a.tfroth', data_files.TEXT),
  ],
)
def test_names_tell_the_form(name, form):
  assert data_files.form_of(name) == form


def section(folder):
  return configs.PretrainingDataConfig(
    input_path=f'{folder}/*', is_training=True
  )


def test_the_index_is_not_data(tmp_path):
  for name in ('a-00000-of-00001.tokens', 'a.index.json'):
    (tmp_path / name).write_text('')
  files = data_files.of(section(tmp_path))
  assert files.form == data_files.TOKENS
  assert files.paths == (f'{tmp_path}/a-00000-of-00001.tokens',)


def test_forms_do_not_mix(tmp_path):
  for name in ('a.tokens', 'b.txt'):
    (tmp_path / name).write_text('')
  with pytest.raises(errors.DataError, match='either text or TFRecords') as e:
    data_files.of(section(tmp_path))
  assert f'{tmp_path}/b.txt is text' in str(e.value)
  assert 'Set train_data.input_path' in str(e.value)
