"""A pretraining run in words."""

import json

import gin_trees
import pytest
import tensorflow as tf

from tokendrop_tf import errors
from tokendrop_tf.data import baselines
from tokendrop_tf.tasks import pretraining

FULL = {'validation_loss': 5.0, 'masked_lm_accuracy': 0.2}
BASELINES = baselines.Baselines(6.0, 5.5)
BOTH = FULL | {'lm_example_loss_dropping': 4.5, 'full_sequence_gap': 0.5}


def make_experiment(*bindings, model_dir='runs/a'):
  params = gin_trees.build(
    'trainer.train_steps = 400',
    'train_data.global_batch_size = 4',
    'train_data.seq_length = 32',
    'token_drop.token_keep_k = 16',
    'train_data.max_predictions_per_seq = 5',
    'model.vocab_size = 100',
    *bindings,
  )
  experiment = pretraining.Pretraining(params, 'train', str(model_dir))
  experiment._baselines = BASELINES
  return experiment


def test_losses_are_held_against_the_best_without_context():
  experiment = make_experiment()
  facts = experiment.validation_facts(BOTH)
  assert facts == {'context_gain': 0.5}
  assert experiment.validation_text(BOTH | facts) == (
    'loss 5.0000 on full sequences (accuracy 0.200), 4.5000 with dropping '
    '(gap +0.5000), context gain +0.5000'
  )


def test_a_run_says_once_that_it_reads_also_when_it_is_resumed(tmp_path):
  gains = {100: 0.04, 200: 0.05, 300: 0.0, 400: 0.5}

  def validate(experiment, steps):
    return [
      experiment.end_validation(step, {'context_gain': gains[step]})
      for step in steps
    ]

  def make():
    return make_experiment(model_dir=tmp_path)

  first, said, *others = validate(make(), gains)
  assert said.startswith('reads since step 200: the validation loss is 0.0500')
  assert [first, *others] == ['', '', '']
  (tmp_path / 'metrics.jsonl').write_text(
    ''.join(
      json.dumps({'kind': 'validation', 'step': step, 'context_gain': gain})
      + '\n'
      for step, gain in gains.items()
    )
  )
  resumed = make()
  resumed.begin(200, is_chief=True)
  assert validate(resumed, (300, 400)) == ['', '']
  assert 'since step 200' in resumed.end_block(400, 1.0)
  before = make()
  before.begin(100, is_chief=True)
  assert any(validate(before, (200, 300)))


@pytest.mark.parametrize(
  ('bindings', 'words'),
  [
    ((), 'by running loss, ranked: 16 of 32 tokens (50%) in layers 6-'),
    (('token_drop.temperature = 0.5',), 'sampled at temperature 0.5'),
    (("token_drop.policy = 'frequency'",), 'by rarity in the corpus'),
    (("token_drop.policy = 'random'",), 'at random: 16 of 32'),
    (('token_drop.full_step_every = 8',), 'one step in 8 in full'),
    (('token_drop.crossing_layer = 11',), 'in layer 11 of 12'),
    (("token_drop.policy = 'none'",), 'every layer runs on all tokens'),
  ],
)
def test_the_policy_is_put_into_words(bindings, words):
  task = make_experiment(*bindings).params.task
  assert words in pretraining.dropping_text(task)


def test_token_counts_must_exist_where_the_importance_needs_them(tiny_corpus):
  vocabulary = (
    f'vocabulary.path = {tiny_corpus.vocabulary!r}',
    'model.vocab_size = 64',
  )
  make_experiment(
    *vocabulary, "token_drop.policy = 'frequency'"
  ).complete_settings(None)
  absent = "vocabulary.counts_path = 'absent.tsv'"
  make_experiment(*vocabulary, absent).complete_settings(None)
  experiment = make_experiment(
    *vocabulary, "token_drop.policy = 'frequency'", absent
  )
  with pytest.raises(
    errors.ConfigurationError, match='token counts.*Received: absent.tsv'
  ):
    experiment.complete_settings(None)


def test_the_start_block_tells_consequences():
  experiment = make_experiment("train_data.input_path = 'a.txt'")
  block = experiment.start_block(1_500_000, num_replicas=1, first_step=0)
  words = ' '.join(block.split())
  assert '1.5 M parameters' in words
  assert '128 per step (4 x 32, 5 predictions each)' in words
  assert '51,200 in 400 steps' in words
  assert 'training a.txt' in words
  assert '6.0000 nats' in words
  assert 'below 5.5000 a model reads the text' in words
  assert 'tensorflow 2.' in words
  assert max(map(len, block.splitlines())) <= 80


@pytest.mark.parametrize(
  ('step', 'words'),
  [
    (0, 'begins with random weights, seed 0'),
    (200, 'resumes at step 200'),
    (400, 'already trained to its last step, 400'),
  ],
)
def test_the_start_block_tells_where_a_run_begins(step, words):
  assert words in make_experiment().start_block(1, 1, step)


def test_the_end_block_tells_what_to_type_next(tmp_path):
  tf.train.CheckpointManager(tf.train.Checkpoint(), str(tmp_path), 1).save(400)
  block = make_experiment(model_dir=tmp_path).end_block(
    400, 60.0, BOTH | {'context_gain': 0.5}
  )
  assert f'tensorboard --logdir={tmp_path}' in block
  assert f'--model_dir={tmp_path} --mode=eval' in block
  assert f"pretraining.init_checkpoint = '{tmp_path}/ckpt-400'" in block
  assert 'context gain +0.5000' in block


@pytest.mark.parametrize(
  ('bindings', 'kept'),
  [
    ((), (16, 16)),
    (("token_drop.keep_schedule = ('0:8', '0.5:all')",), (8, 32)),
    (("token_drop.policy = 'none'",), (None, None)),
  ],
)
def test_tensorboard_gets_the_number_of_tokens_kept(bindings, kept):
  experiment = make_experiment(*bindings)
  for step, keep_k in zip((200, 201), kept):
    expected = {} if keep_k is None else {'token_keep_k': keep_k}
    assert experiment.train_facts(step) == expected
