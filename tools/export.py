"""Exports a trained model in one of three forms: see --help."""

from tokendrop_tf.export import command

if __name__ == '__main__':
  command.console_main()
