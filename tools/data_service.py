"""Makes training data on other machines: see --help."""

from tokendrop_tf.data import service

if __name__ == '__main__':
  service.console_main()
