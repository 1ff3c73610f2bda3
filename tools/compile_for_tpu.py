#!/usr/bin/env python3
"""Compiles a train step for TPUs without a TPU: see --help."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.tpu import compile_command

if __name__ == '__main__':
  compile_command.console_main()
