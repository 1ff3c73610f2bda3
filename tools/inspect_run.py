#!/usr/bin/env python3
"""Shows what a run drops, and what that changes; see --help."""

from tokendrop_tf.pages import inspect_run

if __name__ == '__main__':
  inspect_run.console_main()
