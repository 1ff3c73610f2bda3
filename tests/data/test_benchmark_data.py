import re

import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import benchmark_data


def run(numbered_text, *flags):
  benchmark_data.main(
    [
      f'--input={numbered_text.folder}/text.txt',
      f'--vocab_file={numbered_text.vocabulary.path}',
      '--seq_length=16',
      '--max_predictions_per_seq=3',
      '--batch_size=4',
      '--seconds=0.1',
      '--stretches=3',
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
    benchmark_data.time, 'perf_counter', lambda: next(seconds)
  )
  batch = {'input_mask': tf.constant([[1, 1, 1, 0], [1, 1, 0, 0]])}
  speeds = benchmark_data.tokens_per_second(iter([batch] * 9), 1, 3)
  assert list(speeds) == [5, 5, 5]


def test_mistakes_are_named_by_flag(numbered_text):
  with pytest.raises(errors.UserError, match='--stretches must be at least 1'):
    run(numbered_text, '--stretches=0')
