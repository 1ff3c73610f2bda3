"""The export command: whole folders only, refusals, and the way back."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import refusals
import tensorflow as tf
from safetensors import numpy as safetensors_numpy

from tokendrop_tf import errors
from tokendrop_tf.export import export_command, load_model
from tokendrop_tf.weights import load_weights, starting_point


@pytest.fixture(scope='module')
def model_dir(run_writer, trained_vocabulary, tmp_path_factory) -> str:
  folder = tmp_path_factory.mktemp('runs') / 'run'
  return run_writer(folder, trained_vocabulary)


def arguments(model_dir, output, form='hugging_face', *more):
  return [
    f'--model_dir={model_dir}',
    f'--output_dir={output}',
    f'--format={form}',
    *more,
  ]


message_of = functools.partial(refusals.message_of, export_command.main)


def listing(folder):
  return sorted(path.name for path in pathlib.Path(folder).iterdir())


class TestRefusals:
  def test_a_folder_with_something_in_it_stays(self, model_dir, tmp_path):
    output = tmp_path / 'output'
    output.mkdir()
    (output / 'mine.txt').write_text('mine')
    message = message_of(arguments(model_dir, output))
    assert '--output_dir must be new or empty' in message
    assert '--overwrite' in message
    assert (output / 'mine.txt').read_text() == 'mine'
    assert listing(tmp_path) == ['output']

  @pytest.mark.parametrize('place', ['', '..'])
  def test_a_run_is_never_overwritten(self, place, model_dir):
    output = os.path.join(model_dir, place)
    message = message_of(
      arguments(model_dir, output, 'hugging_face', '--overwrite')
    )
    assert 'must not delete a run' in message
    assert 'params.yaml' in listing(model_dir)

  def test_only_an_export_is_overwritten(self, tmp_path):
    runs = tmp_path / 'runs'
    (runs / 'a').mkdir(parents=True)
    (runs / 'a' / 'params.yaml').write_text('')
    (runs / 'thesis.tex').write_text('mine')
    with pytest.raises(errors.UserError) as caught:
      export_command.check_output(str(runs), '/elsewhere/run', True)
    message = str(caught.value)
    assert '--overwrite replaces an earlier export' in message
    assert f'--output_dir={runs}, which has no export.json' in message

  def test_a_run_inside_an_export_is_kept(self, tmp_path):
    (tmp_path / 'export.json').write_text('{}')
    export_command.check_output(str(tmp_path), '/elsewhere/run', True)
    (tmp_path / 'sweep' / 'run').mkdir(parents=True)
    (tmp_path / 'sweep' / 'run' / 'params.yaml').write_text('')
    with pytest.raises(errors.UserError, match='must not delete a run'):
      export_command.check_output(str(tmp_path), '/elsewhere/run', True)

  def test_a_file_is_no_folder(self, model_dir, tmp_path):
    output = tmp_path / 'file'
    output.write_text('')
    assert 'which is a file' in message_of(arguments(model_dir, output))

  def test_a_place_that_cannot_be_written(self, model_dir, tmp_path):
    (tmp_path / 'file').write_text('')
    message = message_of(arguments(model_dir, tmp_path / 'file' / 'output'))
    assert '--output_dir must be where a folder can be written' in message

  def test_a_checkpoint_of_another_architecture(
    self, model_dir, run_writer, trained_vocabulary, tmp_path
  ):
    other = run_writer(
      tmp_path / 'other', trained_vocabulary, 'model.intermediate_size = 8'
    )
    shutil.copy(f'{model_dir}/params.yaml', other)
    message = message_of(arguments(other, tmp_path / 'output'))
    assert '_transformer_layers/0/_intermediate_dense/kernel' in message
    assert '[16, 8]' in message
    assert '[16, 24]' in message
    assert 'output' not in listing(tmp_path)

  @pytest.mark.parametrize('length', [3, 41])
  def test_a_length_without_positions(self, length, model_dir, tmp_path):
    message = message_of(
      arguments(
        model_dir, tmp_path / 'output', 'saved_model', f'--seq_length={length}'
      )
    )
    assert '--seq_length must be from 4 to the longest' in message
    assert f'40. Received: {length}' in message


class TestWholeFolders:
  def test_what_fails_leaves_what_was_there(self, tmp_path):
    output = tmp_path / 'output'
    output.mkdir()
    (output / 'old.txt').write_text('old')

    def fail():
      with export_command.whole_folder(str(output)) as folder:
        pathlib.Path(folder, 'new.txt').write_text('new')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      fail()
    assert listing(tmp_path) == ['output']
    assert listing(output) == ['old.txt']

  def test_what_was_there_is_replaced_at_the_end(self, tmp_path):
    output = tmp_path / 'output'
    output.mkdir()
    (output / 'old.txt').write_text('old')
    with export_command.whole_folder(str(output)) as folder:
      pathlib.Path(folder, 'new.txt').write_text('new')
      assert listing(output) == ['old.txt']
    assert listing(tmp_path) == ['output']
    assert listing(output) == ['new.txt']

  def test_overwrite_replaces_another_export(self, model_dir, tmp_path, capsys):
    output = tmp_path / 'output'
    export_command.main(arguments(model_dir, output, 'checkpoint'))
    printed = capsys.readouterr().out
    assert 'bert_model.ckpt.index' in printed
    assert f'Next: --config_file={output}/encoder.yaml' in printed
    export_command.main(
      arguments(model_dir, output, 'hugging_face', '--overwrite')
    )
    assert 'bert_model.ckpt.index' not in listing(output)
    assert 'model.safetensors' in listing(output)
    assert listing(tmp_path) == ['output']

  def test_a_vocabulary_that_has_moved_can_be_named(
    self, model_dir, trained_vocabulary, tmp_path
  ):
    moved = tmp_path / 'moved.txt'
    moved.write_text('\n'.join(trained_vocabulary.tokens) + '\n')
    run = tmp_path / 'run'
    shutil.copytree(model_dir, run)
    text = (run / 'params.yaml').read_text()
    (run / 'params.yaml').write_text(text.replace('words.txt', 'gone.txt'))
    output = tmp_path / 'output'
    assert 'Set --vocabulary' in message_of(arguments(run, output))
    export_command.main(
      arguments(run, output, 'hugging_face', f'--vocabulary={moved}')
    )
    assert (output / 'vocab.txt').read_text() == moved.read_text()


class TestTheWayBack:
  @pytest.mark.parametrize('form', export_command.FORMATS)
  def test_importing_gives_the_weights_bit_by_bit(
    self, form, exported_run, model_dir
  ):
    loaded = load_model.load_model(model_dir)
    for variable in loaded.model.variables:
      variable.assign(tf.zeros_like(variable))
    table = loaded.encoder.token_importance.table
    result = load_weights.load_pretrainer(
      loaded.model, str(exported_run.folders[form])
    )
    assert result.loaded == ('encoder', 'pooler', 'masked_lm')
    expected = exported_run.loaded.model.variables
    assert len(expected) == len(loaded.model.variables)
    for old, new in zip(expected, loaded.model.variables):
      if new is not table:
        np.testing.assert_array_equal(new.numpy(), old.numpy(), new.name)

  def test_exporting_again_gives_the_same_file(
    self, exported_run, model_dir, tmp_path
  ):
    loaded = load_model.load_model(model_dir)
    folder = exported_run.folders['hugging_face']
    load_weights.load_pretrainer(loaded.model, str(folder))
    export_command.export(loaded, str(tmp_path), 'hugging_face', 32)
    for part in ('', 'encoder'):
      first, second = (
        safetensors_numpy.load((path / part / 'model.safetensors').read_bytes())
        for path in (folder, tmp_path)
      )
      assert set(first) == set(second)
      for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


def test_a_norm_first_model_has_two_of_the_three_forms(
  run_writer, trained_vocabulary, features, tmp_path
):
  model_dir = run_writer(
    tmp_path / 'run', trained_vocabulary, 'model.norm_first = True'
  )
  output = tmp_path / 'output'
  message = message_of(arguments(model_dir, output, 'hugging_face'))
  assert 'model.norm_first=True' in message
  assert not output.exists()
  export_command.main(arguments(model_dir, output, 'checkpoint'))
  source = load_model.load_model(model_dir)
  other = load_model.load_model(model_dir)
  for variable in other.model.variables:
    variable.assign(tf.zeros_like(variable))
  load_weights.load_encoder(other.encoder, str(output))
  np.testing.assert_array_equal(
    other.encoder(features)['sequence_output'],
    source.encoder(features)['sequence_output'],
  )
  assert dataclasses.replace(source.model_config) == (
    starting_point.describe(str(output)).model
  )


def test_rows_that_stand_for_no_token_are_kept_or_trimmed(
  run_writer, trained_vocabulary, tmp_path, capsys
):
  num_tokens = trained_vocabulary.size
  model_dir = run_writer(
    tmp_path / 'run',
    trained_vocabulary,
    f'model.vocab_size = {num_tokens + 6}',
  )
  for flags, num_rows in (
    ([], num_tokens + 6),
    (['--trim_vocabulary'], num_tokens),
  ):
    output = tmp_path / f'output-{num_rows}'
    export_command.main(arguments(model_dir, output, 'hugging_face', *flags))
    config = json.loads((output / 'config.json').read_text())
    weights = (output / 'model.safetensors').read_bytes()
    tensors = safetensors_numpy.load(weights)
    assert config['vocab_size'] == num_rows
    assert len(tensors['cls.predictions.bias']) == num_rows
    assert len(tensors['bert.embeddings.word_embeddings.weight']) == num_rows
    assert len((output / 'vocab.txt').read_text().splitlines()) == num_tokens
  assert f'the model {num_tokens + 6:,} rows' in capsys.readouterr().err
