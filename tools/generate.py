"""Continues texts with a trained model: see --help."""

from tokendrop_tf.serving import generate

if __name__ == '__main__':
  generate.console_main()
