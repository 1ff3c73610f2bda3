#!/usr/bin/env python3
"""Times train steps of stock BERT and token dropping: see --help."""

from tokendrop_tf import benchmark

if __name__ == '__main__':
  benchmark.console_main()
