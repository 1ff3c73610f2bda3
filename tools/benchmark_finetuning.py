"""Times fine-tuning beside the Model Garden's own task: see --help."""

from tokendrop_tf.finetuning import benchmark

if __name__ == '__main__':
  benchmark.console_main()
