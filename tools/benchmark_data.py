"""Measures how fast training data are made from text: see --help."""

from tokendrop_tf.data import benchmark_data

if __name__ == '__main__':
  benchmark_data.console_main()
