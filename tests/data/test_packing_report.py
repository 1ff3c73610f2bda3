import random

import numpy as np
import pytest

from tokendrop_tf.config import configs
from tokendrop_tf.data import packing_report
from tokendrop_tf.data.examples import example_pipeline
from tokendrop_tf.data.read import corpus as corpus_lib


def made(numbered_text, name):
  """Counts what the pipeline itself makes of a text."""
  config = numbered_text.config(packing=name, is_training=False)
  maker = example_pipeline.ExampleMaker(
    corpus_lib.open_corpus(config), numbered_text.words, config
  )
  sequences = filled = pieces = used = 0
  for features in maker.masked_blocks(0, 1).as_numpy_iterator():
    ids, mask = features['input_word_ids'].copy(), features['input_mask'] > 0
    filled += mask.sum()
    sequences += len(ids)
    np.put_along_axis(
      ids,
      features['masked_lm_positions'],
      np.where(
        features['masked_lm_weights'] > 0,
        features['masked_lm_ids'],
        np.take_along_axis(ids, features['masked_lm_positions'], 1),
      ),
      axis=1,
    )
    used += (~np.isin(ids, numbered_text.words.special_ids)).sum()
    # Every piece is followed by a [SEP]; where one ends with its row, once.
    ends = (ids == numbered_text.words.sep_id) & mask
    before = np.roll(ids, 1, axis=1)
    pieces += (ends & (before != numbered_text.words.sep_id)).sum()
  return sequences, filled, used, pieces


@pytest.mark.parametrize('name', configs.PACKINGS)
def test_a_report_is_what_the_pipeline_makes(numbered_text, name):
  lengths = np.array([len(words) for words in numbered_text.documents])
  report = packing_report.report_lengths(name, lengths, 16, 10_000)
  sequences, filled, used, pieces = made(numbered_text, name)
  assert report.sequences == sequences
  assert report.filled == filled
  assert report.truncated_tokens == lengths.sum() - used
  # A document may end where its row does, and leave its [SEP] to the next.
  slack = 0.05 * pieces if name == 'across_documents' else 0
  assert abs(report.pieces - pieces) <= slack


def test_only_one_document_truncates_and_best_fit_is_full():
  draw = random.Random(0)
  lengths = np.array([draw.randint(0, 300) for _ in range(500)])
  across, within, one, best = (
    packing_report.report_lengths(name, lengths, 64)
    for name in configs.PACKINGS
  )
  lost = np.maximum(lengths - 62, 0).sum()
  assert one.truncated_tokens == lost > 0
  assert across.truncated_tokens == within.truncated_tokens == 0
  assert best.truncated_tokens == 0
  assert within.documents_per_sequence == one.documents_per_sequence == 1
  assert best.documents_per_sequence > 1
  assert within.fill_rate < best.fill_rate <= 1
  assert across.fill_rate > 0.999
  assert best.fill_rate > 0.99


def test_a_corpus_is_reported_for_every_packing(numbered_text):
  reports = packing_report.report_packings(
    numbered_text.config(), numbered_text.vocabulary
  )
  assert [report.packing for report in reports] == list(configs.PACKINGS)
  assert {report.tokens for report in reports} == {3000}
  text = packing_report.format_reports(reports, chosen='best_fit')
  assert 'best_fit*' in text
  for report in reports:
    assert f'{report.sequences:,}' in text


def test_no_documents_make_no_sequences():
  for name in configs.PACKINGS:
    report = packing_report.report_lengths(name, np.zeros(3, int), 16)
    assert report.sequences == report.tokens == 0
    assert report.fill_rate == 0
