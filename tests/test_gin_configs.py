"""Every packaged gin file builds, and says what a reader needs to know."""

import math
import re

import pytest
from official.core import exp_factory

from tokendrop_tf import configs, experiments, gin_support, step_cost
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.finetuning import configs as finetuning_configs

FOLDER = gin_support.config_folder()
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
  gin_support.parse([name], [], experiments.sections())
  return gin_support.required()


def build(name, corpus, *bindings):
  """Builds the experiment of a file, with what it requires filled in."""
  values = {
    'VOCABULARY': corpus.vocabulary,
    'TRAIN_DATA': corpus.train,
    'VALIDATION_DATA': corpus.valid,
    'TPU': 'local',
    'NUM_GPUS': 8,
    'INIT_FROM': '',
    'MISMATCHED_DATA': corpus.valid,
    'TEXT': 'text',
    'LABEL': 'label',
  }
  bindings += tuple(
    f'{macro} = {values[macro]!r}' for macro in required_macros(name)
  )
  parsed = gin_support.parse([name], bindings, experiments.sections())
  gin_support.check_macros(parsed)
  params = exp_factory.get_exp_config(experiments.experiment_of(parsed))
  gin_support.check_all_used(parsed)
  return params


@pytest.mark.parametrize('name', sorted(set(FILES) - set(FINETUNING)))
def test_a_file_builds_a_valid_experiment(name, tiny_corpus):
  bindings = []
  if name not in COMPLETE and name != 'runs/pretrain.gin':
    bindings = [f"vocabulary.path = '{tiny_corpus.vocabulary}'"]
  params = build(name, tiny_corpus, *bindings)
  configs.validate_experiment(params)
  if name in COMPLETE:
    configs.validate_validation_source(params)
  configs.resolve_vocabulary(
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
  finetuning_configs.validate_experiment(params)
  if name.startswith('finetune/'):
    finetuning_configs.validate_sources(params, 'train_and_eval')
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
  assert configs.crossing_layer(task) == 6
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


def test_the_saving_in_the_header_of_base_512_is_right(tiny_corpus):
  task = build('base_512.gin', tiny_corpus, 'model.vocab_size = 30522').task
  plain, dropping = step_cost.plain_cost(task), step_cost.dropping_cost(task)
  header = text_of('base_512.gin')
  assert (
    f'{1 - dropping.encoder / plain.encoder:.1%}'.replace('%', ' %') in header
  )
  assert f'{1 - dropping.total / plain.total:.1%}'.replace('%', ' %') in header
