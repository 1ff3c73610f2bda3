"""gin sections: types, ranges, strictness, and the tree that they build."""

import gin
import pytest
import tensorflow as tf
from official.core import exp_factory
from official.modeling import optimization

from tokendrop_tf import errors, experiments, gin_support


def build(*bindings, files=()):
  parsed = gin_support.parse(
    [str(name) for name in files], bindings, experiments.sections()
  )
  gin_support.check_macros(parsed)
  params = exp_factory.get_exp_config(experiments.PRETRAINING)
  gin_support.check_all_used(parsed)
  return params


def message_of(*bindings, files=()):
  with pytest.raises(errors.ConfigurationError) as caught:
    build(*bindings, files=files)
  return str(caught.value)


class TestSections:
  def test_the_settings_are_these(self):
    assert experiments.sections() == {
      'model': (
        'vocab_size',
        'hidden_size',
        'num_layers',
        'num_attention_heads',
        'intermediate_size',
        'hidden_activation',
        'dropout_rate',
        'attention_dropout_rate',
        'max_position_embeddings',
        'type_vocab_size',
        'initializer_range',
        'position_initializer',
        'residual_initializer_scale',
        'norm_first',
        'mlm_activation',
        'use_next_sentence_head',
      ),
      'token_drop': (
        'policy',
        'token_keep_k',
        'crossing_layer',
        'temperature',
        'full_step_every',
        'keep_schedule',
        'token_loss_init_value',
        'token_loss_beta',
        'always_keep_tokens',
        'always_drop_tokens',
      ),
      'vocabulary': ('path', 'counts_path', 'lower_case'),
      'train_data': (
        'input_path',
        'text_field',
        'skip_bad_text',
        'allow_unknown_tokens',
        'tfds_name',
        'tfds_split',
        'tfds_data_dir',
        'tfds_text_feature',
        'global_batch_size',
        'seq_length',
        'max_predictions_per_seq',
        'mask_rate',
        'mask_rate_schedule',
        'masking',
        'mask_token_share',
        'random_token_share',
        'span_stop_probability',
        'max_span_words',
        'masking_temperature',
        'packing',
        'use_next_sentence_label',
        'num_epochs',
        'held_out_documents',
        'shuffle_buffer_size',
        'tf_data_service_address',
        'seed',
      ),
      'validation_data': (
        'input_path',
        'text_field',
        'skip_bad_text',
        'allow_unknown_tokens',
        'tfds_name',
        'tfds_split',
        'tfds_data_dir',
        'tfds_text_feature',
        'global_batch_size',
        'seq_length',
        'max_predictions_per_seq',
        'mask_rate',
        'masking',
        'mask_token_share',
        'random_token_share',
        'span_stop_probability',
        'max_span_words',
        'packing',
        'use_next_sentence_label',
        'held_out_documents',
        'seed',
      ),
      'optimizer': (
        'learning_rate',
        'warmup_steps',
        'decay',
        'end_learning_rate',
        'weight_decay_rate',
        'gradient_clip_norm',
        'beta_1',
        'beta_2',
        'epsilon',
      ),
      'trainer': (
        'train_steps',
        'steps_per_loop',
        'validation_interval',
        'validation_steps',
        'checkpoint_interval',
        'max_to_keep',
        'continuous_eval_timeout',
        'gradient_accumulation_steps',
        'async_checkpoints',
      ),
      'runtime': (
        'distribution_strategy',
        'num_gpus',
        'num_logical_cpu_devices',
        'worker_timeout_seconds',
        'tpu',
        'mixed_precision_dtype',
        'enable_xla',
        'all_reduce_alg',
        'all_reduce_dtype',
        'num_packs',
      ),
      'pretraining': ('seed', 'init_checkpoint'),
      'finetuning': (
        'init_from',
        'random_init',
        'num_epochs',
        'warmup_share',
        'dropout_rate',
        'attention_dropout_rate',
        'seed',
      ),
      'glue': (
        'task',
        'train_data',
        'validation_data',
        'mismatched_validation_data',
        'test_data',
        'mismatched_test_data',
        'tfds_data_dir',
        'seq_length',
        'batch_size',
        'eval_batch_size',
        'label_names',
        'is_regression',
        'metric',
        'text_column',
        'text_pair_column',
        'label_column',
        'index_column',
        'column_names',
        'malformed_rows',
        'trim_padding',
      ),
      'squad': (
        'version',
        'train_data',
        'validation_data',
        'test_data',
        'seq_length',
        'doc_stride',
        'query_length',
        'max_answer_length',
        'n_best_size',
        'null_score_threshold',
        'batch_size',
        'eval_batch_size',
        'trim_padding',
      ),
    }

  @pytest.mark.parametrize('name', [name for name in experiments.sections()])
  def test_every_setting_is_documented(self, name):
    docstring = getattr(experiments, name).__doc__
    for setting in experiments.sections()[name]:
      assert f'\n    {setting}: ' in docstring

  def test_a_bound_value_arrives_in_the_tree(self):
    params = build(
      'model.num_layers = 6',
      'token_drop.temperature = 0.5',
      'train_data.global_batch_size = 8',
      'trainer.train_steps = 20000',
      "runtime.mixed_precision_dtype = 'bfloat16'",
      'pretraining.seed = 7',
    )
    assert params.task.model.num_layers == 6
    assert params.task.token_drop.temperature == 0.5
    assert params.task.train_data.global_batch_size == 8
    assert params.trainer.train_steps == 20000
    assert params.runtime.mixed_precision_dtype == 'bfloat16'
    assert params.task.seed == 7

  def test_validation_inherits_what_it_leaves_open(self):
    data = build(
      'train_data.seq_length = 64',
      'train_data.mask_rate = 0.1',
      "validation_data.input_path = 'valid.txt'",
    ).task.validation_data
    assert (data.seq_length, data.mask_rate) == (64, 0.1)
    assert data.input_path == 'valid.txt'
    assert not data.is_training

  def test_held_out_documents_are_validated_on_the_training_source(self):
    data = build(
      "train_data.input_path = 'a.txt'", 'train_data.held_out_documents = 10'
    ).task.validation_data
    assert data.input_path == 'a.txt'
    assert data.held_out_documents == 10

  def test_without_held_out_documents_validation_has_no_source(self):
    params = build("train_data.input_path = 'a.txt'")
    assert params.task.validation_data.input_path == ''

  def test_the_training_data_follow_the_seed_of_the_run(self):
    params = build('pretraining.seed = 3')
    assert params.task.train_data.seed == 3
    assert params.task.validation_data.seed == 0
    assert build('train_data.seed = 5').task.train_data.seed == 5

  def test_mixed_bfloat16_is_another_name_of_bfloat16(self):
    params = build("runtime.mixed_precision_dtype = 'mixed_bfloat16'")
    assert params.runtime.mixed_precision_dtype == 'bfloat16'


class TestTypes:
  @pytest.mark.parametrize(
    ('binding', 'words'),
    [
      (
        "model.num_layers = '64'",
        "model.num_layers must be an int. Received: '64' (str)",
      ),
      ('model.num_layers = 12.0', 'must be an int. Received: 12.0 (float)'),
      ('model.num_layers = True', 'must be an int. Received: True (bool)'),
      ('model.norm_first = 1', 'must be True or False. Received: 1 (int)'),
      ("token_drop.temperature = '0.5'", 'must be a float'),
      ('token_drop.policy = 3', 'must be a string in quotes'),
      ('token_drop.policy = None', 'must be a string in quotes'),
      ("token_drop.crossing_layer = 'six'", 'must be an int or None'),
      ("token_drop.always_keep_tokens = '[CLS]'", 'must be a list of strings'),
      ('token_drop.always_keep_tokens = [101]', 'must be a list of strings'),
    ],
  )
  def test_another_type_is_refused(self, binding, words):
    assert words in message_of(binding)

  def test_an_int_serves_as_a_float(self):
    token_drop = build('token_drop.temperature = 1').task.token_drop
    assert type(token_drop.temperature) is float

  def test_a_list_serves_as_a_tuple(self):
    keep = build("token_drop.always_keep_tokens = ['[CLS]']")
    assert keep.task.token_drop.always_keep_tokens == ('[CLS]',)

  def test_the_message_ends_with_the_setting(self):
    message = message_of("model.num_layers = '64'")
    assert message.endswith('Set model.num_layers.')
    assert 'In call to configurable' not in message


class TestRanges:
  @pytest.mark.parametrize(
    ('binding', 'words'),
    [
      ('model.num_layers = 0', 'model.num_layers must be at least 1'),
      ('model.dropout_rate = 1.0', 'must be at least 0 and below 1'),
      ('model.initializer_range = 0.0', 'must be above 0 and at most 1'),
      ('model.residual_initializer_scale = 0.0', 'above 0 and at most 10'),
      ("token_drop.policy = 'los'", "must be one of 'loss', 'frequency'"),
      ('token_drop.temperature = -0.1', 'must be at least 0. Received: -0.1'),
      ('token_drop.full_step_every = -1', 'must be at least 0'),
      ('token_drop.token_loss_beta = 1.0', 'at least 0 and below 1'),
      ('train_data.mask_rate = 0.0', 'above 0 and below 1'),
      ("train_data.packing = 'none'", "one of 'across_documents'"),
      ("train_data.masking = 'words'", "one of 'token', 'whole_word'"),
      ('train_data.mask_token_share = 1.1', 'must be between 0 and 1'),
      ('validation_data.random_token_share = -1', 'must be between 0 and 1'),
      ('train_data.span_stop_probability = 0', 'above 0 and at most 1'),
      ('train_data.max_span_words = 0', 'must be at least 1'),
      ('train_data.masking_temperature = 0', 'must be above 0'),
      ('train_data.held_out_documents = 1', 'must be 0, or at least 2'),
      ('optimizer.learning_rate = 0.0', 'must be above 0'),
      ("optimizer.decay = 'exponential'", "one of 'linear', 'cosine'"),
      ('pretraining.seed = 4294967296', 'must be between 0 and 2**31 - 1'),
      ('trainer.train_steps = 0', 'trainer.train_steps must be at least 1'),
      ('trainer.validation_steps = 0', 'above 0, or -1 for all'),
      ("runtime.distribution_strategy = 'off'", "one of 'one_device'"),
      ("runtime.mixed_precision_dtype = 'float16'", "one of 'float32'"),
    ],
  )
  def test_a_value_out_of_range_is_refused(self, binding, words):
    message = message_of(binding)
    assert words in message
    assert 'Received: ' in message


class TestStrictGin:
  def test_a_mistyped_section_names_the_closest(self):
    message = message_of('modle.num_layers = 3')
    assert "unknown section 'modle'. Did you mean model?" in message
    assert '--gin_params="modle.num_layers = 3"' in message

  def test_a_section_of_another_module_is_unknown(self):
    assert 'foo.model' in message_of('foo.model.num_layers = 3')

  def test_the_module_of_a_section_may_be_named(self):
    params = build('tokendrop_tf.model.num_layers = 3')
    assert params.task.model.num_layers == 3

  def test_a_mistyped_setting_names_the_closest(self):
    assert (
      "model has no setting 'hiden_size'. Did you mean hidden_size?"
      in message_of('model.hiden_size = 3')
    )

  def test_a_setting_of_another_section_names_that_section(self):
    message = message_of('model.token_keep_k = 3')
    assert 'Did you mean token_drop.token_keep_k?' in message

  def test_a_scope_is_refused(self):
    message = message_of('train/model.num_layers = 3')
    assert "nothing runs in the scope 'train'" in message
    assert 'Write model.num_layers.' in message

  def test_an_unused_macro_is_refused(self):
    message = message_of(
      'KEEP = 8', 'KEPP = 9', 'token_drop.token_keep_k = %KEEP'
    )
    assert 'no setting uses the macro KEPP. Did you mean KEEP?' in message
    assert 'no setting uses the macro KEEP.' not in message

  def test_all_unused_bindings_are_listed(self):
    message = message_of('a/model.num_layers = 3', 'KEEP = 8')
    assert 'a/model.num_layers' in message
    assert 'KEEP' in message

  def test_an_undefined_macro_names_the_closest(self):
    message = message_of('KEEP = 8', 'token_drop.token_keep_k = %KEPP')
    assert 'uses the macro %KEPP, which has no value' in message
    assert 'Did you mean KEEP?' in message

  def test_a_macro_of_a_macro_is_used(self):
    params = build('A = 8', 'B = %A', 'token_drop.token_keep_k = %B')
    assert params.task.token_drop.token_keep_k == 8

  def test_required_macros_are_listed_together(self):
    message = message_of(
      'TEXT = %gin.REQUIRED',
      'train_data.input_path = %TEXT',
      'vocabulary.path = %gin.REQUIRED',
    )
    assert '--gin_params="TEXT = ..."' in message
    assert '--gin_params="vocabulary.path = ..."' in message

  def test_a_required_macro_can_be_set_later(self):
    params = build(
      'TEXT = %gin.REQUIRED', 'train_data.input_path = %TEXT', "TEXT = 'a.txt'"
    )
    assert params.task.train_data.input_path == 'a.txt'

  @pytest.mark.parametrize(
    'text',
    [
      'model.num_layers 3',
      'model.num_layers =',
      'model.num_layers = [1,',
      "token_drop.policy = 'loss",
      'model.num_layers = three',
      '= 3',
      'model..num_layers = 3',
      '  model.num_layers = 3\n model.x = 3',
      'model.num_layers = 3 4',
      'model.num_layers = $',
    ],
  )
  def test_a_syntax_error_has_file_and_line(self, tmp_path, text):
    path = tmp_path / 'broken.gin'
    path.write_text(f'# A comment.\n{text}\n')
    message = message_of(files=[path])
    assert 'not valid gin' in message
    assert f'{path}:' in message or 'broken.gin:' in message

  def test_a_mistake_in_a_file_has_file_and_line(self, tmp_path):
    path = tmp_path / 'mine.gin'
    path.write_text('model.num_layers = 3\n\nmodel.hiden_size = 8\n')
    assert 'mine.gin:3: model has no setting' in message_of(files=[path])

  def test_blocks_are_read(self, tmp_path):
    path = tmp_path / 'mine.gin'
    path.write_text('model:\n  num_layers = 3\n  hidden_size = 8\n')
    model = build(files=[path]).task.model
    assert (model.num_layers, model.hidden_size) == (3, 8)

  def test_an_import_is_refused_and_not_executed(self, tmp_path, monkeypatch):
    (tmp_path / 'imported_by_gin.py').write_text('raise SystemExit(1)\n')
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / 'mine.gin'
    path.write_text('import imported_by_gin\n')
    message = message_of(files=[path])
    assert 'must not import modules' in message
    assert '--allow_gin_imports' in message

  def test_an_import_is_obeyed_when_allowed(self, tmp_path, monkeypatch):
    (tmp_path / 'allowed_by_gin.py').write_text(
      "import gin\ngin.constant('allowed.THREE', 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gin_support.parse(
      [],
      ['import allowed_by_gin', 'model.num_layers = %allowed.THREE'],
      experiments.sections(),
      allow_imports=True,
    )
    assert experiments.model().num_layers == 3

  def test_a_reference_to_a_function_is_refused(self):
    assert 'must be a literal or a macro' in message_of(
      'model.num_layers = @trainer()'
    )

  def test_an_unknown_file_names_the_packaged_ones(self):
    message = message_of(files=['quikstart.gin'])
    assert 'Did you mean quickstart.gin?' in message
    assert 'models/base.gin' in message

  def test_a_file_may_include_one_beside_it(self, tmp_path):
    (tmp_path / 'inner.gin').write_text('model.num_layers = 5\n')
    (tmp_path / 'outer.gin').write_text("include 'inner.gin'\n")
    params = build(files=[tmp_path / 'outer.gin'])
    assert params.task.model.num_layers == 5

  def test_files_in_a_bucket_are_read(self):
    folder = 'ram://gin_files'
    tf.io.gfile.makedirs(folder)
    for name, text in (
      ('model.gin', 'model.num_layers = 5'),
      ('run.gin', "include 'model.gin'\nmodel.hidden_size = 48"),
    ):
      with tf.io.gfile.GFile(f'{folder}/{name}', 'w') as file:
        file.write(text)
    params = build(files=[f'{folder}/run.gin'])
    assert params.task.model.num_layers == 5
    assert params.task.model.hidden_size == 48
    message = message_of(files=[f'{folder}/absent.gin'])
    assert f'must exist. Received: {folder}/absent.gin' in message
    message = message_of('no = 1', files=['nowhere://absent.gin'])
    assert 'must exist. Received: nowhere://absent.gin' in message

  @pytest.mark.parametrize('name', ['itself.gin', './itself.gin'])
  def test_a_file_that_includes_itself_is_refused(self, name, tmp_path):
    path = tmp_path / 'itself.gin'
    path.write_text(f"include '{name}'")
    assert 'must not include itself' in message_of(files=[str(path)])

  def test_a_file_that_is_not_text_is_refused(self, tmp_path):
    path = tmp_path / 'mine.gin'
    path.write_bytes(b'\xff\xfe\x00')
    assert 'must be readable UTF-8 text' in message_of(files=[path])

  def test_the_operative_text_gives_the_same_tree(self):
    first = build(
      'K = 8',
      'token_drop.token_keep_k = %K',
      'model.num_layers = 5',
      "train_data.input_path = 'a.txt'",
    )
    text = gin_support.operative_config()
    assert build(text).as_dict() == first.as_dict()

  def test_nothing_of_an_earlier_parse_remains(self):
    build('model.num_layers = 5')
    assert build().task.model.num_layers == 12


class TestOptimizer:
  def rate(self, step, *bindings):
    config = build(
      'optimizer.learning_rate = 1.0',
      'optimizer.warmup_steps = 10',
      'trainer.train_steps = 100',
      *bindings,
    ).trainer.optimizer_config
    schedule = optimization.OptimizerFactory(config).build_learning_rate()
    return float(schedule(tf.constant(step)))

  def test_the_rate_rises_then_falls_linearly(self):
    assert self.rate(5) == pytest.approx(0.45)  # 5 / 10 of the rate at 10
    assert self.rate(10) == pytest.approx(0.9)
    assert self.rate(60) == pytest.approx(0.4)
    assert self.rate(100) == 0.0

  def test_the_end_rate_is_reached_at_the_last_step(self):
    for decay in ('linear', 'cosine'):
      rate = self.rate(
        100,
        f"optimizer.decay = '{decay}'",
        'optimizer.end_learning_rate = 0.25',
      )
      assert rate == pytest.approx(0.25)

  def test_a_cosine_is_half_way_down_at_half_time(self):
    rate = self.rate(50, "optimizer.decay = 'cosine'")
    assert rate == pytest.approx(0.5)

  def test_a_constant_rate_stays(self):
    assert self.rate(99, "optimizer.decay = 'constant'") == 1.0

  def test_biases_and_norms_do_not_decay(self):
    config = build('optimizer.weight_decay_rate = 0.1').trainer.optimizer_config
    optimizer = optimization.OptimizerFactory(config).build_optimizer(1.0)
    decays = optimizer._do_use_weight_decay
    assert decays('transformer/layer_0/self_attention/query/kernel:0')
    assert decays('word_embeddings/embeddings:0')
    assert not decays('transformer/layer_0/output_layer_norm/gamma:0')
    assert not decays('cls/predictions/output_bias:0')


def test_sections_do_not_leak_into_gin_names_of_others():
  for name in experiments.sections():
    assert gin.get_configurable(name).__name__ == name
