"""Every setting is declared once, and the page of settings is made from it."""

import ast
import collections
import pathlib

from tokendrop_tf.config import sections, settings_page

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'tokendrop_tf'


def declarations():
  """Yields (class, name) of every field that `setting` makes."""
  for path in sorted(PACKAGE.rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.ClassDef):
        for field in node.body:
          if isinstance(field, ast.AnnAssign) and _is_declaration(field.value):
            yield node.name, field.target.id


def _is_declaration(value):
  if not isinstance(value, ast.Call):
    return False
  function = value.func
  name = function.attr if isinstance(function, ast.Attribute) else function.id
  return name == 'setting'


def test_every_declaration_is_a_setting_of_gin_and_the_other_way_round():
  declared = collections.Counter(name for _, name in declarations())
  # By the object that `setting` made: a setting of two sections has one.
  found = collections.defaultdict(set)
  for section in sections.all_sections().values():
    if section.name != 'validation_data':
      for setting in section.settings.values():
        found[setting.name].add((setting.doc, id(setting.rule)))
  assert declared.keys() == found.keys()
  # Names of several sections, each with a meaning of its own.
  assert {name: n for name, n in declared.items() if n > 1} == {
    'attention_dropout_rate': 2,
    'dropout_rate': 2,
    'num_epochs': 2,
    'seed': 3,
    'seq_length': 3,
    'tfds_data_dir': 2,
  }


def test_validation_data_are_declared_with_train_data():
  all_sections = sections.all_sections()
  train, validation = (
    all_sections['train_data'],
    all_sections['validation_data'],
  )
  assert set(train.settings) - set(validation.settings) == {
    'mask_rate_schedule',
    'masking_scores',
    'masking_temperature',
    'masking_weights',
    'num_epochs',
    'shuffle_buffer_size',
  }
  for name, setting in validation.settings.items():
    assert setting.rule is train.settings[name].rule
    if setting.default is None:
      assert setting.more['inherits'] == f'train_data.{name}'
  assert validation.settings['seed'].default == 0
  assert train.settings['seed'].default is None


def test_no_command_spells_out_the_default_of_a_setting():
  """Flags that stand for settings are made from the declarations."""
  data = set(sections.all_sections()['train_data'].settings)
  spelt = []
  for path in sorted((PACKAGE / 'data').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == 'add_argument'
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value.removeprefix('--') in data
      ):
        spelt.append(f'{path.name}: {node.args[0].value}')
  assert not spelt


def test_the_page_of_settings_is_complete_and_current():
  text = (ROOT / 'docs' / 'settings.md').read_text(encoding='utf-8')
  assert text == settings_page.page(), 'Run: make docs'
  for section in sections.all_sections().values():
    part = text.partition(f'\n## {section.name}\n')[2].partition('\n## ')[0]
    for name in section.settings:
      assert f'\n| `{name}`' in part


def test_every_setting_says_what_it_means():
  for section in sections.all_sections().values():
    for setting in section.settings.values():
      assert setting.doc.endswith('.'), setting.name
      assert setting.doc[0].isupper() or setting.doc[0] in "'0`", setting.name
      assert '\n' not in setting.doc


def test_a_default_is_in_its_range():
  for section in sections.all_sections().values():
    for setting in section.settings.values():
      name = f'{section.name}.{setting.name}'
      assert setting.accept(setting.default, name) == setting.default


def test_keys_of_the_tree_lead_to_their_settings():
  setting_of = sections.finder(
    ['train_data', 'optimizer', 'trainer', 'pretraining']
  )
  optimizer = 'trainer.optimizer_config'
  for key, name in (
    ('task.train_data.seed', 'train_data.seed'),
    ('task.seed', 'pretraining.seed'),
    ('trainer.summary_interval', 'trainer.steps_per_loop'),
    (f'{optimizer}.learning_rate.cosine.alpha', 'optimizer.end_learning_rate'),
    (f'{optimizer}.learning_rate.cosine.decay_steps', 'trainer.train_steps'),
    (
      f'{optimizer}.learning_rate.polynomial.initial_learning_rate',
      'optimizer.learning_rate',
    ),
    (f'{optimizer}.warmup.polynomial.warmup_steps', 'optimizer.warmup_steps'),
    (f'{optimizer}.optimizer.adamw.beta_1', 'optimizer.beta_1'),
    ('task.model.embedding_size', 'model.embedding_size'),
  ):
    assert setting_of(key)[0] == name
  setting_of = sections.finder(['model', 'finetuning', 'glue'])
  for key, name in (
    ('task.init_checkpoint', 'finetuning.init_from'),
    ('task.validation_data.seed', 'finetuning.seed'),
    ('task.train_data.tfds_split', 'glue.train_data'),
    ('task.train_data.global_batch_size', 'glue.batch_size'),
    ('task.validation_data.global_batch_size', 'glue.eval_batch_size'),
    ('task.metric_type', 'glue.metric'),
    ('task.glue.label_names', 'glue.label_names'),
    ('task.test_data.seq_length', 'glue.test_data'),
  ):
    assert setting_of(key)[0] == name
