"""Each pipeline reads its own part of token shards, in an order of any step."""

import functools
import os

import numbered_shards
import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data import loader
from tokendrop_tf.data.shards import token_index, token_reader

SIZES = (23, 0, 31, 8, 5)
NUM_ROWS = sum(SIZES)


@pytest.fixture(scope='module')
def shards(numbered_text, tmp_path_factory):
  """67 numbered rows in five shards, in chunks of 8."""
  folder = tmp_path_factory.mktemp('shards')
  return numbered_shards.write(folder, SIZES, numbered_text.words)


def section(paths, **settings):
  defaults = {
    'input_path': os.path.join(os.path.dirname(paths[0]), 'part-*'),
    'is_training': True,
    'global_batch_size': 6,
    'seq_length': numbered_shards.SEQ_LENGTH,
    'max_predictions_per_seq': 2,
    'num_epochs': 3,
    'drop_remainder': False,
    'seed': 5,
  }
  return configs.PretrainingDataConfig(**(defaults | settings))


@pytest.fixture(scope='module')
def load(numbered_text):
  """Returns the batches of a pipeline as NumPy arrays."""

  def batches(config, pipelines=1, pipeline=0, replicas=None, first_batch=0):
    context = tf.distribute.InputContext(
      pipelines, pipeline, replicas or pipelines
    )
    return list(
      loader.load_dataset(
        config, numbered_text.vocabulary, context, first_batch
      ).as_numpy_iterator()
    )

  return batches


@pytest.fixture(scope='module')
def once(shards, load):
  """Returns all global batches of the shards, loaded once for all tests."""

  @functools.cache
  def batches(**settings):
    return load(section(shards, **settings))

  return batches


def together(load, config, pipelines, **arguments):
  """Returns the global batches of several pipelines."""
  shares = [
    load(config, pipelines, pipeline, **arguments)
    for pipeline in range(pipelines)
  ]
  return [
    {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for parts in zip(*shares, strict=True)
  ]


def assert_same(found, expected):
  """Rows, masks and labels are the same, bit for bit."""
  assert len(found) == len(expected)
  for batch, wanted in zip(found, expected, strict=True):
    assert batch.keys() == wanted.keys()
    for name, value in wanted.items():
      np.testing.assert_array_equal(batch[name], value, err_msg=name)


def rows_of(batches):
  return [
    row
    for batch in batches
    for row in numbered_shards.numbers(batch)
    if row >= 0
  ]


@pytest.mark.parametrize(
  ('batch_size', 'num_groups', 'pipelines'),
  [
    (6, 6, (2, 3)),  # A group for each slot.
    (40, 20, (4,)),  # The corpus hardly fills a batch.
    (100, 25, (2,)),  # Epochs end in a batch; two pipelines share a group.
    (74, 2, (2,)),  # Few divisors.
  ],
)
def test_global_batches_do_not_depend_on_the_number_of_pipelines(
  numbered_text, shards, load, once, batch_size, num_groups, pipelines
):
  settings = {'global_batch_size': batch_size}
  config = section(shards, **settings)
  reader = token_reader.TokenReader(
    token_index.TokenRows(shards), config, numbered_text.words
  )
  assert reader.num_groups == num_groups
  whole = once(**settings)
  assert {len(batch['input_mask']) for batch in whole} == {batch_size}
  assert len(whole) == -(-3 * NUM_ROWS // batch_size)
  for number in pipelines:
    assert_same(together(load, config, number), whole)
  # Every row once an epoch, and epoch after epoch, without a gap.
  rows = sum(map(numbered_shards.numbers, whole), [])
  assert rows[3 * NUM_ROWS :] == [-1] * (len(rows) - 3 * NUM_ROWS)
  for epoch in range(3):
    found = rows[epoch * NUM_ROWS : (epoch + 1) * NUM_ROWS]
    assert sorted(found) == list(range(NUM_ROWS))


@pytest.mark.parametrize(
  ('batch_size', 'firsts'),
  [
    (6, (11, 12, 33)),  # Next to the ends of the epochs.
    (100, (1, 2)),  # An epoch ends in every batch.
  ],
)
def test_reading_begins_at_any_batch_with_the_same_masks(
  shards, load, monkeypatch, batch_size, firsts
):
  monkeypatch.setattr(token_reader.example_pipeline, 'BLOCK_ROWS', 4)
  config = section(
    shards,
    global_batch_size=batch_size,
    mask_rate_schedule=('0:0.5', '0.4:0.15'),
    mask_schedule_steps=30,
    max_predictions_per_seq=6,
  )
  whole = load(config)
  assert len(whole) > firsts[-1]
  for first in firsts:
    assert_same(load(config, first_batch=first), whole[first:])
  # With another number of pipelines.
  assert_same(together(load, config, 2, first_batch=first), whole[first:])


def test_the_last_batch_can_be_left_out(once):
  assert_same(once(drop_remainder=True), once()[: 3 * NUM_ROWS // 6])


def test_pipelines_give_batches_for_a_replica(shards, load, once):
  config = section(shards, drop_remainder=True)
  share = load(config, pipelines=2, pipeline=1, replicas=6)
  halves = [rows_of([batch])[3:] for batch in once(drop_remainder=True)]
  assert [rows_of([batch]) for batch in share] == [
    [row] for half in halves for row in half
  ]


def test_training_without_end_has_static_shapes(shards, numbered_text, once):
  config = section(shards, num_epochs=0, drop_remainder=True)
  batches = loader.load_dataset(config, numbered_text.vocabulary)
  assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
  for name, spec in batches.element_spec.items():
    assert spec.shape == [6, 2 if 'masked' in name else 8]
  found = batches.take(3 * NUM_ROWS // 6).as_numpy_iterator()
  assert_same(list(found), once(drop_remainder=True))


def test_every_epoch_and_seed_has_its_own_order_and_masks(shards, load, once):
  rows = rows_of(once())
  epochs = np.reshape(rows, [3, NUM_ROWS]).tolist()
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
  assert rows != rows_of(load(section(shards, seed=6)))
  # 8 ordinary tokens have one or two labels: masks of an epoch repeat none.
  places = {row: set() for row in range(NUM_ROWS)}
  for batch in once():
    for row, place in zip(
      numbered_shards.numbers(batch), batch['masked_lm_positions'].tolist()
    ):
      places.setdefault(row, set()).add(tuple(place))
  assert np.mean([len(found) for found in places.values()]) > 2


def test_a_group_reads_chunk_after_chunk_each_in_random_order(
  numbered_text, tmp_path, load
):
  """A batch has rows from all parts of the epoch, at random of a chunk."""
  paths = numbered_shards.write(tmp_path, [16 * 40], numbered_text.words, 10)
  config = section(paths, global_batch_size=16, num_epochs=1)
  by_group = np.array(
    [numbered_shards.numbers(batch) for batch in load(config)]
  ).T  # [group, batch]
  chunks = by_group.reshape([16, 4, 10]) // 10
  assert (chunks == chunks[..., :1]).all()
  assert len({int(chunk) for chunk in chunks[..., 0].ravel()}) == 64
  orders = {tuple(rows % 10) for rows in by_group.reshape([64, 10])}
  assert len(orders) > 60


def test_parts_are_what_counting_gives(numbered_text, tmp_path):
  """The closed form, against row after row dealt to its slot."""
  for size, num_rows in ((1, 3), (6, 4), (6, 29), (64, 100), (96, 7)):
    folder = tmp_path / f'{size}-{num_rows}'
    folder.mkdir()
    paths = numbered_shards.write(folder, [num_rows], numbered_text.words)
    reader = token_reader.TokenReader(
      token_index.TokenRows(paths),
      configs.PretrainingDataConfig(global_batch_size=size),
      numbered_text.words,
    )
    for epoch in range(5):
      rows = np.arange(epoch * num_rows, (epoch + 1) * num_rows)
      counts = np.bincount(
        rows % size // reader.group_slots, minlength=reader.num_groups
      )
      ends = np.cumsum(counts)
      for group in range(reader.num_groups):
        assert reader.part(group, epoch) == (
          ends[group] - counts[group],
          ends[group],
        )


def flip_chunks(paths, chunks):
  """Changes chunks of 5 rows in shards of 30, or puts them right again."""
  for chunk in chunks:
    shard, place = divmod(chunk, 6)
    numbered_shards.flip_byte(paths[shard], place * 5 * 16)


def test_a_pipeline_reads_its_own_part_alone(
  numbered_text, tmp_path, load, monkeypatch
):
  """The chunks of the others, and of steps that are done, may be damaged."""
  monkeypatch.setattr(token_reader.example_pipeline, 'BLOCK_ROWS', 4)
  paths = numbered_shards.write(tmp_path, [30] * 8, numbered_text.words, 5)
  config = section(paths, num_epochs=1, global_batch_size=8)
  shares = [load(config, 2, pipeline) for pipeline in range(2)]
  assert set(rows_of(shares[0])).isdisjoint(rows_of(shares[1]))
  for first in (0, 24):
    needed = set(rows_of(shares[0][first:]))
    needless = [
      chunk
      for chunk in range(48)
      if needed.isdisjoint(range(5 * chunk, 5 * chunk + 5))
    ]
    assert len(needless) > 20
    flip_chunks(paths, needless)
    assert_same(load(config, 2, 0, first_batch=first), shares[0][first:])
    if not first:
      flip_chunks(paths, needless)
  with pytest.raises(errors.DataError, match='another checksum in rows'):
    with errors.as_kept():
      load(config, 2, 0)


def test_validation_keeps_the_order_of_the_shards(shards, load):
  config = section(shards, is_training=False, num_epochs=0)
  whole = load(config)
  assert rows_of(whole) == list(range(NUM_ROWS))
  assert_same(together(load, config, 2), whole)
