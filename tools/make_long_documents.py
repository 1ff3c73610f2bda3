#!/usr/bin/env python3
"""Makes a classification of long texts out of articles: see --help."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tools.measure import long_documents

if __name__ == '__main__':
  long_documents.console_main()
