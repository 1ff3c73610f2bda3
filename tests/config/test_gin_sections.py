"""gin sections: types, ranges, strictness, and the tree that they build."""

import dataclasses
import functools

import gin
import gin_trees
import pytest
import refusals
import tensorflow as tf
from official.modeling import optimization

from tokendrop_tf import errors
from tokendrop_tf.config import (
  configs,
  experiments,
  gin_reader,
  gin_sections,
  sections,
)
from tokendrop_tf.settings import SHARE, setting


def build(*bindings, files=()):
  return gin_trees.build(*bindings, files=files, name=experiments.PRETRAINING)


message_of = functools.partial(
  refusals.message_of, build, raises=errors.ConfigurationError
)


class TestSections:
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


class TestValues:
  def test_types_and_ranges_are_those_of_the_declarations(self):
    message = message_of("model.num_layers = '64'")
    assert message == (
      "model.num_layers must be an int. Received: '64' (str). Set "
      'model.num_layers.'
    )
    message = message_of("token_drop.policy = 'los'")
    assert "must be one of 'loss', 'frequency'" in message
    message = message_of('validation_data.random_token_share = -1')
    assert 'must be between 0 and 1' in message

  def test_none_is_a_value_where_validation_inherits(self):
    validation = build('validation_data.seq_length = None').task.validation_data
    assert validation.seq_length == 512
    assert 'must be an int. Received: None' in message_of(
      'train_data.seq_length = None'
    )

  def test_ints_and_lists_arrive_as_floats_and_tuples(self):
    token_drop = build(
      'token_drop.temperature = 1', "token_drop.always_keep_tokens = ['[CLS]']"
    ).task.token_drop
    assert type(token_drop.temperature) is float
    assert token_drop.always_keep_tokens == ('[CLS]',)


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

  def test_messages_name_the_macro_that_a_value_came_from(self):
    @gin_reader.macros_in_messages()
    def run():
      build(
        'FILE = %OTHER',
        "OTHER = 'a.txt'",
        'vocabulary.path = %FILE',
        'K = 8',
        'token_drop.token_keep_k = %K',
      )
      raise errors.DataError(
        'vocabulary.path must be. token_drop.token_keep_k=8, model.num_layers '
        'too, vocabulary.pathology not. Set vocabulary.path.'
      )

    with pytest.raises(errors.DataError) as caught:
      run()
    assert str(caught.value) == (
      'OTHER (vocabulary.path) must be. K (token_drop.token_keep_k)=8, '
      'model.num_layers too, vocabulary.pathology not. Set OTHER '
      '(vocabulary.path).'
    )

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

  @pytest.mark.parametrize(
    ('line', 'words'),
    [
      (
        'token_drop.policy = none',
        'text must stand in quotes. Received: token_drop.policy = none. Write '
        "token_drop.policy = 'none'.",
      ),
      ('POLICY = none', "Received: POLICY = none. Write POLICY = 'none'."),
      (
        'VOCABULARY = runs/my vocab.txt  # Mine.',
        "Write VOCABULARY = 'runs/my vocab.txt'.",
      ),
      ('vocabulary.path = gs://a/b*.gz', "= 'gs://a/b*.gz'."),
      (
        'model.norm_first = true',
        'model.norm_first must be True or False. Received: model.norm_first = '
        'true. Write model.norm_first = True.',
      ),
      ('NORM_FIRST = false', 'Write NORM_FIRST = False.'),
      ('runtime.tpu = none', 'Write runtime.tpu = None.'),
      (
        'model.num_layers = three',
        'model.num_layers must be an int. Received: three. Set',
      ),
      (
        'token_drop.always_keep_tokens = [CLS]',
        "text must stand in quotes. Write 'CLS'.",
      ),
      ('token_drop:\n  policy = none', "Write policy = 'none'."),
    ],
  )
  def test_forgotten_quotes_are_named(self, tmp_path, line, words):
    path = tmp_path / 'mine.gin'
    path.write_text(f'# A comment.\n{line}\n')
    message = message_of(files=[path])
    assert words in message
    number = 2 + line.count('\n')
    assert f'mine.gin:{number}: not valid gin: ' in message
    assert 'malformed' not in message

  def test_forgotten_quotes_on_the_command_line_show_both_kinds(self):
    message = message_of('token_drop.policy = none')
    assert message.startswith('--gin_params: not valid gin: ')
    assert 'Write --gin_params="token_drop.policy = \'none\'".' in message

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
    gin_reader.parse(
      [],
      ['import allowed_by_gin', 'model.num_layers = %allowed.THREE'],
      allow_imports=True,
    )
    assert gin_sections.GinValues()['model']['num_layers'] == 3

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
    text = gin_reader.operative_config()
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


def test_sections_are_found_in_gin_by_their_names_alone():
  gin_sections.register()
  for name in sections.all_sections():
    assert gin.get_configurable(name).__name__ == name


def test_settings_that_an_import_declares_can_be_bound(monkeypatch):
  @dataclasses.dataclass
  class MoreConfig(configs.TokenDropConfig):
    shine: float = setting(0.5, 'Shine of the kept tokens.', SHARE)

  monkeypatch.setattr(configs, 'TokenDropConfig', MoreConfig)
  assert build('token_drop.shine = 0.25').task.token_drop.shine == 0.25
  assert 'below 1' in message_of('token_drop.shine = 1.0')
  monkeypatch.undo()
  assert "no setting 'shine'" in message_of('token_drop.shine = 0.25')
