"""Answers with an exported model on the terminal: see --help."""

from tokendrop_tf.serving import predict

if __name__ == '__main__':
  predict.console_main()
