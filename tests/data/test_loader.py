import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data import loader

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
  first = rows(once(num_epochs=2))
  assert first == rows(load(numbered_text, num_epochs=2))
  assert first != rows(once(num_epochs=2, seed=1))


def test_epochs_of_training_have_other_masks(once):
  found = rows(once(num_epochs=2))
  assert len(set(found)) == len(found)


def test_without_a_number_of_epochs_training_goes_on(numbered_text, once):
  per_epoch = len(rows(once(num_epochs=2))) // 2
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
  for pipelines, replicas in ((1, 2), (3, 6)):
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
    assert not any(list(share) for share in shares)


def test_options_are_deterministic_without_automatic_sharding(numbered_text):
  options = load(numbered_text).options()
  assert options.deterministic
  assert options.experimental_distribute.auto_shard_policy == (
    tf.data.experimental.AutoShardPolicy.OFF
  )
