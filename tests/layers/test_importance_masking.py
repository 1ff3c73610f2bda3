import math

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.layers import ImportanceMasking

# [PAD] is not 0 here: nothing may rely on that.
SPECIAL, PAD, MASK, ORDINARY = (7, 8, 9), 9, 8, range(7)
VOCAB_SIZE, SEQ_LENGTH, SLOTS = 10, 8, 3


def make(temperature=1.0, **shares):
  return ImportanceMasking(
    SPECIAL, ORDINARY, MASK, temperature=temperature, **shares
  )


def rows(count, num_labels=1, tokens=(7, 0, 1, 2, 3, 4, 7, 9)):
  """The same row again and again, with its first labels already masked."""
  word_ids = np.tile(np.int32(tokens), [count, 1])
  positions = np.zeros([count, SLOTS], np.int32)
  positions[:, :num_labels] = np.arange(1, num_labels + 1)
  weights = np.float32(np.arange(SLOTS) < num_labels)
  labels = np.take_along_axis(word_ids, positions, 1) * np.int32(weights)
  masked = word_ids.copy()
  masked[:, 1 : num_labels + 1] = MASK
  features = dict(
    input_word_ids=masked,
    input_mask=np.int32(word_ids != PAD),
    input_type_ids=np.zeros_like(word_ids),
    masked_lm_positions=positions,
    masked_lm_ids=labels,
    masked_lm_weights=np.tile(weights, [count, 1]),
  )
  return {k: tf.constant(v) for k, v in features.items()}, word_ids


def table(*importances):
  values = np.ones(VOCAB_SIZE, np.float32)
  values[: len(importances)] = importances
  return tf.constant(values)


def shares_of_labels(features):
  filled = features['masked_lm_weights'].numpy() > 0
  labels = features['masked_lm_ids'].numpy()[filled]
  return np.bincount(labels, minlength=VOCAB_SIZE) / labels.size


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_one_label_is_drawn_with_weights_importance_to_one_over_t(temperature):
  importances = np.array([4.0, 1.0, 0.25, 2.0, 0.5])
  features, _ = rows(40_000)
  chosen = make(temperature)(features, table(*importances), tf.constant([1, 2]))
  weights = importances ** (1 / temperature)
  expected = weights / weights.sum()
  error = np.sqrt(expected * (1 - expected) / 40_000)
  found = shares_of_labels(chosen)
  assert (abs(found[:5] - expected) <= 4 * error).all()
  assert not found[5:].any()


def test_what_was_masked_before_is_restored_and_can_be_chosen_again():
  features, original = rows(2000, num_labels=2)
  chosen = make()(features, table(), tf.constant([3, 4]))
  positions = chosen['masked_lm_positions'].numpy()
  filled = chosen['masked_lm_weights'].numpy() > 0
  np.testing.assert_array_equal(filled.sum(axis=1), 2)
  labels = np.take_along_axis(original, positions, 1)
  np.testing.assert_array_equal(
    chosen['masked_lm_ids'].numpy(), np.where(filled, labels, 0)
  )
  is_label = np.zeros(original.shape, bool)
  np.put_along_axis(is_label, np.where(filled, positions, 0), True, 1)
  is_label[:, 0] = False
  np.testing.assert_array_equal(
    chosen['input_word_ids'].numpy()[~is_label], original[~is_label]
  )
  assert (np.diff(positions[:, :2], axis=1) > 0).all()
  assert set(positions[filled]) == {1, 2, 3, 4, 5}


def test_special_tokens_and_padding_are_never_labels():
  features, _ = rows(500, num_labels=3, tokens=(7, 0, 1, 7, 8, 2, 7, 9))
  # The rows say that a special token was a label: even so.
  chosen = make()(features, table(*[1e-9] * 7), tf.constant([5, 6]))
  found = shares_of_labels(chosen)
  assert not found[list(SPECIAL)].any()
  assert chosen['masked_lm_weights'].numpy().sum(axis=1).max() == 3


def test_an_importance_of_zero_or_infinity_breaks_nothing():
  features, _ = rows(100)
  chosen = make()(features, table(0.0, 1.0, 1.0, 1.0, 1.0), tf.constant([7, 8]))
  assert shares_of_labels(chosen)[0] == 0
  np.testing.assert_array_equal(
    chosen['masked_lm_weights'].numpy().sum(axis=1), 1
  )


def test_labels_become_mask_random_or_stay_by_their_shares():
  features, _ = rows(30_000)
  chosen = make(mask_token_share=0.5, random_token_share=0.3)(
    features, table(), tf.constant([1, 1])
  )
  slot = chosen['masked_lm_positions'].numpy()[:, :1]
  shown = np.take_along_axis(chosen['input_word_ids'].numpy(), slot, 1)[:, 0]
  labels = chosen['masked_lm_ids'].numpy()[:, 0]
  same = 0.2 + 0.3 / len(ORDINARY)
  for found, share in (
    ((shown == MASK).mean(), 0.5),
    ((shown == labels).mean(), same),
  ):
    assert abs(found - share) <= 4 * math.sqrt(share * (1 - share) / 30_000)


def test_replicas_choose_what_one_device_chooses(four_replicas):
  features, _ = rows(8, num_labels=2)
  seed = tf.constant([9, 9])
  alone = make()(features, table(), seed)

  def values(context):
    share = slice(
      2 * context.replica_id_in_sync_group,
      2 * context.replica_id_in_sync_group + 2,
    )
    return {name: value[share] for name, value in features.items()}

  parts = four_replicas.experimental_distribute_values_from_function(values)
  run = tf.function(lambda part: make()(part, table(), seed))
  results = four_replicas.run(run, args=(parts,))
  for name, expected in alone.items():
    together = tf.concat(
      four_replicas.experimental_local_results(results[name]), axis=0
    )
    np.testing.assert_array_equal(together, expected, err_msg=name)


def test_it_compiles_with_xla():
  features, original = rows(16, num_labels=2)
  run = tf.function(
    lambda seed: make()(features, table(3.0, 1.0), seed), jit_compile=True
  )
  chosen = run(tf.constant([2, 3]))
  positions = chosen['masked_lm_positions'].numpy()[:, :2]
  np.testing.assert_array_equal(
    chosen['masked_lm_ids'].numpy()[:, :2],
    np.take_along_axis(original, positions, 1),
  )
  np.testing.assert_array_equal(
    chosen['masked_lm_weights'].numpy().sum(axis=1), 2
  )
