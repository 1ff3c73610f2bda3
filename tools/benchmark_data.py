"""Measures how fast training data are made from text: see --help."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.measure import data_benchmark

if __name__ == '__main__':
  data_benchmark.console_main()
