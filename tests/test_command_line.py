"""Exit codes and messages of every console command."""

import os
import subprocess
import sys

import pytest

from tokendrop_tf import command_line, errors, train


def exit_code(main, *arguments):
  with pytest.raises(SystemExit) as caught:
    command_line.run_main(main, ['--verbose', *arguments])
  return caught.value.code


def parse(*arguments):
  parser = command_line.ArgumentParser(prog='count')
  parser.add_argument('--model_dir', required=True)
  parser.add_argument('--mode', choices=['train', 'eval'], default='eval')
  return parser.parse_args(arguments)


class TestRunMain:
  def test_a_command_that_returns_ends_with_0(self, capsys):
    assert exit_code(lambda arguments: None) == 0
    assert capsys.readouterr() == ('', '')

  def test_a_code_is_passed_on(self):
    assert exit_code(lambda arguments: 3) == 3

  def test_the_arguments_are_passed_on(self):
    assert exit_code(lambda arguments: len(arguments), 'a', 'b') == 3

  def test_a_user_error_is_one_message_and_2(self, capsys):
    def main(arguments):
      raise errors.DataError('A file must exist. Received: a.txt.')

    assert exit_code(main) == 2
    assert capsys.readouterr() == (
      '',
      'Error: A file must exist. Received: a.txt.\n',
    )

  def test_ctrl_c_is_one_line_and_130(self, capsys):
    def main(arguments):
      raise KeyboardInterrupt

    assert exit_code(main) == 130
    assert capsys.readouterr().err == '\nInterrupted.\n'

  def test_ctrl_c_may_have_something_to_tell(self, capsys):
    def main(arguments):
      raise command_line.Interrupted('The last checkpoint is ckpt-6.')

    assert exit_code(main) == 130
    assert 'Interrupted. The last checkpoint is ckpt-6.' in (
      capsys.readouterr().err
    )

  def test_a_bug_keeps_its_traceback(self):
    def main(arguments):
      raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
      command_line.run_main(main, ['--verbose'])


class TestArgumentParser:
  @pytest.mark.parametrize(
    'arguments', [('--model_dir=a',), ('--model_dir', 'a')]
  )
  def test_both_forms_of_a_flag_are_read(self, arguments):
    assert parse(*arguments).model_dir == 'a'

  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      (('--model_dri=a',), '--model_dir'),
      (
        ('--model_dir=a', '--mod=eval'),
        'Unknown flag: --mod. Did you mean --mode?',
      ),
      (('--model_dir=a', '--colour=1'), 'Unknown flag: --colour.'),
      (('--model_dir=a', 'b'), 'Unexpected argument: b.'),
      ((), 'The following arguments are required: --model_dir'),
      (('--model_dir=a', '--mode=tune'), "invalid choice: 'tune'"),
      (('--model_dir',), 'expected one argument'),
    ],
  )
  def test_a_mistake_is_named(self, arguments, message):
    with pytest.raises(errors.UserError) as caught:
      parse(*arguments)
    assert message in str(caught.value)
    assert 'See count --help.' in str(caught.value)

  def test_an_unknown_flag_is_named_before_a_missing_one(self):
    with pytest.raises(
      errors.UserError,
      match='Unknown flag: --model_dri. Did you mean --model_dir?',
    ):
      parse('--model_dri=a')


def test_a_shell_sees_one_message_and_2(tmp_path):
  environment = {
    name: value
    for name, value in os.environ.items()
    if name != 'TF_CPP_MIN_LOG_LEVEL'
  }
  process = subprocess.run(
    [
      sys.executable,
      '-m',
      'tokendrop_tf.train',
      f'--model_dir={tmp_path}',
      '--gin_params=modle.num_layers = 3',
    ],
    capture_output=True,
    text=True,
    env=environment,
    check=False,
  )
  assert process.returncode == 2
  assert process.stdout == ''
  assert process.stderr.startswith('Error: --gin_params="modle.num_layers')
  assert process.stderr.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_help_lists_the_flags(capsys):
  with pytest.raises(SystemExit) as caught:
    train.parse_flags(['--help'])
  assert caught.value.code == 0
  text = capsys.readouterr().out
  for flag in (
    '--experiment',
    '--mode',
    '--model_dir',
    '--gin_file',
    '--gin_params',
    '--verbose',
  ):
    assert flag in text


def test_xla_greets_unseen_and_stderr_is_open_again(capfd):
  command_line.silence_xla.__wrapped__()
  os.write(2, b'seen')
  assert capfd.readouterr().err == 'seen'
