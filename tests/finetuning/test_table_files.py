"""GLUE's own layouts, TSV, JSONL and TFDS; what is wrong is named."""

import functools
import gzip
import json

import numpy as np
import pytest
import refusals
import tiny_runs

from tokendrop_tf import errors
from tokendrop_tf.config import glue_tasks
from tokendrop_tf.finetuning import table_files

TASKS = glue_tasks.TASKS


def write(path, text):
  content = text.encode()
  path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)
  return str(path)


def layout(task, **settings):
  is_regression = task == 'stsb' or settings.pop('is_regression', False)
  skip = settings.pop('skip_malformed', False)
  resolved = glue_tasks.resolve(task, is_regression=is_regression, **settings)
  return table_files.Layout(resolved, is_regression, skip)


def custom(**settings):
  names = {'text_column': 'text', 'label_column': 'label'}
  settings = {'label_names': ('a', 'b')} | names | settings
  return layout('custom', **settings)


def read(path, some_layout, needs_labels=True, **tfds):
  table_files.clear_cache()
  source = table_files.Source(str(path), **tfds)
  return table_files.read(source, some_layout, 'glue.train_data', needs_labels)


message_of = functools.partial(
  refusals.message_of, read, raises=errors.DataError
)


class TestLayouts:
  """One row of every task, as its files have it."""

  @pytest.mark.parametrize(
    ('task', 'header', 'row', 'texts', 'label'),
    [
      ('sst2', 'sentence\tlabel', 'good \t1', ['good '], 1),
      (
        'mrpc',
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String',
        '0\t17\t18\tone "two\ttwo',
        ['one "two', 'two'],
        0,
      ),
      (
        'stsb',
        'index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\t'
        'sentence2\tscore',
        '0\ta\tb\tc\td\te\tf\tone\ttwo\t3.25',
        ['one', 'two'],
        3.25,
      ),
      (
        'qqp',
        'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate',
        '9\t1\t2\tone?\ttwo?\t1',
        ['one?', 'two?'],
        1,
      ),
      (
        'mnli',
        '\t'.join(
          [
            *TASKS['mnli'].headerless[2],
            *(f'label{n}' for n in range(1, 6)),
            'gold_label',
          ]
        ),
        '\t'.join(['0', *'abcdefg', 'one', 'two', *'vwxyz', 'contradiction']),
        ['one', 'two'],
        2,
      ),
      (
        'qnli',
        'index\tquestion\tsentence\tlabel',
        '0\tone?\ttwo\tnot_entailment',
        ['one?', 'two'],
        1,
      ),
      (
        'rte',
        'index\tsentence1\tsentence2\tlabel',
        '0\tone\ttwo\tentailment',
        ['one', 'two'],
        0,
      ),
    ],
  )
  @pytest.mark.parametrize('has_header', [True, False])
  @pytest.mark.parametrize('end', ['\n', '\r\n'])
  def test_a_row_is_read_with_and_without_header(
    self, tmp_path, task, header, row, texts, label, has_header, end
  ):
    lines = [header, row] if has_header else [row]
    path = write(tmp_path / 'train.tsv', end.join(lines) + end)
    rows = read(path, layout(task))
    found = [rows.texts[0].decode()]
    if rows.pair_texts:
      found.append(rows.pair_texts[0].decode())
    assert found == texts
    assert rows.labels.tolist() == [label]

  def test_cola_has_no_header(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'gj04\t1\t\tA.\nks08\t0\t*\tB "c\n')
    rows = read(path, layout('cola'))
    assert rows.texts == [b'A.', b'B "c']
    assert rows.labels.tolist() == [1, 0]

  def test_the_paraphrase_corpus_itself_is_read(self, tmp_path):
    path = write(
      tmp_path / 'msr_paraphrase_test.txt',
      '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t5\t6\ta\tb\r\n',
    )
    assert read(path, layout('mrpc')).labels.tolist() == [1]

  @pytest.mark.parametrize(
    ('task', 'text', 'indices'),
    [
      ('cola', 'index\tsentence\n4\tA.\n7\tB.\n', ['4', '7']),
      ('sst2', 'index\tsentence\n0\ta\n1\tb\n', ['0', '1']),
      ('rte', 'index\tsentence1\tsentence2\n3\ta\tb\n9\tc\td\n', ['3', '9']),
      ('qqp', 'id\tquestion1\tquestion2\n3\ta\tb\n9\tc\td\n', ['3', '9']),
      ('rte', '3\ta\tb\n9\tc\td\n', ['3', '9']),
    ],
  )
  def test_test_files_need_no_labels(self, tmp_path, task, text, indices):
    rows = read(write(tmp_path / 'test.tsv', text), layout(task), False)
    assert rows.labels is None
    assert rows.indices == indices
    assert len(rows.texts) == 2

  def test_every_task_has_a_submission_file_and_a_headerless_layout(self):
    for task in TASKS.values():
      assert task.prediction_file.endswith('.tsv')
      for columns in task.headerless:
        assert set(columns) & set(task.text_columns)


class TestCustom:
  TSV = 'label\tother\ttext\tmore\nb\tx\tone\ttwo\na\ty\tthree\tfour\n'

  @pytest.mark.parametrize('name', ['a.tsv', 'a.tsv.gz'])
  def test_named_columns_of_tsv(self, tmp_path, name):
    rows = read(write(tmp_path / name, self.TSV), custom())
    assert rows.texts == [b'one', b'three']
    assert rows.pair_texts is None
    assert rows.labels.tolist() == [1, 0]

  def test_a_second_column_makes_pairs(self, tmp_path):
    path = write(tmp_path / 'a.tsv', self.TSV)
    rows = read(path, custom(text_pair_column='more', index_column='other'))
    assert rows.pair_texts == [b'two', b'four']
    assert rows.indices == ['x', 'y']

  def test_a_header_may_be_given(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'b\tone\na\tthree\n')
    rows = read(path, custom(column_names=('label', 'text')))
    assert rows.texts == [b'one', b'three']

  @pytest.mark.parametrize('name', ['a.jsonl', 'a.jsonl.gz'])
  def test_named_fields_of_jsonl(self, tmp_path, name):
    records = [{'text': 'one\ttwo', 'label': 1}, {'label': 0, 'text': 'é'}]
    path = write(tmp_path / name, '\n'.join(map(json.dumps, records)) + '\n')
    rows = read(path, custom(label_names=('0', '1')))
    assert rows.texts == [b'one\ttwo', 'é'.encode()]
    assert rows.labels.tolist() == [1, 0]

  def test_several_files_are_one(self, tmp_path):
    for name in ('a', 'b'):
      write(tmp_path / f'{name}.tsv', f'text\tlabel\n{name}\t{name}\n')
    rows = read(tmp_path / '*.tsv', custom())
    assert rows.texts == [b'a', b'b']
    assert rows.indices == ['0', '1']

  def test_labels_can_be_those_that_occur(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'text\tlabel\nx\t10\ny\t9\nz\t9\n')
    names = table_files.distinct_labels(
      table_files.Source(path), custom(label_names=()), 'glue.train_data'
    )
    assert names == ('9', '10')

  def test_a_whole_number_is_one_label_however_it_is_spelt(self, tmp_path):
    records = [{'text': 'x', 'label': number} for number in (1, 0.0, 1.0)]
    lines = map(json.dumps, records)
    path = write(tmp_path / 'a.jsonl', '\n'.join(lines))
    names = table_files.distinct_labels(
      table_files.Source(path), custom(label_names=()), 'glue.train_data'
    )
    assert names == ('0.0', '1')
    rows = read(path, custom(label_names=names))
    assert rows.labels.tolist() == [1, 0, 1]

  def test_numbers_are_labels_of_a_regression(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'text\tlabel\nx\t1.5\ny\t-2\n')
    rows = read(path, custom(label_names=(), is_regression=True))
    np.testing.assert_array_equal(rows.labels, np.float32([1.5, -2]))


class TestMistakes:
  def test_a_label_outside_the_set_has_file_and_line(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'text\tlabel\none\ta\n\ntwo\tc\n')
    message = message_of(path, custom())
    assert "A label must be one of 'a', 'b'." in message
    assert f"Received: 'c' in {path}, line 4." in message

  def test_a_missing_column_names_those_there_are(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'body\tlabel\none\ta\n')
    message = message_of(path, custom())
    assert "glue.train_data must have the column 'text'" in message
    assert f"Received: {path}, whose columns are 'body', 'label'." in message
    assert 'glue.text_column' in message

  def test_a_training_file_without_labels_is_refused(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'index\tsentence1\tsentence2\n0\ta\tb\n')
    assert "must have the column 'label'" in message_of(path, layout('rte'))

  def test_a_row_that_breaks_off_has_file_and_line(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'text\tlabel\none\ta\ntwo\nthree\tb\n')
    message = message_of(path, custom())
    assert f'Received: 1 in {path}, line 3.' in message
    rows = read(path, custom(skip_malformed=True))
    assert (rows.num_rows, rows.num_skipped) == (2, 1)

  @pytest.mark.parametrize('text', ['', '\n\n', 'text\tlabel\n'])
  def test_an_empty_file_is_named(self, tmp_path, text):
    message = message_of(write(tmp_path / 'a.tsv', text), custom())
    assert 'must name files with rows' in message
    assert 'a.tsv' in message

  @pytest.mark.parametrize('value', ['good', 'nan', ''])
  def test_a_number_that_is_none_has_file_and_line(self, tmp_path, value):
    path = write(tmp_path / 'a.tsv', f'label\ttext\n1\tx\n{value}\tx\n')
    regression = custom(label_names=(), is_regression=True)
    message = message_of(path, regression)
    assert f'Received: {value!r} in {path}, line 3.' in message

  @pytest.mark.parametrize(
    ('line', 'words'),
    [
      ('{"text": ', 'must be one JSON object'),
      ('[1]', 'which is list'),
      ('{"text": "x"}', "must have a value under 'label'"),
      ('{"text": "x", "label": null}', "under 'label'. Received: null in"),
      ('{"text": "x", "label": NaN}', "under 'label'. Received: NaN in"),
      ('{"text": "x \\ud83d", "label": "a"}', "Received: 'x \\ud83d' in"),
      ('{"text": 3, "label": "a"}', "The column 'text' must hold text"),
    ],
  )
  def test_bad_json_has_file_and_line(self, tmp_path, line, words):
    good = '{"text": "x", "label": "a"}'
    path = write(tmp_path / 'a.jsonl', f'{good}\n{line}\n')
    message = message_of(path, custom())
    assert words in message
    assert f'{path}, line 2' in message

  def test_bad_rows_of_jsonl_can_be_left_out(self, tmp_path):
    bad = ['{"text": ', '{"text": "x"}', '{"text": "x", "label": null}']
    bad += ['{"text": "x", "label": NaN}', '{"text": "\\ud83d", "label": "a"}']
    good = '{"text": "y", "label": "b"}'
    path = write(tmp_path / 'a.jsonl', '\n'.join([good, *bad]))
    rows = read(path, custom(skip_malformed=True))
    assert (rows.texts, rows.num_skipped) == ([b'y'], len(bad))

  @pytest.mark.parametrize('value', ['', 'nan'])
  def test_a_missing_label_of_tsv_has_file_and_line(self, tmp_path, value):
    path = write(tmp_path / 'a.tsv', f'label\ttext\na\tx\n{value}\tx\n')
    message = message_of(path, custom())
    assert f'Received: {value!r} in {path}, line 3.' in message

  def test_text_that_is_not_utf8_has_file_and_line(self, tmp_path):
    path = tmp_path / 'a.tsv'
    path.write_bytes(b'text\tlabel\n\xff\ta\n')
    assert f'{path}, line 2, which is not' in message_of(path, custom())

  def test_comma_separated_values_are_refused(self, tmp_path):
    path = write(tmp_path / 'a.csv', 'text,label\n')
    assert 'must name TSV' in message_of(path, custom())

  def test_a_file_that_is_not_there_is_named(self, tmp_path):
    message = message_of(tmp_path / 'none.tsv', custom())
    assert message.startswith('glue.train_data must name existing files')

  def test_one_label_is_no_classification(self, tmp_path):
    path = write(tmp_path / 'a.tsv', 'text\tlabel\nx\t1\ny\t1\n')
    with pytest.raises(errors.DataError, match='2 to 200 different labels'):
      table_files.distinct_labels(
        table_files.Source(path), custom(label_names=()), 'glue.train_data'
      )


@pytest.fixture(scope='module')
def tfds_folder(tmp_path_factory):
  """Pairs of texts, as glue/mnli is."""
  import tensorflow_datasets as tfds

  names = ['entailment', 'neutral', 'contradiction']
  pairs = [
    {
      'premise': f'p{number}',
      'hypothesis': f'h{number}',
      'label': number % 3,
      'idx': number,
    }
    for number in range(6)
  ]
  folder = tiny_runs.build_tfds(
    tmp_path_factory.mktemp('tfds'),
    {
      'premise': tfds.features.Text(),
      'hypothesis': tfds.features.Text(),
      'label': tfds.features.ClassLabel(names=names),
      'idx': np.int32,
    },
    {'train': pairs, 'test': [pair | {'label': -1} for pair in pairs]},
  )
  return {'tfds_name': 'tiny_texts', 'tfds_data_dir': folder}


class TestTfds:
  def test_pairs_and_names_of_labels_are_read(self, tfds_folder):
    rows = read('', layout('mnli'), tfds_split='train', **tfds_folder)
    names = TASKS['mnli'].label_names
    found = {
      text.decode(): (pair.decode(), names[label], index)
      for text, pair, label, index in zip(
        rows.texts, rows.pair_texts, rows.labels, rows.indices
      )
    }
    assert found['p4'] == ('h4', 'neutral', '4')
    assert len(found) == 6

  def test_labels_of_a_test_split_are_not_read(self, tfds_folder):
    rows = read('', layout('mnli'), False, tfds_split='test', **tfds_folder)
    assert rows.labels is None
    assert rows.num_rows == 6

  def test_numbers_stand_for_labels_of_another_name(self, tfds_folder):
    numbered = layout(
      'custom',
      label_names=('0', '1', '2'),
      text_column='premise',
      label_column='label',
    )
    rows = read('', numbered, tfds_split='train', **tfds_folder)
    assert sorted(rows.labels.tolist()) == [0, 0, 1, 1, 2, 2]

  def test_a_split_that_is_not_there_is_named(self, tfds_folder):
    message = message_of('', layout('mnli'), tfds_split='dev', **tfds_folder)
    assert "Received: 'dev'; there are 'test', 'train'" in message
