#!/usr/bin/env python3
"""Compiles a train step for TPUs without a TPU: see --help."""

from tokendrop_tf.tpu import command

if __name__ == '__main__':
  command.console_main()
