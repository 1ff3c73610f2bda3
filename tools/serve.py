"""Serves exported models over HTTP: see --help."""

from tokendrop_tf.serving import command

if __name__ == '__main__':
  command.console_main()
