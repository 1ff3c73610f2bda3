import math

import numpy as np
import pytest

from tokendrop_tf.data import baselines


def test_entropy_of_equally_frequent_labels_is_the_log_of_their_number(
  tmp_path, numbered_text
):
  """At rate 1 every word is a label once: H = log(number of words)."""
  found = baselines.read_baselines(
    numbered_text.config(
      is_training=False, mask_rate=1.0, max_predictions_per_seq=14
    ),
    numbered_text.vocabulary,
  )
  assert found.unigram_entropy == pytest.approx(
    math.log(len(numbered_text.words.ordinary_ids))
  )


def test_entropy_of_a_known_distribution(tmp_path, numbered_text):
  """Three words in four are n0: H = log 4 - 3/4 log 3."""
  path = tmp_path / 'text.txt'
  path.write_text('n0 n0 n0 n1 ' * 100)
  found = baselines.read_baselines(
    numbered_text.config(
      input_path=str(path),
      is_training=False,
      mask_rate=1.0,
      max_predictions_per_seq=14,
    ),
    numbered_text.vocabulary,
  )
  assert found.unigram_entropy == pytest.approx(
    math.log(4) - 0.75 * math.log(3)
  )


def test_entropy_reads_no_further_than_it_needs(numbered_text, monkeypatch):
  monkeypatch.setattr(baselines, 'MAX_LABELS', 40)
  found = baselines.read_baselines(
    numbered_text.config(is_training=False), numbered_text.vocabulary
  )
  # All different; the batch that reaches 40 has 12 slots at most.
  assert math.log(40) <= found.unigram_entropy <= math.log(52)


def test_context_free_loss_is_that_of_the_best_predictor_by_enumeration():
  shares = np.array([0.0, 0.5, 0.25, 0.15, 0.1, 0.0])  # Id 0 is special.
  num_ordinary = 5
  # Joint probabilities of the label y and what its position shows: a token x,
  # or [MASK] in the last column.
  joint = np.zeros([6, 7])
  joint[:, 1:6] = 0.1 * shares[:, None] / num_ordinary
  joint[np.arange(6), np.arange(6)] += 0.1 * shares
  joint[:, 6] = 0.8 * shares
  seen = joint.sum(axis=0)
  assert joint.sum() == pytest.approx(1.0)
  places = joint > 0
  conditional = (joint / np.where(seen > 0, seen, 1.0))[places]
  expected = -np.sum(joint[places] * np.log(conditional))
  assert baselines.context_free_loss(shares, num_ordinary) == pytest.approx(
    expected
  )
