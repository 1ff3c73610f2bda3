import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from tokendrop_tf.data import example_bytes

# Around every change of the number of bytes, and anything between.
NUMBERS = strategies.one_of(
  strategies.integers(0, 31).map(lambda bits: 2**bits - 1),
  strategies.integers(0, 30).map(lambda bits: 2**bits),
  strategies.integers(0, 2**31 - 1),
  strategies.integers(0, 127),
)


def by_protocol_buffers(features):
  """What the class that the protocol buffers' compiler made writes."""
  serialized = []
  for row in range(len(next(iter(features.values())))):
    example = tf.train.Example()
    example.features.SetInParent()
    for name, values in features.items():
      feature = example.features.feature[name]
      is_float = values.dtype.kind == 'f'
      numbers = feature.float_list if is_float else feature.int64_list
      numbers.SetInParent()
      numbers.value.extend(values[row].tolist())
    serialized.append(example.SerializeToString(deterministic=True))
  return serialized


@strategies.composite
def blocks(draw):
  """Blocks of rows with the features of best fit, in any order."""
  rows, length, slots = (draw(strategies.integers(0, 9)) for _ in range(3))
  features = {}
  names = ['input_word_ids', 'input_mask', 'segment_ids', 'position_ids']
  for name in names:
    shape = (rows, length)
    features[name] = draw(arrays.arrays(np.int32, shape, elements=NUMBERS))
  shape = (rows, slots)
  features['masked_lm_ids'] = draw(
    arrays.arrays(np.int64, shape, elements=NUMBERS)
  )
  features['masked_lm_weights'] = draw(arrays.arrays(np.float32, shape))
  return features


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(blocks())
def test_bytes_are_those_of_the_protocol_buffer(features):
  assert example_bytes.serialize(features) == by_protocol_buffers(features)


@pytest.mark.parametrize('size', [0, 1, 127, 128, 16383, 16384])
def test_lists_of_any_length_are_framed(size):
  """Lengths take one, two or three bytes, at every level."""
  features = {'n' * 200: np.arange(size)[np.newaxis], 'a': np.ones([1, 1])}
  features['a'] = features['a'].astype(np.float32)
  assert example_bytes.serialize(features) == by_protocol_buffers(features)


def test_negative_integers_take_ten_bytes():
  features = {'ids': np.array([[-1, 5], [-(2**63), 300]])}
  assert example_bytes.serialize(features) == by_protocol_buffers(features)


def test_eager_tensors_are_taken_as_they_are():
  ids = np.array([[1, 300], [2**31 - 1, 0]], np.int32)
  [first, _] = example_bytes.serialize({'ids': tf.constant(ids)})
  assert first == example_bytes.serialize({'ids': ids[:1]})[0]
  feature = tf.train.Example.FromString(first).features.feature['ids']
  assert list(feature.int64_list.value) == [1, 300]
