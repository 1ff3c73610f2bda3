"""Runs one training in several local processes: see --help."""

from tokendrop_tf import workers

if __name__ == '__main__':
  workers.console_main()
