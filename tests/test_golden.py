"""Nothing that others rely on vanishes or changes unnoticed.

Settings, commands, files, checkpoint keys and signatures are compared with the
lists in `golden/`; more may come, with defaults that change nothing. `old_run`
there is a run that an earlier version began: the code of today resumes it.
"""

import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from golden import collect

from tokendrop_tf import command_line, errors, train
from tokendrop_tf.export import export_command

TOOLS = sorted(
  path.stem
  for path in (collect.ROOT / 'tools').glob('*.py')
  if path.stem != '__init__'
)
# Imports JAX, which has an environment of its own.
JAX_TOOL = 'run_stablehlo'
IMPORTS = """
from tokendrop_tf import __version__
from tokendrop_tf.encoder import TokenDropBertEncoder
from tokendrop_tf.finetuning import FinetunedModel, load_finetuned
from tokendrop_tf.layers import (
  ImportanceMasking,
  IndexedPositionEmbedding,
  MaskedLMHead,
  SinusoidalInitializer,
  TokenImportance,
  TokenOrder,
  TransformerBlock,
  label_loss,
)
from tokendrop_tf.train import main
"""

# The name of each, and a default of a setting that only it has.
EXPERIMENTS = {
  'token_drop_bert/pretraining': 'pretraining.seed = 0',
  'token_drop_bert/glue': 'glue.trim_padding = True',
  'token_drop_bert/squad': 'squad.trim_padding = True',
}
ONE_STEP = (
  'trainer.train_steps = 1',
  'trainer.validation_interval = 1',
  'trainer.checkpoint_interval = 1',
  'trainer.steps_per_loop = 1',
)
PLAIN = (
  'model.num_layers = 1',
  'model.hidden_size = 8',
  'model.num_attention_heads = 2',
  'model.intermediate_size = 16',
  'model.max_position_embeddings = 32',
  'model.use_next_sentence_head = True',
  "token_drop.policy = 'none'",
  "vocabulary.path = 'vocab.txt'",
  "train_data.input_path = 'sentences.tfrecord'",
  "validation_data.input_path = 'sentences.tfrecord'",
  'train_data.use_next_sentence_label = True',
  'train_data.seq_length = 32',
  'train_data.max_predictions_per_seq = 5',
  'train_data.global_batch_size = 8',
  'optimizer.warmup_steps = 0',
)
# Each starts from the old run, and so has its vocabulary and size.
GLUE = (
  "finetuning.init_from = 'run'",
  "glue.task = 'sst2'",
  "glue.train_data = 'sst2.tsv'",
  "glue.validation_data = 'sst2.tsv'",
  "glue.test_data = 'sst2.tsv'",
  'glue.seq_length = 16',
  'glue.batch_size = 2',
)
SQUAD = (
  "finetuning.init_from = 'run'",
  "squad.train_data = 'squad.json'",
  "squad.validation_data = 'squad.json'",
  'squad.seq_length = 32',
  'squad.query_length = 8',
  'squad.doc_stride = 8',
  'squad.batch_size = 2',
)
SST2_ROWS = 'sentence\tlabel\nw01 w02 w03\t1\nw04 w05\t0\nw06 w07\t1\nw08\t0\n'
SQUAD_FILE = (
  '{"data": [{"paragraphs": [{"context": "w01 w02 w03 w04", "qas": [{"id": '
  '"a", "question": "w05", "answers": [{"text": "w02", "answer_start": 4}]}, '
  '{"id": "b", "question": "w06", "answers": [{"text": "w04", "answer_start": '
  '12}]}]}]}]}'
)


# Of what a checkpoint of pretraining holds below its encoder.
OF_PRETRAINING_ALONE = ('_pooler_layer', '_token_importance', 'OPTIMIZER_SLOT')


def write_sentences(path):
  """Writes 16 examples of the Model Garden, with next-sentence labels."""
  values = {
    'input_word_ids': [2, *range(5, 35), 3],
    'input_mask': [1] * 32,
    'input_type_ids': [0] * 32,
    'masked_lm_positions': [1, 2, 3, 4, 5],
    'masked_lm_ids': [5, 6, 7, 8, 9],
    'next_sentence_labels': [1],
  }
  features = {
    name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    for name, value in values.items()
  }
  features['masked_lm_weights'] = tf.train.Feature(
    float_list=tf.train.FloatList(value=[1.0] * 5)
  )
  example = tf.train.Example(features=tf.train.Features(feature=features))
  with tf.io.TFRecordWriter(str(path)) as writer:
    for _ in range(16):
      writer.write(example.SerializeToString())


def run(model_dir, *bindings):
  train.main(
    [
      f'--model_dir={model_dir}',
      *(f'--gin_params={binding}' for binding in bindings),
    ]
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A copy of the old run, whose settings name files relative to it."""
  folder = tmp_path_factory.mktemp('golden') / 'old'
  shutil.copytree(collect.FOLDER / 'old_run', folder)
  (folder / 'sst2.tsv').write_text(SST2_ROWS)
  write_sentences(folder / 'sentences.tfrecord')
  (folder / 'squad.json').write_text(SQUAD_FILE)
  return folder


@pytest.fixture(scope='module')
def runs(folder):
  """A finished run of each kind, by its name; the first is the old one."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    shutil.copytree('run', 'pretraining')
    run('pretraining')
    run('plain', *PLAIN, *ONE_STEP)
    run('glue', *GLUE, *ONE_STEP)
    run('squad', *SQUAD, *ONE_STEP)
  return {
    name: folder / name for name in ('pretraining', 'plain', 'glue', 'squad')
  }


class TestSettings:
  @pytest.mark.parametrize('experiment', EXPERIMENTS)
  def test_names_and_defaults_stay(self, experiment):
    found = collect.defaults(EXPERIMENTS[experiment])
    collect.assert_kept('settings', experiment, found)

  @pytest.mark.faults
  def test_types_and_ranges_stay(self):
    """Of what is checked while the section is read; 3,000 readings."""
    settings = {
      setting
      for binding in EXPERIMENTS.values()
      for setting in collect.defaults(binding)
      if setting != 'finetuning.init_from'  # It opens what is named.
    }
    found = {setting: collect.values(setting) for setting in sorted(settings)}
    collect.assert_kept('settings', 'accepted', found)
    # No more may be accepted either.
    assert found == collect.read('settings')['accepted']

  def test_the_packaged_gin_files_stay(self):
    found = collect.files(collect.ROOT / 'gin_configs')
    collect.assert_kept('files', 'gin_configs', found)


class TestCommands:
  @pytest.mark.parametrize('tool', ['train', *TOOLS])
  def test_flags_and_defaults_stay(self, tool):
    if tool != JAX_TOOL:
      collect.assert_kept('commands', tool, collect.flags(tool))

  def test_no_command_is_gone(self):
    collect.assert_kept('names', 'commands', TOOLS)

  def test_exit_codes_stay(self):
    def code(error):
      def main(arguments):
        raise error

      with pytest.raises(SystemExit) as caught:
        command_line.run_main(main, ['--verbose'])
      return caught.value.code

    assert code(errors.UserError('')) == code(errors.DataError('')) == 2
    assert code(errors.WorkerLostError('')) == 75
    assert (
      code(KeyboardInterrupt()) == code(command_line.Interrupted('')) == 130
    )
    assert code(command_line.Terminated('')) == 143


class TestNames:
  def test_public_names_are_where_they_were(self):
    exec(IMPORTS, {})

  def test_classes_keep_their_registered_names(self):
    found = [
      name
      for name in tf_keras.saving.get_custom_objects()
      if name.startswith('tokendrop_tf>')
    ]
    collect.assert_kept('names', 'keras', sorted(found))

  def test_experiments_keep_their_names(self):
    for name, binding in EXPERIMENTS.items():
      arguments = ['--model_dir=absent', f'--gin_params={binding}']
      flags = train.parse_flags([*arguments, f'--experiment={name}'])
      train.read_configuration(flags)
      assert flags.experiment == name


class TestOldRun:
  def test_it_is_evaluated_as_it_was(self, folder, monkeypatch):
    monkeypatch.chdir(folder)
    shutil.copytree('run', 'evaluated')
    train.main(['--model_dir=evaluated', '--mode=eval'])
    [now] = collect.records(folder / 'evaluated' / 'evaluations.jsonl')
    old = collect.records(folder / 'run' / 'metrics.jsonl')[-1]
    for name in ('lm_example_loss', 'lm_example_loss_dropping'):
      assert now[name] == pytest.approx(old[name], abs=1e-4)

  def test_it_ends_as_it_would_have(self, folder, runs):
    old = collect.records(folder / 'finished.jsonl')
    now = collect.records(runs['pretraining'] / 'metrics.jsonl')
    assert [record['step'] for record in now] == [2, 4, 4, 6, 8, 8]
    for name in ('lm_example_loss', 'lm_example_loss_dropping'):
      assert now[-1][name] == pytest.approx(old[-1][name], abs=1e-4)

  def test_its_weights_are_found_by_name(self, folder, runs):
    """Fine-tuning moved each by little in its one step."""
    old = tf.train.load_checkpoint(str(folder / 'run'))
    new = tf.train.load_checkpoint(str(runs['squad']))
    names = [
      name
      for name in old.get_variable_to_shape_map()
      if name.startswith('encoder/')
      if not any(part in name for part in OF_PRETRAINING_ALONE)
    ]
    assert len(names) > 40
    for name in names:
      np.testing.assert_allclose(
        new.get_tensor(name), old.get_tensor(name), atol=1e-3, err_msg=name
      )

  @pytest.mark.parametrize('form', ['checkpoint', 'hugging_face'])
  def test_it_is_exported(self, folder, form, monkeypatch):
    """The third form: `export/test_signatures.py`."""
    monkeypatch.chdir(folder)
    output = folder / 'exported' / form
    export_command.main(
      ['--model_dir=run', f'--output_dir={output}', f'--format={form}']
    )
    collect.assert_kept('files', f'export {form}', collect.files(output))


class TestRuns:
  @pytest.mark.parametrize('kind', ['pretraining', 'plain', 'glue', 'squad'])
  def test_a_run_keeps_files_keys_and_records(self, runs, kind):
    folder = runs[kind]
    collect.assert_kept('files', f'run {kind}', collect.files(folder))
    found = collect.tensors(str(folder))
    collect.assert_kept('checkpoints', kind, found)
    # No variable may come either: an earlier version reads the checkpoint.
    assert sorted(found) == sorted(collect.read('checkpoints')[kind])
    found = collect.metrics_keys(folder / 'metrics.jsonl')
    collect.assert_kept('metrics', kind, found)
