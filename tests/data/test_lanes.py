"""Each pipeline reads its own part of indexed shards."""

import functools
import os

import numbered_shards
import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf import configs, errors
from tokendrop_tf.data import lanes, loader, service, shard_blocks, shard_index

SIZES = (23, 0, 31, 8, 5)
NUM_ROWS = sum(SIZES)


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
  """67 numbered examples in five shards, in blocks of 8."""
  return numbered_shards.write(tmp_path_factory.mktemp('shards'), SIZES)


def section(paths, **settings):
  defaults = {
    'input_path': os.path.join(os.path.dirname(paths[0]), 'part-*'),
    'is_training': True,
    'global_batch_size': 6,
    'seq_length': numbered_shards.SEQ_LENGTH,
    'max_predictions_per_seq': numbered_shards.NUM_LABELS,
    'shuffle_buffer_size': 24,
    'num_epochs': 3,
    'drop_remainder': False,
    'seed': 5,
  }
  return configs.PretrainingDataConfig(**(defaults | settings))


@pytest.fixture(scope='module')
def load(numbered_text):
  """Returns the numbers of each batch of a pipeline, -1 for an empty row."""

  def numbers(config, pipelines=1, pipeline=0, replicas=None, first_batch=0):
    context = tf.distribute.InputContext(
      pipelines, pipeline, replicas or pipelines
    )
    batches = loader.load_dataset(
      config, numbered_text.vocabulary, context, first_batch
    )
    return [
      np.where(
        batch['input_mask'][:, 0] > 0, batch['masked_lm_ids'][:, 0], -1
      ).tolist()
      for batch in batches
    ]

  return numbers


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
  return [sum(parts, []) for parts in zip(*shares, strict=True)]


def rows_of(batches):
  return [row for batch in batches for row in batch if row >= 0]


@pytest.mark.parametrize(
  ('batch_size', 'num_lanes', 'pipelines'),
  [
    (6, 6, (3,)),  # A lane for each slot.
    (40, 20, (4,)),  # The corpus hardly fills a batch.
    (100, 25, (2,)),  # Epochs end in a batch; two pipelines share a lane.
    (74, 2, (2,)),  # Few divisors.
  ],
)
def test_global_batches_do_not_depend_on_the_number_of_pipelines(
  shards, load, once, batch_size, num_lanes, pipelines
):
  settings = {'global_batch_size': batch_size}
  config = section(shards, **settings)
  blocks = shard_blocks.BlockReader(shard_index.entries(shards))
  assert lanes.LaneReader(blocks, config).num_lanes == num_lanes
  whole = once(**settings)
  assert {len(batch) for batch in whole} == {batch_size}
  assert len(whole) == -(-3 * NUM_ROWS // batch_size)
  for number in pipelines:
    assert together(load, config, number) == whole
  # Every record once an epoch, and epoch behind epoch, without a gap.
  rows = sum(whole, [])
  assert rows[3 * NUM_ROWS :] == [-1] * (len(rows) - 3 * NUM_ROWS)
  for epoch in range(3):
    found = rows[epoch * NUM_ROWS : (epoch + 1) * NUM_ROWS]
    assert sorted(found) == list(range(NUM_ROWS))


@pytest.mark.parametrize(
  ('batch_size', 'firsts'),
  [
    (6, (11, 12, 33)),  # Beside the ends of the epochs.
    (100, (1, 2)),  # An epoch ends in every batch.
  ],
)
def test_any_batch_is_gone_to_at_once(shards, load, batch_size, firsts):
  config = section(shards, global_batch_size=batch_size, shuffle_buffer_size=18)
  whole = load(config)
  assert len(whole) > firsts[-1]
  for first in firsts:
    assert load(config, first_batch=first) == whole[first:]
  # With another number of pipelines.
  assert together(load, config, 2, first_batch=first) == whole[first:]


def test_the_last_batch_can_be_left_out(once):
  assert once(drop_remainder=True) == once()[: 3 * NUM_ROWS // 6]


def test_pipelines_give_batches_for_a_replica(shards, load, once):
  config = section(shards, drop_remainder=True)
  share = load(config, pipelines=2, pipeline=1, replicas=6)
  halves = [batch[3:] for batch in once(drop_remainder=True)]
  assert share == [[row] for half in halves for row in half]


def test_training_without_end_has_static_shapes(shards, numbered_text, once):
  config = section(shards, num_epochs=0, drop_remainder=True)
  batches = loader.load_dataset(config, numbered_text.vocabulary)
  assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
  assert batches.element_spec['input_word_ids'].shape == [6, 8]
  rows = [
    row
    for batch in batches.take(3 * NUM_ROWS // 6)
    for row in batch['masked_lm_ids'][:, 0].numpy().tolist()
  ]
  assert rows == rows_of(once(drop_remainder=True))


def test_the_order_is_another_one_in_each_epoch_and_for_each_seed(
  shards, load, once
):
  rows = rows_of(once())
  assert rows == rows_of(load(section(shards)))
  epochs = np.reshape(rows, [3, NUM_ROWS]).tolist()
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
  assert rows != rows_of(load(section(shards, seed=6)))


def test_a_lane_shuffles_within_windows(tmp_path, load):
  """A batch has records from all parts of the epoch, at random of a window."""
  paths = numbered_shards.write(tmp_path, [16 * 40], block_examples=50)
  config = section(
    paths,
    global_batch_size=16,
    shuffle_buffer_size=16 * 10,
    num_epochs=1,
    drop_remainder=True,
  )
  by_lane = np.array(load(config)).T  # [lane, batch]
  for lane, rows in enumerate(by_lane):
    windows = np.sort(rows.reshape([4, 10]), axis=1)
    np.testing.assert_array_equal(
      windows.reshape(-1), np.arange(40 * lane, 40 * (lane + 1))
    )
  orders = {tuple(rows % 40) for rows in by_lane}
  assert len(orders) == 16


def test_parts_are_what_counting_gives():
  """The closed form, against row after row dealt to its slot."""
  for size, num_rows in ((1, 3), (6, 4), (6, 29), (64, 100), (96, 7)):
    blocks = shard_blocks.BlockReader(
      {'a': shard_index.ShardEntry('a', num_rows, 0, 1, 0, ((num_rows, 1, 0),))}
    )
    config = configs.PretrainingDataConfig(global_batch_size=size)
    reader = lanes.LaneReader(blocks, config)
    for epoch in range(5):
      rows = np.arange(epoch * num_rows, (epoch + 1) * num_rows)
      counts = np.bincount(
        rows % size // reader.lane_slots, minlength=reader.num_lanes
      )
      ends = np.cumsum(counts)
      for lane in range(reader.num_lanes):
        begin, end = reader._part(lane, epoch)
        assert (int(begin), int(end)) == (
          ends[lane] - counts[lane],
          ends[lane],
        )


def flip_a_byte(path, offset):
  with open(path, 'r+b') as file:
    file.seek(offset)
    byte = file.read(1)
    file.seek(offset)
    file.write(bytes([byte[0] ^ 1]))


def test_a_pipeline_reads_its_own_part_alone(tmp_path, load):
  """What the others read may be absent or damaged."""
  paths = numbered_shards.write(tmp_path, [30] * 8, block_examples=5)
  config = section(paths, num_epochs=1, global_batch_size=8)
  load_share = [load(config, 2, pipeline) for pipeline in range(2)]
  rows = [set(rows_of(share)) for share in load_share]
  assert rows[0].isdisjoint(rows[1])
  # Half of the shards hold nothing for a pipeline: these are not opened.
  entries = shard_index.entries(paths)
  needless = [
    path
    for shard, path in enumerate(paths)
    if rows[0].isdisjoint(range(30 * shard, 30 * (shard + 1)))
  ]
  assert len(needless) == 4
  for path in needless:
    open(path, 'wb').close()
  assert load(config, 2, 0) == load_share[0]
  # Nor are the blocks before the first one that a resumed run needs.
  rest = load_share[0][-4:]
  first = len(load_share[0]) - 4
  read = set(rows_of(rest))
  damaged = 0
  for shard, path in enumerate(paths):
    offset = 0
    for block, (examples, size, _) in enumerate(entries[path].blocks):
      begin = 30 * shard + 5 * block
      # A window, of 6 rows here, is read as a whole.
      if read.isdisjoint(range(begin - 6, begin + examples + 6)):
        if path not in needless:
          flip_a_byte(path, offset + size // 2)
          damaged += 1
      offset += size
  assert damaged > 4
  assert load(config, 2, 0, first_batch=first) == rest
  with pytest.raises(errors.DataError, match='with another checksum in the'):
    with errors.as_kept():
      load(config, 2, 0)


def test_reading_needs_no_python(shards, numbered_text):
  """So it works on the hosts of a TPU slice and in a tf.data service."""
  for is_training in (True, False):
    batches = loader.load_dataset(
      section(shards, is_training=is_training), numbered_text.vocabulary
    )
    assert not service._local_operations(batches)


def test_a_data_service_reads_indexed_shards(shards, load):
  """In passes of its own: every record once in each."""
  dispatcher = service.start(service.parse_flags(['--host=localhost']))
  address = service.address_of(dispatcher)
  worker = service.start(
    service.parse_flags([f'--dispatcher={address}', '--host=localhost'])
  )
  try:
    config = section(
      shards,
      tf_data_service_address=address,
      num_epochs=6,
      drop_remainder=True,
    )
    rows = rows_of(load(config))
    assert sorted(rows) == sorted(6 * list(range(NUM_ROWS)))
  finally:
    worker._stop()
    dispatcher._stop()


def test_validation_keeps_the_order_of_the_shards(shards, load):
  config = section(shards, is_training=False, num_epochs=0)
  assert rows_of(together(load, config, 2)) == list(range(NUM_ROWS))


def test_files_without_an_index_are_read_as_one_stream(tmp_path, load):
  """Every pipeline reads all of them and keeps its rows."""
  paths = numbered_shards.write(tmp_path, SIZES)
  tf.io.gfile.remove(shard_index.index_path(str(tmp_path / 'part')))
  config = section(paths)
  whole = load(config)
  assert together(load, config, 2) == whole
  assert sorted(rows_of(whole)) == sorted(3 * list(range(NUM_ROWS)))
