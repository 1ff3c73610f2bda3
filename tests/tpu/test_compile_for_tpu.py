"""The tool from gin file to report, with the real compiler where it is."""

import json
import pathlib
import subprocess
import types

import pytest

import tools.tpu
from tokendrop_tf import errors
from tools.measure import step_arms
from tools.tpu import compile_command, compiler, cost_table, export_step

TINY = [
  'model.num_layers = 3',
  'model.hidden_size = 16',
  'model.num_attention_heads = 2',
  'model.intermediate_size = 32',
  'model.max_position_embeddings = 16',
  'train_data.seq_length = 16',
  'train_data.max_predictions_per_seq = 3',
  'train_data.global_batch_size = 8',
  'token_drop.token_keep_k = 8',
]
FLAGS = [
  '--gin_file=base_512_tpu.gin',
  '--vocab_size=50',
  *(f'--gin_params={binding}' for binding in TINY),
]


def test_every_variable_of_a_step_is_named(tmp_path):
  flags = compile_command.parse_flags(FLAGS)
  params = compile_command.read_configuration(flags, tmp_path)
  step = step_arms.TrainStep('loss', params.task)
  folder = tmp_path / 'step'
  export_step.export_step(step, 2, folder)
  check_manifest(folder)
  manifest = json.loads((folder / 'manifest.json').read_text())
  names = {argument['name'] for argument in manifest['arguments']}
  slots = {slot.name.split(':')[0] for slot in step.optimizer.variables()}
  assert len(slots) > 60
  assert slots <= names


def test_a_step_compiles_and_runs(jax_python, tmp_path, capsys):
  """The whole way: export, TPU compiler, report, and the step on a CPU."""
  output = tmp_path / 'tpu.json'
  steps = tmp_path / 'steps'
  folder = steps / 'configured_batch_2'
  folder.mkdir(parents=True)
  (folder / compiler.STEP_FILE).write_text('must not be compiled')
  code = compile_command.main(
    [
      *FLAGS,
      '--arms=configured',
      f'--output_dir={steps}',
      f'--output_json={output}',
    ]
  )
  assert code is None
  [topology] = json.loads(output.read_text())['topologies']
  assert topology['batch_size'] == 2  # 8 on four chips
  [arm] = topology['arms']
  assert arm['compiles']
  assert arm['fits']
  for name in ('flops', 'bytes_accessed', 'estimated_cycles'):
    assert arm[name] > 0, name
  assert arm['total_bytes'] >= arm['argument_bytes'] + arm['temporary_bytes']
  assert 'configured' in capsys.readouterr().out
  check_manifest(folder)
  run = subprocess.run(
    [
      jax_python,
      str(compile_command.ROOT / 'tools' / 'run_stablehlo.py'),
      f'--step={folder}',
      '--steps=3',
      f'--output_json={tmp_path / "run.json"}',
    ],
    capture_output=True,
    text=True,
    env={'JAX_PLATFORMS': 'cpu'},
    check=False,
  )
  assert run.returncode == 0, run.stderr
  [timed] = json.loads((tmp_path / 'run.json').read_text())
  # Random weights on 50 words: about log 50.
  assert timed['loss'] == pytest.approx(3.9, abs=0.5)
  assert 0 < timed['utilisation'] < 1.5
  assert timed['memory_bytes'] > 0
  assert 'configured' in run.stdout


def test_a_step_is_exported_once_in_a_process_and_anew_in_the_next(
  tmp_path, monkeypatch
):
  exported = []
  monkeypatch.setattr(
    export_step,
    'export_step',
    lambda step, batch, folder: exported.append(batch),
  )
  monkeypatch.setattr(
    compile_command.Steps, '_train_step', lambda self, arm: arm
  )
  for _ in range(2):
    steps = compile_command.Steps(None, tmp_path, 'python')
    folders = {steps._exported('none', 2) for _ in range(3)}
    # As an earlier process leaves it.
    for folder in folders:
      folder.mkdir(exist_ok=True)
      (folder / compiler.MANIFEST_FILE).write_text('{}')
    steps._exported('none', 4)
  assert exported == [2, 4, 2, 4]


def test_a_conversion_that_is_killed_leaves_no_step(tmp_path, monkeypatch):
  def write_half(path, text):
    path.write_bytes(text[: len(text) // 2].encode())
    raise KeyboardInterrupt

  converter = types.SimpleNamespace(
    from_hlo=lambda hlo, replaced: hlo.decode(), text_of=str
  )
  monkeypatch.setattr(tools.tpu, 'stablehlo', converter, raising=False)
  (tmp_path / compiler.HLO_FILE).write_text('the whole step')
  (tmp_path / compiler.MANIFEST_FILE).write_text('{"results": []}')
  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'write_text', write_half)
    with pytest.raises(KeyboardInterrupt):
      compiler.write_stablehlo(tmp_path)
  assert compiler.write_stablehlo(tmp_path) == 'the whole step'
  assert (tmp_path / compiler.STEP_FILE).read_text() == 'the whole step'


def check_manifest(folder):
  manifest = json.loads((folder / 'manifest.json').read_text())
  arguments, results = manifest['arguments'], manifest['results']
  replaced = [
    (arguments[result['replaces_argument']], result)
    for result in results
    if result['replaces_argument'] is not None
  ]
  assert len(replaced) == len(results) - 1  # all but the loss
  for argument, result in replaced:
    assert argument['shape'] == result['shape'], argument['name']
    assert argument['dtype'] == result['dtype'], argument['name']
  by_name = {argument['name']: argument for argument in arguments}
  assert by_name['input_word_ids']['high'] == 50
  names = [name for name in by_name if name.endswith('word_embeddings/m')]
  assert all(by_name[name]['stddev'] == 0.0 for name in names)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--topology=v9:2x2'], 'Received: v9:2x2. Set --topology'),
    (['--arms=fast'], 'Received: fast'),
    (['--batch_size=0'], 'at least 1. Received: 0'),
    (['--python=/nowhere/python'], 'install-tpu-compiler'),
  ],
)
def test_wrong_flags_are_refused(flags, message):
  with pytest.raises(errors.UserError, match=message):
    compile_command.main([*FLAGS, *flags])


@pytest.mark.parametrize('largest', [1, 3, 8, 100, 777])
@pytest.mark.parametrize('known', [1, 32])
def test_the_largest_batch_is_found_to_a_sixteenth(largest, known):
  asked = []

  def fits(batch):
    asked.append(batch)
    return batch <= largest

  found = compile_command.largest_batch(fits, known)
  assert found <= largest
  assert largest - found <= max(1, largest // 8)
  assert len(asked) < 16


def test_nothing_fits():
  assert compile_command.largest_batch(lambda batch: False, 1) == 0


def test_the_table_shows_ratios_to_the_last_arm_and_what_failed():
  good = {
    'name': 'stock',
    'compiles': True,
    'fits': True,
    'flops': 2e12,
    'temporary_bytes': 2**30,
    'estimated_cycles': 100,
  }
  better = {**good, 'name': 'loss', 'estimated_cycles': 60}
  failed = {'name': 'none', 'compiles': False, 'fits': False, 'message': 'no'}
  text = cost_table.format_table([better, failed, good])
  assert 'loss / stock: cycles 0.600, temporaries 1.000' in text
  assert 'none / stock' not in text
  assert 'does not compile: no' in cost_table.one_line(failed)
