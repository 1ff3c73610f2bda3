#!/usr/bin/env python3
"""Times an exported train step with JAX alone: see --help."""

import pathlib
import sys

# JAX's environment has no installed copy of the package.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.tpu import run_stablehlo

if __name__ == '__main__':
  run_stablehlo.main()
