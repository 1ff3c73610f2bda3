"""Trains arms with several seeds and compares them: see --help."""

from tokendrop_tf.pages import twin

if __name__ == '__main__':
  twin.console_main()
