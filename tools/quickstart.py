"""Trains plain BERT and token dropping on the same text: see --help."""

from tokendrop_tf.pages import quickstart

if __name__ == '__main__':
  quickstart.console_main()
