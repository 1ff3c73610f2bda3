import dataclasses
import html
import re

import numpy as np
import pytest

from tokendrop_tf import errors
from tokendrop_tf.config import experiments
from tokendrop_tf.data import create_pretraining_data
from tokendrop_tf.dropping import Dropping, TokenDropConfig
from tokendrop_tf.pages import data_summary, inspect_data, token_view
from tokendrop_tf.run import run_folder
from tokendrop_tf.text import vocabulary as vocabulary_lib

WORDS = vocabulary_lib.Vocabulary(
  (*vocabulary_lib.SPECIAL_TOKENS, 'a', '##b', 'c', 'd')
)


def features():
  """[CLS] a ##b c d [SEP] [PAD]: a is masked, ##b random, c kept."""
  ids = WORDS.ids_of(('[CLS]', '[MASK]', 'd', 'c', 'd', '[SEP]', '[PAD]'))
  return {
    'input_word_ids': np.array([ids]),
    'input_mask': np.array([[1, 1, 1, 1, 1, 1, 0]]),
    'masked_lm_positions': np.array([[1, 2, 3, 0]]),
    'masked_lm_ids': np.array([[*WORDS.ids_of(('a', '##b', 'c')), 0]]),
    'masked_lm_weights': np.array([[1.0, 1.0, 1.0, 0.0]]),
  }


def test_labels_are_shown_with_what_stands_in_their_place():
  (tokens,) = token_view.views(features(), WORDS)
  assert [token.fate for token in tokens] == [
    '',
    token_view.MASKED,
    token_view.RANDOM,
    token_view.KEPT,
    '',
    '',
  ]
  assert token_view.as_text(tokens, colors=False) == (
    '[CLS] [[MASK]=a] [d=##b] [c=c] d [SEP]'
  )


def test_what_the_table_drops_is_marked():
  table = np.array([-np.inf, *[np.inf] * 4, 3.0, 3.0, 1.0, 2.0], np.float32)
  dropping = Dropping(TokenDropConfig(token_keep_k=5), 4, 7)
  dropper = token_view.Dropper(table, dropping, 'runs/a/ckpt-7')
  (tokens,) = token_view.views(features(), WORDS, dropper)
  assert [token.text for token in tokens if token.is_dropped] == ['c']
  assert ' ~[c=c]~ d [SEP]' in token_view.as_text(tokens, colors=False)
  assert '\033[90m[c=c]\033[0m' in token_view.as_text(tokens, colors=True)


def test_masks_are_counted():
  summary = data_summary.of_examples(WORDS)
  data_summary.add_examples(summary, features(), WORDS)
  assert summary.lengths == [4]
  assert (summary.labels, summary.ordinary) == (3, 4)
  assert summary.fates == (1, 1, 1)
  found = dict(summary.most_frequent(WORDS))
  assert found == {'a': 0.25, '##b': 0.25, 'c': 0.25, 'd': 0.25}


def test_lengths_are_counted_in_powers_of_two():
  summary = data_summary.of_examples(WORDS)
  summary = dataclasses.replace(summary, lengths=[4, 7, 8, 40])
  assert summary.histogram() == [
    ('4 to 7', 2),
    ('8 to 15', 1),
    ('16 to 31', 0),
    ('32 to 63', 1),
  ]


def inspect(numbered_text, source, *flags):
  inspect_data.main(
    [
      f'--input={source}',
      f'--vocab_file={numbered_text.vocabulary.path}',
      '--seq_length=16',
      '--max_predictions_per_seq=3',
      '--examples=2',
      *flags,
    ]
  )


def test_text_is_summarised_and_shown(numbered_text, tmp_path, capsys):
  page = tmp_path / 'page.html'
  inspect(numbered_text, f'{numbered_text.folder}/text.txt', f'--html={page}')
  printed = capsys.readouterr().out
  documents = len(numbered_text.documents)
  assert re.search(rf'documents +{documents}\n', printed)
  assert re.search(r'tokens +3,000\n', printed)
  assert 'Example 2, 16 tokens:\n[CLS] ' in printed
  assert 'best_fit' in printed
  text = page.read_text()
  assert text.startswith('<!doctype html>')
  assert html.escape(f'{documents:,}') in text
  assert text.count('<p class="tokens">') == 2


@pytest.mark.parametrize('form', ['tokens', 'tfrecord'])
def test_shards_are_summarised_and_shown(numbered_text, tmp_path, capsys, form):
  create_pretraining_data.main(
    [
      f'--input={numbered_text.folder}/text.txt',
      f'--vocab_file={numbered_text.vocabulary.path}',
      f'--output={tmp_path}/part',
      '--seq_length=16',
      f'--format={form}',
      *(['--max_predictions_per_seq=3'] if form == 'tfrecord' else []),
    ]
  )
  capsys.readouterr()
  inspect(numbered_text, f'{tmp_path}/part-*')
  printed = capsys.readouterr().out
  assert re.search(r'tokens +3,000\n', printed)
  assert re.search(r'examples +222\n', printed)


def test_a_folder_without_a_run_is_refused(numbered_text, tmp_path):
  with pytest.raises(errors.ConfigurationError, match='folder of a run'):
    inspect(numbered_text, 'x', f'--model_dir={tmp_path}')


@pytest.fixture(name='run')
def fixture_run(numbered_text, tmp_path):
  """A folder with the settings of a run on the numbered text."""
  params = experiments.build(experiments.PRETRAINING)
  params.task.vocabulary.path = numbered_text.vocabulary.path
  params.task.token_drop.policy = 'none'
  params.task.train_data.override(
    {
      'input_path': f'{numbered_text.folder}/text.txt',
      'seq_length': 16,
      'max_predictions_per_seq': 3,
    }
  )
  run_folder.save_configuration(params, '', str(tmp_path))
  return str(tmp_path)


def test_data_vocabulary_and_settings_are_those_of_the_run(run, capsys):
  inspect_data.main([f'--model_dir={run}', '--examples=1'])
  printed = capsys.readouterr().out
  assert re.search(r'tokens +3,000\n', printed)
  assert 'Example 1, 16 tokens:' in printed


def test_a_typed_flag_goes_before_the_setting_of_the_run(run, capsys):
  inspect_data.main([f'--model_dir={run}', '--examples=1', '--seq_length=8'])
  assert 'Example 1, 8 tokens:' in capsys.readouterr().out


def test_without_a_vocabulary_and_a_run_the_flags_are_named():
  with pytest.raises(
    errors.UserError, match='Set --vocab_file, or --model_dir'
  ):
    inspect_data.main(['--input=x'])
