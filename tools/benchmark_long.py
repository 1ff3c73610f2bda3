#!/usr/bin/env python3
"""Measures train steps of long sequences, time and memory: see --help."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.measure import long_benchmark

if __name__ == '__main__':
  long_benchmark.console_main()
