"""Times text-in models and the server: see --help."""

from tokendrop_tf.serving import benchmark

if __name__ == '__main__':
  benchmark.console_main()
