"""The benchmark of long sequences, on sequences that are not long."""

import pytest

from tokendrop_tf import errors
from tools.measure import long_benchmark

SMALL = [
  '--model=bert_tiny',
  '--num_layers=3',
  '--vocab_size=50',
  '--steps=1',
  '--attention_block=8',
  '--seq_lengths=32',
]


def test_each_length_has_both_attentions_with_and_without_dropping():
  arguments = long_benchmark.parse_arguments([*SMALL, '--seq_lengths=32,64'])
  expected = [(0, 'none'), (0, 'loss'), (8, 'none'), (8, 'loss')]
  assert long_benchmark.cases(arguments) == [
    (length, *case) for length in (32, 64) for case in expected
  ]


def test_a_case_is_measured_in_processes_of_its_own():
  arguments = long_benchmark.parse_arguments(SMALL)
  [*_, case] = long_benchmark.cases(arguments)
  row = long_benchmark.measure(long_benchmark.case_flags(arguments, *case))
  assert row['median_seconds'] > 0.0
  assert row['peak_bytes'] > 2**20


def test_a_case_without_memory_is_a_row_that_says_so():
  row = {'seq_length': 32, 'attention_block': 0, 'arm': 'none'}
  table = long_benchmark.format_table(
    [row | {'seconds': None, 'peak_bytes': None}]
  )
  assert 'out of memory' in table


def test_flags_that_make_no_case_are_refused_before_the_first():
  with pytest.raises(errors.UserError, match='float12'):
    long_benchmark.parse_arguments([*SMALL, '--precision=float12'])
