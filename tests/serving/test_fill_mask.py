"""Filling in [MASK]: what the model says, and what a person can get wrong."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from refusals import message_of

from tokendrop_tf import command_line
from tokendrop_tf.export import load_model, serving_models
from tokendrop_tf.serving import fill_mask
from tokendrop_tf.text import vocabulary as vocabulary_lib

SETTINGS = (
  *tiny_runs.MODEL,
  'model.initializer_range = 0.5',
  'token_drop.token_keep_k = 4',
  'trainer.train_steps = 100',
  'optimizer.warmup_steps = 2',
)


@pytest.fixture(scope='module')
def run(tiny_corpus, tmp_path_factory) -> pathlib.Path:
  """The folder of a run with a checkpoint of random weights."""
  folder = tmp_path_factory.mktemp('run') / 'original'
  vocabulary = vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary)
  return pathlib.Path(tiny_runs.write_run(folder, vocabulary, *SETTINGS))


def test_a_damaged_checkpoint_is_named_and_the_one_before_read(
  run, tmp_path, capsys
):
  model_dir = shutil.copytree(run, tmp_path / 'model')
  for path in list(model_dir.glob('ckpt-1.*')):
    content = bytearray(path.read_bytes())
    if '.data' in path.name:
      content[100] ^= 0x10
    (model_dir / path.name.replace('ckpt-1', 'ckpt-2')).write_bytes(content)
  (model_dir / 'checkpoint').write_bytes(b'')
  trained = load_model.load_model(str(model_dir))
  assert trained.checkpoint == str(model_dir / 'ckpt-1')
  assert f'{model_dir}/ckpt-2 is damaged' in capsys.readouterr().err


@pytest.fixture(scope='module')
def trained(run) -> load_model.LoadedModel:
  return load_model.load_model(str(run))


def test_every_mask_gets_a_distribution_best_first(trained):
  filled = fill_mask.fill_mask(trained, 'w01 [MASK] w02 [MASK] w03', 10**6)
  assert len(filled) == 2
  for predictions in filled:
    tokens = [token for token, _ in predictions]
    values = [value for _, value in predictions]
    assert sorted(tokens) == sorted(trained.vocabulary.tokens)
    assert sum(values) == pytest.approx(1.0, abs=1e-5)
    assert values == sorted(values, reverse=True)


def test_as_many_tokens_as_asked_for(trained):
  [predictions] = fill_mask.fill_mask(trained, '[MASK]', 3)
  assert len(predictions) == 3


def test_masks_stand_between_the_ids_of_the_text(trained):
  vocabulary = trained.vocabulary
  ids = fill_mask.encode(trained, 'w01[MASK] w02 w03 [MASK][MASK]')
  expected = vocabulary.ids_of(
    ['[CLS]', 'w01', '[MASK]', 'w02', 'w03', '[MASK]', '[MASK]', '[SEP]']
  )
  np.testing.assert_array_equal(ids, expected)


def test_predictions_are_those_of_the_padded_sequence_in_training(trained):
  text = 'w05 w06 [MASK] w07'
  ids = fill_mask.encode(trained, text)
  padded = np.full([1, trained.seq_length], trained.vocabulary.pad_id, np.int32)
  padded[0, : len(ids)] = ids
  outputs = trained.model(
    {
      'input_word_ids': tf.constant(padded),
      'input_mask': tf.cast(padded != trained.vocabulary.pad_id, tf.int32),
      'input_type_ids': tf.zeros_like(padded),
      'masked_lm_positions': tf.constant([[3]]),
    },
    training=False,
  )
  expected = tf.nn.softmax(outputs['mlm_logits'][0, 0]).numpy()
  [predictions] = fill_mask.fill_mask(trained, text, 10**6)
  for token, value in predictions:
    assert value == pytest.approx(
      expected[trained.vocabulary.id_of(token)], abs=1e-5
    )


def test_nothing_is_dropped_whatever_the_table_says(run):
  trained = load_model.load_model(str(run))
  text = 'w01 w02 w03 w04 w05 w06 w07 [MASK] w08'
  before = fill_mask.fill_mask(trained, text)
  table = trained.model.encoder_network.token_importance.table
  table.assign(tf.random.stateless_uniform(table.shape, [1, 2]))
  assert fill_mask.fill_mask(trained, text) == before


def test_weights_come_from_the_newest_checkpoint(run, trained, tmp_path):
  copy = tmp_path / 'model'
  shutil.copytree(run, copy)
  checkpoint = tf.train.Checkpoint(model=trained.model)
  bias = trained.model.masked_lm.trainable_variables[-1]
  old = bias.numpy()
  bias.assign_add(tf.ones_like(bias) * 5.0)
  tf.train.CheckpointManager(checkpoint, str(copy), max_to_keep=3).save(
    checkpoint_number=7
  )
  bias.assign(old)
  again = load_model.load_model(str(copy))
  assert again.checkpoint.endswith('ckpt-7')
  np.testing.assert_allclose(
    again.model.masked_lm.trainable_variables[-1], old + 5.0
  )


def test_text_without_mask_is_refused_before_the_model_is_loaded(tmp_path):
  arguments = [f'--model_dir={tmp_path / "nothing"}', 'a [MASK]', 'a text']
  message = message_of(fill_mask.main, arguments)
  assert message.startswith('A text must contain [MASK]')
  assert "'a text'" in message


def test_text_longer_than_the_training_is_refused(trained):
  fits = ' '.join(['[MASK]'] + ['w01'] * 29)
  assert len(fill_mask.encode(trained, fits)) == 32
  message = message_of(fill_mask.encode, trained, f'{fits} w02')
  assert 'must fit into 32 tokens' in message
  assert 'Received: 33 tokens.' in message


def test_folder_without_a_run_is_refused(tmp_path):
  message = message_of(load_model.load_model, str(tmp_path))
  assert 'must hold a run' in message


def test_run_without_a_checkpoint_is_refused(run, tmp_path):
  shutil.copy(run / 'params.yaml', tmp_path)
  message = message_of(load_model.load_model, str(tmp_path))
  assert 'must hold a checkpoint' in message


def test_vocabulary_that_moved_can_be_named(run, tmp_path):
  home = run.parent / 'words.txt'
  away = tmp_path / 'vocab.txt'
  shutil.move(home, away)
  try:
    message = message_of(load_model.load_model, str(run))
    assert str(home) in message
    assert 'Set --vocabulary.' in message
    moved = load_model.load_model(str(run), str(away))
    assert moved.vocabulary.path == str(away)
  finally:
    shutil.move(away, home)


def test_another_vocabulary_is_refused(run, tmp_path):
  other = tmp_path / 'vocab.txt'
  other.write_text((run.parent / 'words.txt').read_text() + 'more\n')
  message = message_of(load_model.load_model, str(run), str(other))
  assert '65 tokens' in message
  assert '64 in the model' in message


def test_command_prints_a_line_per_mask(run, capsys):
  with pytest.raises(SystemExit) as ended:
    command_line.run_main(
      fill_mask.main,
      [f'--model_dir={run}', '--top_n=2', 'w01 [MASK]', '[MASK] w02 [MASK]'],
    )
  assert ended.value.code == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line for line in lines if not line.startswith('  ')] == [
    'w01 [MASK]',
    '[MASK] w02 [MASK]',
  ]
  assert [line.split(':')[0].strip() for line in lines[3:]] == [
    '[MASK] 1',
    '[MASK] 2',
  ]
  assert all(line.count('%') == 2 for line in (lines[1], *lines[3:]))


def test_asking_for_no_token_is_refused():
  message = message_of(
    fill_mask.main, ['--model_dir=x', '--top_n=0', 'a [MASK]']
  )
  assert message == '--top_n must be at least 1. Received: 0. Set --top_n.'


@pytest.fixture(scope='module')
def exported(trained, tmp_path_factory) -> str:
  """An exported folder of the run's model."""
  folder = tmp_path_factory.mktemp('exported')
  serving_models.write_serving_models(
    trained, str(folder), trained.seq_length, ['fill_mask']
  )
  return str(folder)


def test_an_exported_folder_says_what_the_run_says(trained, exported):
  model = fill_mask.ExportedModel(exported)
  for text in ('w01 [MASK] w02[MASK] w03', '[MASK]'):
    ours = model.fill_mask(text, 4)
    expected = fill_mask.fill_mask(trained, text, 4)
    for row, other in zip(ours, expected, strict=True):
      assert [token for token, _ in row] == [token for token, _ in other]
      np.testing.assert_allclose(
        [value for _, value in row], [value for _, value in other], atol=1e-5
      )


def test_the_command_takes_a_run_and_an_exported_folder(run, exported, capsys):
  printed = []
  for model_dir in (run, exported):
    fill_mask.main([f'--model_dir={model_dir}', '--top_n=2', 'w01 [MASK]'])
    printed.append(capsys.readouterr().out)
  assert printed[0] == printed[1]


def test_a_mask_behind_the_exported_length_is_refused(exported):
  model = fill_mask.ExportedModel(exported)
  text = ' '.join(['[MASK]'] + ['w01'] * 29 + ['[MASK]'])
  message = message_of(model.fill_mask, text)
  assert 'Received: 2, of which 1 do.' in message
  assert '--seq_length' in message


def test_an_exported_folder_needs_no_vocabulary(exported):
  message = message_of(
    fill_mask.main,
    [f'--model_dir={exported}', '--vocabulary=vocab.txt', 'a [MASK]'],
  )
  assert message.endswith('Leave --vocabulary out.')
