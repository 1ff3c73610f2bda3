import gzip

import numpy as np
import pytest
import refusals
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import checks
from tokendrop_tf.data.shards import record_writer


def check(numbered_text, **settings):
  checks.check_dataset(
    numbered_text.config(**settings), numbered_text.vocabulary
  )


def assert_refused(numbered_text, *parts, **settings):
  message = refusals.message_of(check, numbered_text, **settings)
  for part in parts:
    assert part in message


@pytest.mark.parametrize(
  'settings',
  [
    {},
    {'is_training': False},
    {'packing': 'within_documents'},
    {'held_out_documents': 3},
    {'drop_remainder': True},
    {'max_predictions_per_seq': 2},  # int(0.15 * 14).
  ],
)
def test_good_text_passes(numbered_text, settings):
  assert check(numbered_text, **settings) is None


@pytest.mark.parametrize(
  ('settings', 'parts'),
  [
    ({'packing': 'best'}, ["Received: 'best'", 'train_data.packing']),
    ({'max_predictions_per_seq': 15}, ['2 to 14']),
    (
      {'input_path': 'nowhere/*.txt'},
      ["'nowhere/*.txt', which matches no file", 'Set train_data.input_path'],
    ),
  ],
)
def test_settings_that_do_not_fit_are_refused(numbered_text, settings, parts):
  assert_refused(numbered_text, *parts, **settings)


def test_messages_name_the_section(numbered_text):
  assert_refused(
    numbered_text,
    'Set validation_data.packing',
    is_training=False,
    packing='best',
  )


def test_a_bad_vocabulary_is_refused(numbered_text, tmp_path):
  path = tmp_path / 'vocab.txt'
  path.write_text('[PAD]\n[UNK]\n')
  with pytest.raises(errors.DataError, match='lacks \\[CLS\\], \\[SEP\\]'):
    checks.check_dataset(
      numbered_text.config(), numbered_text.vocabulary.replace(path=str(path))
    )


@pytest.mark.parametrize('content', ['', '\n \n\n', '\ufeff\n'])
@pytest.mark.parametrize('is_training', [True, False])
def test_a_corpus_without_text_is_refused(
  numbered_text, tmp_path, content, is_training
):
  path = tmp_path / 'empty.txt'
  path.write_text(content)
  assert_refused(
    numbered_text,
    'A corpus must hold text',
    str(path),
    input_path=str(path),
    is_training=is_training,
  )


def test_a_corpus_smaller_than_a_batch_is_refused(numbered_text, tmp_path):
  path = tmp_path / 'small.txt'
  path.write_text('n1 n2 ' * 20)
  parts = (
    '3 examples of 16 tokens',
    '4 to a batch',
    str(path),
    'train_data.global_batch_size',
  )
  assert_refused(numbered_text, *parts, input_path=str(path))
  # Validation fills its batch up, so any text will do.
  check(numbered_text, input_path=str(path), is_training=False)


def test_a_side_without_documents_is_named(numbered_text, tmp_path):
  path = tmp_path / 'few.txt'
  path.write_text('n1 n2\n\nn3')
  assert_refused(
    numbered_text,
    'reading only the held-out documents '
    '(validation_data.held_out_documents=50)',
    input_path=str(path),
    is_training=False,
    held_out_documents=50,
  )


def test_text_that_is_not_utf8_is_named(numbered_text, tmp_path):
  path = tmp_path / 'latin.txt'
  path.write_bytes(b'n1\nn2\ncaf\xe9 n3\n')
  assert_refused(numbered_text, f'{path}, line 3', input_path=str(path))


def test_unknown_tokens_are_warned_of(numbered_text, tmp_path, capsys):
  path = tmp_path / 'text.txt'
  path.write_text('n1 n2 n3 n4 unheard\n' * 100)
  check(numbered_text, input_path=str(path))
  warning = capsys.readouterr().err
  assert 'the vocabulary does not know 20.0% of the first 500 tokens' in warning
  path.write_text('n1 n2 n3 n4\n' * 100)
  check(numbered_text, input_path=str(path), document_per_line=True)
  assert capsys.readouterr().err == ''


def test_markup_among_the_frequent_tokens_is_pointed_out(
  tmp_path, numbered_text, capsys
):
  words = tmp_path / 'vocab.txt'
  words.write_text(
    '\n'.join([*numbered_text.words.tokens, '<', '>', '/', 'doc'])
  )
  path = tmp_path / 'text.txt'
  path.write_text('<doc>\nn1 n2 n3\n</doc>\n\n' * 50)
  checks.check_dataset(
    numbered_text.config(input_path=str(path)),
    numbered_text.vocabulary.replace(path=str(words)),
  )
  warning = capsys.readouterr().err
  assert "'doc' is among the 100 most frequent tokens" in warning
  assert str(path) in warning


def test_one_giant_document_is_pointed_out(tmp_path, numbered_text, capsys):
  path = tmp_path / 'text.txt'
  path.write_text('n1 n2 n3\n' * 500)
  check(numbered_text, input_path=str(path))
  note = capsys.readouterr().err
  assert 'begins with one document of at least 1,500 tokens' in note
  assert 'set train_data.document_per_line = True' in note
  check(numbered_text, input_path=str(path), document_per_line=True)
  assert capsys.readouterr().err == ''


def test_passages_that_are_held_out_are_pointed_out(
  tmp_path, numbered_text, capsys
):
  path = tmp_path / 'text.txt'
  path.write_text('n1 n2 n3\n' * 5000)
  for is_training in (True, False):
    check(
      numbered_text,
      input_path=str(path),
      held_out_documents=50,
      is_training=is_training,
    )
    note = capsys.readouterr().err
    assert 'passages of up to 512 bytes are held out' in note


def test_mostly_unknown_text_is_refused_unless_allowed(numbered_text, tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text('n1 unheard unseen\n' * 100)
  assert_refused(
    numbered_text,
    'At most 50% of the tokens may be [UNK]. Received: 66.7%',
    'Set vocabulary.path to a vocabulary of this language',
    input_path=str(path),
  )
  check(numbered_text, input_path=str(path), allow_unknown_tokens=True)


def test_damaged_gzip_is_named(numbered_text, tmp_path):
  path = tmp_path / 'text.txt.gz'
  path.write_bytes(gzip.compress(b'n1 n2 n3 ' * 500)[:-20])
  assert_refused(numbered_text, f'{path}, damaged', input_path=str(path))


def test_of_a_large_corpus_the_heads_are_checked_at_once(
  numbered_text, tmp_path, monkeypatch
):
  first, second = tmp_path / 'a.txt', tmp_path / 'b.txt'
  first.write_bytes(b'n1 n2 n3 n4 n5\n' * 5000)
  second.write_bytes(b'n1 n2 n3 n4 n5\n' * 500 + b'\xff')
  monkeypatch.setattr(checks, 'MAX_SCANNED_BYTES', 1000)
  monkeypatch.setattr(checks, '_HEAD_BYTES', 1000)
  config = numbered_text.config(input_path=f'{tmp_path}/*.txt')
  assert checks.check_text(config).num_files == 2
  # What lies behind is refused when it is read.
  assert_refused(
    numbered_text, f'{second}, line 501', input_path=f'{tmp_path}/*.txt'
  )


def test_heads_are_checked_alone_for_who_reads_the_rest(
  numbered_text, tmp_path, monkeypatch
):
  monkeypatch.setattr(checks, '_HEAD_BYTES', 1000)
  monkeypatch.setattr(checks, '_SAMPLE_TOKENS', 1)
  path = tmp_path / 'a.txt'
  text = b'n1 n2\n\n' * 1024  # What is read in one step.
  path.write_bytes(text + b'\xff')
  config = numbered_text.config(input_path=str(path))
  head = checks.check_heads(config, numbered_text.vocabulary)
  assert head.lengths.tolist() == [2] * 1024
  path.write_bytes(b'\xff' + text)
  with pytest.raises(errors.DataError, match='line 1, which is not UTF-8'):
    checks.check_heads(config, numbered_text.vocabulary)


def features(rows=9, seq_length=16, slots=3, **changes):
  zeros = np.zeros([rows, seq_length], np.int32)
  values = {
    'input_word_ids': zeros + 7,
    'input_mask': zeros + 1,
    'input_type_ids': zeros,
    'masked_lm_positions': np.tile(np.arange(slots, dtype=np.int32), [rows, 1]),
    'masked_lm_ids': np.full([rows, slots], 8, np.int32),
    'masked_lm_weights': np.ones([rows, slots], np.float32),
  }
  values |= changes
  return {
    name: tf.constant(value)
    for name, value in values.items()
    if value is not None
  }


def write(path, *parts, compression=''):
  with tf.io.TFRecordWriter(str(path), compression) as writer:
    for part in parts:
      for record in record_writer.serialized(part):
        writer.write(record)
  return str(path)


@pytest.mark.parametrize('compression', ['', 'GZIP'])
@pytest.mark.parametrize('is_training', [True, False])
def test_good_records_pass(numbered_text, tmp_path, compression, is_training):
  path = write(tmp_path / 'a.tfrecord', features(), compression=compression)
  assert check(numbered_text, input_path=path, is_training=is_training) is None


@pytest.mark.parametrize(
  ('written', 'parts'),
  [
    (features(masked_lm_ids=None), ['without masked_lm_ids; it has']),
    (
      features(input_word_ids=None, input_ids=np.zeros([9, 16], np.int32)),
      ['without segment_ids; it has'],
    ),
    (
      features(seq_length=32),
      [
        'Feature input_word_ids must have 16 values',
        '32 values',
        'Set train_data.seq_length',
      ],
    ),
    (
      features(slots=5),
      [
        'must have 3 values',
        '5 values',
        'Set train_data.max_predictions_per_seq',
      ],
    ),
    (
      features(masked_lm_weights=np.ones([9, 3], np.int32)),
      ['3 values of type float32', '3 values in int64_list'],
    ),
    (
      features(input_word_ids=np.full([9, 16], 3005, np.int32)),
      [
        'input_word_ids must lie in the vocabulary, from 0 to 3004',
        'Received: 3005',
        'Set vocabulary.path',
      ],
    ),
    (
      features(masked_lm_ids=np.full([9, 3], -1, np.int32)),
      ['masked_lm_ids must lie in the vocabulary', 'Received: -1'],
    ),
    (
      features(masked_lm_positions=np.full([9, 3], 16, np.int32)),
      ['masked_lm_positions must lie in the sequence, from 0 to 15'],
    ),
    (features(rows=2), ['2 examples of 16 tokens', '4 to a batch']),
  ],
)
def test_records_that_do_not_fit_are_refused(
  numbered_text, tmp_path, written, parts
):
  path = write(tmp_path / 'a.tfrecord', written)
  assert_refused(numbered_text, *parts, path, input_path=path)


def old_names(**changes):
  """Features by the names of google-research/bert."""
  found = features(**changes)
  names = {'input_word_ids': 'input_ids', 'input_type_ids': 'segment_ids'}
  return {names.get(name, name): value for name, value in found.items()}


def test_the_older_names_pass_where_all_files_have_them(
  numbered_text, tmp_path
):
  write(tmp_path / 'a.tfrecord', old_names())
  write(tmp_path / 'b.tf_record', old_names())
  check(numbered_text, input_path=f'{tmp_path}/*')
  path = write(tmp_path / 'c.tfr', features())
  assert_refused(
    numbered_text, 'the same names', path, input_path=f'{tmp_path}/*'
  )


def test_next_sentence_labels_must_be_there_when_asked_for(
  numbered_text, tmp_path
):
  path = write(tmp_path / 'a.tfrecord', features())
  assert_refused(
    numbered_text,
    'without next_sentence_labels',
    input_path=path,
    use_next_sentence_label=True,
  )


def test_an_example_that_differs_from_the_first_is_found(
  numbered_text, tmp_path
):
  path = write(tmp_path / 'a.tfrecord', features(), features(seq_length=8))
  assert_refused(numbered_text, 'the same features', path, input_path=path)


def test_a_bad_last_file_is_found_and_named(numbered_text, tmp_path):
  write(tmp_path / 'a.tfrecord', features())
  path = write(
    tmp_path / 'b.tfrecord',
    features(masked_lm_ids=np.full([9, 3], 9999, np.int32)),
  )
  assert_refused(
    numbered_text, 'Received: 9999', path, input_path=f'{tmp_path}/*.tfrecord'
  )


@pytest.mark.parametrize('compression', ['', 'GZIP'])
def test_a_truncated_last_record_is_named(numbered_text, tmp_path, compression):
  whole = tmp_path / 'whole.tfrecord'
  write(whole, features(), compression=compression)
  path = tmp_path / 'cut.tfrecord'
  path.write_bytes(whole.read_bytes()[:-9])
  assert_refused(
    numbered_text, 'end with a whole record', str(path), input_path=str(path)
  )


def test_an_altered_record_is_named(numbered_text, tmp_path):
  path = tmp_path / 'a.tfrecord'
  write(path, features())
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))
  assert_refused(numbered_text, 'be undamaged', str(path), input_path=str(path))


def test_a_file_of_other_messages_is_refused(numbered_text, tmp_path):
  path = str(tmp_path / 'a.tfrecord')
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(b'\xff\xff\xff')
  assert_refused(numbered_text, 'tf.train.Example', path, input_path=path)


def test_an_empty_file_of_records_is_refused(numbered_text, tmp_path):
  path = tmp_path / 'a.tfrecord'
  path.write_bytes(b'')
  assert_refused(numbered_text, 'none in', str(path), input_path=str(path))


def test_text_and_records_do_not_mix(numbered_text, tmp_path):
  path = write(tmp_path / 'a.tfrecord', features())
  text = tmp_path / 'b.txt'
  text.write_text('n1')
  assert_refused(
    numbered_text,
    'either text or TFRecords',
    str(text),
    input_path=f'{path},{text}',
  )
  assert_refused(
    numbered_text, 'either text or TFRecords', input_path=f'{tmp_path}/*'
  )
