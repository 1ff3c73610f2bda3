#!/usr/bin/env python3
"""Compares pretraining runs: a table and loss curves; see --help."""

from tokendrop_tf.pages import compare_runs

if __name__ == '__main__':
  compare_runs.console_main()
