"""The comparison of runs from their metrics."""

import json

import pytest

from tokendrop_tf import compare_runs, errors


def write_run(folder, losses, dropping=None, seconds=(9.0, 0.5, 0.25, 0.75)):
  folder.mkdir()
  rows = [
    dict(
      kind='train',
      step=10 * i,
      seconds_per_step=value,
      includes_compilation=i == 0,
    )
    for i, value in enumerate(seconds)
  ]
  for i, loss in enumerate(losses):
    row = dict(
      kind='validation',
      step=100 * (i + 1),
      lm_example_loss=loss,
      masked_lm_accuracy=0.1 * i,
    )
    if dropping:
      row['lm_example_loss_dropping'] = dropping[i]
    rows.append(row)
  (folder / 'metrics.jsonl').write_text(
    '\n'.join(json.dumps(row) for row in rows)
  )
  return str(folder)


def test_the_table_holds_the_last_validation_and_the_median_step(
  tmp_path, capsys
):
  plain = write_run(tmp_path / 'plain', [6.0, 5.0])
  ranked = write_run(tmp_path / 'ranked', [6.5, 5.5], [6.0, 5.25])
  compare_runs.main([f'plain={plain}', f'ranked={ranked}'])
  lines = capsys.readouterr().out.splitlines()
  assert lines[2] == '| plain | 200 | 5.000 | - | - | 0.100 | 0.500 | 100 |'
  assert lines[3] == (
    '| ranked | 200 | 5.500 | 5.250 | +0.250 | 0.100 | 0.500 | 100 |'
  )


def test_times_measured_apart_replace_those_of_the_run(tmp_path):
  folder = write_run(tmp_path / 'plain', [6.0, 5.0])
  curve = compare_runs.read_run('plain', folder, seconds_per_step=0.125)
  assert curve.seconds == [12.5, 25.0]


def test_the_figure_has_a_panel_pair_for_every_group(tmp_path):
  runs = [
    f'{arm}, {start}=' + write_run(tmp_path / (arm + start), [6.0, 5.0])
    for arm in ('plain', 'ranked')
    for start in ('usual', 'small')
  ]
  figure = tmp_path / 'losses.svg'
  compare_runs.main([*runs, f'--figure={figure}', '--unigram_entropy=5.9'])
  text = figure.read_text()
  assert text.count('id="axes_') == 4
  assert 'unigram entropy' in text or text.count('<g id="line2d') > 8


def test_a_folder_that_is_no_run_is_named(tmp_path):
  with pytest.raises(errors.DataError, match='nothing, which does not'):
    compare_runs.main([f'a={tmp_path}/nothing'])
  (tmp_path / 'metrics.jsonl').write_text('')
  with pytest.raises(errors.DataError, match='Train with --mode'):
    compare_runs.main([f'a={tmp_path}'])
