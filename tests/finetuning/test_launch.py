"""Fine-tuning end to end: tiny runs through `train.main`, in this process."""

import functools
import json
import pathlib
import sys

import numpy as np
import pytest
import refusals
import tensorflow as tf
from official.nlp.tools import squad_evaluate_v1_1

from tokendrop_tf import finetuning, train
from tokendrop_tf.finetuning import (
  finetuning_experiments,
  sentence_task,
  table_files,
)
from tokendrop_tf.run import run_folder
from tokendrop_tf.text import text_to_ids
from tools import launch_local_workers as workers

SST2 = (
  "glue.task = 'sst2'",
  'glue.seq_length = 16',
  'glue.batch_size = 16',
  'glue.eval_batch_size = 32',
  'finetuning.num_epochs = 4.0',
  'finetuning.dropout_rate = 0.0',
  'optimizer.learning_rate = 0.01',
  'trainer.steps_per_loop = 13',
)
SQUAD = (
  'squad.seq_length = 32',
  'squad.doc_stride = 12',
  'squad.query_length = 4',
  'squad.batch_size = 16',
  'finetuning.num_epochs = 1.0',
)


def arguments(model_dir, pretrained, data, section, settings, *more):
  bindings = [
    f"finetuning.init_from = '{pretrained}'",
    f"{section}.train_data = '{data[0]}'",
    f"{section}.validation_data = '{data[1]}'",
    *settings,
    *more,
  ]
  return [
    f'--model_dir={model_dir}',
    *(f'--gin_params={binding}' for binding in bindings),
  ]


message_of = functools.partial(refusals.message_of, train.main)


def results_of(model_dir):
  return json.loads((pathlib.Path(model_dir) / 'results.json').read_text())


def weights(model_dir):
  reader = tf.train.load_checkpoint(str(model_dir))
  return {
    name: reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if name.startswith('model/')
  }


@pytest.fixture(scope='module')
def sst2(pretrained, tiny_tasks, tmp_path_factory):
  """A finished run, with predictions for its validation set."""
  model_dir = tmp_path_factory.mktemp('sst2')
  train.main(
    arguments(
      model_dir,
      pretrained,
      tiny_tasks.sst2,
      'glue',
      SST2,
      f"glue.test_data = '{tiny_tasks.sst2[1]}'",
    )
  )
  return model_dir


@pytest.fixture(scope='module')
def squad(pretrained, tiny_tasks, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp('squad')
  train.main(arguments(model_dir, pretrained, tiny_tasks.squad, 'squad', SQUAD))
  return model_dir


@pytest.mark.faults
def test_workers_score_and_predict_as_one_process_does(
  pretrained, tiny_tasks, tmp_path
):
  """The labels of the second worker's rows are wrong."""
  header, *rows = pathlib.Path(tiny_tasks.sst2[1]).read_text().splitlines()
  for number in range(16, 32):
    text, label = rows[number].rsplit('\t', 1)
    rows[number] = f'{text}\t{1 - int(label)}'
  valid = tmp_path / 'dev.tsv'
  valid.write_text('\n'.join([header, *rows]) + '\n')

  def command(name, strategy):
    return arguments(
      tmp_path / name,
      pretrained,
      (tiny_tasks.sst2[0], valid),
      'glue',
      SST2,
      f"glue.test_data = '{valid}'",
      f"runtime.distribution_strategy = '{strategy}'",
    )

  train.main(command('one', 'one_device'))
  module = [sys.executable, '-m', 'tokendrop_tf.train']
  two_command = [*module, *command('two', 'multi_worker_mirrored')]
  started = workers.start(two_command, 2)
  assert workers.wait_for(started) == 0
  one, two = (results_of(tmp_path / name) for name in ('one', 'two'))
  assert one['last']['accuracy'] < 0.75
  for name in ('accuracy', 'f1'):
    assert two['last'][name] == pytest.approx(one['last'][name], abs=0.05)
  one, two = (
    (tmp_path / name / 'predictions' / 'SST-2.tsv').read_text().splitlines()
    for name in ('one', 'two')
  )
  assert len(one) == len(two) == 51
  assert sum(a == b for a, b in zip(one, two)) >= 49


class TestSentences:
  def test_a_word_that_decides_is_learnt(self, sst2):
    results = results_of(sst2)
    assert results['metric'] == 'accuracy'
    assert results['best']['accuracy'] > 0.9
    assert results['majority_class']['accuracy'] == 0.5

  def test_epochs_become_steps(self, sst2):
    results = results_of(sst2)
    assert results['num_train_examples'] == 200
    assert results['train_steps'] == results['last']['step'] == 50

  def test_the_saved_tree_is_complete(self, sst2):
    params = run_folder.load_params(str(sst2))
    assert params.trainer.validation_interval == 13
    assert params.trainer.optimizer_config.warmup.polynomial.warmup_steps == 5
    assert (
      params.trainer.optimizer_config.learning_rate.polynomial.decay_steps == 50
    )
    assert params.task.model.hidden_size == 16
    assert params.task.model.dropout_rate == 0.0

  def test_predictions_come_in_the_form_of_a_submission(self, sst2, tiny_tasks):
    lines = (sst2 / 'predictions' / 'SST-2.tsv').read_text().splitlines()
    assert lines[0] == 'index\tprediction'
    indices, predictions = zip(*(line.split('\t') for line in lines[1:]))
    assert indices == tuple(map(str, range(50)))
    rows = pathlib.Path(tiny_tasks.sst2[1]).read_text().splitlines()[1:]
    labels = [row.split('\t')[1] for row in rows]
    assert np.mean(np.array(predictions) == labels) == pytest.approx(
      results_of(sst2)['last']['accuracy']
    )

  def test_a_loaded_model_answers_like_the_trained_one(self, sst2, words):
    tuned = finetuning.load_finetuned(str(sst2))
    assert (tuned.kind, tuned.is_pair) == ('classification', False)
    assert (tuned.label_names, tuned.seq_length) == (('0', '1'), 16)
    lines = (sst2 / 'predictions' / 'SST-2.tsv').read_text().splitlines()[1:]
    texts = [
      line.split('\t')[0]
      for line in pathlib.Path(tuned.params.task.validation_data.input_path)
      .read_text()
      .splitlines()[1:]
    ]
    packer = text_to_ids.TextPacker(words, 16)
    logits = tuned.model(packer(tf.constant(texts)))
    assert logits.dtype == tf.float32
    predictions = [tuned.label_names[i] for i in np.argmax(logits, axis=1)]
    assert predictions == [line.split('\t')[1] for line in lines]

  def test_an_evaluation_needs_only_the_folder(self, sst2, capsys):
    train.main([f'--model_dir={sst2}', '--mode=eval'])
    accuracy = results_of(sst2)['last']['accuracy']
    assert f'accuracy {accuracy:.4f}' in capsys.readouterr().out

  def test_a_seed_repeats_a_run(self, sst2, pretrained, tiny_tasks, tmp_path):
    train.main(arguments(tmp_path, pretrained, tiny_tasks.sst2, 'glue', SST2))
    first, second = weights(sst2), weights(tmp_path)
    assert first.keys() == second.keys()
    for name, value in first.items():
      np.testing.assert_array_equal(value, second[name], err_msg=name)

  def test_another_tree_is_refused(self, sst2, pretrained, tiny_tasks):
    message = message_of(
      arguments(
        sst2,
        pretrained,
        tiny_tasks.sst2,
        'glue',
        SST2,
        f"glue.test_data = '{tiny_tasks.sst2[1]}'",
        'finetuning.seed = 3',
        'glue.batch_size = 8',
      )
    )
    assert 'resumes only with the settings it began with' in message
    assert 'finetuning.seed: 0 there, 3 now' in message
    assert 'glue.batch_size: 16 there, 8 now' in message
    assert 'pretraining.' not in message


class TestQuestions:
  def test_scores_are_official_on_the_written_answers(self, squad, tiny_tasks):
    answers = json.loads(
      (squad / 'predictions' / 'validation' / 'predictions.json').read_text()
    )
    data = json.loads(pathlib.Path(tiny_tasks.squad[1]).read_text())['data']
    official = squad_evaluate_v1_1.evaluate(data, answers)
    last = results_of(squad)['last']
    assert len(answers) == 24
    assert last['exact_match'] == 100 * official['exact_match']
    assert last['f1'] == 100 * official['final_f1']

  def test_candidates_have_probabilities(self, squad):
    nbest = json.loads(
      (squad / 'predictions' / 'validation' / 'nbest.json').read_text()
    )
    for entries in nbest.values():
      assert sum(e['probability'] for e in entries) == pytest.approx(1.0)
      assert entries[0]['probability'] == max(e['probability'] for e in entries)

  def test_a_loaded_model_names_its_logits(self, squad):
    tuned = finetuning.load_finetuned(str(squad))
    assert tuned.kind == 'question_answering'
    assert (tuned.doc_stride, tuned.query_length) == (12, 4)
    assert tuned.null_score_threshold is None
    ids = tf.ones([2, 8], tf.int32)
    outputs = tuned.model(
      {
        'input_word_ids': ids,
        'input_mask': ids,
        'input_type_ids': tf.zeros_like(ids),
      }
    )
    assert set(outputs) == {'start_logits', 'end_logits'}
    assert outputs['start_logits'].shape == (2, 8)

  def test_the_folder_says_what_it_holds(self, squad, sst2, pretrained):
    names = [
      run_folder.experiment_of(str(folder))
      for folder in (squad, sst2, pretrained)
    ]
    assert names == [
      'token_drop_bert/squad',
      'token_drop_bert/glue',
      'token_drop_bert/pretraining',
    ]


class TestStart:
  @pytest.mark.parametrize('is_random', [False, True])
  def test_random_weights_take_only_the_sizes(
    self, pretrained, tiny_tasks, tmp_path, is_random
  ):
    # The seed of pretraining would draw the same weights.
    more = ('finetuning.seed = 3', f'finetuning.random_init = {is_random}')
    flags = train.parse_flags(
      arguments(tmp_path, pretrained, tiny_tasks.sst2, 'glue', SST2, *more)
    )
    params, _ = train.read_configuration(flags)
    finetuning_experiments.SentenceExperiment(params, 'train', tmp_path).check()
    task = sentence_task.SentenceTask(params.task)
    model = task.build_model()
    task.initialize(model)
    reader = tf.train.load_checkpoint(pretrained)
    shapes = reader.get_variable_to_shape_map()
    [name] = [n for n, shape in shapes.items() if shape == [64, 16]]
    table = reader.get_tensor(name)
    difference = np.abs(model.encoder_network.get_embedding_table() - table)
    assert difference.max() > 0.1 if is_random else difference.max() == 0.0

  def test_a_folder_without_weights_is_named(self, tiny_tasks, tmp_path):
    message = message_of(
      arguments(tmp_path / 'a', tmp_path, tiny_tasks.sst2, 'glue', SST2)
    )
    assert message.startswith('finetuning.init_from must be a model_dir')

  def test_sizes_of_the_source_cannot_be_bound(
    self, pretrained, tiny_tasks, tmp_path
  ):
    message = message_of(
      arguments(
        tmp_path,
        pretrained,
        tiny_tasks.sst2,
        'glue',
        SST2,
        'model.num_layers = 4',
      )
    )
    assert 'does not read the section model' in message

  def test_missing_data_are_named(self, pretrained, tmp_path):
    message = message_of(
      arguments(tmp_path, pretrained, ('', ''), 'glue', SST2)
    )
    assert 'glue.train_data must name files' in message

  def test_a_wrong_label_stops_before_anything_is_written(
    self, pretrained, tiny_tasks, tmp_path
  ):
    bad = tmp_path / 'bad.tsv'
    bad.write_text('sentence\tlabel\nw01\t1\nw02\t2\n')
    table_files.clear_cache()
    message = message_of(
      arguments(
        tmp_path / 'run',
        pretrained,
        (tiny_tasks.sst2[0], bad),
        'glue',
        SST2,
      )
    )
    assert f"Received: '2' in {bad}, line 3." in message
    assert not (tmp_path / 'run' / 'params.yaml').exists()
