"""The task beside the Model Garden's: losses, gradients, scores, replicas."""

import copy
import dataclasses
import os
import types

import fake_workers
import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from official.modeling import optimization
from official.nlp.tasks import sentence_prediction
from scipy import stats

from tokendrop_tf.config import configs as base_configs
from tokendrop_tf.config import finetuning_configs
from tokendrop_tf.finetuning import (
  finetuning_task,
  models,
  predictions,
  question_task,
  scores,
  sentence_data,
  sentence_task,
)
from tokendrop_tf.run import trainer

MODEL = base_configs.ModelConfig(
  **{
    **tiny_runs.SIZES,
    'num_layers': 2,
    'max_position_embeddings': 32,
    'initializer_range': 0.3,
  }
)


def data(path, is_training=False, **settings):
  return finetuning_configs.TextDataConfig(
    **(
      {
        'input_path': str(path),
        'is_training': is_training,
        'global_batch_size': 8,
        'seq_length': 16,
      }
      | settings
    )
  )


def task_config(tiny_corpus, train, valid, glue, **settings):
  return finetuning_configs.GlueTaskConfig(
    model=dataclasses.replace(MODEL),
    vocabulary=base_configs.VocabularyConfig(path=tiny_corpus.vocabulary),
    glue=glue,
    train_data=data(train, True),
    validation_data=data(valid),
    **settings,
  )


@pytest.fixture
def sst2_config(tiny_corpus, tiny_tasks):
  glue = finetuning_configs.GlueConfig(task='sst2', label_names=('0', '1'))
  return task_config(tiny_corpus, *tiny_tasks.sst2, glue)


def optimizer():
  factory = optimization.OptimizerFactory(
    tiny_runs.adamw(0.01, weight_decay_rate=0.1)
  )
  built = factory.build_optimizer(factory.build_learning_rate())
  _ = built.iterations
  return built


def validate(task, model):
  """Returns the metrics of a whole validation."""
  metrics = task.build_metrics(training=False)
  state = None
  for batch in task.build_inputs(task.task_config.validation_data):
    outputs = task.validation_step(batch, model, metrics)
    state = task.aggregate_logs(
      state, {name: (value,) for name, value in outputs.items()}
    )
  found = task.reduce_aggregated_logs(state)
  return found | {m.name: float(m.result()) for m in metrics}


class TestModels:
  def test_logits_are_those_of_the_whole_model(self, sst2_config):
    task = sentence_task.SentenceTask(sst2_config)
    model = task.build_model()
    [batch] = task.build_inputs(sst2_config.validation_data).take(1)
    inputs = {name: batch[name] for name in models.ENCODER_INPUTS}
    np.testing.assert_allclose(model.logits(batch), model(inputs), atol=1e-5)

  def test_span_logits_are_those_of_the_whole_model(self, words):
    model = models.SpanLabeler(
      finetuning_task.build_encoder(MODEL, words, seed=1)
    )
    ids = tf.random.stateless_uniform([3, 9], [1, 2], 5, 60, tf.int32)
    inputs = {
      'input_word_ids': ids,
      'input_mask': tf.sequence_mask([9, 4, 7], 9, dtype=tf.int32),
      'input_type_ids': tf.zeros_like(ids),
    }
    for ours, theirs in zip(model.logits(inputs), model(inputs)):
      np.testing.assert_allclose(ours, theirs, atol=1e-5)

  def test_padding_changes_no_logit(self, sst2_config):
    task = sentence_task.SentenceTask(sst2_config)
    model = task.build_model()
    trimmed, padded = (
      task.build_inputs(
        sst2_config.validation_data.replace(trim_padding=trims, seq_length=24)
      )
      for trims in (True, False)
    )
    for short, long in zip(trimmed, padded):
      assert short['input_mask'].shape[1] < long['input_mask'].shape[1] == 24
      np.testing.assert_allclose(
        model.logits(short), model.logits(long), atol=1e-5
      )
      break

  def test_padding_changes_no_loss_of_a_span(self, words):
    config = finetuning_configs.SquadTaskConfig(
      model=dataclasses.replace(MODEL),
      vocabulary=base_configs.VocabularyConfig(path=words.path),
    )
    task = question_task.QuestionTask(config)
    model = task.build_model()
    ids = tf.random.stateless_uniform([2, 16], [1, 2], 5, 60, tf.int32)
    batch = {
      'input_word_ids': ids,
      'input_mask': tf.sequence_mask([6, 8], 16, dtype=tf.int32),
      'input_type_ids': tf.zeros_like(ids),
      'start_positions': tf.constant([3, 0]),
      'end_positions': tf.constant([4, 7]),
    }
    short = {
      name: value[:, :8] if name.startswith('input_') else value
      for name, value in batch.items()
    }
    long, losses = (
      task.row_results(features, model, False)['losses']
      for features in (batch, short)
    )
    np.testing.assert_allclose(losses, long, atol=1e-5)


class TestSteps:
  def test_loss_is_that_of_the_model_garden(self, sst2_config):
    task = sentence_task.SentenceTask(sst2_config)
    model = task.build_model()
    [batch] = task.build_inputs(sst2_config.train_data).take(1)
    results = task.row_results(batch, model, False)
    losses, logits = results['losses'], results['logits']
    stock = sentence_prediction.SentencePredictionTask(
      sentence_prediction.SentencePredictionConfig(
        model=sentence_prediction.ModelConfig(num_classes=2),
        metric_type='accuracy',
      )
    )
    expected = stock.build_losses(batch, logits)
    np.testing.assert_allclose(tf.reduce_mean(losses), expected, rtol=1e-6)

  def test_what_the_loss_does_not_reach_stays(self, words, tiny_tasks):
    config = finetuning_configs.SquadTaskConfig(
      model=dataclasses.replace(MODEL),
      vocabulary=base_configs.VocabularyConfig(path=words.path),
      squad=finetuning_configs.SquadConfig(doc_stride=8, query_length=4),
      train_data=data(tiny_tasks.squad[0], True),
    )
    task = question_task.QuestionTask(config)
    model = task.build_model()
    pooler = model.encoder_network.pooler_layer.kernel
    table = model.encoder_network.get_embedding_table()
    before, moving = pooler.numpy(), table.numpy()
    [batch] = task.build_inputs(config.train_data).take(1)
    task.train_step(batch, model, optimizer(), task.build_metrics(True))
    np.testing.assert_array_equal(pooler, before)
    assert np.abs(table - moving).max() > 0

  def test_four_replicas_take_the_step_of_one(self, sst2_config, four_replicas):
    config = copy.deepcopy(sst2_config)
    config.model.num_layers = 1
    results = []
    for strategy in (tf.distribute.get_strategy(), four_replicas):
      with strategy.scope():
        task = sentence_task.SentenceTask(config)
        model, adamw = task.build_model(), optimizer()
        trainer.create_slots(adamw, model)
      train_data = config.train_data.replace(trim_padding=False)
      dataset = strategy.distribute_datasets_from_function(
        lambda context, task=task, train_data=train_data: task.build_inputs(
          train_data, context
        ).take(2 * context.num_replicas_in_sync)
      )
      run = tf.function(
        lambda batch, task=task, model=model, adamw=adamw: task.train_step(
          batch, model, adamw, ()
        ),
        autograph=False,
      )
      for batch in dataset:
        strategy.run(run, args=(batch,))
      assert adamw.iterations == 2
      results.append([v.numpy() for v in model.trainable_variables])
    for one, four in zip(*results):
      np.testing.assert_allclose(one, four, atol=1e-4)


class TestScores:
  def test_validation_counts_every_row_once(self, sst2_config):
    task = sentence_task.SentenceTask(sst2_config)
    model = task.build_model()
    found = validate(task, model)
    texts = task.texts_of(sst2_config.validation_data)
    whole = sentence_data.SentenceBatches(
      texts,
      sst2_config.vocabulary,
      sst2_config.validation_data.replace(global_batch_size=50),
    )
    [batch] = whole.dataset()
    results = task.row_results(batch, model, False)
    losses, logits = results['losses'], results['logits']
    hits = np.argmax(logits, axis=1) == texts.labels
    assert found['accuracy'] == np.mean(hits)
    assert found['validation_loss'] == pytest.approx(np.mean(losses), rel=1e-5)

  def test_scores_are_of_the_rows_of_all_workers(
    self, sst2_config, monkeypatch
  ):
    """One worker has the rows that are right, the other those that are not."""
    task = sentence_task.SentenceTask(sst2_config)
    labels = task.texts_of(sst2_config.validation_data).labels
    rows = np.arange(len(labels))
    halves = rows % 2 == 0, rows % 2 == 1
    parts = [
      (np.append(rows[half], -1), np.eye(2)[np.append(labels[half], 0)] * sign)
      for half, sign in zip(halves, (1, -1))
    ]
    found = fake_workers.run(
      monkeypatch, lambda index, _: task.reduce_aggregated_logs([parts[index]])
    )
    assert [one['accuracy'] for one in found] == [0.5, 0.5]
    assert task.reduce_aggregated_logs(parts) == found[0] == found[1]

  def test_both_sets_of_mnli_have_their_scores(self, tiny_corpus, tmp_path):
    names = ('entailment', 'neutral', 'contradiction')
    paths = []
    for name, labels in (('m', names * 3), ('mm', names[:1] * 5)):
      path = tmp_path / f'{name}.tsv'
      rows = [f'w01\tw02\t{label}' for label in labels]
      path.write_text('\n'.join(['premise\thypothesis\tlabel', *rows]) + '\n')
      paths.append(path)
    config = task_config(
      tiny_corpus,
      paths[0],
      paths[0],
      finetuning_configs.GlueConfig(task='mnli', label_names=names),
      mismatched_validation_data=data(paths[1]),
    )
    task = sentence_task.SentenceTask(config)
    # All rows are alike, so one label is predicted throughout.
    found = validate(task, task.build_model())
    assert found['accuracy'] == pytest.approx(1 / 3)
    assert found['accuracy_mismatched'] in (0.0, 1.0)

  def test_a_regression_correlates(self, tiny_corpus, tmp_path):
    path = tmp_path / 'a.tsv'
    rows = [f'w{n:02d}\tw{n + 1:02d}\t{n / 4}' for n in range(12)]
    path.write_text('\n'.join(['sentence1\tsentence2\tscore', *rows]) + '\n')
    config = task_config(
      tiny_corpus,
      path,
      path,
      finetuning_configs.GlueConfig(task='stsb', is_regression=True),
      metric_type='pearson_spearman_corr',
    )
    task = sentence_task.SentenceTask(config)
    model = task.build_model()
    found = validate(task, model)
    texts = task.texts_of(config.validation_data)
    logits = predictions.predict_logits(
      task, model, tf.distribute.get_strategy(), config.validation_data, texts
    )
    assert logits.shape == (12, 1)
    expected = stats.pearsonr(logits[:, 0], texts.labels)[0]
    assert found['pearson'] == pytest.approx(expected, rel=1e-3)
    assert found['pearson_spearman_corr'] == pytest.approx(
      (found['pearson'] + found['spearman']) / 2
    )

  def test_a_constant_correlates_with_nothing(self):
    found = scores.regression_scores(np.arange(4.0), np.ones(4))
    assert found == {
      'pearson': 0.0,
      'spearman': 0.0,
      'pearson_spearman_corr': 0.0,
    }

  def test_two_labels_give_the_textbook_figures(self):
    labels = np.array([1, 1, 1, 0, 0, 0])
    found = scores.classification_scores(
      labels, np.array([1, 1, 0, 1, 0, 0]), 2
    )
    # 2 true and 1 false positive, 2 true and 1 false negative.
    assert found['accuracy'] == pytest.approx(4 / 6)
    assert found['f1'] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found['matthews_corrcoef'] == pytest.approx((2 * 2 - 1) / 9)

  def test_one_answer_to_all_correlates_with_nothing(self):
    found = scores.classification_scores(
      np.array([0, 1, 1]), np.array([1, 1, 1]), 2
    )
    assert found['matthews_corrcoef'] == 0.0


class TestSubmissions:
  @pytest.mark.parametrize('index', [0, 1])
  def test_the_chief_alone_writes(self, tmp_path, monkeypatch, index):
    task = types.SimpleNamespace(
      task_config=finetuning_configs.GlueTaskConfig()
    )
    monkeypatch.setattr(
      predictions, '_label_files', lambda *arguments: {'RTE.tsv': 'a'}
    )
    [path] = predictions.write_predictions(
      task, None, fake_workers.strategy_of(index, 2), str(tmp_path)
    )
    assert path == str(tmp_path / 'predictions' / 'RTE.tsv')
    assert os.path.exists(path) == (index == 0)

  def test_labels_are_spelt_as_in_the_files(self):
    glue = finetuning_configs.GlueConfig(
      task='rte', label_names=('entailment', 'not_entailment')
    )
    text = predictions.label_file(
      ['0', '7'], np.array([[0.0, 1.0], [2.0, 1.0]]), glue
    )
    assert text == 'index\tprediction\n0\tnot_entailment\n7\tentailment\n'

  def test_similarities_stay_in_their_range(self):
    glue = finetuning_configs.GlueConfig(task='stsb', is_regression=True)
    text = predictions.label_file(
      ['0', '1', '2'], np.array([[-1.0], [2.34567], [9.0]]), glue
    )
    assert text.split() == ('index prediction 0 0.000 1 2.346 2 5.000'.split())
