"""The tiny text in several files, plain and compressed."""

import gzip
import pathlib

import pytest


class SplitCorpus:
  """Files of the made-up language; attributes as of `TinyCorpus`."""

  def __init__(self, whole, folder):
    documents = pathlib.Path(whole.train).read_text().split('\n\n')
    for part in range(3):
      text = '\n\n'.join(documents[part::3]).encode()
      name = f'train-{part}.txt' + ('.gz' if part == 1 else '')
      (folder / name).write_bytes(gzip.compress(text) if part == 1 else text)
    self.train = str(folder / 'train-*')
    self.valid, self.vocabulary = whole.valid, whole.vocabulary


@pytest.fixture(scope='session')
def split_corpus(tiny_corpus, tmp_path_factory):
  return SplitCorpus(tiny_corpus, tmp_path_factory.mktemp('split_corpus'))
