import re

import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tools.measure import data_benchmark, tool_speeds


def run(numbered_text, *flags):
  data_benchmark.main(
    [
      f'--input={numbered_text.folder}/text.txt',
      f'--vocab_file={numbered_text.vocabulary.path}',
      '--seq_length=16',
      '--max_predictions_per_seq=3',
      '--batch_size=4',
      '--seconds=0.1',
      '--stretches=3',
      '--measure=live',
      *flags,
    ]
  )


def test_the_median_of_the_stretches_is_printed(numbered_text, capsys):
  run(numbered_text)
  printed = capsys.readouterr().out
  speeds = re.findall(r'^([\d.]+) million tokens/s$', printed, re.M)
  assert len(speeds) == 3
  median = sorted(speeds, key=float)[1]
  assert f'median {median} million tokens/s' in printed
  assert '3 stretches of 0.1 s), S 16, B 4, across_documents' in printed


def test_only_tokens_count(monkeypatch):
  """A clock of one second a look: each stretch is one batch of 5 tokens."""
  seconds = iter(range(100))
  monkeypatch.setattr(
    data_benchmark.time, 'perf_counter', lambda: next(seconds)
  )
  batch = {'input_mask': tf.constant([[1, 1, 1, 0], [1, 1, 0, 0]])}
  speeds = data_benchmark.tokens_per_second(iter([batch] * 9), 1, 3)
  assert list(speeds) == [5, 5, 5]


def test_medians_stand_beside_the_peer():
  lines = data_benchmark.summary(
    {
      'live': [5e6],
      'create': [3e6, 4e6, 8e6],
      'peer': [1e5, 2e5, 1.1e5],
      'vocab 8192': [9.0, 7.0],
    }
  )
  assert [' '.join(line.split()) for line in lines] == [
    'live 5.00 million tokens/s (5.00 to 5.00, 1 times), 45 times the peer',
    'create 4.00 million tokens/s (3.00 to 8.00, 3 times), 36 times the peer',
    'peer 0.11 million tokens/s (0.10 to 0.20, 3 times)',
    'vocab 8192 8.00 s (7.00 to 9.00, 2 times)',
  ]


def test_a_slice_ends_with_a_document(numbered_text, tmp_path):
  path = tmp_path / 'slice.txt'
  size = tool_speeds.write_slice(numbered_text.config(), str(path), 1000)
  texts = path.read_text().split('\n\n')
  assert texts.pop() == ''
  assert 1000 <= size == path.stat().st_size < 2000
  found = [text.split() for text in texts]
  assert found == numbered_text.documents[: len(found)]


def test_mistakes_are_named_by_flag(numbered_text):
  with pytest.raises(errors.UserError, match='of live, create, peer, vocab'):
    run(numbered_text, '--measure=live,size')
  with pytest.raises(errors.UserError, match='--stretches must be at least 1'):
    run(numbered_text, '--stretches=0')
