"""The comparison of runs from their metrics."""

import json

import pytest

from tokendrop_tf import errors
from tokendrop_tf.pages import compare_runs, run_curves
from tokendrop_tf.run import step_times


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


def cells(line):
  return [cell.strip() for cell in line.strip('|').split('|')]


def test_the_table_holds_the_last_validation_and_the_median_step(
  tmp_path, capsys
):
  plain = write_run(tmp_path / 'plain', [6.0, 5.0])
  ranked = write_run(tmp_path / 'ranked', [6.5, 5.5], [6.0, 5.25])
  compare_runs.main([f'plain={plain}', f'ranked={ranked}'])
  rows = [
    cells(line)
    for line in capsys.readouterr().out.splitlines()
    if line.startswith('|')
  ]
  assert rows[2] == (
    ['plain', '200', '5.000', '-', '-', '0.100', '0.500', '100']
  )
  assert rows[3] == (
    ['ranked', '200', '5.500', '5.250', '+0.250', '0.100', '0.500', '100']
  )


def test_bare_folders_have_the_names_of_their_folders(tmp_path, capsys):
  runs = [write_run(tmp_path / name, [6.0, 5.0]) for name in ('a', 'b=c')]
  compare_runs.main([f'{runs[0]}/', runs[1]])
  rows = [
    cells(line)[0]
    for line in capsys.readouterr().out.splitlines()
    if line.startswith('|')
  ]
  assert rows[2:] == ['a', 'b=c']


def test_the_verdict_compares_with_the_first_run_and_with_the_baselines(
  tmp_path, capsys
):
  plain = write_run(tmp_path / 'plain', [6.0, 5.0])
  ranked = write_run(
    tmp_path / 'ranked', [6.5, 5.5], [6.0, 5.25], (9.0, 0.4, 0.4)
  )
  compare_runs.main(
    [plain, ranked, '--unigram_entropy=6.2', '--context_free_loss=5.25']
  )
  printed = capsys.readouterr().out
  assert 'unigram entropy: 6.200' in printed
  assert (
    'After the same 200 steps, the full-sequence loss of ranked is 5.500; that '
    'of plain is 5.000: 0.500 nats higher.' in printed
  )
  assert '20% less time in all: 80 s instead of 100 s.' in printed
  # Plain BERT stood at 6.0 after 50 s and at 5.0 after 100 s.
  assert 'In the time of ranked, plain had reached 5.400.' in printed
  assert 'can reach 5.25: ranked ended above that' in printed


def test_unknown_baselines_are_told_and_the_table_is_printed(tmp_path, capsys):
  compare_runs.main([write_run(tmp_path / 'plain', [6.0, 5.0])])
  printed = capsys.readouterr().out
  assert 'The baselines of the labels are not known' in printed
  assert '| plain' in printed


def test_times_measured_apart_replace_those_of_the_run(tmp_path):
  folder = write_run(tmp_path / 'plain', [6.0, 5.0])
  curve = run_curves.read_run('plain', folder, seconds_per_step=0.125)
  assert curve.seconds == [12.5, 25.0]


def test_every_stretch_of_a_schedule_has_its_own_median():
  loops = [
    dict(
      kind='train',
      step=10 * (i + 1),
      seconds_per_step=2.0 if i < 6 else 1.0,
      includes_compilation=False,
    )
    for i in range(10)
  ]
  times = step_times.measured(loops, (0, 60))
  assert times.seconds == (2.0, 1.0)
  assert [times.until(step) for step in (0, 30, 60, 61, 100)] == [
    0.0,
    60.0,
    120.0,
    121.0,
    160.0,
  ]
  # The median of all would be 2.0.
  assert times.until(100) / 100 == 1.6


def test_a_run_that_is_being_written_is_read_to_its_last_whole_line(tmp_path):
  folder = write_run(tmp_path / 'plain', [6.0, 5.0])
  with open(f'{folder}/metrics.jsonl', 'a', encoding='utf-8') as file:
    file.write('\n{"kind": "tra')
  assert run_curves.read_run('plain', folder).full == [6.0, 5.0]


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--figure=losses.foo', '--figure must be an .svg or .png file'),
    ('--seconds_per_step=nothing.json', 'JSON file .name: seconds.'),
  ],
)
def test_flags_that_cannot_be_used_are_refused(flag, message, tmp_path):
  folder = write_run(tmp_path / 'plain', [6.0, 5.0])
  with pytest.raises(errors.UserError, match=message):
    compare_runs.main([f'plain={folder}', flag])


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
  with pytest.raises(errors.DataError, match='with --mode=train_and_eval'):
    compare_runs.main([f'a={tmp_path}'])
