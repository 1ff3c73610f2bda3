"""Answers on the terminal: what is asked, how, and what is printed."""

import io
import json
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny_exports
from refusals import message_of

from tokendrop_tf.export import load_model
from tokendrop_tf.serving import predict
from tokendrop_tf.text import text_to_ids

PAIRS = [('the river', 'bank'), ('was born', 'in the city'), ('a', '')]


def lines_of(capsys, arguments) -> list[str]:
  predict.main(arguments)
  return capsys.readouterr().out.splitlines()


@pytest.fixture
def standard_input(monkeypatch):
  """Gives a function that puts bytes on standard input."""

  def put(data: bytes):
    stream = types.SimpleNamespace(
      buffer=io.BytesIO(data), isatty=lambda: False
    )
    monkeypatch.setattr('sys.stdin', stream)

  return put


def test_every_pair_gets_its_label(exports, capsys):
  packer = text_to_ids.TextPacker(
    tiny_exports.make_vocabulary(), tiny_exports.SEQ_LENGTH
  )
  features = packer(*(tf.constant(column) for column in zip(*PAIRS)))
  scores = tf.nn.softmax(tiny_exports.load('pair').model(features)).numpy()
  texts = [text for pair in PAIRS for text in pair]
  model_dir = f'--model_dir={exports.path("pair")}'
  lines = lines_of(capsys, [model_dir, '--batch_size=2', *texts])
  assert lines[::2] == ['\t'.join(pair) for pair in PAIRS]
  for line, row in zip(lines[1::2], scores, strict=True):
    label = tiny_exports.LABELS[row.argmax()]
    assert line.startswith(f'  {label}  ({label} {row.max():.0%}  ')


def test_lines_of_standard_input_become_json(exports, capsys, standard_input):
  standard_input('\ufeffthe river\tbank\r\n\na\té\n'.encode())
  lines = lines_of(capsys, [f'--model_dir={exports.path("pair")}', '--json'])
  rows = [json.loads(line) for line in lines]
  assert [(row['text'], row['text_pair']) for row in rows] == [
    ('the river', 'bank'),
    ('a', 'é'),
  ]
  for row in rows:
    assert row['labels'] == list(tiny_exports.LABELS)
    assert row['label'] == row['labels'][int(np.argmax(row['scores']))]


def test_questions_are_answered_from_their_contexts(exports, capsys):
  context = 'Who was born in the city, 中文? The river bank.'
  model_dir = f'--model_dir={exports.path("answer")}'
  [line] = lines_of(capsys, [model_dir, '--json', 'who?', context])
  row = json.loads(line)
  assert row['question'] == 'who?'
  assert context[row['start'] : row['end']] == row['answer']


def test_a_regression_prints_its_number(exports, capsys):
  model_dir = f'--model_dir={exports.path("regression")}'
  _, line = lines_of(capsys, [model_dir, 'the river'])
  [row] = lines_of(capsys, [model_dir, '--json', 'the river'])
  assert line == f'  {json.loads(row)["score"]:.3f}'


def test_another_model_of_the_folder_can_be_named(exports, capsys):
  model_dir = f'--model_dir={exports.path("pretraining")}'
  [line] = lines_of(
    capsys, [model_dir, '--model=fill_mask', '--json', 'a [MASK] b']
  )
  assert len(json.loads(line)['tokens'][0]) == 10
  _, line = lines_of(capsys, [model_dir, 'the river'])
  assert 'mean_output: ' in line
  assert '(16 numbers)' in line


def test_a_model_without_texts_is_refused(exports):
  folder = exports.path('pretraining')
  message = message_of(predict.Predictor, str(folder), 'ids')
  assert 'A model must take texts.' in message
  assert 'input_word_ids' in message


def test_half_an_example_is_refused():
  names = ['question', 'context']
  assert predict.group_arguments(list('abcd'), names) == [
    ('a', 'b'),
    ('c', 'd'),
  ]
  message = message_of(predict.group_arguments, list('abc'), names)
  assert 'needs 2 arguments: question and context. Received: 3' in message


def test_a_line_with_other_columns_is_refused():
  lines = ['a\tb\n', '\n', 'only one\n']
  message = message_of(list, predict.read_lines(lines, ['text', 'text_pair']))
  assert 'must read text<TAB>text_pair' in message
  assert '1 columns on line 3' in message


def test_a_tab_belongs_to_a_single_text():
  assert list(predict.read_lines(['a\tb\n'], ['text'])) == [('a\tb',)]


def test_input_that_is_not_utf8_is_refused(exports, standard_input):
  standard_input(b'a\tb\n\xff\tb\n')
  message = message_of(predict.main, [f'--model_dir={exports.path("pair")}'])
  assert 'must be UTF-8. Received: line 2' in message


def test_a_run_answers_as_its_export_does(
  exports, capsys, monkeypatch, tmp_path
):
  (tmp_path / 'params.yaml').touch()
  monkeypatch.setattr(
    load_model, 'load_model', lambda *_: tiny_exports.load('pair')
  )
  texts = [text for pair in PAIRS for text in pair]
  printed = [
    lines_of(capsys, [f'--model_dir={model_dir}', *texts])
    for model_dir in (tmp_path, exports.path('pair'))
  ]
  assert printed[0] == printed[1]
  message = message_of(predict.Predictor, str(tmp_path), 'answer')
  assert (
    f'those of {tmp_path}: embeddings, classify. Received: answer' in message
  )


def test_an_empty_folder_is_neither_run_nor_export(tmp_path):
  message = message_of(predict.main, [f'--model_dir={tmp_path}', 'a'])
  assert 'must hold a run' in message


def test_no_answer_is_said():
  outputs = {'answer': '', 'score': 0.5, 'start': 0, 'end': 0}
  assert predict.format_answer(outputs).startswith('no answer  (50%')
