import gzip

import pytest

from tokendrop_tf import errors
from tokendrop_tf.data import corpus, native_text

TEXT = (
  '\ufeffOne line.\nAnother.\n\n\n \t\nThe second, '
  'with änderungen\r\nand a carriage return.\r\n\r\nThird\n   \n'
  + '\n'.join(f'line {n}' for n in range(3000))
  + '\n\nThe last, without an end'
)


@pytest.mark.parametrize(
  'held_out', [corpus.HeldOut(), corpus.HeldOut(2), corpus.HeldOut(2, True)]
)
def test_both_readers_give_the_same_documents(tmp_path, held_out):
  (tmp_path / 'a.txt').write_bytes(TEXT.encode())
  (tmp_path / 'b.txt.gz').write_bytes(gzip.compress(TEXT.encode()))
  paths = (str(tmp_path / 'a.txt'), str(tmp_path / 'b.txt.gz'))
  by_python = corpus.TextCorpus(paths, held_out)
  native = native_text.of(by_python, 'setting')
  documents = [
    [text for batch in each.documents().as_numpy_iterator() for text in batch]
    for each in (by_python, native)
  ]
  assert len(documents[0]) in (10, 5)
  assert documents[0] == documents[1]


def test_other_files_are_refused(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "a"}\n')
  records = corpus.TextCorpus((str(path),))
  with pytest.raises(errors.ConfigurationError, match='takes text files'):
    native_text.of(records, 'train_data.tf_data_service_address')
