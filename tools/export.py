"""Exports a trained model in one of three forms: see --help."""

from tokendrop_tf.export import export_command

if __name__ == '__main__':
  export_command.console_main()
