"""Ways to spread a step, over devices or over time, that change no result."""

import dataclasses
import functools

import numpy as np
import pytest
import refusals
import tensorflow as tf
import tiny_runs

from tokendrop_tf import errors
from tokendrop_tf.config import configs, experiments, rules
from tokendrop_tf.data import loader
from tokendrop_tf.run import trainer
from tokendrop_tf.tasks import masked_lm as task_lib

SEQ_LENGTH, BATCH_SIZE, NUM_STEPS = 16, 8, 3
# Clips in every step.
OPTIMIZER = tiny_runs.adamw(1e-3, gradient_clip_norm=0.1)


message_of = functools.partial(
  refusals.message_of, raises=errors.ConfigurationError
)


def make_task(
  corpus, temperature=0.0, num_layers=3, token_drop=None, **configure
):
  task = task_lib.TokenDropPretrainingTask(
    configs.PretrainingTaskConfig(
      model=configs.ModelConfig(
        **{**tiny_runs.SIZES, 'num_layers': num_layers},
        use_next_sentence_head=True,
      ),
      token_drop=configs.TokenDropConfig(
        **{
          'token_keep_k': 6,
          'temperature': temperature,
          **(token_drop or {}),
        }
      ),
      vocabulary=configs.VocabularyConfig(path=corpus.vocabulary),
      train_data=data_config(corpus.train, is_training=True),
      validation_data=data_config(corpus.valid),
    )
  )
  task.configure_step(**configure)
  return task


def data_config(path, **settings):
  return configs.PretrainingDataConfig(
    input_path=path,
    seq_length=SEQ_LENGTH,
    max_predictions_per_seq=4,
    global_batch_size=BATCH_SIZE,
    shuffle_buffer_size=100,
    drop_remainder=settings.get('is_training', False),
    **settings,
  )


@dataclasses.dataclass
class Result:
  """What some steps leave; tables of all replicas, metrics by name."""

  losses: list
  metrics: dict
  weights: list
  tables: list


def train(task, batches, strategy=None):
  """Takes a step on each global batch."""
  strategy = strategy or tf.distribute.get_strategy()
  with strategy.scope():
    model = task.build_model()
    optimizer = task.create_optimizer(OPTIMIZER)
    trainer.create_slots(optimizer, model)
    metrics = task.build_metrics()

  @tf.function(autograph=False)
  def step(shares):
    losses = strategy.run(
      lambda batch: task.train_step(batch, model, optimizer, metrics)['loss'],
      args=(shares,),
    )
    return strategy.reduce('MEAN', losses, axis=None)

  losses = [float(step(split(batch, strategy))) for batch in batches]
  table = model.encoder_network.token_importance.table
  return Result(
    losses,
    {metric.name: float(metric.result()) for metric in metrics},
    [variable.numpy() for variable in model.trainable_variables],
    [t.numpy() for t in strategy.experimental_local_results(table)],
  )


def split(batch, strategy):
  number = strategy.num_replicas_in_sync
  return strategy.experimental_distribute_values_from_function(
    lambda context: {
      name: tf.split(tensor, number)[context.replica_id_in_sync_group]
      for name, tensor in batch.items()
    }
  )


def assert_close(result, expected, rtol, atol):
  np.testing.assert_allclose(result.losses, expected.losses, rtol=rtol)
  assert result.metrics == pytest.approx(expected.metrics, rel=rtol)
  for table in result.tables:
    np.testing.assert_array_equal(table, result.tables[0])
  np.testing.assert_allclose(
    result.tables[0], expected.tables[0], rtol=rtol, atol=atol
  )
  for ours, theirs in zip(result.weights, expected.weights):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def make_batches(corpus):
  task = make_task(corpus)
  found = task.build_inputs(task.task_config.train_data).take(NUM_STEPS)
  labels = tf.constant([[0], [1]] * (BATCH_SIZE // 2))
  return [{**batch, 'next_sentence_labels': labels} for batch in found]


@pytest.fixture(scope='module')
def batches(tiny_corpus):
  return make_batches(tiny_corpus)


@pytest.fixture(scope='module')
def plain(tiny_corpus, batches):
  return train(make_task(tiny_corpus, temperature=1.0), batches)


@pytest.mark.parametrize('num_parts', [2, 8])
def test_a_batch_in_parts_takes_the_step_of_the_whole(
  tiny_corpus, batches, plain, num_parts
):
  """With sampled tokens: what is drawn per row does not change either."""
  task = make_task(
    tiny_corpus, temperature=1.0, gradient_accumulation_steps=num_parts
  )
  assert_close(train(task, batches), plain, rtol=1e-5, atol=2e-6)


def test_parts_on_four_devices_take_the_step_of_one(
  tiny_corpus, batches, plain, four_replicas
):
  task = make_task(tiny_corpus, temperature=1.0, gradient_accumulation_steps=2)
  result = train(task, batches, four_replicas)
  assert len(result.tables) == 4
  assert_close(result, plain, rtol=1e-5, atol=2e-6)


def test_gradients_sent_as_bfloat16_differ_by_its_rounding(
  tiny_corpus, batches, plain, four_replicas
):
  task = make_task(tiny_corpus, temperature=1.0, all_reduce_dtype='bfloat16')
  result = train(task, batches, four_replicas)
  start = train(task, [])

  def distance(one, other):
    pairs = zip(one.weights, other.weights)
    return np.sqrt(sum(np.sum((ours - theirs) ** 2) for ours, theirs in pairs))

  # Rounding is 2 ** -9 of a gradient at most; Adam divides small ones by
  # themselves, so that a few change their sign.
  moved, off = distance(plain, start), distance(result, plain)
  assert 0 < off < 0.03 * moved, off / moved
  np.testing.assert_allclose(result.losses, plain.losses, rtol=2.0**-8)


def test_a_last_batch_that_is_not_full_counts_once(tiny_corpus, four_replicas):
  """Four devices see the rows of the validation set that one does."""
  task = make_task(tiny_corpus)
  config = task.task_config.validation_data
  whole = list(task.build_inputs(config))
  weights = [float(tf.reduce_sum(b['masked_lm_weights'])) for b in whole]
  rows = int(tf.reduce_sum(tf.reduce_max(whole[-1]['masked_lm_weights'], 1)))
  assert 0 < rows < BATCH_SIZE
  shares = four_replicas.distribute_datasets_from_function(
    lambda context: loader.load_dataset(
      config, task.task_config.vocabulary, context
    )
  )
  for batch, expected in zip(shares, whole, strict=True):
    for name, tensor in expected.items():
      parts = four_replicas.experimental_local_results(batch[name])
      np.testing.assert_array_equal(tf.concat(parts, axis=0), tensor)
  assert sum(weights) > 0


# What a TPU hands back to its host, or refuses; strings have no place there.
HOST_OPERATIONS = (
  *('PyFunc', 'Print', 'Assert', 'String', 'File', 'Iterator', 'Dataset'),
  *('Summary', 'Lookup', 'HashTable', 'Unique', 'Where3', 'HostCompute'),
)


def test_the_step_stays_on_the_device_and_is_static(
  tiny_corpus, batches, plain
):
  task = make_task(tiny_corpus, temperature=1.0, gradient_accumulation_steps=2)
  model = task.build_model()
  optimizer = task.create_optimizer(OPTIMIZER)
  trainer.create_slots(optimizer, model)
  metrics = task.build_metrics()
  spec = task.build_inputs(task.task_config.train_data).element_spec
  assert all(feature.shape.is_fully_defined() for feature in spec.values())
  validation = task.build_inputs(task.task_config.validation_data)
  assert validation.element_spec == spec

  step = tf.function(
    lambda batch: task.train_step(batch, model, optimizer, metrics),
    autograph=False,
    jit_compile=True,
  )
  losses = [float(step(batch)['loss']) for batch in batches]
  # XLA draws other numbers for the sampling.
  assert losses == pytest.approx(plain.losses, rel=0.02)
  assert_on_device_and_static(step.get_concrete_function(batches[0]).graph)


def assert_on_device_and_static(graph):
  """Checks that a device can run a graph alone, whose shapes are all known."""
  graph = graph.as_graph_def(add_shapes=True)
  nodes = list(graph.node)
  for function in graph.library.function:
    nodes += function.node_def
  assert len(nodes) > 500
  for node in nodes:
    assert not any(part in node.op for part in HOST_OPERATIONS), node.op
    assert not any(
      a.type == tf.string.as_datatype_enum for a in node.attr.values()
    )
    shapes = node.attr['_output_shapes'].list.shape
    assert not any(size.size < 0 for shape in shapes for size in shape.dim), (
      node
    )


def test_training_drops_what_does_not_fill_a_batch():
  """A TPU takes no other shape."""
  params = experiments.build(experiments.PRETRAINING)
  assert params.task.train_data.drop_remainder
  assert not params.task.validation_data.drop_remainder  # It is filled up.


class TestRules:
  """Each setting is refused where it cannot mean what it says."""

  @pytest.fixture
  def params(self, tiny_corpus):
    params = experiments.build(experiments.PRETRAINING)
    params.task.vocabulary.path = tiny_corpus.vocabulary
    return params

  def test_parts_divide_the_batch_of_a_replica(self, params):
    params.task.train_data.global_batch_size = 24
    params.trainer.gradient_accumulation_steps = 4
    rules.validate_replicas(params, 2)
    message = message_of(rules.validate_replicas, params, 4)
    assert 'global_batch_size=24, gradient_accumulation_steps=4' in message

  def test_several_workers_write_no_checkpoints_aside(self, params):
    params.trainer.async_checkpoints = True
    rules.validate_experiment(params)
    params.runtime.distribution_strategy = 'multi_worker_mirrored'
    message = message_of(rules.validate_experiment, params)
    assert 'Leave trainer.async_checkpoints unset' in message

  @pytest.mark.parametrize(
    ('section', 'setting', 'value'),
    [
      ('trainer', 'gradient_accumulation_steps', 2),
      ('runtime', 'all_reduce_dtype', 'bfloat16'),
    ],
  )
  def test_finetuning_takes_its_batches_whole(
    self, params, section, setting, value
  ):
    params.override({section: {setting: value}})
    message = message_of(rules.validate_schedule, params)
    assert f'{section}.{setting} is a setting of pretraining' in message
