import functools
import itertools

import numpy as np
import pytest

from tokendrop_tf.data.examples import example_pipeline
from tokendrop_tf.data.read import corpus as corpus_lib


def maker(numbered_text, **settings):
  config = numbered_text.config(**settings)
  return example_pipeline.ExampleMaker(
    corpus_lib.open_corpus(config), numbered_text.words, config
  )


def blocks(numbered_text, first_epoch=0, num_epochs=1, **settings):
  return list(maker(numbered_text, **settings).blocks(first_epoch, num_epochs))


@pytest.fixture(scope='module')
def once(numbered_text):
  """Makes the blocks of given settings once for all tests."""
  return functools.cache(functools.partial(blocks, numbered_text))


def rows(found):
  return [
    row[1 : np.flatnonzero(row)[-1]].tolist()  # [PAD] is 0.
    for _, _, block in found
    for row in block.numpy()
  ]


@pytest.fixture(params=['across_documents', 'within_documents'])
def packing(request):
  return request.param


def test_a_document_is_in_order_within_and_across_rows(numbered_text, once):
  """Unshuffled rows give the text back."""
  tokens = itertools.chain.from_iterable(rows(once(is_training=False)))
  sep = numbered_text.words.sep_id
  stream = [
    numbered_text.words.tokens[token] for token in tokens if token != sep
  ]
  assert stream == list(itertools.chain.from_iterable(numbered_text.documents))


def test_any_epoch_can_be_made_without_those_before(once):
  direct = once(1)
  passing = [block for block in once(num_epochs=2) if block[0] == 1]
  assert rows(direct) == rows(passing)
  assert [int(block[1]) for block in direct] == list(range(len(direct)))


def test_shuffling_mixes_documents_and_rows(numbered_text, once):
  in_order = rows(once(is_training=False))
  shuffled = rows(once(0))
  number = {token: index for index, row in enumerate(in_order) for token in row}
  places = [
    number[row[0]] for row in shuffled if row[0] != numbered_text.words.sep_id
  ]
  # Neighbours in the text are no neighbours in an epoch.
  jumps = np.abs(np.diff(places))
  assert np.median(jumps) > len(in_order) / 8


def test_only_another_seed_gives_another_order(numbered_text, once):
  assert rows(once(0)) == rows(blocks(numbered_text))
  assert rows(once(0)) != rows(once(0, seed=2))


def test_a_seed_beyond_32_bits_is_a_seed(once):
  assert rows(once(0, seed=2**40 + 1))
