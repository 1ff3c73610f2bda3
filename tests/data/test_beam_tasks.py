"""How tasks of the Beam pipeline hand documents and examples on."""

import pytest

from tokendrop_tf.data import beam_tasks


@pytest.mark.parametrize(
  'items', [[], [b''], [b'one', b'', 'zwei €'.encode(), b'\0' * 9]]
)
def test_documents_come_back_as_they_went(items):
  assert beam_tasks._split(beam_tasks._joined(items)) == items


@pytest.mark.parametrize(
  'dealt', [[], [(-(2**63), b'example', 7), (2**63 - 1, b'', 0)]]
)
def test_examples_come_back_with_keys_and_tokens(dealt):
  assert beam_tasks._split_dealt(beam_tasks._joined_dealt(dealt)) == dealt
