"""Times fine-tuning beside the Model Garden's own task: see --help."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.measure import finetuning_benchmark

if __name__ == '__main__':
  finetuning_benchmark.console_main()
