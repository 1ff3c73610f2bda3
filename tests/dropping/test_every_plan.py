"""Plans under all ways to spread a step that change no result."""

import numpy as np
import pytest
import tensorflow as tf

from tests import test_distribution as steps
from tests import test_encoder
from tests.dropping import test_layerwise
from tokendrop_tf.dropping import TokenDropConfig, registry
from tokendrop_tf.layers import random_seeds
from tokendrop_tf.run import trainer

PLANS = {
  'weighted': test_layerwise.WEIGHTED,
  'windows': test_layerwise.FIXED,
  'halving': {'halve_every': 1},
  'pooled': {'plan': 'pooled', 'summary_rows': 7},
}
every_plan = pytest.mark.parametrize('token_drop', PLANS.values(), ids=PLANS)
SEED = (3, 4)


def make_encoder(token_drop):
  section = TokenDropConfig(**token_drop)
  return test_encoder.make_encoder(
    num_layers=4,
    temperature=section.temperature,
    plan=registry.plan_of(section),
    importance=registry.importance_of(section),
    return_all_encoder_outputs=False,
  )


@pytest.mark.parametrize('name', ['weighted', 'windows', 'pooled'])
def test_parts_of_a_batch_on_four_devices_give_its_rows(name, four_replicas):
  with four_replicas.scope():
    encoder = make_encoder(PLANS[name])
  features = test_encoder.make_features(batch_size=8)

  def run(rows):
    return encoder(rows, drop_tokens=True, seed=tf.constant(SEED))[
      'sequence_output'
    ]

  @tf.function
  def run_parts(rows):
    parts = []
    for index in range(2):
      with random_seeds.part_of_batch(2, index):
        parts.append(run({name: t[index::2] for name, t in rows.items()}))
    return tf.concat(parts, axis=0)

  shares = steps.split(features, four_replicas)
  parts = four_replicas.experimental_local_results(
    four_replicas.run(run_parts, args=(shares,))
  )
  np.testing.assert_allclose(
    tf.concat(parts, axis=0), run(features), rtol=1e-5, atol=1e-5
  )


@every_plan
def test_xla_compiles_a_static_graph(token_drop):
  encoder = make_encoder(token_drop)
  features = test_encoder.make_features()

  def run(features, seed):
    with tf.GradientTape() as tape:
      output = encoder(features, training=True, seed=seed)['sequence_output']
      loss = tf.reduce_mean(tf.square(output))
    kernels = [v for v in encoder.trainable_variables if 'layer_' in v.name]
    gradients = tape.gradient(loss, kernels)
    return loss, tf.linalg.global_norm(gradients)

  compiled = tf.function(run, jit_compile=True)
  results = compiled(features, tf.constant(SEED))
  # XLA draws other numbers.
  np.testing.assert_allclose(
    results, run(features, tf.constant(SEED)), rtol=0.1
  )
  graph = compiled.get_concrete_function(features, tf.constant(SEED)).graph
  steps.assert_on_device_and_static(graph)


def test_a_resumed_run_takes_the_steps_of_one_that_was_not(
  tiny_corpus, tmp_path
):
  """Subsets and sizes follow from the step, as everything that is drawn."""

  def make_run():
    task = steps.make_task(
      tiny_corpus,
      num_layers=4,
      token_drop={
        **test_layerwise.WEIGHTED,
        'keep_schedule': ('0:4', '0.5:8'),
        'schedule_steps': 4,
      },
    )
    model, metrics = task.build_model(), task.build_metrics()
    optimizer = task.create_optimizer(steps.OPTIMIZER)
    trainer.create_slots(optimizer, model)
    step = tf.function(
      lambda batch: task.train_step(batch, model, optimizer, metrics)['loss'],
      autograph=False,
    )
    return step, tf.train.Checkpoint(model=model, optimizer=optimizer)

  batches = steps.make_batches(tiny_corpus)
  step, checkpoint = make_run()
  step(batches[0])
  path = checkpoint.write(str(tmp_path / 'after_one'))
  whole = [float(step(batch)) for batch in batches[1:]]
  step, checkpoint = make_run()
  checkpoint.read(path).assert_existing_objects_matched()
  assert [float(step(batch)) for batch in batches[1:]] == whole
