"""Every packaged gin file builds, and says what a reader needs to know."""

import math
import re

import gin_trees
import pytest

from tokendrop_tf import errors, train
from tokendrop_tf.config import gin_reader, rules
from tokendrop_tf.dropping import Dropping, cost
from tokendrop_tf.finetuning import finetuning_rules
from tokendrop_tf.text import vocabulary as vocabulary_lib

FOLDER = gin_reader.config_folder()
FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob('*.gin'))
MODELS = [name for name in FILES if name.startswith('models/')]
FINETUNING = [
  name
  for name in FILES
  if name.startswith('finetune/') or name == 'runs/finetune.gin'
]
COMPLETE = [name for name in FILES if '/' not in name]
MAX_LINE = 80


def text_of(name):
  return (FOLDER / name).read_text(encoding='utf-8')


def required_macros(name):
  """Returns the macros that `name` and its includes leave to the user."""
  gin_reader.parse([name], [])
  return gin_reader.required()


def build(name, corpus, *bindings):
  """Builds the experiment of a file, with what it requires filled in."""
  values = {
    'VOCABULARY': corpus.vocabulary,
    'TRAIN_DATA': corpus.train,
    'VALIDATION_DATA': corpus.valid,
    'TPU': 'local',
    'NUM_GPUS': 8,
    'INIT_FROM': '',
    'SCORES': 'scores.tsv',
    'REFERENCE': 'runs/reference',
    'INIT_CHECKPOINT': 'runs/base_512',
    'MISMATCHED_DATA': corpus.valid,
    'TEXT': 'text',
    'LABEL': 'label',
  }
  bindings += tuple(
    f'{macro} = {values[macro]!r}' for macro in required_macros(name)
  )
  return gin_trees.build(*bindings, files=[name])


@pytest.mark.parametrize('name', sorted(set(FILES) - set(FINETUNING)))
def test_a_file_builds_a_valid_experiment(name, tiny_corpus):
  bindings = []
  if name not in COMPLETE and name != 'runs/pretrain.gin':
    bindings = [f"vocabulary.path = '{tiny_corpus.vocabulary}'"]
  params = build(name, tiny_corpus, *bindings)
  rules.validate_experiment(params)
  if name in COMPLETE:
    rules.validate_validation_source(params)
  rules.resolve_vocabulary(
    params, vocabulary_lib.Vocabulary.from_file(tiny_corpus.vocabulary)
  )


@pytest.mark.parametrize('name', FINETUNING)
def test_a_finetuning_file_builds_a_valid_experiment(name, tiny_corpus):
  more = (
    ("glue.text_column = 'text'", "glue.label_column = 'label'")
    if name.startswith('runs/')
    else ()
  )
  binding = f"vocabulary.path = '{tiny_corpus.vocabulary}'"
  params = build(name, tiny_corpus, binding, *more)
  finetuning_rules.validate_experiment(params)
  if name.startswith('finetune/'):
    finetuning_rules.validate_sources(params, 'train_and_eval')
  if name.startswith('finetune/squad'):
    assert name.startswith(f'finetune/squad_{params.task.squad.version[:2]}')
  elif name.startswith('finetune/'):
    assert f'finetune/{params.task.glue.task}.gin' == name


@pytest.mark.parametrize(
  'name', [name for name in FINETUNING if 'steps of' in text_of(name)]
)
def test_the_steps_in_the_header_of_a_finetuning_file_are_right(
  name, tiny_corpus
):
  binding = f"vocabulary.path = '{tiny_corpus.vocabulary}'"
  task = build(name, tiny_corpus, binding).task
  header = ' '.join(text_of(name).split('\n\n')[0].replace('#', '').split())
  found = re.search(
    r'(\d) \* ([\d,]+|rows) / (\d+)( = ([\d,]+))? steps', header
  )
  epochs, examples, batch, _, steps = found.groups()
  assert int(epochs) == task.finetuning.num_epochs
  assert int(batch) == task.train_data.global_batch_size
  if steps:
    examples = int(examples.replace(',', ''))
    assert round(int(epochs) * examples / int(batch)) == int(
      steps.replace(',', '')
    )


@pytest.mark.parametrize('name', FILES)
def test_a_header_says_how_to_use_the_file(name):
  header = text_of(name).split('\n\n')[0]
  assert all(line.startswith('#') for line in header.splitlines())
  for part in (
    'Command: ',
    'Required:',
    'Commonly changed: ',
    'Expect: ',
    'Arithmetic: ',
  ):
    assert f'# {part}' in header
  assert 'python -m tokendrop_tf.train' in header
  for macro in required_macros(name):
    assert re.search(rf'\b{macro}\b.*:', header), macro


@pytest.mark.parametrize('name', FILES)
def test_lines_are_short(name):
  assert max(map(len, text_of(name).splitlines())) <= MAX_LINE


@pytest.mark.parametrize('name', MODELS)
def test_the_initial_deviation_follows_the_width(name, tiny_corpus):
  model = build(name, tiny_corpus).task.model
  if model.hidden_size == 128:
    assert model.initializer_range == 0.06
  else:
    assert model.initializer_range == pytest.approx(
      0.02 * math.sqrt(768 / model.hidden_size), rel=0.02
    )


@pytest.mark.parametrize(
  ('name', 'layers', 'width'),
  [
    ('tiny', 4, 128),
    ('mini', 4, 256),
    ('small', 4, 512),
    ('medium', 8, 512),
    ('base', 12, 768),
    ('large', 24, 1024),
    ('narrow12', 12, 128),
  ],
)
def test_models_have_the_size_of_their_name(name, layers, width, tiny_corpus):
  model = build(f'models/{name}.gin', tiny_corpus).task.model
  assert (model.num_layers, model.hidden_size) == (layers, width)
  assert model.intermediate_size == 4 * width
  assert model.hidden_size == 64 * model.num_attention_heads


def test_base_512_is_as_published(tiny_corpus):
  params = build('base_512.gin', tiny_corpus)
  task, trainer = params.task, params.trainer
  assert task.train_data.seq_length == 512
  assert task.token_drop.token_keep_k == 256
  assert task.train_data.max_predictions_per_seq == 76
  assert task.train_data.global_batch_size == 512
  assert Dropping.of(task).rows(256)[4:7] == [
    (512, 512),
    (256, 512),
    (256, 256),
  ]
  assert task.token_drop.temperature == 0.0
  assert task.token_drop.token_loss_beta == 0.995
  assert task.token_drop.token_loss_init_value == 10.0
  assert task.model.residual_initializer_scale == 1.0
  assert not task.model.norm_first
  assert trainer.train_steps == 1_000_000
  optimizer = trainer.optimizer_config
  assert optimizer.optimizer.type == 'adamw'
  assert optimizer.learning_rate.type == 'polynomial'
  assert optimizer.learning_rate.polynomial.initial_learning_rate == 1e-4
  assert optimizer.learning_rate.polynomial.decay_steps == 1_000_000
  assert optimizer.warmup.polynomial.warmup_steps == 10_000


@pytest.mark.parametrize('name', ['base_512_tpu.gin', 'base_512_gpus.gin'])
def test_devices_change_nothing_of_the_experiment(name, tiny_corpus):
  here, base = build(name, tiny_corpus), build('base_512.gin', tiny_corpus)
  assert here.task.as_dict() == base.task.as_dict()
  assert (
    here.trainer.optimizer_config.as_dict()
    == base.trainer.optimizer_config.as_dict()
  )
  assert here.runtime.mixed_precision_dtype == 'bfloat16'


@pytest.mark.parametrize('name', COMPLETE)
def test_the_batch_arithmetic_in_the_header_is_right(name, tiny_corpus):
  data = build(name, tiny_corpus).task.train_data
  header = text_of(name).split('\n\n')[0]
  if name in ('base_512_tpu.gin', 'base_512_gpus.gin'):
    assert f'{data.global_batch_size} / 8 ' in header
    assert f'{data.global_batch_size // 8} sequences' in header
    return
  tokens = data.global_batch_size * data.seq_length
  assert (
    f'{data.global_batch_size} x {data.seq_length} = {tokens:,} tokens a '
    'step' in header
  )


def test_the_saving_in_the_header_of_long_4096_is_right(tiny_corpus):
  binding = 'model.vocab_size = 30522'
  task = build('long_4096.gin', tiny_corpus, binding).task
  rows = cost.predicted_rows(task)
  plain, dropping = (
    cost.step_cost(task, keep_k, rows).encoder
    for keep_k in (None, task.token_drop.token_keep_k)
  )
  saving = f'{1 - dropping / plain:.1%}'.replace('%', ' %')
  assert saving in text_of('long_4096.gin')


@pytest.mark.parametrize(
  'name',
  [f'base_512{plan}.gin' for plan in ('', '_layerwise', '_halving', '_pooled')],
)
def test_the_saving_in_a_header_is_right(name, tiny_corpus):
  task = build(name, tiny_corpus, 'model.vocab_size = 30522').task
  plain, dropping = (
    cost.step_cost(task, keep_k)
    for keep_k in (None, task.token_drop.token_keep_k)
  )
  header = text_of(name)
  assert (
    f'{1 - dropping.encoder / plain.encoder:.1%}'.replace('%', ' %') in header
  )
  assert f'{1 - dropping.total / plain.total:.1%}'.replace('%', ' %') in header


@pytest.mark.parametrize(
  ('macro', 'setting'),
  [
    ('VOCABULARY', 'vocabulary.path'),
    ('TRAIN_DATA', 'train_data.input_path'),
  ],
)
def test_a_misspelt_file_is_named_with_its_macro(
  macro, setting, tiny_corpus, tmp_path
):
  files = {
    'VOCABULARY': tiny_corpus.vocabulary,
    'TRAIN_DATA': tiny_corpus.train,
  }
  misspelt = files[macro].replace('vocab', 'vocap').replace('train', 'trian')
  bindings = [
    f'{m} = {path!r}' for m, path in (files | {macro: misspelt}).items()
  ]
  with pytest.raises(errors.DataError) as caught:
    train.main(
      [
        '--gin_file=quickstart.gin',
        f'--model_dir={tmp_path / "run"}',
        *(f'--gin_params={binding}' for binding in bindings),
      ]
    )
  message = str(caught.value)
  assert f'{macro} ({setting})' in message
  assert f' Did you mean {files[macro]}? Set {macro} ({setting})' in message
