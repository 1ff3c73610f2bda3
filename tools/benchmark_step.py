#!/usr/bin/env python3
"""Times train steps of stock BERT and token dropping: see --help."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.measure import step_benchmark

if __name__ == '__main__':
  step_benchmark.console_main()
