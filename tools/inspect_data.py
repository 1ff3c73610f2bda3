"""Shows examples of a data source, and a summary of it: see --help."""

from tokendrop_tf.pages import inspect_data

if __name__ == '__main__':
  inspect_data.console_main()
