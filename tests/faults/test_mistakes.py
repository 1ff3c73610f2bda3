"""Generated bad configurations and inputs: one message, code 2, no trace."""

import gzip
import pathlib

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies

from faults import harness
from tokendrop_tf import command_line, train
from tokendrop_tf.config import sections

SETTINGS = {
  'max_examples': 200,
  'deadline': None,
  'derandomize': True,
  'database': None,
  'suppress_health_check': list(hypothesis.HealthCheck),
}
MANY = hypothesis.settings(**SETTINGS)
FEW = hypothesis.settings(**(SETTINGS | {'max_examples': 6}))

NUMBERS = strategies.one_of(
  strategies.integers(),
  strategies.floats(allow_nan=False, allow_infinity=False),
)
# The ranges of settings, by their names in gin.
RANGES = {
  f'{section.name}.{setting.name}': setting.rule
  for section in sections.all_sections().values()
  for setting in section.settings.values()
  if setting.rule is not None
}
# What no setting takes: of the wrong kind, or unreadable as a value.
WRONG_VALUES = strategies.one_of(
  strategies.sampled_from(
    ["'lots'", '[1, 2]', '{}', "('a',)", '1 2', '%ABSENT', '@absent()', '(', '']
  ),
  strategies.text(
    alphabet=strategies.characters(whitelist_categories=['L']), min_size=1
  ).map(lambda text: f"'{text}'"),
)


@strategies.composite
def bad_bindings(draw):
  """A binding that breaks a range, has no value of its kind, or no setting."""
  name = draw(strategies.sampled_from(sorted(RANGES)))
  kind = draw(strategies.sampled_from(['range', 'kind', 'name']))
  rule = RANGES[name].contains
  if kind == 'range':
    value = draw(NUMBERS.filter(lambda value: not _is_in(rule, value)))
    return f'{name} = {value!r}'
  if kind == 'kind':
    value = draw(WRONG_VALUES)
    hypothesis.assume(not _is_in(rule, value.strip("'")))
    return f'{name} = {value}'
  typo = draw(strategies.text('abcxyz_', min_size=1, max_size=3))
  hypothesis.assume(f'{name}{typo}' not in RANGES)
  return f'{name}{typo} = 1'


def _is_in(rule, value):
  try:
    return rule(value)
  except TypeError:
    return False


def snapshot(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  }


def assert_refused(arguments, folder, capsys):
  """Asserts one message, exit code 2, and `folder` as it was."""
  before = snapshot(folder)
  with pytest.raises(SystemExit) as caught:
    command_line.run_main(train.main, arguments)
  printed = capsys.readouterr()
  assert caught.value.code == 2, (arguments, printed)
  assert printed.err.startswith('Error: '), printed
  assert printed.err.count('Error: ') == 1
  assert 'Traceback' not in printed.err
  assert snapshot(folder) == before


def check_bad_configuration(binding, corpus, folder, capsys):
  run = harness.TinyRun(corpus, folder / 'run', (binding,))
  arguments = run.arguments()
  assert_refused(arguments, folder, capsys)
  assert not (folder / 'run').exists()


@FEW
@hypothesis.given(binding=bad_bindings())
def test_a_bad_configuration_is_refused(binding, tiny_corpus, tmp_path, capsys):
  check_bad_configuration(binding, tiny_corpus, tmp_path, capsys)


@pytest.mark.faults
@MANY
@hypothesis.given(binding=bad_bindings())
def test_200_bad_configurations_are_refused(
  binding, tiny_corpus, tmp_path, capsys
):
  check_bad_configuration(binding, tiny_corpus, tmp_path, capsys)


@strategies.composite
def bad_inputs(draw):
  """(setting, name of the file, its content) of a file that cannot be used."""
  return draw(
    strategies.one_of(
      _not_utf8(),
      _no_text(),
      _damaged_gzip(),
      _bad_vocabulary(),
      _bad_records(),
    )
  )


@strategies.composite
def _not_utf8(draw):
  words = draw(strategies.lists(strategies.sampled_from(['w01', 'w02', '\n'])))
  content = bytearray(' '.join(words).encode() + b'\n')
  bad = draw(
    strategies.sampled_from([b'\xff', b'\xc3(', b'\xed\xa0\x80', b'\xc3'])
  )
  place = draw(strategies.integers(0, len(content)))
  content[place:place] = bad
  return 'train_data.input_path', 'text.txt', bytes(content)


@strategies.composite
def _no_text(draw):
  blanks = draw(strategies.text(' \n\t\r', max_size=20))
  return 'train_data.input_path', 'text.txt', blanks.encode()


@strategies.composite
def _damaged_gzip(draw):
  whole = gzip.compress(b'w01 w02 w03\n' * 400, mtime=0)
  if draw(strategies.booleans()):
    content = whole[: draw(strategies.integers(1, len(whole) - 1))]
  else:
    content = bytearray(whole)
    # Beyond the header, whose time and system mean nothing.
    place = draw(strategies.integers(10, len(whole) - 1))
    content[place] ^= 1 << draw(strategies.integers(0, 7))
  return 'train_data.input_path', 'text.txt.gz', bytes(content)


@strategies.composite
def _bad_vocabulary(draw):
  tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'w01', 'w02']
  kind = draw(strategies.sampled_from(['missing', 'twice', 'bytes', 'empty']))
  if kind == 'empty':
    return 'vocabulary.path', 'vocab.txt', b''
  if kind == 'bytes':
    return (
      'vocabulary.path',
      'vocab.txt',
      '\n'.join(tokens).encode() + b'\n\xff',
    )
  if kind == 'missing':
    tokens.remove(draw(strategies.sampled_from(tokens[:5])))
  else:
    tokens.append(draw(strategies.sampled_from(tokens)))
  return 'vocabulary.path', 'vocab.txt', '\n'.join(tokens).encode()


@strategies.composite
def _bad_records(draw):
  content = bytearray(_records())
  if draw(strategies.booleans()):
    content = content[: draw(strategies.integers(1, len(content) - 1))]
    hypothesis.assume(len(content) % (len(_records()) // 12))
  else:
    place = draw(strategies.integers(0, len(content) - 1))
    content[place] ^= 1 << draw(strategies.integers(0, 7))
  return 'train_data.input_path', 'examples.tfrecord', bytes(content)


def _records():
  """Returns the bytes of a file of 12 examples that fit the settings."""
  from tokendrop_tf.data.shards import record_writer

  features = {
    'input_word_ids': tf.fill([12, 32], 7),
    'input_mask': tf.ones([12, 32], tf.int32),
    'input_type_ids': tf.zeros([12, 32], tf.int32),
    'masked_lm_positions': tf.fill([12, 5], 3),
    'masked_lm_ids': tf.fill([12, 5], 8),
    'masked_lm_weights': tf.ones([12, 5]),
  }
  path = pathlib.Path(_records.folder) / 'whole.tfrecord'
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in record_writer.serialized(features):
      writer.write(record)
  return path.read_bytes()


@pytest.fixture(autouse=True)
def records_folder(tmp_path_factory):
  _records.folder = tmp_path_factory.mktemp('records')


def check_bad_input(bad, corpus, folder, capsys):
  setting, name, content = bad
  path = folder / name
  path.write_bytes(content)
  run = harness.TinyRun(
    corpus, folder / 'run', (f"{setting} = '{path}'",), mode='train'
  )
  assert_refused(run.arguments(), folder, capsys)
  assert not snapshot(folder).keys() & {'run/params.yaml'}
  path.unlink()


@FEW
@hypothesis.given(bad=bad_inputs())
def test_a_bad_input_is_refused(bad, tiny_corpus, tmp_path, capsys):
  check_bad_input(bad, tiny_corpus, tmp_path, capsys)


@pytest.mark.faults
@MANY
@hypothesis.given(bad=bad_inputs())
def test_200_bad_inputs_are_refused(bad, tiny_corpus, tmp_path, capsys):
  check_bad_input(bad, tiny_corpus, tmp_path, capsys)
