import json
import os
import shutil
import zlib

import numbered_shards
import numpy as np
import pytest
from refusals import message_of

from tokendrop_tf import errors
from tokendrop_tf.data import checks, loader
from tokendrop_tf.data.shards import token_index

SIZES = (20, 7, 0)
ROW_BYTES = 2 * numbered_shards.SEQ_LENGTH


@pytest.fixture(scope='module')
def written(numbered_text, tmp_path_factory):
  """Shards in chunks of 8 rows; returns their paths."""
  folder = tmp_path_factory.mktemp('written')
  return numbered_shards.write(folder, SIZES, numbered_text.words)


@pytest.fixture
def copied(written, tmp_path):
  """A copy to damage; returns the paths of its shards."""
  folder = tmp_path / "it's ü"
  shutil.copytree(os.path.dirname(written[0]), folder)
  return [str(folder / os.path.basename(path)) for path in written]


def index_of(paths):
  return token_index.index_path(os.path.dirname(paths[0]) + '/part')


def config(numbered_text, paths, **settings):
  defaults = {
    'input_path': os.path.join(os.path.dirname(paths[0]), 'part*'),
    'seq_length': numbered_shards.SEQ_LENGTH,
    'max_predictions_per_seq': 2,
  }
  return numbered_text.config(**(defaults | settings))


def refusal(numbered_text, paths, **settings):
  return message_of(
    checks.check_dataset,
    config(numbered_text, paths, **settings),
    numbered_text.vocabulary,
  )


def test_whole_shards_pass(numbered_text, written):
  checks.check_dataset(config(numbered_text, written), numbered_text.vocabulary)


def test_numpy_alone_reads_a_shard(written):
  rows = np.fromfile(written[1], '<u2').reshape(-1, numbered_shards.SEQ_LENGTH)
  assert rows[:, 0].tolist() == [5 + row for row in range(20, 27)]


def test_the_index_says_which_rows_lie_where(written):
  index = token_index.TokenIndex.load(index_of(written))
  assert [shard.rows for shard in index.shards] == list(SIZES)
  with open(written[0], 'rb') as file:
    data = file.read()
  chunks = [data[i : i + 8 * ROW_BYTES] for i in range(0, 320, 8 * ROW_BYTES)]
  assert index.shards[0].crc32 == tuple(map(zlib.crc32, chunks))
  rows = token_index.TokenRows(written)
  assert rows.chunk_sizes.tolist() == [8, 8, 4, 7]
  found = [rows.read(chunk) for chunk in range(4)]
  assert np.concatenate(found)[:, 0].tolist() == list(range(5, 32))


def test_ids_of_large_vocabularies_have_four_bytes():
  assert token_index.row_dtype(1 << 16) == np.uint16
  assert token_index.row_dtype((1 << 16) + 1) == np.int32


def test_a_part_of_the_shards_is_read_alone(numbered_text, copied):
  rows = token_index.TokenRows(copied[1:2])
  assert rows.num_rows == SIZES[1]


def test_a_missing_shard_is_named(numbered_text, copied):
  os.remove(copied[1])
  message = refusal(numbered_text, copied)
  folder = os.path.dirname(copied[0])
  assert f'All 3 shards of {folder}/part must be there.' in message
  assert f'Received: {copied[1]} is missing.' in message


def test_a_shard_of_another_size_is_named(numbered_text, copied):
  with open(copied[0], 'ab') as file:
    file.write(b'more')
  message = refusal(numbered_text, copied)
  assert f'{copied[0]}, 324 bytes long instead of 320' in message


@pytest.mark.parametrize('is_training', [True, False])
@pytest.mark.parametrize('offset', [0, 200, 319])
def test_any_flipped_byte_is_named_while_it_is_read(
  numbered_text, copied, offset, is_training
):
  numbered_shards.flip_byte(copied[0], offset)
  section = config(numbered_text, copied, is_training=is_training)
  with pytest.raises(errors.DataError) as caught, errors.as_kept():
    list(loader.load_dataset(section, numbered_text.vocabulary))
  first = offset // ROW_BYTES // 8 * 8
  assert str(caught.value) == (
    f'A shard must be what its index says. Received: {copied[0]}, with another '
    f'checksum in rows {first} to {min(first + 7, 19)}. Restore it, or write '
    'the shards again.'
  )


def test_shards_without_an_index_are_refused(numbered_text, copied):
  os.remove(index_of(copied))
  message = refusal(numbered_text, copied)
  assert 'Token shards must lie next to their index' in message
  assert copied[0] in message


@pytest.mark.parametrize('content', ['', '[]', '{"format": 7}'])
def test_another_file_is_not_an_index(numbered_text, copied, content):
  with open(index_of(copied), 'w') as file:
    file.write(content)
  message = refusal(numbered_text, copied)
  assert 'must be what tools/create_pretraining_data.py wrote' in message


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'seq_length': 16}, 'Set train_data.seq_length = 8'),
    ({'packing': 'best_fit'}, "Set train_data.packing = 'across_documents'"),
    (
      {'use_next_sentence_label': True},
      'use_next_sentence_label needs TFRecords',
    ),
    ({'global_batch_size': 28}, '27 examples of 8 tokens'),
  ],
)
def test_settings_must_agree_with_the_index(
  numbered_text, written, settings, message
):
  assert message in refusal(numbered_text, written, **settings)


def test_masks_are_free(numbered_text, written):
  """Unlike TFRecords, token shards take every setting of masks."""
  section = config(
    numbered_text,
    written,
    masking='span',
    mask_rate=0.3,
    mask_rate_schedule=('0:0.3', '0.5:0.2'),
    mask_schedule_steps=4,
  )
  checks.check_dataset(section, numbered_text.vocabulary)
  assert len(list(loader.load_dataset(section, numbered_text.vocabulary))) == 7


def test_another_vocabulary_is_refused(numbered_text, written, tmp_path):
  tokens = list(numbered_text.words.tokens)
  tokens[7], tokens[8] = tokens[8], tokens[7]
  path = tmp_path / 'vocab.txt'
  path.write_text('\n'.join(tokens))
  vocabulary = numbered_text.vocabulary.replace(path=str(path))
  with pytest.raises(errors.DataError, match='whose sha256 is') as caught:
    checks.check_dataset(config(numbered_text, written), vocabulary)
  assert 'Set vocabulary.path' in str(caught.value)
  vocabulary = numbered_text.vocabulary.replace(lower_case=False)
  with pytest.raises(errors.DataError, match='whose lower_case is False'):
    checks.check_dataset(config(numbered_text, written), vocabulary)


def test_the_index_tells_a_person_what_the_rows_are(written):
  with open(index_of(written)) as file:
    tree = json.load(file)
  assert (tree['rows'], tree['width'], tree['dtype']) == (27, 8, '<u2')
