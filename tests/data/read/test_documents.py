import gzip
import itertools
import json

import pyarrow
import pytest
import tensorflow as tf
from pyarrow import parquet

from tokendrop_tf import errors
from tokendrop_tf.config import configs
from tokendrop_tf.data import loader
from tokendrop_tf.data.read import corpus, documents

TEXTS = [f'title {number}\nfirst naïve line\n東京' for number in range(25)]
PLAIN = documents.Reading()
SKIPPING = documents.Reading(skip_bad_text=True)


def write(path, content: bytes):
  path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)
  return str(path)


def json_lines(texts, field='text'):
  return ''.join(
    json.dumps({'id': number, field: text}) + '\n'
    for number, text in enumerate(texts)
  ).encode()


def write_parquet(path, columns, **settings):
  parquet.write_table(pyarrow.table(columns), path, **settings)
  return str(path)


def write_form(folder, name, texts=tuple(TEXTS), field='text'):
  path = folder / name
  if name.endswith('.parquet'):
    columns = {field: list(texts), 'id': list(range(len(texts)))}
    return write_parquet(path, columns, row_group_size=len(texts) // 3 + 1)
  if '.jsonl' in name:
    return write(path, json_lines(texts, field))
  return write(path, '\n\n'.join(texts).encode())


def read(path, reading=PLAIN, most=None):
  batches = documents.read_documents(str(path), reading, most)
  return [text.decode() for text in itertools.chain.from_iterable(batches)]


FORMS = ('a.txt', 'a.txt.gz', 'a.jsonl', 'a.jsonl.gz', 'a.parquet')


@pytest.mark.parametrize('name', FORMS)
def test_every_form_has_the_same_documents(tmp_path, name):
  assert read(write_form(tmp_path, name)) == TEXTS


@pytest.mark.parametrize('name', FORMS)
def test_files_of_other_file_systems_are_read(tmp_path, name):
  path = f'ram://{name}'
  tf.io.gfile.copy(write_form(tmp_path, name), path, overwrite=True)
  assert read(path) == TEXTS
  assert documents.num_bytes(path) > 100


@pytest.mark.parametrize('name', FORMS)
@pytest.mark.parametrize('chunk', [1, 3, 100])
def test_documents_do_not_depend_on_the_chunk_of_reading(
  tmp_path, monkeypatch, name, chunk
):
  monkeypatch.setattr(documents.text_files, '_CHUNK_BYTES', chunk)
  monkeypatch.setattr(documents, '_BATCH_BYTES', chunk)
  monkeypatch.setattr(documents, '_PARQUET_ROWS', chunk)
  assert read(write_form(tmp_path, name)) == TEXTS


@pytest.mark.parametrize('name', FORMS[2:])
def test_the_field_that_is_text_can_be_named(tmp_path, name):
  path = write_form(tmp_path, name, field='body')
  assert read(path, documents.Reading('body')) == TEXTS


@pytest.mark.parametrize('name', FORMS)
def test_a_form_without_documents_is_passed_over(tmp_path, name):
  assert read(write_form(tmp_path, name, texts=())) == []


@pytest.mark.parametrize('name', FORMS[2:])
def test_texts_that_are_blank_are_no_documents(tmp_path, name):
  path = write_form(tmp_path, name, ['one', '', ' \n\t', 'x'])
  assert read(path) == ['one', 'x']


@pytest.mark.parametrize(
  ('content', 'texts'),
  [
    (b'', []),
    (b'x', ['x']),
    (b'\xef\xbb\xbfone\r\ntwo\r\n\r\nthree', ['one\ntwo', 'three']),
    (b'one\rtwo\r\rthree\r', ['one\ntwo', 'three']),
    (b'\n\n \none\n\t\n \n\n\ntwo\n\n', ['one', 'two']),
    (b'one\n\n\xef\xbb\xbftwo\n', ['one', 'two']),
    (b' indented\n  line\n', [' indented\n  line']),
  ],
)
def test_line_ends_marks_and_blank_lines_are_no_text(tmp_path, content, texts):
  for chunk in (1, 2, 100):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(documents.text_files, '_CHUNK_BYTES', chunk)
      assert read(write(tmp_path / 'a.txt', content)) == texts


def test_one_long_line_is_one_document(tmp_path):
  line = b'word ' * 10_000_000  # 50 MB.
  path = write(tmp_path / 'a.txt', b'before\n\n' + line + b'\n\nafter')
  lengths = [len(text) for text in read(path)]
  assert lengths == [6, 50_000_000, 5]


def test_marks_and_line_ends_in_records_are_no_text_either(tmp_path):
  path = write(tmp_path / 'a.jsonl', json_lines(['\ufeffa\r\nb\rc\0d']))
  assert read(path) == ['a\nb\nc d']


@pytest.mark.parametrize('name', FORMS)
def test_the_head_alone_can_be_read(tmp_path, name):
  texts = [f'{number} ' + 'é' * 50 for number in range(1000)]
  path = write_form(tmp_path, name, texts)
  head = read(path, most=1000)
  assert 1 < len(head) < 300
  assert head[:-1] == texts[: len(head) - 1]


BAD = [
  ('a.txt', b'one\n\n\xe9t\xe9\ntwo\n', 'line 3, which is not UTF-8', ['two']),
  ('a.txt.gz', b'a\n\nb\0\0\n\nc', 'line 3, which has a zero byte', ['c']),
  ('a.jsonl', b'{"text": "one"}\n\nno\n', 'line 3, which is not JSON', []),
  (
    'a.jsonl',
    b'{"text": "one"}\n["x"]',
    'line 2, which is not a JSON object',
    [],
  ),
  (
    'a.jsonl',
    b'{"text": "one"}\n{"text": 3}',
    "line 2, whose field 'text'",
    [],
  ),
  ('a.jsonl', b'{"text": "one"}\n{"t": ""}', "(its fields are 't'", []),
  (
    'a.jsonl.gz',
    b'{"text": "a"}\n{"text": "\xe9"}',
    'line 2, which is not',
    [],
  ),
]


@pytest.mark.parametrize(('name', 'content', 'where', 'rest'), BAD)
def test_what_is_not_text_is_named_or_left_out_and_counted(
  tmp_path, name, content, where, rest
):
  path = write(tmp_path / name, content)
  with pytest.raises(errors.DataError, match='must be text in UTF-8') as caught:
    read(path)
  assert f'Received: {path}, line' in str(caught.value)
  assert where in str(caught.value)
  assert 'set train_data.skip_bad_text' in str(caught.value)
  assert read(path, SKIPPING)[1:] == rest
  read(path, SKIPPING)
  assert documents.skipped()[path] == 1


def test_rows_without_text_are_named_or_left_out_and_counted(tmp_path):
  path = write_parquet(
    tmp_path / 'a.parquet',
    {'text': pyarrow.array(['one', None, 'two', None, 'three'])},
    row_group_size=2,
  )
  with pytest.raises(errors.DataError, match='row 2, which is null'):
    read(path)
  assert read(path, SKIPPING) == ['one', 'two', 'three']
  assert documents.skipped()[path] == 2


def test_a_parquet_string_that_is_not_utf8_is_named(tmp_path):
  texts = pyarrow.Array.from_buffers(
    pyarrow.string(),
    2,
    pyarrow.array([b'good', b'\xe9t\xe9']).buffers(),
  )
  path = write_parquet(tmp_path / 'a.parquet', {'text': texts})
  with pytest.raises(errors.DataError, match='row 2, which is not UTF-8'):
    read(path)


def test_a_parquet_column_must_be_text(tmp_path):
  path = write_parquet(tmp_path / 'a.parquet', {'id': [1], 'body': ['x']})
  with pytest.raises(errors.DataError) as caught:
    read(path, documents.Reading('id', section='validation_data'))
  assert str(caught.value) == (
    "validation_data.text_field must name a text column. Received: 'id'; the "
    f"columns of {path} are 'id' (int64), 'body' (string). Set "
    'validation_data.text_field.'
  )


def test_encoded_parquet_columns_are_read_too(tmp_path):
  column = pyarrow.array(['a', 'b', 'a']).dictionary_encode()
  path = write_parquet(tmp_path / 'a.parquet', {'text': column})
  assert read(path) == ['a', 'b', 'a']


@pytest.mark.parametrize(
  'damage',
  [
    lambda data: data[: len(data) // 2],
    lambda data: data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :],
    lambda data: b'no parquet at all',
  ],
  ids=['truncated', 'altered', 'not parquet'],
)
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
  texts = [f'{number} {number**5}' for number in range(5000)]
  path = write_form(tmp_path, 'a.parquet', texts)
  with open(path, 'rb') as file:
    data = file.read()
  (tmp_path / 'a.parquet').write_bytes(damage(data))
  with pytest.raises(errors.DataError, match='must be whole') as caught:
    read(path)
  assert f'Received: {path}, damaged in or after row' in str(caught.value)


@pytest.mark.parametrize('name', FORMS)
def test_the_size_of_the_text_is_known_without_reading(tmp_path, name):
  texts = [f'{number} ' + f'{number**3} ' * 20 for number in range(2000)]
  size = documents.num_bytes(write_form(tmp_path, name, texts))
  assert 0.8 <= size / sum(map(len, texts)) <= 1.3


def test_mixed_forms_train_and_are_gone_to_at_once(numbered_text, tmp_path):
  texts = [' '.join(words) for words in numbered_text.documents]
  for index, name in enumerate(('b.txt', 'c.txt.gz', 'd.jsonl', 'e.jsonl.gz')):
    write_form(tmp_path, name, texts[index::5])
  write_form(tmp_path, 'f.parquet', texts[4::5])
  config = numbered_text.config(input_path=f'{tmp_path}/*')
  found = list(corpus.open_corpus(config).documents().unbatch())
  assert sorted(text.numpy().decode() for text in found) == sorted(texts)
  whole, resumed = (
    [
      batch['input_word_ids'].numpy().tolist()
      for batch in loader.load_dataset(
        config, numbered_text.vocabulary, first_batch=first
      )
    ]
    for first in (0, 20)
  )
  assert resumed == whole[20:] != []


def test_a_reader_within_a_pipeline_is_quoted(tmp_path):
  path = write(tmp_path / 'a.txt', b'\xe9')
  config = configs.PretrainingDataConfig(input_path=path)
  with (
    pytest.raises(errors.DataError, match='line 1, which is not UTF-8'),
    errors.as_kept(),
  ):
    list(corpus.open_corpus(config).documents())


JSON_LINES = b'{"id": "1", "text": "one"}\n{"id": "2", "text": "two"}\n'


@pytest.mark.parametrize(
  'name', ['wiki_00', 'part.ndjson', 'c4-train.00000.json.gz', 'data.txt']
)
def test_json_lines_are_known_by_their_beginning(tmp_path, name):
  path = tmp_path / name
  is_gzip = name.endswith('.gz')
  path.write_bytes(gzip.compress(JSON_LINES) if is_gzip else JSON_LINES)
  assert read(path) == ['one', 'two']


@pytest.mark.parametrize(
  'content', [b'[\n {"text": "one"}\n]\n', b'{\n  "text": "one"\n}\n']
)
@pytest.mark.parametrize('name', ['a.json', 'a.txt'])
def test_json_that_is_not_in_lines_is_refused(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match='line 1, which is not') as caught:
    read(path)
  assert str(path) in str(caught.value)


def test_text_may_begin_with_a_brace(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(b'{a set of words} begins here\n')
  assert read(path) == ['{a set of words} begins here']


def test_a_character_that_was_cut_is_named_or_skipped(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{"text": "one"}\n{"text": "\\ud83d"}\n')
  with pytest.raises(errors.DataError, match='a.jsonl, line 2'):
    read(path)
  assert read(path, SKIPPING) == ['one']


@pytest.mark.parametrize('name', ['a.txt', 'a.txt.gz'])
def test_every_line_can_be_a_document(tmp_path, name):
  content = b'one\ntwo\r\n\nthree'
  path = tmp_path / name
  path.write_bytes(gzip.compress(content) if name.endswith('z') else content)
  how = documents.Reading(document_per_line=True)
  assert read(path, how) == ['one', 'two', 'three']


@pytest.mark.parametrize(
  ('text', 'passages'),
  [
    ('one\ntwo\nthree', ['one\ntwo', 'three']),
    ('One. Two. Three.', ['One. Two.', 'Three.']),
    ('one two three', ['one two', 'three']),
    ('\u0e01' * 7, ['\u0e01' * 3, '\u0e01' * 3, '\u0e01']),
    ('short', ['short']),
  ],
)
def test_long_documents_are_cut_into_passages(tmp_path, text, passages):
  path = tmp_path / 'a.txt'
  path.write_text(text, encoding='utf-8')
  assert read(path, documents.Reading(passage_bytes=10)) == passages
