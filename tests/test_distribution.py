"""Ways to spread a step, over devices or over time, that change no result."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from faults import harness
from official.modeling import optimization

from tokendrop_tf import configs, errors, experiments, workers
from tokendrop_tf import task as task_lib
from tokendrop_tf.data import loader, service

SEQ_LENGTH, BATCH_SIZE, NUM_STEPS = 16, 8, 3
OPTIMIZER = optimization.OptimizationConfig(
  {
    'optimizer': {
      'type': 'adamw',
      # Clips in every step.
      'adamw': {'gradient_clip_norm': 0.1},
    },
    'learning_rate': {
      'type': 'constant',
      'constant': {'learning_rate': 1e-3},
    },
  }
)


def make_task(corpus, temperature=0.0, **configure):
  task = task_lib.TokenDropPretrainingTask(
    configs.PretrainingTaskConfig(
      model=configs.ModelConfig(
        vocab_size=64,
        hidden_size=16,
        num_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=SEQ_LENGTH,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        initializer_range=0.2,
      ),
      token_drop=configs.TokenDropConfig(
        token_keep_k=6, temperature=temperature
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
  """What some steps leave: losses, weights, tables of all replicas."""

  losses: list
  weights: list
  tables: list


def train(task, batches, strategy=None):
  """Takes a step on each global batch."""
  strategy = strategy or tf.distribute.get_strategy()
  with strategy.scope():
    model = task.build_model()
    optimizer = task.create_optimizer(OPTIMIZER)
    metrics = task.build_metrics()

  @tf.function
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
  for table in result.tables:
    np.testing.assert_array_equal(table, result.tables[0])
  np.testing.assert_allclose(
    result.tables[0], expected.tables[0], rtol=rtol, atol=atol
  )
  for ours, theirs in zip(result.weights, expected.weights):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


@pytest.fixture(scope='module')
def batches(tiny_corpus):
  task = make_task(tiny_corpus)
  return list(task.build_inputs(task.task_config.train_data).take(NUM_STEPS))


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


@pytest.mark.faults
def test_devices_agree_over_fifty_steps(tiny_corpus, tmp_path):
  """1, 2 and 4 devices, each in a process of its own."""
  results = {}
  for number in (1, 2, 4):
    run = harness.TinyRun(
      tiny_corpus,
      tmp_path / f'{number}',
      (
        'trainer.train_steps = 50',
        'trainer.steps_per_loop = 1',
        'optimizer.learning_rate = 0.001',
        'model.dropout_rate = 0.0',
        'model.attention_dropout_rate = 0.0',
        # The last batch has 4 of 32 rows.
        'validation_data.global_batch_size = 32',
        "runtime.distribution_strategy = 'mirrored'" if number > 1 else '',
        f'runtime.num_logical_cpu_devices = {number}',
      ),
    )
    tables = tmp_path / f'{number}.json'
    subprocess.run(
      [
        *(sys.executable, '-m', 'faults.train_on_devices', str(tables)),
        *run.arguments(),
      ],
      check=True,
      capture_output=True,
      cwd=pathlib.Path(__file__).parent,
    )
    results[number] = (run.history(), np.array(json.loads(tables.read_text())))
  history, [table] = results[1]
  assert len([r for r in history if r['kind'] == 'train']) == 50
  for number in (2, 4):
    records, tables = results[number]
    assert len(tables) == number
    np.testing.assert_array_equal(tables, tables[:1].repeat(number, axis=0))
    np.testing.assert_allclose(tables[0], table, atol=1e-5)
    for record, expected in zip(records, history, strict=True):
      for name, value in expected.items():
        if 'loss' in name:
          assert record[name] == pytest.approx(value, abs=1e-5), (name, record)


@pytest.fixture(scope='module')
def data_service():
  """A dispatcher and two workers; the address of the dispatcher."""
  dispatcher = service.start(service.parse_flags(['--host=localhost']))
  address = service.address_of(dispatcher)
  flags = service.parse_flags([f'--dispatcher={address}', '--host=localhost'])
  servers = [service.start(flags) for _ in range(2)]
  yield address
  for server in (*servers, dispatcher):
    server._stop()


def numbered_documents(folder, number):
  """Writes documents that each repeat a word of their own."""
  words = [f'w{index}' for index in range(number)]
  special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  (folder / 'vocab.txt').write_text('\n'.join(special + words) + '\n')
  text = folder / 'text.txt'
  text.write_text('\n\n'.join(f'{word} ' * 6 for word in words) + '\n')
  return text, configs.VocabularyConfig(path=str(folder / 'vocab.txt'))


@pytest.mark.parametrize('num_pipelines', [1, 2])
def test_a_data_service_makes_every_document_once_in_a_pass(
  data_service, tmp_path, num_pipelines
):
  text, vocabulary = numbered_documents(tmp_path, 80)
  config = configs.PretrainingDataConfig(
    input_path=str(text),
    is_training=True,
    global_batch_size=8,
    seq_length=8,
    max_predictions_per_seq=2,
    packing='within_documents',
    num_epochs=2,
    tf_data_service_address=data_service,
  )
  pipelines = [
    loader.load_dataset(
      config,
      vocabulary,
      tf.distribute.InputContext(num_pipelines, index, num_pipelines),
    )
    for index in range(num_pipelines)
  ]
  labels = []
  for batches in pipelines:
    assert batches.element_spec['input_word_ids'].shape == [
      8 // num_pipelines,
      8,
    ]
  iterators = [iter(batches) for batches in pipelines]
  while iterators:
    for iterator in list(iterators):
      batch = next(iterator, None)
      if batch is None:
        iterators.remove(iterator)
      else:
        labels += batch['masked_lm_ids'].numpy()[:, 0].tolist()
  assert sorted(labels) == sorted(2 * list(range(5, 85)))


def test_sources_that_need_python_are_not_sent_to_a_data_service(
  data_service,
):
  numbers = tf.data.Dataset.range(3).map(
    lambda x: tf.numpy_function(lambda n: n, [x], tf.int64)
  )
  config = configs.PretrainingDataConfig(tf_data_service_address=data_service)
  with pytest.raises(errors.ConfigurationError, match='need no Python'):
    service.distribute(numbers, config, '')


def test_a_dispatcher_that_does_not_answer_is_named(tmp_path):
  address = f'localhost:{workers.free_ports(1)[0]}'
  config = configs.PretrainingDataConfig(tf_data_service_address=address)
  with pytest.raises(errors.ConfigurationError, match='that answers') as caught:
    service.distribute(tf.data.Dataset.range(3), config, '')
  assert address in str(caught.value)


@pytest.mark.parametrize('address', ['here', 'grpc://here:1', ':1', 'a:99999'])
def test_an_address_without_a_port_is_refused(address):
  with pytest.raises(errors.ConfigurationError, match="'HOST:PORT'"):
    service.parse_flags([f'--dispatcher={address}'])


@pytest.mark.faults
def test_a_training_on_a_data_service_of_three_processes(tiny_corpus, tmp_path):
  command = [
    sys.executable,
    '-m',
    'tokendrop_tf.data.service',
    '--host=localhost',
  ]

  def start(*flags):
    process = subprocess.Popen(
      [*command, *flags], stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().rsplit(' ', 1)[1].strip()

  dispatcher, address = start()
  others = [start(f'--dispatcher={address}')[0] for _ in range(2)]
  run = harness.TinyRun(
    tiny_corpus,
    tmp_path / 'run',
    (f"train_data.tf_data_service_address = '{address}'",),
  )
  try:
    run.kill_when(lambda seconds: run.steps_logged() >= 25)
    assert 'goes on at step 20' in run.finish()
  finally:
    for process in (*others, dispatcher):
      process.terminate()
  for process in (*others, dispatcher):
    assert process.wait(timeout=60) == 0
  assert run.steps_logged() == 60


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
  metrics = task.build_metrics()
  spec = task.build_inputs(task.task_config.train_data).element_spec
  assert all(feature.shape.is_fully_defined() for feature in spec.values())
  validation = task.build_inputs(task.task_config.validation_data)
  assert validation.element_spec == spec

  step = tf.function(
    lambda batch: task.train_step(batch, model, optimizer, metrics),
    jit_compile=True,
  )
  loss = float(step(batches[0])['loss'])
  # XLA draws other numbers for the sampling.
  assert loss == pytest.approx(plain.losses[0], rel=0.02)
  graph = step.get_concrete_function(spec).graph.as_graph_def(add_shapes=True)
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
  params = experiments.pretraining_experiment()
  assert params.task.train_data.drop_remainder
  assert not params.task.validation_data.drop_remainder  # It is filled up.


class TestRules:
  """Each setting is refused where it cannot mean what it says."""

  @pytest.fixture
  def params(self, tiny_corpus):
    params = experiments.pretraining_experiment()
    params.task.vocabulary.path = tiny_corpus.vocabulary
    return params

  def message_of(self, check, *arguments):
    with pytest.raises(errors.ConfigurationError) as caught:
      check(*arguments)
    return str(caught.value)

  def test_parts_divide_the_batch_of_a_replica(self, params):
    params.task.train_data.global_batch_size = 24
    params.trainer.gradient_accumulation_steps = 4
    configs.validate_replicas(params, 2)
    message = self.message_of(configs.validate_replicas, params, 4)
    assert 'global_batch_size=24, gradient_accumulation_steps=4' in message

  def test_several_workers_write_no_checkpoints_aside(self, params):
    params.trainer.async_checkpoints = True
    configs.validate_experiment(params)
    params.runtime.distribution_strategy = 'multi_worker_mirrored'
    message = self.message_of(configs.validate_experiment, params)
    assert 'Leave trainer.async_checkpoints unset' in message

  @pytest.mark.parametrize(
    ('settings', 'rule'),
    [
      ({'tf_data_service_address': 'here'}, "must be 'HOST:PORT'"),
      (
        {'tf_data_service_address': 'here:1', 'num_epochs': 1},
        'Leave train_data.num_epochs unset',
      ),
    ],
  )
  def test_a_data_service_has_an_address_and_no_end(
    self, params, settings, rule
  ):
    params.task.train_data.override(settings)
    assert rule in self.message_of(configs.validate_experiment, params)

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
    message = self.message_of(configs.validate_schedule, params)
    assert f'{section}.{setting} is a setting of pretraining' in message
