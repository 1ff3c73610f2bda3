import itertools

import numpy as np

from tokendrop_tf.data.read import corpus as corpus_lib
from tokendrop_tf.data.read import sampling


def write_files(folder, num_files=3, num_documents=400):
  paths = []
  for file in range(num_files):
    path = folder / f'{file}.txt'
    path.write_text(
      '\n\n'.join(f'{file} {number}' for number in range(num_documents))
    )
    paths.append(str(path))
  return corpus_lib.TextCorpus(tuple(paths))


def read(documents):
  return list(itertools.chain.from_iterable(documents.as_numpy_iterator()))


def test_a_sample_has_its_share_of_every_part():
  chosen = sampling.is_sampled(file=3, first=0, count=100_000, share=0.2)
  parts = chosen.reshape([10, -1]).mean(axis=1)
  assert np.all(np.abs(parts - 0.2) < 4 * np.sqrt(0.16 / 10_000))


def test_a_sample_does_not_depend_on_how_documents_are_read():
  whole = sampling.is_sampled(file=1, first=0, count=100, share=0.5)
  parts = [
    sampling.is_sampled(file=1, first=first, count=10, share=0.5)
    for first in range(0, 100, 10)
  ]
  assert np.concatenate(parts).tolist() == whole.tolist()


def test_files_have_samples_of_their_own():
  first, second = (sampling.is_sampled(file, 0, 1000, 0.5) for file in range(2))
  assert 0.4 < np.mean(first == second) < 0.6


def test_a_larger_sample_has_all_of_a_smaller_one():
  small, large = (sampling.is_sampled(0, 0, 1000, s) for s in (0.1, 0.3))
  assert not np.any(small & ~large)


def test_documents_are_sampled_from_all_files(tmp_path):
  corpus = write_files(tmp_path)
  everything = read(corpus.documents())
  found = read(sampling.documents(corpus, 0.25))
  assert 200 < len(found) < 400
  assert found == [text for text in everything if text in set(found)]
  assert {text[:1] for text in found} == {b'0', b'1', b'2'}
  assert read(sampling.documents(corpus, 1.0)) == everything
