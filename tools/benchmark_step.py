#!/usr/bin/env python3
"""Times train steps of stock BERT and token dropping side by side.

    python tools/benchmark_step.py --arms=stock,none,loss --selection
"""

from tokendrop_tf import benchmark
from tokendrop_tf import command_line

if __name__ == '__main__':
  command_line.run_main(benchmark.main)
