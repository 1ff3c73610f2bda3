"""Writes masked-LM pretraining examples as TFRecord files: see --help."""

from tokendrop_tf.data import create_pretraining_data

if __name__ == '__main__':
  create_pretraining_data.console_main()
