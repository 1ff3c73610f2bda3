import collections
import functools
import itertools

import numpy as np
import pytest

from tokendrop_tf.data import corpus as corpus_lib
from tokendrop_tf.data import examples


def maker(numbered_text, **settings):
  config = numbered_text.config(**settings)
  return examples.ExampleMaker(
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
    row[:length].numpy().tolist()
    for _, _, tokens, lengths in found
    for row, length in zip(tokens, lengths, strict=True)
  ]


@pytest.fixture(params=['across_documents', 'within_documents'])
def packing(request):
  return request.param


@pytest.mark.parametrize('is_training', [True, False])
def test_every_token_is_used_once_in_every_epoch(
  numbered_text, once, packing, is_training
):
  """Every word of the text is another one, so counts tell all."""
  found = once(num_epochs=3, packing=packing, is_training=is_training)
  ordinary = set(numbered_text.words.ordinary_ids.tolist())
  for epoch in range(3):
    used = collections.Counter(
      itertools.chain.from_iterable(
        rows([block for block in found if block[0] == epoch])
      )
    )
    del used[numbered_text.words.sep_id]
    assert used == dict.fromkeys(ordinary, 1)


@pytest.mark.parametrize('window_bytes', [1, 500, 4000])
def test_every_token_is_used_once_through_many_windows(
  numbered_text, packing, monkeypatch, window_bytes
):
  monkeypatch.setattr(examples, '_WINDOW_BYTES', window_bytes)
  monkeypatch.setattr(examples, '_GROUP_BYTES', window_bytes)
  used = collections.Counter(
    itertools.chain.from_iterable(rows(blocks(numbered_text, packing=packing)))
  )
  del used[numbered_text.words.sep_id]
  assert used == dict.fromkeys(numbered_text.words.ordinary_ids.tolist(), 1)


def test_a_document_is_in_order_within_and_across_rows(numbered_text, once):
  """Unshuffled rows give the text back."""
  tokens = itertools.chain.from_iterable(rows(once(is_training=False)))
  sep = numbered_text.words.sep_id
  stream = [
    numbered_text.words.tokens[token] for token in tokens if token != sep
  ]
  assert stream == list(itertools.chain.from_iterable(numbered_text.documents))


def test_epochs_have_other_orders(once):
  first, second = (rows(once(epoch)) for epoch in (0, 2))
  assert sorted(map(len, first)) == sorted(map(len, second))
  assert first != second


def test_any_epoch_can_be_made_without_those_before(once):
  direct = once(2)
  passing = [
    block
    for block in once(
      num_epochs=3, packing='across_documents', is_training=True
    )
    if block[0] == 2
  ]
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


def test_epochs_and_blocks_have_other_masks(numbered_text):
  make = maker(numbered_text)
  _, _, tokens, lengths = next(iter(make.blocks(0, 1)))
  masks = [
    make.mask(epoch, block, tokens, lengths)['masked_lm_positions']
    for epoch, block in ((0, 0), (0, 1), (1, 0), (0, 0))
  ]
  for one, other in itertools.combinations(masks[:3], 2):
    assert (one.numpy() != other.numpy()).any()
  np.testing.assert_array_equal(masks[0], masks[3])


def test_a_seed_beyond_32_bits_is_a_seed(once):
  assert rows(once(0, seed=2**40 + 1))
