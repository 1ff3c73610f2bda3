"""Acceptability: sentences of any text, half of them with one word wrong."""

import random

import pytest

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.finetuning import acceptability

WORDS = [f'w{number}' for number in range(6)] + ['end.']


def test_a_corrupted_sentence_lacks_a_word_or_has_neighbours_swapped():
  draw, kinds = random.Random(0), set()
  for _ in range(100):
    changed = acceptability.corrupt(WORDS, draw)
    assert changed != WORDS
    assert (changed[0], changed[-1]) == (WORDS[0], WORDS[-1])
    if len(changed) < len(WORDS):
      assert [w for w in WORDS if w in changed] == changed
      assert len(changed) == len(WORDS) - 1
    else:
      moved = [n for n, word in enumerate(WORDS) if changed[n] != word]
      first, second = moved
      assert second == first + 1
      assert [changed[second], changed[first]] == WORDS[first : second + 1]
    kinds.add(len(changed))
  assert kinds == {6, 7}


def test_equal_neighbours_are_never_swapped():
  words = ['A', 'b', 'B', 'b', 'end.']
  for seed in range(20):
    assert len(acceptability.corrupt(words, random.Random(seed))) == 4


def test_every_sentence_of_fitting_length_is_a_row_and_half_are_corrupted():
  text = ' '.join(
    f'Here stands the sentence with number {n}.' for n in range(9)
  )
  rows = acceptability.make_rows(
    [f'A heading\n{text} Too short. {text}', 'No full stop at the end of it'],
  )
  assert len(rows) == 9
  intact = {s for s, label in rows if label == acceptability.ACCEPTABLE}
  assert len(intact) == 5
  assert all(sentence in text for sentence in intact)
  assert not any(
    sentence in text
    for sentence, label in rows
    if label == acceptability.UNACCEPTABLE
  )
  assert rows != acceptability.make_rows([text], seed=1)


def test_no_document_is_in_both_files_and_little_text_is_refused(tmp_path):
  documents = [
    ' '.join(f'Here is the sentence number {n} of {d}.' for n in range(20))
    for d in range(10)
  ]
  path = tmp_path / 'text.txt'
  path.write_text('\n\n'.join(documents))
  config = configs.PretrainingDataConfig(input_path=str(path))
  train, validation = acceptability.write_files(config, str(tmp_path))
  assert len(open(train).readlines()) == 1 + 160
  numbers = {line.split('\t')[0][-2:] for line in open(validation)} - {'ce'}
  assert numbers == {'4.', '9.'}
  path.write_text(documents[0])
  with pytest.raises(errors.DataError, match='at least 20 sentences'):
    acceptability.write_files(config, str(tmp_path))
