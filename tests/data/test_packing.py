import random

import pytest
import tensorflow as tf

from tokendrop_tf.data import packing

SEP = 3


def batches(documents, group):
  groups = [
    documents[start : start + group]
    for start in range(0, len(documents), group)
  ]
  return tf.data.Dataset.from_generator(
    lambda: (
      tf.ragged.constant(group, tf.int32, ragged_rank=1) for group in groups
    ),
    output_signature=tf.RaggedTensorSpec([None, None], tf.int32),
  )


def rows(packed):
  return [
    list(row[:length].numpy())
    for tokens, lengths in packed
    for row, length in zip(tokens, lengths, strict=True)
  ]


def random_documents(seed):
  draw = random.Random(seed)
  number, documents = 10, []
  for _ in range(draw.randint(1, 30)):
    size = draw.choice([0, 1, 2, 6, 7, 8, 15, 40])
    documents.append(list(range(number, number + size)))
    number += size
  return documents


def joined(documents):
  """The stream that across_documents cuts: a [SEP] between documents."""
  stream = []
  for document in filter(None, documents):
    stream += ([SEP] if stream else []) + document
  return stream


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('group', [1, 4, 100])
def test_across_documents_keeps_every_token_in_order(seed, group):
  documents = random_documents(seed)
  packed = rows(
    packing.pack_across_documents(batches(documents, group), 7, SEP)
  )
  stream = [token for row in packed for token in row]
  # The [SEP] after the last document shows only where it completes a row.
  assert stream in (joined(documents), joined(documents) + [SEP])


@pytest.mark.parametrize('seed', range(8))
def test_across_documents_leaves_only_the_last_row_short(seed):
  packed = rows(
    packing.pack_across_documents(batches(random_documents(seed), 3), 7, SEP)
  )
  assert all(len(row) == 7 for row in packed[:-1])
  assert all(packed)


def test_across_documents_ends_without_a_row_of_its_own_separator():
  packed = packing.pack_across_documents(batches([[11, 12, 13]], 1), 3, SEP)
  assert rows(packed) == [[11, 12, 13]]


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('group', [1, 4, 100])
def test_within_documents_keeps_every_token_in_order(seed, group):
  documents = random_documents(seed)
  packed = rows(packing.pack_within_documents(batches(documents, group), 7))
  expected = [
    document[start : start + 7]
    for document in documents
    for start in range(0, len(document), 7)
  ]
  assert packed == expected


def test_both_have_static_row_lengths():
  documents = batches([[11, 12]], 1)
  for packed in (
    packing.pack_across_documents(documents, 7, SEP),
    packing.pack_within_documents(documents, 7),
  ):
    tokens, lengths = packed.element_spec
    assert tokens.shape.as_list() == [None, 7]
    assert lengths.shape.as_list() == [None]
    assert tokens.dtype == lengths.dtype == tf.int32


@pytest.mark.parametrize('documents', [[[]], [[], [], []]])
def test_documents_without_tokens_give_no_rows(documents):
  assert not rows(packing.pack_across_documents(batches(documents, 2), 7, SEP))
  assert not rows(packing.pack_within_documents(batches(documents, 2), 7))
