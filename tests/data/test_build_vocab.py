import pytest

from tokendrop_tf import errors
from tokendrop_tf.data import build_vocab
from tokendrop_tf.text import vocabulary as vocabulary_lib

TEXT = 'The quick brown fox.\n\nThe lazy dogs sleep, the foxes do not.\n' * 3


@pytest.fixture
def text(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text(TEXT)
  return str(path)


def build(text, tmp_path, *flags):
  output = str(tmp_path / 'out' / 'vocab.txt')
  build_vocab.main([f'--input={text}', f'--output={output}', *flags])
  return vocabulary_lib.Vocabulary.from_file(output)


def test_vocabulary_and_counts_are_written(text, tmp_path, capsys):
  vocabulary = build(text, tmp_path, '--vocab_size=60')
  counts = vocabulary_lib.read_token_counts(
    vocabulary_lib.counts_path_for(vocabulary.path), vocabulary
  )
  assert counts[vocabulary.id_of('the')] == 9
  assert counts[vocabulary.unk_id] == 0
  printed = capsys.readouterr().out
  assert f'{vocabulary.path}: {vocabulary.size} tokens' in printed
  assert f'{counts.sum()} tokens counted, 0.00% unknown' in printed


def test_a_text_that_supports_fewer_tokens_says_so(text, tmp_path, capsys):
  vocabulary = build(text, tmp_path, '--vocab_size=5000')
  assert vocabulary.size < 200
  assert (
    f'The text supports {vocabulary.size} tokens only, fewer than the '
    '5,000 asked for.'
  ) in capsys.readouterr().out


def test_capitals_are_kept_when_asked_for(text, tmp_path):
  vocabulary = build(text, tmp_path, '--no-lower_case', '--vocab_size=100')
  assert 'T' in vocabulary.tokens


def test_held_out_documents_are_left_out(text, tmp_path):
  vocabulary = build(
    text, tmp_path, '--held_out_documents=2', '--vocab_size=100'
  )
  assert 'z' not in ''.join(vocabulary.tokens)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--input=nowhere.txt'], '--input must name existing files'),
    (['--vocab_size=9'], 'at least 16 tokens.*Set a larger --vocab_size'),
    (['--tfds_name=wiki40b'], "--tfds_name='wiki40b'"),
    (['--vocab_sizes=9'], 'Unknown flag: --vocab_sizes'),
    (['--output=.'], 'The output must be a file'),
  ],
)
def test_mistakes_are_named_by_flag(text, tmp_path, flags, message):
  with pytest.raises(errors.UserError, match=message):
    build(text, tmp_path, *flags)


def test_text_that_is_not_utf8_is_refused(tmp_path):
  path = tmp_path / 'latin.txt'
  path.write_bytes(b'caf\xe9')
  with pytest.raises(errors.DataError, match='latin.txt, line 1'):
    build(str(path), tmp_path)
