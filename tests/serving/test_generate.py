"""Generated texts: from a run and its exports, in the terminal and served."""

import json

import numpy as np
import pytest
import tiny_runs

from tokendrop_tf import errors, train
from tokendrop_tf.export import export_command, load_model
from tokendrop_tf.run import metrics_log
from tokendrop_tf.serving import fill_mask, generate, served_model

PROMPT = 'w01 w02 w03'


@pytest.fixture(scope='module')
def folders(tiny_corpus, tmp_path_factory):
  """A run of the causal objective, and its exports."""
  folder = tmp_path_factory.mktemp('causal')
  bindings = (
    f"vocabulary.path = '{tiny_corpus.vocabulary}'",
    f"train_data.input_path = '{tiny_corpus.train}'",
    f"validation_data.input_path = '{tiny_corpus.valid}'",
    *tiny_runs.TRAINING,
    "pretraining.objective = 'causal_lm'",
    "token_drop.policy = 'random'",
    'trainer.train_steps = 4',
    'trainer.steps_per_loop = 2',
    'trainer.validation_interval = 4',
    'trainer.checkpoint_interval = 4',
  )
  run = folder / 'run'
  train.main(
    [f'--model_dir={run}', *(f'--gin_params={text}' for text in bindings)]
  )
  for form in export_command.FORMATS:
    output = f'--output_dir={folder / form}'
    export_command.main([f'--model_dir={run}', output, f'--format={form}'])
  return {'run': run, **{f: folder / f for f in export_command.FORMATS}}


@pytest.fixture(scope='module')
def generator(folders):
  return generate.TextGenerator(load_model.load_model(str(folders['run'])))


def test_validation_reports_perplexity_and_its_gap(folders):
  *_, record = metrics_log.read_metrics(str(folders['run'] / 'metrics.jsonl'))
  loss, dropping = record['validation_loss'], record['lm_example_loss_dropping']
  assert record['perplexity'] == pytest.approx(np.exp(loss), rel=1e-4)
  assert record['perplexity_dropping'] == pytest.approx(
    np.exp(dropping), rel=1e-4
  )
  assert record['full_sequence_gap'] == pytest.approx(loss - dropping, abs=1e-4)


def test_a_text_is_shown_piece_by_piece(generator):
  choice = generate.Choice(max_tokens=6, temperature=1.0, seed=1)
  pieces = list(generator.stream(PROMPT, choice))
  assert len(pieces) == 6
  assert all(piece.startswith(' w') for piece in pieces)
  assert list(generator.stream(PROMPT, choice)) == pieces


def test_a_text_ends_before_what_stops_it(generator):
  choice = generate.Choice(max_tokens=20, temperature=1.0, seed=1)
  text = ''.join(generator.stream(PROMPT, choice))
  stop = text.split()[2]
  stopping = generate.Choice(max_tokens=20, temperature=1.0, seed=1, stop=stop)
  found = ''.join(generator.stream(PROMPT, stopping))
  assert found == text[: text.index(stop)]


def test_exports_give_the_same_text(folders, generator):
  choice = generate.Choice(max_tokens=8, temperature=0.7, top_k=9, top_p=0.9)
  expected = PROMPT + ''.join(generator.stream(PROMPT, choice))
  exported = generate.ExportedGenerator(str(folders['saved_model']))
  assert ''.join(exported.stream(PROMPT, choice)) == expected


def test_a_server_answers_every_text_by_its_own_settings(folders):
  [folder] = served_model.find_models(str(folders['saved_model']))
  assert folder.name == 'generate'
  model = served_model.ServedModel(folder)
  assert model.warm_up() == 6
  outputs = model.predict(
    'generate',
    {
      'text': np.array([PROMPT.encode(), b'w07'], object),
      'max_tokens': np.array([3, 5]),
      'temperature': np.array([0.0, 1.0]),
      'top_k': np.array([0, 5]),
      'top_p': np.array([1.0, 0.9]),
      'seed': np.array([0, 3]),
    },
  )
  assert outputs['text'][0].startswith(PROMPT.encode())
  assert outputs['num_tokens'][0] <= 3
  greedy = model.predict('', {'text': np.array([PROMPT.encode()], object)})
  assert greedy['text'][0].startswith(outputs['text'][0])


def test_a_hugging_face_folder_is_a_decoder(folders):
  config = json.loads((folders['hugging_face'] / 'config.json').read_text())
  assert config['architectures'] == ['BertLMHeadModel']
  assert config['is_decoder'] is True
  card = (folders['hugging_face'] / 'README.md').read_text()
  assert 'pipeline_tag: text-generation' in card


def test_the_tool_prints_the_prompt_and_what_follows(folders, capsys):
  for name in ('run', 'saved_model'):
    generate.main([f'--model_dir={folders[name]}', '--max_tokens=4', PROMPT])
    assert capsys.readouterr().out.splitlines()[-1].startswith(PROMPT)


def test_a_prompt_without_room_and_a_mask_are_refused(folders, generator):
  with pytest.raises(errors.DataError, match='shorter than 32 tokens'):
    next(generator.stream('w01 ' * 40))
  with pytest.raises(errors.ConfigurationError, match='tools/generate.py'):
    fill_mask.main([f'--model_dir={folders["run"]}', 'a [MASK]'])
  with pytest.raises(
    errors.ConfigurationError, match='--top_p must be at least'
  ):
    generate.main([f'--model_dir={folders["run"]}', '--top_p=-1', PROMPT])
