import functools
import gzip
import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data import documents, examples, loader

NAMES = {
  'input_word_ids',
  'input_mask',
  'input_type_ids',
  'masked_lm_positions',
  'masked_lm_ids',
  'masked_lm_weights',
}


def load(numbered_text, context=None, **settings):
  return loader.load_dataset(
    numbered_text.config(**settings), numbered_text.vocabulary, context
  )


@pytest.fixture(scope='module')
def once(numbered_text):
  """Loads with given settings once for all tests: batches, as a list."""

  @functools.cache
  def batches(**settings):
    return list(load(numbered_text, **settings))

  return batches


def rows(batches):
  """Returns the rows that hold text, as hashable tuples, in order."""
  found = []
  for batch in batches:
    for ids, mask, positions, labels in zip(
      batch['input_word_ids'].numpy(),
      batch['input_mask'].numpy(),
      batch['masked_lm_positions'].numpy(),
      batch['masked_lm_ids'].numpy(),
      strict=True,
    ):
      if mask.any():
        found.append((*ids, *positions, *labels))
  return found


@pytest.mark.parametrize('is_training', [True, False])
@pytest.mark.parametrize('drop_remainder', [True, False])
def test_all_shapes_are_static(numbered_text, is_training, drop_remainder):
  spec = load(
    numbered_text, is_training=is_training, drop_remainder=drop_remainder
  ).element_spec
  assert set(spec) == NAMES
  for name, tensor in spec.items():
    size = 3 if name.startswith('masked_lm') else 16
    assert tensor.shape.as_list() == [4, size]
    wanted = tf.float32 if name == 'masked_lm_weights' else tf.int32
    assert tensor.dtype == wanted


def test_two_loads_with_one_seed_are_identical(numbered_text, once):
  first = rows(once(num_epochs=3))
  assert first == rows(load(numbered_text, num_epochs=3))
  assert first != rows(once(num_epochs=3, seed=1))


def test_epochs_of_training_have_other_masks(once):
  found = rows(once(num_epochs=3))
  assert len(set(found)) == len(found)


def test_without_a_number_of_epochs_training_goes_on(numbered_text, once):
  per_epoch = len(rows(once(num_epochs=3))) // 3
  endless = load(numbered_text, num_epochs=0, drop_remainder=True)
  assert len(rows(endless.take(per_epoch))) == 4 * per_epoch


def test_validation_is_one_epoch_and_the_same_each_time(numbered_text, once):
  dataset = load(numbered_text, is_training=False, num_epochs=0)
  first, second = rows(dataset), rows(dataset)
  assert first == second == rows(once(is_training=False))


def test_the_last_batch_is_filled_up_with_weightless_rows(numbered_text, once):
  batches = once(is_training=False, global_batch_size=7)
  text_rows = len(rows(batches))
  assert text_rows % 7
  assert len(batches) == math.ceil(text_rows / 7)
  last = batches[-1]
  empty = ~last['input_mask'].numpy().any(axis=1)
  assert empty.sum() == 7 - text_rows % 7
  assert not last['masked_lm_weights'].numpy()[empty].any()
  assert (
    last['input_word_ids'].numpy()[empty] == numbered_text.words.pad_id
  ).all()


def test_the_last_batch_can_be_left_out(once):
  kept = once(is_training=False, drop_remainder=True, global_batch_size=7)
  everything = rows(once(is_training=False))
  assert rows(kept) == everything[: len(everything) // 7 * 7]


@pytest.mark.parametrize('pipelines', [2, 3])
@pytest.mark.parametrize('is_training', [True, False])
def test_pipelines_get_disjoint_rows_and_together_all(
  numbered_text, once, pipelines, is_training
):
  settings = {
    'is_training': is_training,
    'global_batch_size': 6,
    'max_predictions_per_seq': 14,
    'mask_rate': 1.0,
    'packing': 'within_documents',
  }
  shares = [
    list(
      load(
        numbered_text,
        tf.distribute.InputContext(pipelines, index, pipelines),
        **settings,
      )
    )
    for index in range(pipelines)
  ]
  for batch in shares[0]:
    assert batch['input_word_ids'].shape[0] == 6 // pipelines
  found = [row for share in shares for row in rows(share)]
  assert len(set(found)) == len(found)
  assert sorted(found) == sorted(rows(once(**settings)))


def test_validation_gives_all_pipelines_equally_many_batches(numbered_text):
  shares = [
    list(
      load(
        numbered_text,
        tf.distribute.InputContext(3, index, 6),
        is_training=False,
        global_batch_size=12,
      )
    )
    for index in range(3)
  ]
  assert len({len(share) for share in shares}) == 1
  assert {
    batch['input_word_ids'].shape[0] for share in shares for batch in share
  } == {2}


def test_a_strategy_gets_global_batches(numbered_text, once):
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  dataset = strategy.distribute_datasets_from_function(
    lambda context: load(numbered_text, context, is_training=False)
  )
  found = []
  for batch in dataset:
    parts = {
      name: strategy.experimental_local_results(value)
      for name, value in batch.items()
    }
    assert [len(part) for part in parts['input_word_ids']] == [2, 2]
    for replica in range(2):
      found += rows([{name: part[replica] for name, part in parts.items()}])
  assert found == rows(once(is_training=False))


@pytest.fixture
def many_windows(monkeypatch):
  """Several windows of documents and of rows, and blocks, in every epoch."""
  monkeypatch.setattr(examples, '_WINDOW_BYTES', 3000)
  monkeypatch.setattr(examples, 'BLOCK_ROWS', 16)
  monkeypatch.setattr(documents, '_BATCH_DOCUMENTS', 7)


@pytest.fixture(scope='module')
def split_text(numbered_text):
  """The numbered text in five files, every other one compressed."""
  folder = numbered_text.folder / 'split'
  folder.mkdir()
  documents = (numbered_text.folder / 'text.txt').read_text().split('\n\n')
  for file in range(5):
    content = '\n\n'.join(documents[file::5]).encode()
    if file % 2:
      path, content = folder / f'{file}.txt.gz', gzip.compress(content)
    else:
      path = folder / f'{file}.txt'
    path.write_bytes(content)
  return str(folder / '*')


@pytest.mark.parametrize(
  'settings',
  [
    {},
    {'packing': 'within_documents', 'held_out_documents': 5},
    {'shuffle_buffer_size': 7, 'seed': 9},
  ],
)
def test_any_batch_is_gone_to_at_once(
  numbered_text, split_text, many_windows, settings
):
  """Batch n is a function of the seed and n, across windows and epochs."""
  settings = {'input_path': split_text, 'num_epochs': 2} | settings
  config = numbered_text.config(**settings)
  counts = loader.count_rows(config, numbered_text.vocabulary)
  everything = [
    rows([batch]) for batch in load(numbered_text, None, **settings)
  ]
  assert len(counts.rows) > 3
  assert sum(map(len, everything)) == 2 * counts.num_rows
  last = len(everything) - 1
  for first in (1, last // 3, last // 2 + 2, last, last + 1):
    batches = loader.load_dataset(
      config, numbered_text.vocabulary, first_batch=first, counts=counts
    )
    assert [rows([batch]) for batch in batches] == everything[first:]


def test_counting_is_left_out_at_the_beginning(numbered_text, monkeypatch):
  def count_rows(*arguments):
    raise AssertionError('counted')

  monkeypatch.setattr(loader, 'count_rows', count_rows)
  load(numbered_text)


@pytest.mark.parametrize('is_training', [True, False])
def test_a_global_batch_does_not_depend_on_the_number_of_pipelines(
  numbered_text, once, is_training
):
  settings = {'is_training': is_training, 'global_batch_size': 6}
  whole = once(**settings)
  for pipelines, replicas in ((1, 2), (2, 2), (3, 6)):
    shares = [
      iter(
        load(
          numbered_text,
          tf.distribute.InputContext(pipelines, index, replicas),
          **settings,
        )
      )
      for index in range(pipelines)
    ]
    for batch in whole:
      parts = [
        next(share)['input_word_ids']
        for share in shares
        for _ in range(replicas // pipelines)
      ]
      np.testing.assert_array_equal(
        tf.concat(parts, axis=0), batch['input_word_ids']
      )


def test_options_are_deterministic_without_automatic_sharding(numbered_text):
  options = load(numbered_text).options()
  assert options.deterministic
  assert options.experimental_distribute.auto_shard_policy == (
    tf.data.experimental.AutoShardPolicy.OFF
  )


def test_real_text_is_read_as_documents(real_text, tmp_path, numbered_text):
  path = tmp_path / 'vocab.txt'
  letters = 'abcdefghijklmnopqrstuvwxyz0123456789'
  path.write_text(
    '\n'.join(
      [
        '[PAD]',
        '[UNK]',
        '[CLS]',
        '[SEP]',
        '[MASK]',
        *letters,
        *(f'##{letter}' for letter in letters),
      ]
    )
  )
  vocabulary = numbered_text.vocabulary.replace(path=str(path))
  config = numbered_text.config(
    input_path=str(real_text / 'valid.txt.gz'),
    is_training=False,
    seq_length=512,
    max_predictions_per_seq=76,
    global_batch_size=64,
  )
  separators = sum(
    np.sum(batch['input_word_ids'].numpy()[:, 1:-1] == 3)
    for batch in loader.load_dataset(config, vocabulary)
  )
  # One between each two of the 74 documents, and one ends the last row.
  assert 73 <= separators <= 74
