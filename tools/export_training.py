#!/usr/bin/env python3
"""Takes a training to a machine with JAX, and its weights back: see --help."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.tpu import export_training

if __name__ == '__main__':
  export_training.console_main()
