"""Rules across settings, and the model's fit to the vocabulary."""

import gin_trees
import pytest
import refusals

from tokendrop_tf import errors
from tokendrop_tf.config import rules
from tokendrop_tf.text import vocabulary as vocabulary_lib


def tree(corpus, *bindings):
  """A valid tree of 4 layers at S 32, K 16, P 5, with `bindings` on top."""
  return gin_trees.build(
    f"vocabulary.path = '{corpus.vocabulary}'",
    f"train_data.input_path = '{corpus.train}'",
    f"validation_data.input_path = '{corpus.valid}'",
    'model.num_layers = 4',
    'model.hidden_size = 16',
    'model.num_attention_heads = 2',
    'model.max_position_embeddings = 32',
    'train_data.seq_length = 32',
    'train_data.max_predictions_per_seq = 5',
    'train_data.global_batch_size = 8',
    'token_drop.token_keep_k = 16',
    'trainer.train_steps = 20',
    'trainer.steps_per_loop = 5',
    'trainer.validation_interval = 10',
    'trainer.checkpoint_interval = 10',
    'optimizer.warmup_steps = 5',
    *bindings,
  )


class TestValidateExperiment:
  @pytest.mark.parametrize(
    'bindings',
    [
      (),
      ('token_drop.token_keep_k = 32',),
      ('token_drop.crossing_layer = 1',),
      ('token_drop.crossing_layer = 3',),
      (
        "token_drop.policy = 'none'",
        'token_drop.token_keep_k = 256',
        'model.num_layers = 1',
      ),
      ("token_drop.policy = 'frequency'",),
      ('train_data.max_predictions_per_seq = 4',),  # int(0.15 * 30)
      ('train_data.max_predictions_per_seq = 30',),
      ('trainer.validation_interval = 1001',),  # Once, at the end.
      ('optimizer.warmup_steps = 0',),
      (
        "train_data.packing = 'best_fit'",
        "train_data.masking = 'importance'",
        "train_data.mask_rate_schedule = ('0:0.15', '0.5:0.1')",
      ),
      (
        "runtime.distribution_strategy = 'mirrored'",
        'runtime.num_logical_cpu_devices = 4',
      ),
      ("runtime.distribution_strategy = 'tpu'", "runtime.tpu = 'local'"),
      (
        "runtime.distribution_strategy = 'mirrored'",
        'runtime.num_gpus = 2',
        "runtime.all_reduce_alg = 'nccl'",
      ),
    ],
  )
  def test_a_valid_tree_passes(self, tiny_corpus, bindings):
    rules.validate_experiment(tree(tiny_corpus, *bindings))

  @pytest.mark.parametrize(
    ('bindings', 'rule'),
    [
      (("vocabulary.path = ''",), 'vocabulary.path must name'),
      (
        ("model.attention_start = 'neighbours'",),
        "position_initializer='truncated_normal'. Set "
        "model.position_initializer = 'fourier'.",
      ),
      (
        ('token_drop.token_keep_k = 33',),
        'token_keep_k must be at most train_data.seq_length. Received: '
        'token_keep_k=33, seq_length=32. Set token_drop.token_keep_k.',
      ),
      (
        ('token_drop.crossing_layer = 4',),
        'must be between 1 and model.num_layers - 1. Received: '
        'crossing_layer=4, num_layers=4. Set token_drop.crossing_layer.',
      ),
      (('model.num_layers = 2',), 'must be at least 3 to drop tokens'),
      (
        ('model.num_attention_heads = 3',),
        'model.hidden_size must be a multiple of model.num_attention_heads',
      ),
      (
        ('train_data.max_predictions_per_seq = 3',),
        'max_predictions_per_seq=3, where 4 to 30 fit mask_rate=0.15',
      ),
      (('train_data.max_predictions_per_seq = 31',), 'where 4 to 30 fit'),
      (
        ('model.max_position_embeddings = 31',),
        'seq_length must be at most model.max_position_embeddings',
      ),
      (
        ('validation_data.seq_length = 16',),
        'validation_data.seq_length must equal train_data.seq_length',
      ),
      (
        ('validation_data.max_predictions_per_seq = 6',),
        'validation_data.max_predictions_per_seq must equal',
      ),
      (("train_data.tfds_name = 'lm1b'",), 'Text must have one source'),
      (
        ('train_data.mask_token_share = 0.95',),
        'at most 1 together. Received: 0.95 and 0.1. Set',
      ),
      (
        (
          "train_data.masking = 'span'",
          "train_data.input_path = 'a.tfrecord'",
        ),
        'TFRecords have the masks that they were written with',
      ),
      (
        (
          "train_data.mask_rate_schedule = ('0:0.15',)",
          "train_data.input_path = 'a.tfrecord'",
        ),
        'train_data.mask_rate_schedule needs text',
      ),
      (
        ("train_data.mask_rate_schedule = ('0:0.1', '0.5:0.3')",),
        'where 9 to 30 fit mask_rate=0.3',
      ),
      (
        (
          "train_data.masking = 'importance'",
          "token_drop.policy = 'random'",
        ),
        "needs the importance table of token_drop.policy 'loss' or 'frequency'",
      ),
      (
        ("validation_data.masking = 'importance'",),
        'Leave validation_data.masking unset.',
      ),
      (
        (
          'model.use_next_sentence_head = True',
          'train_data.use_next_sentence_label = True',
          "train_data.input_path = 'a.tfrecord'",
          "train_data.packing = 'best_fit'",
        ),
        'the next-sentence head reads one [CLS]',
      ),
      (
        ('model.use_next_sentence_head = True',),
        'use_next_sentence_head=True, train_data.use_next_sentence_label=False',
      ),
      (
        ('train_data.use_next_sentence_label = True',),
        'use_next_sentence_head=False',
      ),
      (
        (
          'model.use_next_sentence_head = True',
          'train_data.use_next_sentence_label = True',
        ),
        'needs TFRecords',
      ),
      (
        ('optimizer.warmup_steps = 20',),
        'warmup_steps must be below trainer.train_steps',
      ),
      (
        ('optimizer.end_learning_rate = 1.0',),
        'end_learning_rate must be at most optimizer.learning_rate',
      ),
      (
        ('trainer.validation_interval = 7',),
        'validation_interval must be a multiple of trainer.steps_per_loop',
      ),
      (
        ('trainer.checkpoint_interval = 12',),
        'checkpoint_interval must be a multiple of trainer.steps_per_loop',
      ),
      (
        ("token_drop.always_drop_tokens = ['[PAD]', '[SEP]']",),
        'Received in both: [SEP]',
      ),
      (('runtime.num_gpus = 2',), "'one_device' uses at most one GPU"),
      (
        ('runtime.num_logical_cpu_devices = 2',),
        'num_logical_cpu_devices needs runtime.distribution_strategy',
      ),
      (("runtime.distribution_strategy = 'tpu'",), 'needs runtime.tpu'),
      (
        (
          "runtime.distribution_strategy = 'tpu'",
          "runtime.tpu = 'local'",
          "runtime.mixed_precision_dtype = 'float16'",
        ),
        "Set runtime.mixed_precision_dtype = 'bfloat16'",
      ),
      (
        (
          'trainer.async_checkpoints = True',
          "runtime.mixed_precision_dtype = 'float16'",
        ),
        'async_checkpoints cannot be used with a loss scale',
      ),
      (("runtime.all_reduce_alg = 'nccl'",), 'all_reduce_alg must be one of'),
      (
        (
          "runtime.distribution_strategy = 'mirrored'",
          'runtime.num_logical_cpu_devices = 3',
        ),
        'global_batch_size=8, 3 replicas. Set train_data.global_batch_size',
      ),
      (
        (
          "runtime.distribution_strategy = 'mirrored'",
          'runtime.num_logical_cpu_devices = 2',
          'runtime.enable_xla = True',
        ),
        'enable_xla cannot add gradients',
      ),
    ],
  )
  def test_a_broken_rule_is_named(self, tiny_corpus, bindings, rule):
    message = refusals.message_of(
      rules.validate_experiment, tree(tiny_corpus, *bindings)
    )
    assert rule in message
    assert 'Received' in message

  @pytest.mark.parametrize(
    ('section', 'setting', 'value'),
    [
      ('token_drop', 'policy', 'lots'),
      ('token_drop', 'temperature', -1.0),
      ('model', 'initializer_range', 0.0),
      ('train_data', 'mask_rate', 2.0),
    ],
  )
  def test_ranges_hold_for_trees_that_gin_did_not_build(
    self, tiny_corpus, section, setting, value
  ):
    params = tree(tiny_corpus)
    setattr(getattr(params.task, section), setting, value)
    with pytest.raises(
      errors.ConfigurationError, match=f'{section}.{setting} must be .*{value}'
    ):
      rules.validate_experiment(params)


class TestValidationSource:
  def check(self, corpus, *bindings):
    rules.validate_validation_source(tree(corpus, *bindings))

  def test_its_own_files_are_a_source(self, tiny_corpus):
    self.check(tiny_corpus)

  def test_held_out_documents_are_a_source(self, tiny_corpus):
    self.check(
      tiny_corpus,
      "validation_data.input_path = ''",
      'train_data.held_out_documents = 10',
    )

  def test_training_documents_are_none(self, tiny_corpus):
    with pytest.raises(errors.ConfigurationError, match='does not read'):
      self.check(tiny_corpus, "validation_data.input_path = ''")

  def test_both_sides_hold_out_the_same(self, tiny_corpus):
    with pytest.raises(errors.ConfigurationError, match='must equal'):
      self.check(
        tiny_corpus,
        "validation_data.input_path = ''",
        'validation_data.held_out_documents = 10',
      )


class TestResolveVocabulary:
  def resolve(self, corpus, *bindings):
    params = tree(corpus, *bindings)
    rules.resolve_vocabulary(
      params, vocabulary_lib.Vocabulary.from_file(corpus.vocabulary)
    )
    return params.task.model.vocab_size

  def test_the_size_is_read_from_the_file(self, tiny_corpus):
    assert self.resolve(tiny_corpus) == 64

  def test_a_size_that_fits_is_accepted(self, tiny_corpus):
    assert self.resolve(tiny_corpus, 'model.vocab_size = 64') == 64

  def test_a_padded_size_is_accepted_and_said(self, tiny_corpus, capsys):
    assert self.resolve(tiny_corpus, 'model.vocab_size = 72') == 72
    message = capsys.readouterr().err
    assert '64 tokens, the model 72 rows: the last 8 stand for no' in message

  @pytest.mark.parametrize('size', [63, 64 + 128])
  def test_another_size_is_refused(self, tiny_corpus, size):
    with pytest.raises(
      errors.ConfigurationError, match=f'64 tokens in .*, {size} in the model'
    ):
      self.resolve(tiny_corpus, f'model.vocab_size = {size}')

  def test_a_pinned_token_must_be_in_the_vocabulary(self, tiny_corpus):
    with pytest.raises(errors.DataError, match=r"'\[DOC\]', absent from"):
      self.resolve(tiny_corpus, "token_drop.always_keep_tokens = ['[DOC]']")


def test_replicas_must_share_the_batch(tiny_corpus):
  with pytest.raises(errors.ConfigurationError, match='16 replicas'):
    rules.validate_replicas(tree(tiny_corpus), 16)
  rules.validate_replicas(tree(tiny_corpus), 8)
