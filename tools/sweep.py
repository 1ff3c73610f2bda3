"""Fine-tunes with several learning rates and seeds: see --help."""

from tokendrop_tf.finetuning import sweep

if __name__ == '__main__':
  sweep.console_main()
