#!/usr/bin/env python3
"""Writes a score for every token of a vocabulary; see --help."""

from tokendrop_tf.export import score_tokens

if __name__ == '__main__':
  score_tokens.console_main()
