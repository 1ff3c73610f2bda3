"""Serves exported models over HTTP: see --help."""

from tokendrop_tf.serving import serve_command

if __name__ == '__main__':
  serve_command.console_main()
