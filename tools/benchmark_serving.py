"""Times text-in models and the server: see --help."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.measure import serving_benchmark

if __name__ == '__main__':
  serving_benchmark.console_main()
