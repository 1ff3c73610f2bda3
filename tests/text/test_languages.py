"""Ids of many scripts are those of Hugging Face's `tokenizers`."""

import pytest

from tokendrop_tf.text import tokenization
from tools.measure import languages

# Their words are often longer than a hundred bytes.
WITHOUT_SPACES = ('Thai', 'Khmer', 'Lao', 'Burmese')


@pytest.mark.parametrize('name', languages.SENTENCES)
@pytest.mark.parametrize(
  'settings', [tokenization.UNCASED, tokenization.CASED], ids=['lower', 'cased']
)
def test_ids_of_a_script_are_those_of_tokenizers(name, settings):
  agreement = languages.compare(languages.generate(name, 40), settings)
  assert agreement.equal == agreement.lines == 43
  if name in WITHOUT_SPACES:
    assert agreement.unknown < 0.01
