import random

import numpy as np
import pytest
import tensorflow as tf

from tokendrop_tf.data.examples import packing

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


@pytest.mark.parametrize('size', range(1, 9))
def test_across_documents_ends_with_a_separator_only_to_complete_a_row(size):
  documents = [[11, 12], list(range(20, 20 + size))]
  packed = rows(packing.pack_across_documents(batches(documents, 1), 4, SEP))
  stream = joined(documents)
  if len(stream) % 4 == 3:
    stream = stream + [SEP]
  assert packed == [stream[n : n + 4] for n in range(0, len(stream), 4)]


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


@pytest.mark.parametrize('seed', range(4))
def test_one_document_keeps_the_beginning_of_each(seed):
  documents = random_documents(seed)
  packed = rows(packing.pack_one_document(batches(documents, 4), 7))
  assert packed == [document[:7] for document in documents if document]


PAD, CLS = 0, 2


@pytest.fixture(scope='module', name='best_fit')
def fixture_best_fit():
  """Packs documents into rows of 9 in one graph: (tokens, segments)."""

  @tf.function(
    input_signature=[tf.RaggedTensorSpec([None, None], tf.int32, 1, tf.int64)]
  )
  def pack(documents):
    return packing.pack_best_fit(
      documents, 9, cls_id=CLS, sep_id=SEP, pad_id=PAD
    )

  def packed(documents):
    rows = pack(tf.ragged.constant(documents, tf.int32, ragged_rank=1)).numpy()
    return rows[:, :9], rows[:, 9:]

  return packed


def pieces_of(documents, size=7):
  return [
    document[start : start + size]
    for document in documents
    for start in range(0, len(document), size)
  ]


def fewest_by_decreasing_best_fit(sizes, capacity):
  """Room left in every row, by the textbook."""
  rooms = []
  for size in sorted(sizes, reverse=True):
    fits = [index for index, room in enumerate(rooms) if room >= size]
    if not fits:
      rooms.append(capacity)
      fits = [len(rooms) - 1]
    rooms[min(fits, key=lambda index: rooms[index])] -= size
  return rooms


@pytest.mark.parametrize('seed', range(8))
def test_best_fit_frames_every_piece_and_loses_none(best_fit, seed):
  documents = random_documents(seed)
  found = []
  for tokens, segments in zip(*best_fit(documents), strict=True):
    numbers = sorted(set(segments) - {0})
    assert numbers == list(range(1, len(numbers) + 1))
    text = segments > 0
    assert (tokens[~text] == PAD).all()
    assert (np.diff(text.astype(int)) <= 0).all()  # Padding comes last.
    for number in numbers:
      piece = tokens[segments == number].tolist()
      assert piece[0] == CLS
      assert piece[-1] == SEP
      found.append(piece[1:-1])
  assert sorted(found) == sorted(pieces_of(documents))


@pytest.mark.parametrize('seed', range(8))
def test_best_fit_is_decreasing_best_fit(seed):
  """The rooms that are left are the textbook's, whatever the order."""
  draw = random.Random(seed)
  sizes = [draw.randint(1, 20) for _ in range(draw.randint(0, 80))]
  row, place = packing.best_fit(tf.constant(sizes, tf.int32), 20)
  row, place = row.numpy(), place.numpy()
  rooms = fewest_by_decreasing_best_fit(sizes, 20)
  used = np.bincount(row, weights=sizes, minlength=len(rooms))
  assert sorted(20 - used) == sorted(rooms)
  taken = {(r, p + i) for r, p, n in zip(row, place, sizes) for i in range(n)}
  assert len(taken) == sum(sizes)  # No two items on one place.
  assert all(0 <= last < 20 for _, last in taken)


def test_best_fit_numbers_rows_by_their_first_item():
  row, place = packing.best_fit(tf.constant([2, 5, 3, 1, 4]), 5)
  assert row.numpy().tolist() == [0, 1, 0, 2, 2]
  assert place.numpy().tolist() == [0, 0, 2, 0, 1]


def test_best_fit_makes_equally_many_rows_in_any_order(best_fit):
  """A window of documents is shuffled anew in every epoch."""
  documents = random_documents(3)
  count = len(best_fit(documents)[0])
  draw = random.Random(0)
  for _ in range(5):
    draw.shuffle(documents)
    assert len(best_fit(documents)[0]) == count


@pytest.mark.parametrize('documents', [[[]], [[], [], []]])
def test_best_fit_without_tokens_gives_no_rows(best_fit, documents):
  tokens, segments = best_fit(documents)
  assert tokens.shape == segments.shape == (0, 9)


def test_rows_are_framed_by_special_tokens():
  tokens = tf.constant([[7, 8, 9], [7, 8, 0], [0, 0, 0]])
  rows = packing.framed(tokens, tf.constant([3, 2, 0]), CLS, SEP, PAD)
  assert rows.numpy().tolist() == [
    [CLS, 7, 8, 9, SEP],
    [CLS, 7, 8, SEP, PAD],
    [CLS, SEP, PAD, PAD, PAD],
  ]
